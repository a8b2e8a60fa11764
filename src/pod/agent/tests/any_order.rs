//! Whatever happens in whatever order: addresses are unique, kept while they are promised, and
//! given back in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use holdfast_provider::cloud::sim::{self, Action as Call, Fault};
use holdfast_provider::id::PodKey;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::Value;

use super::api_server::{Trouble, Verb, has_ended};
use super::world::{provider, slow_cloud};
use super::*;
use crate::pod::agent::Input;

const NAMES: [&str; 4] = ["web-0", "web-1", "web-2", "web-3"];
/// Pods are kept for one hour, which lasts so long.
const PERIOD: SignedDuration = SignedDuration::from_secs(20);
const OURS: [&str; 3] = ["acs-b", "acs-c", "ecs-b"];

#[derive(Clone, Debug)]
enum Step {
    Create {
        name: usize,
        fixed: bool,
        node: Option<&'static str>,
        of_job: bool,
    },
    Bind(usize, &'static str),
    Delete(usize, i64),
    Fail(usize),
    NotReady(usize),
    Finalize(usize),
    Advance(Queue, usize),
    Settle,
    Twice,
    /// The watch breaks off; the list leaves these out.
    List(u8),
    Restart,
    Trouble(Verb, Trouble),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let node = || {
        prop_oneof![
            6 => Just("acs-b"),
            1 => Just("acs-c"),
            1 => Just("ecs-b"),
            1 => Just("real-ecs"),
            1 => Just("other-vk"),
        ]
    };
    let queue = prop_oneof![
        Just(Queue::Done),
        Just(Queue::Answers),
        Just(Queue::Watch),
        Just(Queue::Work),
        Just(Queue::Requests),
    ];
    let verb = prop_oneof![
        Just(Verb::Status),
        Just(Verb::Delete),
        Just(Verb::Get),
        Just(Verb::Tolerate)
    ];
    let trouble = prop_oneof![
        Just(Trouble::NoAnswer),
        Just(Trouble::Code(404)),
        Just(Trouble::Code(429)),
        Just(Trouble::Code(500)),
    ];
    prop_oneof![
        5 => (name(), prop::bool::weighted(0.7), prop::option::weighted(0.9, node()), prop::bool::weighted(0.1))
            .prop_map(|(name, fixed, node, of_job)| Step::Create { name, fixed, node, of_job }),
        1 => (name(), node()).prop_map(|(name, node)| Step::Bind(name, node)),
        4 => (name(), prop_oneof![Just(0), Just(1), Just(30)]).prop_map(|(name, grace)| Step::Delete(name, grace)),
        1 => name().prop_map(Step::Fail),
        1 => name().prop_map(Step::NotReady),
        1 => name().prop_map(Step::Finalize),
        16 => (queue, 1..6_usize).prop_map(|(queue, times)| Step::Advance(queue, times)),
        4 => Just(Step::Settle),
        1 => Just(Step::Twice),
        1 => (0..16_u8).prop_map(Step::List),
        1 => Just(Step::Restart),
        1 => (verb, trouble).prop_map(|(verb, trouble)| Step::Trouble(verb, trouble)),
        4 => prop_oneof![0..300_i64, 300..3000_i64, 3000..30_000_i64].prop_map(Step::Pass),
    ]
}

fn cloud() -> impl Strategy<Value = sim::Config> {
    let with = |faults: Vec<Fault>| sim::Config {
        faults,
        ..slow_cloud()
    };
    let all = [
        Call::Create,
        Call::Attach,
        Call::Detach,
        Call::Delete,
        Call::Describe,
    ];
    let every = NonZeroU32::new(3).unwrap();
    let fail = all.map(|action| Fault::Fail {
        action,
        every,
        code: "InternalError".into(),
    });
    let lose = all.map(|action| Fault::LostAnswer { action, every });
    prop_oneof![
        2 => Just(sim::Config::default()),
        2 => Just(slow_cloud()),
        1 => Just(with(fail.to_vec())),
        1 => Just(with(lose.to_vec())),
    ]
}

/// What was promised to a key.
struct Kept {
    uid: String,
    ip: String,
    zone: char,
    /// At the earliest.
    until: Option<Timestamp>,
}

struct Play {
    world: World,
    kept: BTreeMap<PodKey, Kept>,
}

impl Play {
    fn happen(&mut self, step: Step) {
        let world = &mut self.world;
        world.api.now = world.now;
        let exists = |world: &World, name: usize| world.api.pod(NAMES[name]).is_some();
        match step {
            Step::Create {
                name,
                fixed: is_fixed,
                node,
                of_job: is_of_job,
            } => {
                if exists(world, name) {
                    return;
                }
                let make = if is_fixed { fixed } else { ordinary };
                let mut pod = kept_for_hours("1", make(NAMES[name]));
                pod = match node {
                    Some(node) => on(node, pod),
                    None => unbound(pod),
                };
                world.api.create(if is_of_job { of_job(pod) } else { pod });
            }
            Step::Bind(name, node) => {
                if world
                    .api
                    .pod(NAMES[name])
                    .is_some_and(|pod| pod["spec"]["nodeName"].is_null())
                {
                    world
                        .api
                        .edit(NAMES[name], |pod| pod["spec"]["nodeName"] = node.into());
                }
            }
            Step::Delete(name, grace_s) => {
                let ours = world.api.pod(NAMES[name]).is_some_and(is_ours);
                world
                    .api
                    .delete(NAMES[name], if ours { grace_s } else { 0 });
            }
            Step::Fail(name) if exists(world, name) => {
                if !has_ended(world.api.pod(NAMES[name]).unwrap()) {
                    world
                        .api
                        .edit(NAMES[name], |pod| pod["status"]["phase"] = "Failed".into());
                }
            }
            Step::NotReady(name) if exists(world, name) => world.api.edit(NAMES[name], |pod| {
                pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
            }),
            Step::Finalize(name) if exists(world, name) => finalize(world, NAMES[name]),
            Step::Fail(_) | Step::NotReady(_) | Step::Finalize(_) => {}
            Step::Advance(queue, times) => {
                for _ in 0..times {
                    world.advance(queue);
                }
            }
            Step::Settle => world.settle(),
            Step::Twice => world.watch_again(),
            Step::List(left_out) => world.list_without(|name| {
                let bit = NAMES.iter().position(|known| *known == name).unwrap();
                left_out >> bit & 1 == 1
            }),
            Step::Restart => {
                world.kill();
                world.start();
            }
            Step::Trouble(verb, trouble) => world.api.troubles.push_back((verb, trouble)),
            Step::Pass(ms) => {
                world.now += SignedDuration::from_millis(ms);
                world.api.now = world.now;
                world.feed(Input::Engine(super::super::Event::Tick));
            }
        }
    }

