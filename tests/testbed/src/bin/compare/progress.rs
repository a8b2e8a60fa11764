//! The progress line: on standard error, where it cannot get into the table.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often a line says how far a wait is.
const PERIOD: Duration = Duration::from_secs(5);

/// What is being done, and since when.
pub(crate) struct Progress {
    began: Instant,
    doing: String,
    told: Mutex<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            doing: String::new(),
            told: Mutex::new(now),
        }
    }

    /// Begins a part.
    pub(crate) fn begin(&mut self, doing: String) {
        self.doing = doing;
        self.say(&"starting");
    }

    /// Says how far a part is, unless that was said a moment ago.
    pub(crate) fn tick(&self, done: usize, wanted: usize, what: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= PERIOD {
            *told = Instant::now();
            self.say(&format_args!("{done} of {wanted} {what}"));
        }
    }

    /// Says what has come of a part.
    pub(crate) fn say(&self, what: &dyn Display) {
        let s = self.began.elapsed().as_secs();
        // Nobody is left to be told when standard error is closed.
        let _ = writeln!(io::stderr(), "compare: {s:>4} s  {}: {what}", self.doing);
    }
}
