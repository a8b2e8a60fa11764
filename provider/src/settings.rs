//! What an operator sets and the provider obeys. Parsing a file into it is not done here.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::SignedDuration;

use crate::cloud::sim;
use crate::id::{ClusterId, VSwitchId, Zone};

/// Everything the provider needs to know about its surroundings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster whose pods are served; part of every claim's key.
    pub cluster: ClusterId,
    /// Region, such as `cn-wulanchabu`.
    pub region: String,
    /// VPC of all vSwitches.
    pub vpc: String,
    /// The vSwitches in configuration order, which breaks ties between equally free ones.
    pub vswitches: Vec<VSwitch>,
    /// How long a released address is kept.
    pub retention: Retention,
    /// The simulated cloud's latencies, quotas and faults.
    pub cloud: sim::Config,
    /// How many days of history are kept, at least the longest retention.
    pub history_days: u32,
}

/// One vSwitch: a CIDR in one zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VSwitch {
    /// Its id.
    pub id: VSwitchId,
    /// The zone it lives in.
    pub zone: Zone,
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// Inclusive ranges that holdfast must not hand out: addresses other cloud resources hold.
    pub exclude: Vec<(Ipv4Addr, Ipv4Addr)>,
}

impl VSwitch {
    /// The addresses of the CIDR that a pod can have: all but the first and the last three,
    /// which the VPC keeps (VPC API reference, CreateVSwitch), excluded ones included.
    pub fn usable(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let first = u32::from(self.cidr.network());
        let last = u32::from(self.cidr.broadcast());
        (u64::from(first) + 1..=u64::from(last).saturating_sub(3)).map(|address| {
            Ipv4Addr::from(u32::try_from(address).expect("between two IPv4 addresses"))
        })
    }

    /// Whether the operator keeps `address` out of the pool.
    pub fn excludes(&self, address: Ipv4Addr) -> bool {
        self.exclude
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&address))
    }
}

/// How long a released address is kept, and how long an hour lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Hours when the pod names none; 48 in ACS.
    pub default_hours: u32,
    /// The length of one such hour; demos and tests shorten it.
    pub hour: SignedDuration,
}

impl Retention {
    /// The length of `hours`.
    pub fn period(&self, hours: u32) -> SignedDuration {
        let hours = i32::try_from(hours).unwrap_or(i32::MAX);
        self.hour.checked_mul(hours).unwrap_or(SignedDuration::MAX)
    }
}
