//! What can happen to pods and to holdfast, and what must hold all the while and in the end.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_provider::cloud::sim;
use holdfast_provider::id::PodKey;
use holdfast_provider::policy::opt_in::COMPUTE_CLASS;
use jiff::Timestamp;
use serde_json::Value;

use super::api_server::{Trouble, Verb, has_ended};
use super::world::{provider, slow_cloud};
use super::*;
use crate::pod::agent::Input;

pub(super) const NAMES: [&str; 4] = ["web-0", "web-1", "web-2", "web-3"];
/// Pods are kept for one hour, which lasts so long.
pub(super) const PERIOD: SignedDuration = SignedDuration::from_secs(20);
const OURS: [&str; 3] = ["acs-b", "acs-c", "ecs-b"];

#[derive(Clone, Debug)]
pub(super) enum Step {
    Create {
        name: usize,
        fixed: bool,
        node: Option<&'static str>,
        of_job: bool,
        /// Of a class that offers no fixed address.
        gpu: bool,
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
    /// The watch breaks off; the list shows how things were so many changes ago.
    Stale(usize),
    /// The watch tells nothing for now, or all of it.
    Hear(bool),
    Restart,
    Trouble(Verb, Trouble),
    /// The API server hears nothing, or all again.
    Away(bool),
    /// Its answers take so many milliseconds.
    Latency(i64),
    Cloud(sim::Config),
    /// Whether each call reaches the cloud twice.
    CallTwice(bool),
    Pass(i64),
}

/// What was promised to a key.
pub(super) struct Kept {
    uid: String,
    ip: String,
    zone: char,
    /// At the earliest.
    until: Option<Timestamp>,
}

pub(super) struct Play {
    pub(super) world: World,
    kept: BTreeMap<PodKey, Kept>,
}

impl Play {
    pub(super) fn new(wish: &Wish) -> Self {
        Self {
            world: World::new(&Wish {
                cidr: "192.168.1.0/29",
                hour: PERIOD,
                writes_max: 3,
                ..wish.clone()
            }),
            kept: BTreeMap::new(),
        }
    }

    pub(super) fn happen(&mut self, step: Step) {
        let world = &mut self.world;
        world.api.now = world.now;
        let exists = |world: &World, name: usize| world.api.pod(NAMES[name]).is_some();
        match step {
            Step::Create {
                name,
                fixed: is_fixed,
                node,
                of_job: is_of_job,
                gpu: is_gpu,
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
                if is_gpu {
                    pod["metadata"]["labels"] = json!({COMPUTE_CLASS: "gpu"});
                }
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
            Step::Twice => {
                if world.watch_again() {
                    world.befalls("change told twice");
                }
            }
            Step::Stale(changes_ago) => {
                if world.list_stale(changes_ago) && changes_ago > 0 {
                    world.befalls("list of the past");
                }
            }
            Step::Hear(watching) => {
                if watching && !world.watching && !world.api.changes.is_empty() {
                    world.befalls("changes told late");
                }
                world.watching = watching;
            }
            Step::List(left_out) => {
                if !world.api.changes.is_empty() || !world.watch.is_empty() {
                    world.befalls("changes never told");
                }
                let pods = world.api.pods.len();
                world.list_without(|name| {
                    let bit = NAMES.iter().position(|known| *known == name).unwrap();
                    left_out >> bit & 1 == 1
                });
                if world.watch.len() < pods + 2 {
                    world.befalls("list that lacks pods");
                }
            }
            Step::Restart => {
                world.befalls("restart");
                world.kill();
                world.start();
            }
            Step::Away(is_away) => world.api.is_away = is_away,
            Step::Latency(ms) => world.latency = SignedDuration::from_millis(ms),
            Step::Cloud(cloud) => configure(world, cloud),
            Step::CallTwice(twice) => world.calls_twice = twice,
            Step::Trouble(verb, trouble) => world.api.troubles.push_back((verb, trouble)),
            Step::Pass(ms) => {
                world.now += SignedDuration::from_millis(ms);
                world.api.now = world.now;
                world.feed(Input::Engine(super::super::Event::Tick));
            }
        }
    }

    pub(super) fn check(&mut self) {
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
            let asked_at = match pod {
                None => now,
                Some(pod) => match deletion_asked_at(pod) {
                    Some(at) => at,
                    None => continue,
                },
            };
            kept.until.get_or_insert(asked_at + PERIOD);
        }
    }

    /// Everything works again, and time passes.
    pub(super) fn heal(&mut self) {
        let world = &mut self.world;
        world.api.now = world.now;
        world.api.troubles.clear();
        (world.api.is_away, world.watching, world.calls_twice) = (false, true, false);
        world.latency = SignedDuration::ZERO;
        configure(world, slow_cloud());
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

    pub(super) fn check_end(&mut self) {
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
            if is_refused(pod) {
                assert_eq!(shown, "0/1 Pending <none>", "{key}");
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
    pub(super) fn end(&mut self) {
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
        let leaks = self.world.ledger.holders().unwrap().leaks;
        assert!(leaks.is_empty(), "{leaks:?}");
        let mut found = self.world.ledger.check().unwrap();
        // A step may let half a minute pass at once, as if the process had stood still.
        found.retain(|violation| violation.rule != "a claim ends at most two seconds late");
        assert!(found.is_empty(), "{found:#?}");
    }
}

fn configure(world: &mut World, cloud: sim::Config) {
    let settings = provider("192.168.1.0/29", PERIOD, cloud);
    world
        .ledger
        .reconfigure(settings.clone(), world.now)
        .unwrap();
    world.agent.reconfigure(settings);
    world.feed(Input::Engine(super::super::Event::LedgerChanged));
}

/// Wants a fixed address where there is none.
fn is_refused(pod: &Value) -> bool {
    asks_for_fixed(pod) && pod["metadata"]["labels"][COMPUTE_CLASS] == "gpu"
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

/// Not later than the deletion was asked for.
fn deletion_asked_at(pod: &Value) -> Option<Timestamp> {
    let metadata = &pod["metadata"];
    let end: Timestamp = metadata["deletionTimestamp"].as_str()?.parse().unwrap();
    let grace_s = metadata["deletionGracePeriodSeconds"].as_i64().unwrap();
    Some(end - SignedDuration::from_secs(grace_s))
}

fn is_ours(pod: &Value) -> bool {
    pod["spec"]["nodeName"]
        .as_str()
        .is_some_and(|node| OURS.contains(&node))
}

fn is_fixed(pod: &Value) -> bool {
    asks_for_fixed(pod) && !is_refused(pod)
}

fn asks_for_fixed(pod: &Value) -> bool {
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
