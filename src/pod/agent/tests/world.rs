//! The agent with a real engine, ledger and simulated cloud, against [`ApiServer`], on one
//! thread and a virtual clock.
//!
//! Stands in for the shell: whatever is under way waits in a queue of its own, so that a test can
//! let everything happen at once or advance one queue by one.

use std::collections::{BTreeMap, VecDeque};

use holdfast_provider::cloud::{Request, sim};
use holdfast_provider::engine::{Engine, Event, Reason};
use holdfast_provider::id::PodUid;
use holdfast_provider::ledger::{AddressRow, Job, Ledger};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::api_server::{ApiServer, Change, as_sent, gone};
use super::wish::settings;
pub(super) use super::wish::{Wish, provider, slow_cloud};
use crate::pod::agent::{Action, Agent, ForeignNode, Input, Refused, Settings, StatusWrite};
use crate::pod::core::Topic;
use crate::pod::record::version;
use crate::pod::testing::{kubectl, view};

pub(super) const SECOND: SignedDuration = SignedDuration::from_secs(1);
pub(super) const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// What the shell waits before it hands on that a question got no answer.
const ASK_AGAIN: SignedDuration = SECOND;
/// The same of a toleration that was refused.
const TOLERATE_AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// Work for the ledger's writer.
enum Work {
    Job(u64, Job),
    Call(u64, Request),
}

/// What the watch tells.
#[derive(Clone, Debug)]
pub(super) enum Told {
    ListBegan,
    Pod(Change),
    ListDone,
}

/// What waits to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// What the writer did, on its way back.
    Done,
    /// Answers of the API server, on their way back.
    Answers,
    /// The watch.
    Watch,
    /// What the writer has to do.
    Work,
    /// Requests on their way to the API server.
    Requests,
}

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) api: ApiServer,
    pub(super) ledger: Ledger,
    pub(super) agent: Agent,
    /// Whether what changes in the API reaches the agent.
    pub(super) watching: bool,
    pub(super) watch: VecDeque<Told>,
    last: Option<Told>,
    pub(super) answers: VecDeque<(Timestamp, Input)>,
    pub(super) said: Vec<(PodUid, Topic, String)>,
    pub(super) refusal: Option<String>,
    pub(super) forgotten: Vec<PodUid>,
    /// How long pods took to run.
    pub(super) starts: Vec<SignedDuration>,
    /// The most status writes and deletions that were ever under way together.
    pub(super) writes_peak: usize,
    /// Every call reaches the cloud twice; the answer is the second one's.
    pub(super) calls_twice: bool,
    /// Answers of the API server take so long.
    pub(super) latency: SignedDuration,
    /// What the cloud refused, by code, and what else went wrong outside of the API server.
    pub(super) befell: BTreeMap<String, u64>,
    /// All that was told and done, for who wants to read it.
    pub(super) trace: Option<Vec<String>>,
    requests: VecDeque<Action>,
    work: VecDeque<Work>,
    done: VecDeque<Event>,
    settings: Settings,
    deadline: Option<Timestamp>,
}

/// A run that was traced and failed tells all of it.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.trace.iter().flatten() {
                eprintln!("{line}");
            }
        }
    }
}

impl World {
    pub(super) fn fast() -> Self {
        Self::new(&Wish::fast())
    }

    pub(super) fn acs() -> Self {
        Self::new(&Wish::acs())
    }

    pub(super) fn new(wish: &Wish) -> Self {
        let now = Timestamp::from_millisecond(1_800_000_000_400).unwrap();
        let provider = provider(wish.cidr, wish.hour, wish.cloud.clone());
        let mut ledger = Ledger::in_memory(provider, now).unwrap();
        let settings = settings(wish);
        let foreign = |is_virtual| ForeignNode {
            is_virtual,
            zone: "b".into(),
        };
        let nodes = BTreeMap::from([("real-ecs", foreign(false)), ("other-vk", foreign(true))]);
        let mut api = ApiServer::default();
        (api.now, api.nodes) = (now, nodes);
        let mut world = Self {
            now,
            agent: agent(&mut ledger, &settings, now),
            api,
            ledger,
            watching: true,
            watch: VecDeque::new(),
            last: None,
            answers: VecDeque::new(),
            said: Vec::new(),
            refusal: None,
            forgotten: Vec::new(),
            starts: Vec::new(),
            writes_peak: 0,
            calls_twice: false,
            latency: SignedDuration::ZERO,
            befell: BTreeMap::new(),
            trace: None,
            requests: VecDeque::new(),
            work: VecDeque::new(),
            done: VecDeque::new(),
            settings,
            deadline: None,
        };
        world.list();
        world.settle();
        world
    }

