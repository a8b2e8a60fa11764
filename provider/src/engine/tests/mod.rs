//! Engine, ledger and simulated cloud together in one thread, on a virtual clock.
//!
//! [`World`] stands in for the API server and for the shell: it feeds events, runs effects, and
//! lets a test read what was published. Each test is a rule, told as a script.

mod accepted;
mod cloud;
mod crash;
mod crossing;
mod deadlines;
mod explain;
mod faults;
mod history;
mod keeping;
mod model;
mod operator;
mod peers;
mod pool;
mod proof;
mod restart;
mod restored;
mod scale;
mod throttle;
mod totals;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};

use crate::cloud::Request;
use crate::cloud::sim::Config;
use crate::engine::{
    Assignment, Creation, Effect, Engine, Event, Found, Network, Node, PodFacts, Published, Reason,
};
use crate::id::{NodeType, PodKey, PodUid};
use crate::ledger::{ClaimRow, Ledger, Notice};
use crate::policy::opt_in::{FixedIp, OptIn};
use crate::settings::{Retention, Settings, VSwitch};

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// A pod as the API server has it.
#[derive(Clone)]
struct ApiPod {
    facts: PodFacts,
    /// Bound to an ECS node that is not ours.
    foreign: bool,
    deleted_at: Option<Timestamp>,
    /// Its containers have ended.
    stopped: bool,
    /// It has succeeded or failed.
    ended: bool,
}

impl ApiPod {
    fn new(facts: PodFacts) -> Self {
        Self {
            facts,
            foreign: false,
            deleted_at: None,
            stopped: false,
            ended: false,
        }
    }
}

struct World {
    now: Timestamp,
    ledger: Ledger,
    engine: Engine,
    api: BTreeMap<PodKey, ApiPod>,
    api_is_away: bool,
    /// Whether it gives no answer at all, not even a refusal.
    api_hangs: bool,
    /// How long each of its answers takes.
    look_takes: SignedDuration,
    pending: VecDeque<Effect>,
    notices: Vec<Notice>,
    calls: Vec<Request>,
    looks: usize,
    /// The kinds of jobs that were committed.
    jobs: BTreeSet<String>,
    /// How many were done.
    commits: usize,
    refusals: Vec<String>,
    /// The process dies after so many effects.
    fuse: Option<usize>,
    next_uid: u64,
}

/// What a test wants of a new pod.
#[derive(Clone)]
struct Wish {
    name: &'static str,
    hours: Option<u32>,
    node_type: NodeType,
    zone: &'static str,
    vswitches: Vec<&'static str>,
    security_groups: Vec<&'static str>,
}

fn fixed(name: &'static str) -> Wish {
    Wish {
        name,
        hours: Some(48),
        node_type: NodeType::Acs,
        zone: "b",
        vswitches: Vec::new(),
        security_groups: Vec::new(),
    }
}

fn ordinary(name: &'static str) -> Wish {
    Wish {
        hours: None,
        ..fixed(name)
    }
}

fn settings(cidr: &str, cloud: Config) -> Settings {
    let vswitch = |id: &str, zone: &str, cidr: &str| VSwitch {
        id: id.into(),
        zone: zone.into(),
        cidr: cidr.parse().unwrap(),
        exclude: Vec::new(),
    };
    Settings {
        cluster: "cluster".into(),
        region: "cn-wulanchabu".into(),
        vpc: "vpc".into(),
        vswitches: vec![
            vswitch("vsw-b", "b", cidr),
            vswitch("vsw-c", "c", "192.168.2.0/24"),
        ],
        retention: Retention {
            default_hours: 48,
            hour: HOUR,
        },
        cloud,
        history_days: 30,
    }
}

fn slow_cloud() -> Config {
    Config {
        attach: SECOND,
        detach: SECOND,
        ..Config::default()
    }
}

thread_local! {
    /// The time at which this thread's last world ended.
    static ENDED_AT: Cell<Timestamp> = const { Cell::new(Timestamp::UNIX_EPOCH) };
}

/// Every test ends with the proof that nothing was lost, doubled or stolen on the way.
impl Drop for World {
    fn drop(&mut self) {
        ENDED_AT.set(self.now);
        if !std::thread::panicking() {
            let found = self.ledger.check().unwrap();
            assert!(found.is_empty(), "{found:#?}");
            assert_eq!(self.ledger.miscounted(), Vec::<i64>::new());
        }
    }
}

