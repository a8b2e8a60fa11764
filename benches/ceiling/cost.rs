//! What this process costs, by its threads' names, out of /proc.

use std::fs;
use std::time::{Duration, Instant};

/// CPU time of the threads of this name that live.
pub(crate) fn cpu(thread: &str) -> Duration {
    let all = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let of_one = |path: std::path::PathBuf| {
        // A thread may end meanwhile.
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let times = fs::read_to_string(path.join("schedstat")).ok()?;
        let ns = times.split(' ').next()?.parse().ok()?;
        (name.trim() == thread).then(|| Duration::from_nanos(ns))
    };
    all.filter_map(|entry| of_one(entry.ok()?.path())).sum()
}

/// CPU time of the three threads that matter.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) agent: Duration,
    pub(crate) ledger: Duration,
    pub(crate) server: Duration,
}

impl Cpu {
    pub(crate) fn now() -> Self {
        Self {
            agent: cpu("agent"),
            ledger: cpu("ledger"),
            server: cpu("server"),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            agent: self.agent.saturating_sub(before.agent),
            ledger: self.ledger.saturating_sub(before.ledger),
            server: self.server.saturating_sub(before.server),
        }
    }

    fn own(self) -> Duration {
        self.agent + self.ledger
    }
}

/// Waits until hardly anything is done any more, for what was measured to be over.
pub(crate) fn wait_until_quiet() {
    const LOOK: Duration = Duration::from_millis(100);
    let end = Instant::now() + Duration::from_secs(30);
    let mut before = Cpu::now();
    loop {
        std::thread::sleep(LOOK);
        let now = Cpu::now();
        if now.since(before).own() < LOOK / 25 {
            return;
        }
        assert!(Instant::now() < end, "it does not come to rest");
        before = now;
    }
}

/// Resident memory of the process in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kb: u64 = kb.and_then(|kb| kb.parse().ok()).expect("a number");
    kb * 1024
}