    fn check(&mut self) {
        assert_eq!(self.world.refusal, None);
        let mut seen = BTreeMap::new();
        for (key, pod) in &self.world.api.pods {
            if !is_ours(pod) || has_ended(pod) {
                continue;
            }
            if let Some(ip) = pod["status"]["podIP"].as_str() {
                let other = seen.insert(ip.to_owned(), key.clone());
                assert_eq!(other, None, "{key} shows the same address {ip}");
            }
        }
        self.check_promises();
    }

    fn check_promises(&mut self) {
        let now = self.world.now;
        for (key, pod) in &self.world.api.pods {
            let Some(zone) = zone(pod).filter(|_| is_fixed(pod)) else {
                continue;
            };
            let uid = pod["metadata"]["uid"].as_str().unwrap();
            // Crossing and moving lose the address, at whatever moment they are noticed.
            if self.kept.get(key).is_some_and(|kept| kept.zone != zone) {
                self.kept.remove(key);
            }
            let Some(ip) = pod["status"]["podIP"].as_str().filter(|_| zone != 'e') else {
                continue;
            };
            let created_at: Timestamp = pod["metadata"]["creationTimestamp"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            if let Some(kept) = self.kept.get(key)
                && kept
                    .until
                    .is_none_or(|until| kept.uid == uid || created_at < until)
            {
                assert_eq!(
                    ip, kept.ip,
                    "{key} has lost its address before {:?}",
                    kept.until
                );
            }
            let same = self.kept.remove(key).filter(|kept| kept.uid == uid);
            let kept = same.unwrap_or_else(|| Kept {
                uid: uid.to_owned(),
                ip: ip.to_owned(),
                zone,
                until: None,
            });
            self.kept.insert(key.clone(), kept);
        }
        for (key, kept) in &mut self.kept {
            let pod = self
                .world
                .api
                .pods
                .get(key)
                .filter(|pod| pod["metadata"]["uid"] == kept.uid.as_str());
            if pod.is_none_or(|pod| pod["metadata"]["deletionTimestamp"].is_string()) {
                kept.until.get_or_insert(now + PERIOD);
            }
        }
    }

    /// Everything works again, and time passes.
    fn heal(&mut self) {
        let world = &mut self.world;
        world.api.now = world.now;
        world.api.troubles.clear();
        let healed = provider("192.168.1.0/29", PERIOD, slow_cloud());
        world.ledger.reconfigure(healed, world.now).unwrap();
        world.list();
        world.settle();
        for name in NAMES {
            if world
                .api
                .pod(name)
                .is_some_and(|pod| pod["metadata"]["deletionTimestamp"].is_string())
            {
                world.pass(SECOND * 60);
                finalize(world, name);
            }
        }
        world.pass(SECOND * 120);
    }

    fn check_end(&mut self) {
        self.check();
        let world = &self.world;
        let held: BTreeMap<String, String> = world
            .addresses()
            .into_iter()
            .filter(|row| row.state == "in_use")
            .map(|row| (row.uid.unwrap().to_string(), row.address.to_string()))
            .collect();
        let mut holders = BTreeSet::new();
        for (key, pod) in &world.api.pods {
            let shown = world.shown(&key.name);
            let uid = pod["metadata"]["uid"].as_str().unwrap();
            if !is_ours(pod) {
                continue;
            }
            assert!(
                pod["metadata"]["deletionTimestamp"].is_null(),
                "{key} does not go: {shown}"
            );
            holders.insert(uid.to_owned());
            if has_ended(pod) {
                continue;
            }
            let Some(ip) = held.get(uid) else {
                let zone = if zone(pod) == Some('c') {
                    "vsw-c"
                } else {
                    "vsw-b"
                };
                let mut free = world.addresses();
                free.retain(|row| row.state == "free" && row.vswitch.as_str() == zone);
                assert!(
                    free.is_empty(),
                    "{key} waits though {free:?}: {shown} {pod}"
                );
                continue;
            };
            assert_eq!(shown, format!("1/1 Running {ip}"), "{key}");
        }
        for uid in held.keys() {
            assert!(holders.contains(uid), "{uid} holds an address and is gone");
        }
        assert_eq!(world.count("detaching"), 0);
        for claim in world.ledger.claims(world.now).unwrap() {
            if claim.holder.is_none() {
                // Only a pod that was made in time holds a retention off for so long.
                let pod = world.api.pods.get(&claim.key);
                assert!(pod.is_some_and(is_fixed), "{claim:?}");
            }
        }
    }

    /// All pods go, and all addresses come back.
    fn end(&mut self) {
        for name in NAMES {
            let grace_s = i64::from(self.world.api.pod(name).is_some_and(is_ours));
            self.world.api.delete(name, grace_s);
        }
        self.world.settle();
        self.world.pass(SECOND * 30);
        for name in NAMES {
            finalize(&mut self.world, name);
        }
        self.world.pass(SECOND * 60);
        assert!(self.world.api.pods.is_empty(), "{:?}", self.world.api.story);
        assert_eq!(self.world.count("free"), self.world.addresses().len());
    }
}

fn finalize(world: &mut World, name: &str) {
    if world.api.pod(name).is_some() {
        world.api.edit(name, |pod| {
            pod["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("finalizers");
        });
    }
}

fn is_ours(pod: &Value) -> bool {
    pod["spec"]["nodeName"]
        .as_str()
        .is_some_and(|node| OURS.contains(&node))
}

fn is_fixed(pod: &Value) -> bool {
    pod["metadata"]["annotations"]["network.alibabacloud.com/enable-fixed-ip"] == "true"
}

/// Where a pod's address is from: a zone of ours, or `e` for any ECS node.
fn zone(pod: &Value) -> Option<char> {
    match pod["spec"]["nodeName"].as_str()? {
        "acs-b" => Some('b'),
        "acs-c" => Some('c'),
        "other-vk" => None,
        _ => Some('e'),
    }
}

proptest! {
    #[test]
    fn addresses_are_unique_kept_and_given_back(
        acs in any::<bool>(),
        cloud in cloud(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let base = if acs { Wish::acs() } else { Wish::fast() };
        let world = World::new(&Wish { cidr: "192.168.1.0/29", cloud, hour: PERIOD, writes_max: 3, ..base });
        let mut play = Play { world, kept: BTreeMap::new() };
        for step in steps {
            play.happen(step);
            play.check();
        }
        play.heal();
        play.check_end();
        play.end();
    }
}
