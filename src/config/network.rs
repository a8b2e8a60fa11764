//! vSwitches: CIDRs that a VPC would accept, that do not overlap, and that hold an address.

use std::net::Ipv4Addr;

use holdfast_provider::settings::VSwitch;
use ipnet::Ipv4Net;

use super::check::Checks;
use super::raw::{self, Text};

/// Prefix lengths that a vSwitch can have (VPC API reference, CreateVSwitch).
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=29;

/// The vSwitches of the file. One with a CIDR that cannot be read is refused and left out.
pub(super) fn vswitches(raw: &[raw::VSwitch], checks: &mut Checks<'_>) -> Vec<VSwitch> {
    if raw.is_empty() {
        checks.missing("vswitches is missing: give at least one, with id, zone and cidr");
    }
    let mut accepted: Vec<VSwitch> = Vec::with_capacity(raw.len());
    for entry in raw {
        let id = checks.id(&entry.id, "vSwitch");
        let zone = checks.id(&entry.zone, "zone");
        let Some(cidr) = cidr(&entry.cidr, checks) else {
            continue;
        };
        if accepted.iter().any(|other| other.id.as_str() == id) {
            checks.refuse(
                entry.id.referenced,
                format!("vSwitch {id} is there twice: give each one an id of its own"),
            );
        }
        if let Some(other) = accepted.iter().find(|other| overlap(other.cidr, cidr)) {
            checks.refuse(
                entry.cidr.referenced,
                format!(
                    "vSwitch {id} overlaps {} ({}): give it a CIDR of its own",
                    other.id, other.cidr
                ),
            );
        }
        let exclude = entry
            .exclude
            .iter()
            .filter_map(|text| exclude(text, cidr, checks))
            .collect();
        let vswitch = VSwitch {
            id: id.into(),
            zone: zone.into(),
            cidr,
            exclude,
        };
        if vswitch.usable().all(|address| vswitch.excludes(address)) {
            checks.refuse(
                entry.cidr.referenced,
                format!("vSwitch {id} ({cidr}) has no usable address left: exclude fewer"),
            );
        }
        accepted.push(vswitch);
    }
    accepted
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn cidr(text: &Text, checks: &mut Checks<'_>) -> Option<Ipv4Net> {
    let Ok(cidr) = text.value.parse::<Ipv4Net>() else {
        checks.refuse(
            text.referenced,
            format!(
                "`{}` is no IPv4 CIDR: write it like 192.168.1.0/24",
                text.value
            ),
        );
        return None;
    };
    if cidr.addr() != cidr.network() {
        checks.refuse(
            text.referenced,
            format!(
                "`{cidr}` does not begin at its network address: write {}",
                cidr.trunc()
            ),
        );
    }
    if !PREFIXES.contains(&cidr.prefix_len()) {
        let (largest, smallest) = (PREFIXES.start(), PREFIXES.end());
        checks.refuse(
            text.referenced,
            format!("`{cidr}` is no size for a vSwitch: give a /{largest} to a /{smallest}"),
        );
        return None;
    }
    Some(cidr.trunc())
}

/// An inclusive range out of `a`, `a-b` or a CIDR.
fn exclude(text: &Text, cidr: Ipv4Net, checks: &mut Checks<'_>) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let Some((from, to)) = range(&text.value) else {
        checks.refuse(
            text.referenced,
            format!(
                "`{}` excludes nothing: write an address, a range like \
                 192.168.2.10-192.168.2.20, or a CIDR",
                text.value
            ),
        );
        return None;
    };
    if from > to {
        checks.refuse(
            text.referenced,
            format!("`{from}-{to}` runs backwards: write {to}-{from}"),
        );
        return None;
    }
    if !(cidr.contains(&from) && cidr.contains(&to)) {
        checks.refuse(
            text.referenced,
            format!(
                "`{}` lies outside {cidr}: exclude only what is inside",
                text.value
            ),
        );
        return None;
    }
    Some((from, to))
}

fn range(text: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    if let Ok(net) = text.parse::<Ipv4Net>() {
        return Some((net.network(), net.broadcast()));
    }
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
}
