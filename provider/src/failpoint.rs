//! Places at which a test lets the process die: before and after each statement and each COMMIT.
//!
//! A death is an unwinding that no code of the program catches: what it had begun stays undone, and
//! the files are what they were at that moment. Not in any build but that of the tests.

use std::cell::RefCell;
use std::panic::resume_unwind;

/// What an unwinding carries that a failpoint began.
#[derive(Debug)]
pub(crate) struct Died;

type LastAct = Box<dyn FnOnce()>;

#[derive(Default)]
struct Points {
    passed: usize,
    /// How many more are passed alive, and what happens at the one after them.
    deadly: Option<(usize, LastAct)>,
}

thread_local! {
    static POINTS: RefCell<Points> = RefCell::default();
}

/// Passes one point, or dies there.
pub(crate) fn pass() {
    let last_act = POINTS.with_borrow_mut(|points| {
        points.passed += 1;
        match points.deadly.take() {
            Some((0, last_act)) => Some(last_act),
            Some((left, last_act)) => {
                points.deadly = Some((left - 1, last_act));
                None
            }
            None => None,
        }
    });
    if let Some(last_act) = last_act {
        last_act();
        // Unlike a panic it prints nothing.
        resume_unwind(Box::new(Died));
    }
}

/// Dies at the point after the next `left`; `last_act` sees the files as they are then.
pub(crate) fn arm(left: usize, last_act: impl FnOnce() + 'static) {
    POINTS.with_borrow_mut(|points| {
        *points = Points {
            passed: 0,
            deadly: Some((left, Box::new(last_act))),
        };
    });
}

/// Lets all points be passed alive again, and says how many were since the last call.
pub(crate) fn disarm() -> usize {
    POINTS.take().passed
}
