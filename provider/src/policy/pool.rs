//! What a vSwitch's addresses are doing, and the sentence that explains why none is left.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::id::{PodKey, VSwitchId, Zone};

/// How many of a vSwitch's addresses are in which state. Always a fresh count, never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Nobody's.
    pub free: u64,
    /// A pod's.
    pub in_use: u64,
    /// Kept for a key whose pod is gone.
    pub retained: u64,
    /// Nobody's any more, but the ENI is not deleted yet.
    pub detaching: u64,
    /// Kept out of the pool by the operator, and nobody's.
    pub excluded: u64,
}

impl Counts {
    /// The addresses that pods can have: all but the excluded.
    pub fn usable(&self) -> u64 {
        self.free + self.in_use + self.retained + self.detaching
    }
}

/// The next retained address to become free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NextRelease {
    /// Which.
    pub address: Ipv4Addr,
    /// For whom it is kept.
    pub key: PodKey,
    /// Until when.
    pub at: Timestamp,
}

/// A vSwitch without a free address.
#[derive(Clone, Debug)]
pub struct Exhausted {
    /// Which.
    pub vswitch: VSwitchId,
    /// Its zone.
    pub zone: Zone,
    /// Its CIDR.
    pub cidr: Ipv4Net,
    /// What its addresses do.
    pub counts: Counts,
    /// When the next one comes free by itself.
    pub next_release: Option<NextRelease>,
    /// The time that `next_release` is counted from.
    pub now: Timestamp,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let place = format_args!("{} ({}, {})", self.vswitch, self.zone, self.cidr);
        match counts.free {
            0 => write!(
                f,
                "no free address in {place}: {} usable = ",
                counts.usable()
            )?,
            free => write!(
                f,
                "pods that have waited longer get the free addresses of {place}: {} usable = {free} free + ",
                counts.usable(),
            )?,
        }
        write!(
            f,
            "{} in use + {} retained + {} detaching",
            counts.in_use, counts.retained, counts.detaching
        )?;
        if let Some(next) = &self.next_release {
            let left = Remaining(next.at.duration_since(self.now));
            write!(
                f,
                "; next release {} ({}) in {left}",
                next.address, next.key
            )?;
        }
        Ok(())
    }
}

/// A span of time the way people read it: `3h12m`, `47h59m`, `42s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining(pub SignedDuration);

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Up, not down: "in 0s" would promise what has not happened.
        let whole = self.0.as_secs().max(0);
        let seconds = whole + i64::from(self.0.subsec_nanos() > 0);
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, s) => write!(f, "{s}s"),
            (0, m, s) => write!(f, "{m}m{s}s"),
            (h, m, _) => write!(f, "{h}h{m}m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exhaustion_event_arithmetic() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let exhausted = Exhausted {
            vswitch: "vsw-b".into(),
            zone: "cn-wulanchabu-b".into(),
            cidr: "192.168.1.0/24".parse().unwrap(),
            counts: Counts {
                free: 0,
                in_use: 180,
                retained: 66,
                detaching: 6,
                excluded: 0,
            },
            next_release: Some(NextRelease {
                address: "192.168.1.8".parse().unwrap(),
                key: PodKey::new("default", "web-3"),
                at: now + SignedDuration::from_secs(3 * 3600 + 12 * 60),
            }),
            now,
        };
        assert_eq!(
            exhausted.to_string(),
            "no free address in vsw-b (cn-wulanchabu-b, 192.168.1.0/24): 252 usable = 180 in use + 66 retained + 6 detaching; next release 192.168.1.8 (default/web-3) in 3h12m"
        );
    }

    #[test]
    fn remaining_time_is_rounded_up() {
        let check =
            |ms, want| assert_eq!(Remaining(SignedDuration::from_millis(ms)).to_string(), want);
        check(1, "1s");
        check(61_000, "1m1s");
        check(-5, "0s");
        check(48 * 3_600_000, "48h0m");
    }
}
