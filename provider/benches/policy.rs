//! The decision about a pod's address, without the ledger around it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use holdfast_provider::id::{NodeName, NodeType, PodKey, VSwitchId, Zone};
use holdfast_provider::policy::opt_in::{
    self, ENABLE_FIXED_IP, FIXED_IP_RELEASE_AFTER, UnsupportedClass,
};
use holdfast_provider::policy::retained::{Applicant, Claim, decide};
use jiff::{SignedDuration, Timestamp};

fn opting_in(c: &mut Criterion) {
    let annotation = |name: &str| match name {
        ENABLE_FIXED_IP => Some("true"),
        FIXED_IP_RELEASE_AFTER => Some("72"),
        _ => None,
    };
    c.bench_function("policy/opt in", |b| {
        b.iter(|| opt_in::read(black_box(annotation), None, UnsupportedClass::Refuse, 48));
    });
}

fn retained(c: &mut Criterion) {
    let now = Timestamp::from_second(1_800_000_000).expect("in range");
    let key = PodKey::new("default", "web-0");
    let node: NodeName = "virtual-kubelet-cn-wulanchabu-b".into();
    let zone: Zone = "cn-wulanchabu-b".into();
    let vswitch: VSwitchId = "vsw-b".into();
    let allowed = [vswitch.clone()];
    let applicant = Applicant {
        key: &key,
        created_at: now,
        node: &node,
        node_type: NodeType::Acs,
        zone: &zone,
        fixed_ip: true,
        allowed: &allowed,
    };
    let claim = Claim {
        vswitch,
        zone: zone.clone(),
        node: node.clone(),
        holder: None,
        expires_at: Some(now + SignedDuration::from_hours(48)),
    };
    c.bench_function("policy/retained", |b| {
        b.iter(|| decide(black_box(&applicant), Some(&claim), None, now));
    });
}

criterion_group!(benches, opting_in, retained);
criterion_main!(benches);