    /// The process dies. What the API server and the ledger have not been told is lost.
    pub(super) fn kill(&mut self) {
        self.watch.clear();
        self.answers.clear();
        self.requests.clear();
        self.work.clear();
        self.done.clear();
        self.api.changes.clear();
        self.deadline = None;
    }

    /// A new process on the same ledger.
    pub(super) fn start(&mut self) {
        self.agent = agent(&mut self.ledger, &self.settings, self.now);
        self.list();
    }

    pub(super) fn restart(&mut self) {
        self.kill();
        self.start();
        self.settle();
    }

    /// The watch breaks off, nobody will ever hear of what it had not told yet, and a list of all
    /// pods is on its way.
    pub(super) fn list(&mut self) {
        self.list_without(|_| false);
    }

    /// A list that leaves some pods out.
    pub(super) fn list_without(&mut self, left_out: impl Fn(&str) -> bool) {
        self.list_began();
        for (key, pod) in &self.api.pods {
            if !left_out(&key.name) {
                self.watch
                    .push_back(Told::Pod(Change::Changed(pod.clone())));
            }
        }
        self.watch.push_back(Told::ListDone);
    }

    pub(super) fn create(&mut self, pod: Value) -> PodUid {
        let uid = self.api.create(pod);
        self.settle();
        uid
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.api.delete(name, 30);
        self.settle();
    }

    pub(super) fn edit(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        self.api.edit(name, change);
        self.settle();
    }