impl World {
    fn new() -> Self {
        Self::with(settings("192.168.1.0/24", Config::default()))
    }

    fn with(settings: Settings) -> Self {
        Self::on(Ledger::in_memory(settings, Self::begin()).unwrap())
    }

    /// When every script begins.
    fn begin() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn on(ledger: Ledger) -> Self {
        let mut world = Self::starting(ledger, Self::begin());
        world.list();
        world
    }

    /// A process that has just started.
    fn starting(mut ledger: Ledger, now: Timestamp) -> Self {
        let loaded = ledger.load(now).unwrap();
        let cloud = ledger.settings().cloud.clone();
        Self {
            now,
            ledger,
            engine: Engine::new(cloud, loaded, now),
            api: BTreeMap::new(),
            api_is_away: false,
            api_hangs: false,
            look_takes: SignedDuration::ZERO,
            pending: VecDeque::new(),
            notices: Vec::new(),
            calls: Vec::new(),
            looks: 0,
            jobs: BTreeSet::new(),
            commits: 0,
            refusals: Vec::new(),
            fuse: None,
            next_uid: 0,
        }
    }

    /// A new process on the same ledger, which sees the API server as it is now.
    fn restart(&mut self) {
        let loaded = self.ledger.load(self.now).unwrap();
        let cloud = self.ledger.settings().cloud.clone();
        self.engine = Engine::new(cloud, loaded, self.now);
        self.pending.clear();
        self.tell_all();
    }

    /// The engine sees the whole of the API server for the first time.
    fn tell_all(&mut self) {
        for pod in self.api.clone().into_values() {
            let uid = pod.facts.uid.clone();
            self.tell(if pod.foreign {
                Event::OnForeignEcs(pod.facts)
            } else {
                Event::Bound(pod.facts)
            });
            if let Some(at) = pod.deleted_at {
                self.tell(Event::Deleted(uid.clone(), at));
            }
            if pod.stopped {
                self.tell(Event::Stopped(uid.clone()));
            }
            if pod.ended {
                self.tell(Event::Ended(uid));
            }
        }
        self.list();
    }

    fn list(&mut self) {
        let seen: BTreeSet<PodUid> = self.api.values().map(|pod| pod.facts.uid.clone()).collect();
        self.tell(Event::Listed(seen));
    }

    fn tell(&mut self, event: Event) {
        let effects = self.engine.handle(self.now, event);
        self.pending.extend(effects);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(effect) = self.pending.pop_front() {
            match &mut self.fuse {
                Some(0) => return,
                Some(left) => *left -= 1,
                None => {}
            }
            if let Some(event) = self.run(effect) {
                let effects = self.engine.handle(self.now, event);
                self.pending.extend(effects);
            }
        }
    }

    /// Does one thing, and tells what came of it.
    fn run(&mut self, effect: Effect) -> Option<Event> {
        Some(match effect {
            Effect::Commit(number, job) => {
                let text = format!("{job:?}");
                let kind = text.split(|c: char| !c.is_alphanumeric()).next();
                self.jobs.extend(kind.map(str::to_owned));
                self.commits += 1;
                let batch = self.ledger.commit(self.now, &[job]).unwrap();
                let deadline = Event::NextDeadline(batch.next_deadline);
                let effects = self.engine.handle(self.now, deadline);
                self.pending.extend(effects);
                let result = batch.results.into_iter().next().unwrap();
                Event::Committed(number, Ok(result.unwrap()))
            }
            Effect::Call(number, request) => {
                self.calls.push(request.clone());
                let mut results = self.ledger.call(self.now, &[request]).unwrap();
                Event::Called(number, results.remove(0))
            }
            Effect::Look(key) => {
                self.looks += 1;
                if self.api_hangs {
                    return None;
                }
                self.now += self.look_takes;
                if self.api_is_away {
                    return Some(Event::LookFailed(key));
                }
                let found = self.api.get(&key).map(|pod| Found {
                    uid: pod.facts.uid.clone(),
                    fixed_ip: matches!(pod.facts.opt_in.fixed_ip, FixedIp::On { .. }),
                    created_at: pod.facts.created.at,
                });
                Event::Looked(key, found)
            }
            Effect::Publish(_) => return None,
            Effect::Notice(notice) => {
                self.notices.push(notice);
                return None;
            }
            Effect::Refuse(why) => {
                self.refusals.push(why);
                return None;
            }
        })
    }

