//! What a process has used, from /proc.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Of Linux on every architecture that Rust's standard library supports (`USER_HZ`).
const TICKS_PER_S: u64 = 100;

/// Processor time of a process so far, in user and kernel mode, all threads.
///
/// # Errors
/// There is no such process.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&text)
        .map(|ticks| Duration::from_millis(ticks * 1000 / TICKS_PER_S))
        .with_context(|| format!("{path} has no times"))
}

/// Fields 14 and 15 (proc_pid_stat(5)). The name, field 2, may have anything in it, so they are counted from its end.
fn ticks(stat: &str) -> Option<u64> {
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || after_name.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// The most memory that a process ever had resident (VmHWM of proc_pid_status(5)), in kB of 1024 bytes.
///
/// # Errors
/// There is no such process.
pub(crate) fn peak_resident_kb(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("{path} has no VmHWM"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 31 0 0 20 0 4 0 100 0 0";
        assert_eq!(ticks(stat), Some(281));
        assert_eq!(ticks("7 (sh) S 1"), None);
    }

    #[test]
    fn this_process_has_used_memory_and_can_be_asked_for_its_time() {
        let pid = std::process::id();
        assert!(peak_resident_kb(pid).unwrap() > 100);
        assert!(cpu(pid).is_ok());
        assert!(cpu(u32::MAX).is_err());
    }
}