    pub(super) fn feed(&mut self, input: Input) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {input:?}", self.now));
        }
        let actions = self.agent.handle(self.now, input);
        for action in actions {
            if let Some(trace) = &mut self.trace {
                trace.push(format!("  {action:?}"));
            }
            self.act(action);
        }
    }

    pub(super) fn befalls(&mut self, what: impl Into<String>) {
        *self.befell.entry(what.into()).or_default() += 1;
    }

    /// A list of how things were so many changes ago; the watch goes on from there.
    pub(super) fn list_stale(&mut self, changes_ago: usize) -> bool {
        let past = self.api.past.len();
        let Some(at) = past.checked_sub(changes_ago + 1) else {
            return false;
        };
        self.list_began();
        let (_, pods) = &self.api.past[at];
        let pods = pods.values().cloned().map(Change::Changed);
        self.watch.extend(pods.map(Told::Pod));
        self.watch.push_back(Told::ListDone);
        let since = self.api.past.iter().skip(at + 1);
        let since = since.map(|(change, _)| Told::Pod(change.clone()));
        self.watch.extend(since);
        true
    }

    fn list_began(&mut self) {
        self.watch.clear();
        self.api.changes.clear();
        self.last = None;
        self.watch.push_back(Told::ListBegan);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Commit(number, job) => self.work.push_back(Work::Job(number, job)),
            Action::Call(number, request) => self.work.push_back(Work::Call(number, request)),
            Action::Event(uid, _, reason, note) => {
                self.said.push((PodUid::clone(&uid), reason, note));
            }
            Action::Refuse(why) => self.refusal = Some(why),
            Action::Forget(uid) => self.forgotten.push(uid),
            Action::Started(after) => self.starts.push(after),
            request => {
                self.requests.push_back(request);
                let is_write =
                    |one: &&Action| matches!(one, Action::WriteStatus { .. } | Action::Delete(..));
                let writes = self.requests.iter().filter(is_write).count();
                self.writes_peak = self.writes_peak.max(writes);
            }
        }
    }

    /// Lets one thing happen, if that queue has something that is due.
    pub(super) fn advance(&mut self, queue: Queue) -> bool {
        match queue {
            Queue::Done => {
                let Some(event) = self.done.pop_front() else {
                    return false;
                };
                self.feed(Input::Engine(event));
            }
            Queue::Answers => {
                let due = self.answers.iter().position(|(at, _)| *at <= self.now);
                let Some((_, input)) = due.and_then(|index| self.answers.remove(index)) else {
                    return false;
                };
                self.feed(input);
            }
            Queue::Watch => {
                if self.watching {
                    let changes = self.api.changes.drain(..).map(Told::Pod);
                    self.watch.extend(changes);
                }
                let Some(event) = self.watch.pop_front() else {
                    return false;
                };
                self.last = Some(event.clone());
                self.tell(event);
            }
            Queue::Work => {
                let Some(work) = self.work.pop_front() else {
                    return false;
                };
                self.work(work);
            }
            Queue::Requests => {
                let Some(action) = self.requests.pop_front() else {
                    return false;
                };
                self.request(action);
            }
        }
        true
    }

    fn tell(&mut self, event: Told) {
        self.feed(match event {
            Told::ListBegan => Input::ListBegan,
            Told::Pod(Change::Changed(pod)) => Input::Seen(Box::new(as_sent(&pod))),
            Told::Pod(Change::Deleted(pod)) => Input::Deleted(gone(&pod)),
            Told::ListDone => Input::ListDone,
        });
    }

    /// The watch tells the last change again.
    pub(super) fn watch_again(&mut self) -> bool {
        let Some(event @ Told::Pod(_)) = self.last.clone() else {
            return false;
        };
        self.tell(event);
        true
    }

    fn work(&mut self, work: Work) {
        match work {
            Work::Job(number, job) => {
                let mut batch = self.ledger.commit(self.now, &[job]).unwrap();
                if std::mem::replace(&mut self.deadline, batch.next_deadline) != batch.next_deadline
                {
                    self.done
                        .push_back(Event::NextDeadline(batch.next_deadline));
                }
                let result = batch.results.remove(0);
                if let Err(error) = &result {
                    let source = std::error::Error::source(error).map(ToString::to_string);
                    panic!("{error}: {source:?}");
                }
                self.done.push_back(Event::Committed(number, result));
            }
            Work::Call(number, request) => {
                let action = sim::Action::of(&request);
                let requests = vec![request; 1 + usize::from(self.calls_twice)];
                let mut results = self.ledger.call(self.now, &requests).unwrap();
                if self.calls_twice {
                    self.befalls("called twice");
                }
                let result = results.pop().expect("a result per request");
                match &result {
                    Ok(_) => self.note_delay(action),
                    Err(error) => self.befalls(error.code.as_ref()),
                }
                self.done.push_back(Event::Called(number, result));
            }
        }
    }

    /// A call that was accepted and whose effect a fault holds up.
    fn note_delay(&mut self, call: sim::Action) {
        let transition = match call {
            sim::Action::Attach => sim::Transition::Attach,
            sim::Action::Detach => sim::Transition::Detach,
            sim::Action::Delete => sim::Transition::Delete,
            sim::Action::Create | sim::Action::Describe => return,
        };
        let faults = self.ledger.settings().cloud.faults.iter();
        let held_up: Vec<_> = faults
            .filter_map(|fault| match fault {
                sim::Fault::Slow { action, .. } if *action == transition => Some("slow"),
                sim::Fault::Stuck { action } if *action == transition => Some("hangs"),
                _ => None,
            })
            .collect();
        for what in held_up {
            self.befalls(format!("{transition:?} {what}"));
        }
    }

    /// The API server carries a request out; its answer is on its way.
    fn request(&mut self, action: Action) {
        self.api.now = self.now;
        let boxed = |pod: Option<Value>| pod.map(|pod| Box::new(view(&pod)));
        let api = &mut self.api;
        let (mut at, input) = match action {
            Action::WriteStatus { uid, key, write } => {
                let answer = match write {
                    StatusWrite::Put(body) => api.put_status(&key, &body.into()),
                    StatusWrite::Patch(body) => api.patch_status(&key, &body),
                };
                let answer = answer.map(|pod| {
                    let pod = pod.expect("a write answers with the pod");
                    version(&view(&pod)).expect("a pod has a version")
                });
                if answer == Err(Refused::Stale) {
                    self.befalls("status for an old version");
                }
                (self.now, Input::Wrote(uid, answer))
            }
            Action::Delete(uid, key) => {
                let answer = api.delete_uid(&key, &uid).map(drop);
                (self.now, Input::DeleteSent(uid, answer))
            }
            Action::Tolerate(uid, key, _, step) => {
                let answer = api.tolerate(&key, &uid, step).map(drop);
                (self.now, Input::Tolerated(uid, key, answer))
            }
            Action::Look(key) => {
                let answer = api.get(&key).map(boxed);
                (self.now, Input::Looked(key, answer))
            }
            Action::LookObject(key) => {
                let found = api.object(&key);
                (self.now, Input::ObjectLooked(key, found))
            }
            Action::LookNode(name) => {
                let answer = api.node(name.as_str());
                (self.now, Input::NodeLooked(name, answer))
            }
            other => unreachable!("{other:?} is no request"),
        };
        if self.latency > SignedDuration::ZERO {
            self.befalls("answer late");
        }
        at += self.latency;
        match &input {
            Input::Looked(_, Err(_)) | Input::NodeLooked(_, Err(_)) => at += ASK_AGAIN,
            Input::Tolerated(_, _, Err(_)) => at += TOLERATE_AGAIN,
            _ => {}
        }
        self.answers.push_back((at, input));
    }

    /// Lets everything happen that needs no time.
    pub(super) fn settle(&mut self) {
        self.api.now = self.now;
        let order = [
            Queue::Done,
            Queue::Answers,
            Queue::Watch,
            Queue::Work,
            Queue::Requests,
        ];
        for turns in 0.. {
            assert!(turns < 20_000, "no end: {:?}", self.requests);
            if !order.iter().any(|queue| self.advance(*queue)) {
                break;
            }
        }
    }

    /// When something happens by itself.
    fn next_deadline(&self) -> Option<Timestamp> {
        let answers = self.answers.iter().map(|(at, _)| *at).min();
        [answers, self.agent.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets time pass, stopping wherever something is due.
    pub(super) fn pass(&mut self, time: SignedDuration) {
        let end = self.now + time;
        let mut stops = 0;
        while let Some(at) = self.next_deadline()
            && at <= end
        {
            stops += 1;
            assert!(stops < 20_000, "no end at {at}");
            self.now = at.max(self.now);
            self.feed(Input::Engine(Event::Tick));
            self.settle();
        }
        self.now = end;
        self.api.now = end;
        self.feed(Input::Engine(Event::Tick));
        self.settle();
    }

    /// What kubectl prints of a pod.
    #[track_caller]
    pub(super) fn shown(&self, name: &str) -> String {
        kubectl(
            self.api
                .pod(name)
                .unwrap_or_else(|| panic!("{name} is gone")),
        )
    }

    #[track_caller]
    pub(super) fn ip(&self, name: &str) -> String {
        let shown = self.shown(name);
        let ip = self.api.pod(name).unwrap()["status"]["podIP"].as_str();
        ip.unwrap_or_else(|| panic!("{name} has no address: {shown}; said: {:?}", self.said))
            .to_owned()
    }

    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.api.pod(name).is_none()
    }

    /// The notes of the events of that reason, of all pods.
    pub(super) fn said(&self, reason: Reason) -> Vec<&str> {
        self.said_of(reason.as_str())
    }

    pub(super) fn said_of(&self, reason: &str) -> Vec<&str> {
        let of_reason = self.said.iter().filter(|(_, of, _)| of.reason == reason);
        of_reason.map(|(_, _, note)| note.as_str()).collect()
    }

    pub(super) fn addresses(&self) -> Vec<AddressRow> {
        self.ledger.addresses(true).unwrap()
    }

    /// How many addresses are in a state.
    pub(super) fn count(&self, state: &str) -> usize {
        let all = self.addresses();
        all.iter().filter(|row| row.state == state).count()
    }

    /// Takes the story so far, of one pod.
    pub(super) fn story(&mut self, name: &str) -> Vec<String> {
        let all = std::mem::take(&mut self.api.story);
        let word = format!(" {name} ");
        all.into_iter()
            .filter(|line| line.contains(&word))
            .collect()
    }
}

fn agent(ledger: &mut Ledger, settings: &Settings, now: Timestamp) -> Agent {
    let loaded = ledger.load(now).unwrap();
    let cloud = ledger.settings().cloud.clone();
    Agent::new(settings.clone(), Engine::new(cloud, loaded, now))
}