    /// Lets time pass, stopping wherever the engine has something to do.
    fn pass(&mut self, time: SignedDuration) {
        let end = self.now + time;
        while let Some(at) = self.engine.next_deadline()
            && at <= end
        {
            self.now = at.max(self.now);
            self.tell(Event::Tick);
        }
        self.now = end;
        self.tell(Event::Tick);
    }

    fn create(&mut self, wish: &Wish) -> PodUid {
        let facts = self.facts(wish);
        let uid = facts.uid.clone();
        self.appear(&facts);
        self.tell(Event::Bound(facts));
        uid
    }

    /// A pod is in the API, and nobody has told the engine.
    fn appear(&mut self, facts: &PodFacts) {
        let pod = ApiPod::new(facts.clone());
        let old = self.api.insert(facts.key.clone(), pod);
        assert!(old.is_none(), "the API server keeps names unique");
    }

    fn facts(&mut self, wish: &Wish) -> PodFacts {
        self.next_uid += 1;
        let fixed_ip = wish
            .hours
            .map_or(FixedIp::Off, |hours| FixedIp::On { hours });
        PodFacts {
            uid: format!("uid-{}", self.next_uid).into(),
            key: PodKey::new("default", wish.name),
            created: Creation {
                at: Timestamp::from_second(self.now.as_second()).unwrap(),
                revision: self.next_uid,
            },
            node: Node {
                name: format!("node-{}-{}", wish.node_type.as_str(), wish.zone).into(),
                zone: wish.zone.into(),
                node_type: wish.node_type,
            },
            opt_in: OptIn {
                fixed_ip,
                vswitches: wish.vswitches.iter().map(|id| (*id).into()).collect(),
                security_groups: wish.security_groups.iter().map(|id| (*id).into()).collect(),
            },
            published: None,
        }
    }

    /// The whole of a graceful deletion.
    fn delete(&mut self, uid: &PodUid) {
        self.begin_deletion(uid);
        self.tell(Event::Stopped(uid.clone()));
        self.pass(SECOND * 2);
        self.vanish(uid);
    }

    fn begin_deletion(&mut self, uid: &PodUid) {
        self.tell(Event::Deleted(uid.clone(), self.now));
        for pod in self.api.values_mut().filter(|pod| pod.facts.uid == *uid) {
            pod.deleted_at = Some(self.now);
        }
    }

    /// The object is gone and its DELETED event arrives.
    fn vanish(&mut self, uid: &PodUid) {
        self.vanish_unseen(uid);
        self.tell(Event::Gone(uid.clone()));
    }

    fn vanish_unseen(&mut self, uid: &PodUid) {
        self.api.retain(|_, pod| pod.facts.uid != *uid);
    }

    fn network(&self, uid: &PodUid) -> Network {
        self.engine
            .network(uid)
            .cloned()
            .unwrap_or(Network::Detached)
    }

    #[track_caller]
    fn assigned(&self, uid: &PodUid) -> Assignment {
        match self.network(uid) {
            Network::Attached(assignment) => assignment,
            other => panic!(
                "{uid} has no address: {other:?}; notices: {:?}",
                self.notices
            ),
        }
    }

    #[track_caller]
    fn address(&self, uid: &PodUid) -> Ipv4Addr {
        self.assigned(uid).address
    }

    #[track_caller]
    fn is_waiting(&self, uid: &PodUid, want: Reason) -> String {
        match self.network(uid) {
            Network::Waiting { reason, note } if reason == want => note,
            other => panic!("{uid} does not wait for {want:?}: {other:?}"),
        }
    }

    fn notices_of(&self, uid: &PodUid, reason: Reason) -> Vec<&str> {
        self.notices
            .iter()
            .filter(|notice| notice.uid == *uid && notice.reason == reason)
            .map(|notice| notice.note.as_str())
            .collect()
    }

    fn claims(&self) -> Vec<ClaimRow> {
        self.ledger.claims(self.now).unwrap()
    }

    /// How many addresses of a vSwitch are in a state.
    fn count(&self, vswitch: &str, state: &str) -> usize {
        let all = self.ledger.addresses(true).unwrap();
        let found = all
            .iter()
            .filter(|row| row.vswitch.as_str() == vswitch && row.state == state);
        found.count()
    }
}
