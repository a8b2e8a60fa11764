//! The shell around the agent: the pod watch, the ledger's writer, requests and timers.
//!
//! Owns the one task in which the agent lives, and everything that waits. Decides nothing: what
//! happens becomes an input, and what the agent wants done is done, at once and off this task.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use holdfast_provider::engine::{Event, Reason};
use holdfast_provider::id::{NodeName, PodKey, PodUid, Zone};
use holdfast_provider::ledger::{self, Done, Work, Writer};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::runtime::WatchStreamExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::agent::{Action, Agent, Figures, ForeignNode, Input, ObjectKey, Refused};
use super::api;
use super::core::Topic;
use super::desk::{Desk, Lane, after_failure, fenced};
use super::events::Recorder;
use super::list_watch;
use super::record::ProcessExit;
use super::running::RunningPod;
use crate::chain::chain;
use crate::clock::Clock;
use crate::cluster_lease::Tenure;
use crate::kube_client;
use crate::metrics::{Metrics, WatchMetrics};
use crate::node::NodeTable;

/// How often the wall clock and the ledger file are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often, in looks, pods are told that their zone has closed.
const STRANDED_EVERY: u32 = 5;
/// A pause before a question is asked again that got no answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The same before a toleration is added that was refused, which can go on for ever.
const TOLERATE_AGAIN: Duration = Duration::from_secs(5);
/// How long the first list of pods waits for that of the nodes, which tells whether one of them shuts down.
const NODES_WAIT: Duration = Duration::from_secs(5);

/// Why serving pods ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Serving on would lose or double an address.
    #[error("{0}")]
    Refused(String),
    /// The ledger cannot be written any more.
    #[error(transparent)]
    Ledger(ledger::Error),
    /// The writer is gone without a word.
    #[error("the ledger's writer ended unexpectedly")]
    WriterGone,
}

/// Settings that are taken over while pods are served.
pub type Settings = holdfast_provider::settings::Settings;

/// What serving pods needs from outside.
pub struct Parts {
    /// For all requests about pods, and their watch.
    pub client: Client,
    /// Our nodes as they stand.
    pub nodes: NodeTable,
    /// The state machine.
    pub agent: Agent,
    /// The ledger's writer.
    pub writer: Writer,
    /// What the writer has done.
    pub done: mpsc::UnboundedReceiver<Done>,
    /// The time.
    pub clock: Clock,
    /// Changed settings.
    pub settings: watch::Receiver<Settings>,
    /// Whether pods may be written.
    pub tenure: Tenure,
    /// What others ask.
    pub questions: Questions,
    /// Counts what happens.
    pub metrics: Metrics,
    /// Drops what others keep for a pod that is gone. Must not wait for anything.
    pub forget: Forget,
}

/// See [`Parts::forget`].
pub type Forget = Box<dyn Fn(&PodUid) + Send>;

/// How long what was written to the API and not seen since is waited for at most, so that a watch which the API server
/// holds up keeps no caller, and how often it is looked for.
const UNSEEN_MAX: Duration = Duration::from_millis(500);
const UNSEEN_AGAIN: Duration = Duration::from_millis(20);

/// Questions that wait; more callers wait for a place.
const QUESTIONS: usize = 16;

/// A question about the pods, or something that became of one, and where the answer goes.
#[derive(Debug)]
enum Question {
    Running(NodeName, oneshot::Sender<Option<Running>>),
    Figures(NodeName, oneshot::Sender<Figures>),
    Exited(PodUid, ProcessExit, oneshot::Sender<bool>),
}

/// What runs on a node.
#[derive(Debug)]
struct Running {
    pods: Vec<RunningPod>,
    /// See [`Agent::has_unseen`].
    has_unseen: bool,
}

/// What others have asked.
#[derive(Debug)]
pub struct Questions(mpsc::Receiver<Question>);

/// Asks about the pods and gets its answer out of memory, or tells of them.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Question>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// A start is under way.
    #[error("the pods are not known yet: the first list has not been taken in")]
    NotServing,
    /// The end is.
    #[error("pods are not served any more")]
    Ended,
}

impl Asker {
    /// An asker, and what is to be given to [`run`].
    pub fn new() -> (Self, Questions) {
        let (sender, receiver) = mpsc::channel(QUESTIONS);
        (Self(sender), Questions(receiver))
    }

    /// The pods of a node whose containers run, by namespace and name.
    pub async fn running(&self, node: &NodeName) -> Result<Vec<RunningPod>, NoAnswer> {
        self.seen_running(node).await.map(|found| found.pods)
    }

    /// The same, with what whoever watches the API knows already: a pod that has just become Ready there is among them,
    /// as a container runtime has a container before a kubelet tells of it.
    pub async fn running_as_told(&self, node: &NodeName) -> Result<Vec<RunningPod>, NoAnswer> {
        let by = Instant::now() + UNSEEN_MAX;
        loop {
            let found = self.seen_running(node).await?;
            if !found.has_unseen || Instant::now() >= by {
                return Ok(found.pods);
            }
            tokio::time::sleep(UNSEEN_AGAIN).await;
        }
    }

    async fn seen_running(&self, node: &NodeName) -> Result<Running, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        let found = self
            .ask(Question::Running(node.clone(), answer), answered)
            .await?;
        found.ok_or(NoAnswer::NotServing)
    }

    /// How many pods there are, and what runs on one node.
    pub async fn figures(&self, node: &NodeName) -> Result<Figures, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        self.ask(Question::Figures(node.clone(), answer), answered)
            .await
    }

    /// Tells that the first process of a container has ended.
    pub async fn exited(&self, uid: PodUid, exit: ProcessExit) -> Result<(), NoAnswer> {
        let (answer, answered) = oneshot::channel();
        let taken = self
            .ask(Question::Exited(uid, exit, answer), answered)
            .await?;
        taken.then_some(()).ok_or(NoAnswer::NotServing)
    }

    async fn ask<T>(
        &self,
        question: Question,
        answered: oneshot::Receiver<T>,
    ) -> Result<T, NoAnswer> {
        let asked = self.0.send(question).await;
        asked.map_err(|_| NoAnswer::Ended)?;
        answered.await.map_err(|_| NoAnswer::Ended)
    }
}

/// Serves pods until `shutdown`, and then lets the ledger finish. `serving` is told once every
/// running pod is known.
///
/// # Errors
/// When the ledger fails, or when it does not fit the cluster.
pub async fn run(
    parts: Parts,
    serving: watch::Sender<bool>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (answers, inbox) = mpsc::unbounded_channel();
    let mut shell = Shell {
        recorder: Recorder::start(parts.client.clone()),
        desk: Desk::new(parts.client, answers),
        table: parts.nodes,
        looks_around: 0,
        shutdowns: HashSet::new(),
        agent: parts.agent,
        clock: parts.clock,
        work: VecDeque::new(),
        nodes: HashSet::new(),
        serving,
        refusal: None,
        tenure: parts.tenure,
        metrics: parts.metrics,
        forget: parts.forget,
    };
    let sources = Sources {
        done: parts.done,
        inbox,
        settings: parts.settings,
        questions: parts.questions.0,
    };
    let result = shell.serve(&parts.writer, sources, &shutdown).await;
    // The thread's last COMMIT must not hold up the others on this runtime.
    let stopped = tokio::task::spawn_blocking(move || parts.writer.stop()).await;
    if let Err(error) = stopped {
        tracing::error!(%error, "the ledger could not be closed in order");
    }
    result
}

/// Where things to do come from.
struct Sources {
    done: mpsc::UnboundedReceiver<Done>,
    inbox: mpsc::UnboundedReceiver<Input>,
    settings: watch::Receiver<Settings>,
    questions: mpsc::Receiver<Question>,
}

struct Shell {
    desk: Desk,
    table: NodeTable,
    looks_around: u32,
    /// Nodes of which the agent knows that they shut down.
    shutdowns: HashSet<NodeName>,
    agent: Agent,
    clock: Clock,
    recorder: Recorder,
    /// What the writer's queue had no room for.
    work: VecDeque<Work>,
    nodes: HashSet<NodeName>,
    serving: watch::Sender<bool>,
    refusal: Option<String>,
    tenure: Tenure,
    metrics: Metrics,
    forget: Forget,
}

impl Shell {
    async fn serve(
        &mut self,
        writer: &Writer,
        sources: Sources,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let Sources {
            mut done,
            mut inbox,
            mut settings,
            mut questions,
        } = sources;
        let mut pods = std::pin::pin!(pods(self.desk.client.clone(), self.metrics.watches.clone()));
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.until_deadline();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Some(done) = done.recv() => self.done(done)?,
                Some(input) = inbox.recv() => self.answer(input),
                _ = look.tick() => self.look_around(),
                Ok(()) = settings.changed() => {
                    let changed = settings.borrow_and_update().clone();
                    self.work.push_back(Work::Reconfigure(Box::new(changed)));
                }
                Some(question) = questions.recv() => self.reply(question),
                Some(input) = pods.next() => {
                    if matches!(input, Input::ListBegan) && !self.look_at_nodes(shutdown).await {
                        return Ok(());
                    }
                    self.feed(input);
                }
                () = tokio::time::sleep(wake) => self.feed(Input::Engine(Event::Tick)),
            }
            self.submit(writer)?;
            if let Some(refusal) = self.refusal.take() {
                return Err(Error::Refused(refusal));
            }
        }
    }

    fn until_deadline(&self) -> Duration {
        let far = SignedDuration::from_hours(1);
        let left = self
            .agent
            .next_deadline()
            .map_or(far, |at| at.duration_since(self.clock.now()));
        // A timer that fires within its last millisecond would only come round again.
        let rounded = left.max(SignedDuration::ZERO).min(far) + SignedDuration::from_millis(1);
        rounded.unsigned_abs()
    }

    fn feed(&mut self, input: Input) {
        let now: Timestamp = self.clock.now();
        for action in self.agent.handle(now, input) {
            self.act(action);
        }
        if self.agent.is_serving() {
            self.serving
                .send_if_modified(|serving| !std::mem::replace(serving, true));
        }
    }

    /// Nobody listens any more when the caller has gone; then the answer does not matter.
    fn reply(&mut self, question: Question) {
        let now = self.clock.now();
        match question {
            Question::Running(node, answer) if !answer.is_closed() => {
                let found = self.agent.is_serving().then(|| Running {
                    pods: self.agent.running(&node, now),
                    has_unseen: self.agent.has_unseen(&node),
                });
                drop(answer.send(found));
            }
            Question::Figures(node, answer) if !answer.is_closed() => {
                drop(answer.send(self.agent.figures(&node, now)));
            }
            Question::Exited(uid, exit, answer) => {
                let is_serving = self.agent.is_serving();
                let _ = answer.send(is_serving);
                if is_serving {
                    self.feed(Input::Exited(uid, exit));
                }
            }
            Question::Running(..) | Question::Figures(..) => {}
        }
    }

    fn answer(&mut self, input: Input) {
        if let Input::NodeLooked(name, _) = &input {
            self.nodes.remove(name);
        }
        self.feed(input);
    }

    fn done(&mut self, done: Done) -> Result<(), Error> {
        let event = match done {
            Done::Job(number, result) => Event::Committed(number, result),
            Done::Call(number, result) => Event::Called(number, result),
            Done::Changed(cloud) => {
                self.agent.set_cloud(*cloud);
                Event::LedgerChanged
            }
            Done::NextDeadline(deadline) => Event::NextDeadline(deadline),
            Done::Reconfigured(Ok(settings)) => {
                tracing::info!("changed settings are in force");
                self.agent.reconfigure(*settings);
                Event::LedgerChanged
            }
            Done::Reconfigured(Err(error)) => {
                tracing::error!(error = %chain(&error), "changed settings are refused; the old ones stay");
                return Ok(());
            }
            Done::Turn(turn) => {
                self.metrics.ledger.count(&turn);
                return Ok(());
            }
            Done::Fatal(error) => return Err(Error::Ledger(error)),
        };
        self.feed(Input::Engine(event));
        Ok(())
    }

    fn look_around(&mut self) {
        let verdict = self.clock.check();
        if let Some(jump) = verdict.jump {
            tracing::warn!(
                jump = format!("{jump:#}"),
                "the wall clock jumped; no retention ends before it has stood for a minute, nor while it is behind a time \
                 that was believed before: restart holdfast if it was set back for good"
            );
        }
        self.work.push_back(Work::Look);
        self.look_for_shutdowns();
        self.looks_around = self.looks_around.wrapping_add(1);
        if self.looks_around.is_multiple_of(STRANDED_EVERY) {
            self.tell_stranded();
        }
        self.feed(Input::Engine(Event::Clock {
            may_expire: verdict.may_expire,
        }));
    }

    /// Before a pod is seen that is on a node which shuts down: it must come to nothing there. Answers whether to go
    /// on. The first page of the list is on its way meanwhile.
    async fn look_at_nodes(&mut self, shutdown: &CancellationToken) -> bool {
        let table = self.table.clone();
        let listed = tokio::time::timeout(NODES_WAIT, table.listed());
        let Some(listed) = shutdown.run_until_cancelled(listed).await else {
            return false;
        };
        if listed.is_err() {
            tracing::warn!(
                "pods are served although the API server has not told of the nodes: whether one of them shuts down is \
                 not known"
            );
        }
        self.look_for_shutdowns();
        true
    }

    fn look_for_shutdowns(&mut self) {
        for node in self.table.all() {
            let name = &node.spec.name;
            let changed = if node.shutting_down {
                self.shutdowns.insert(name.clone())
            } else {
                self.shutdowns.remove(name)
            };
            if changed {
                self.feed(Input::ShutDown(name.clone(), node.shutting_down));
            }
        }
    }

    /// Affinity cannot be changed on a Pending pod, so one that is pinned to a zone which has
    /// closed since can only be made again.
    fn tell_stranded(&mut self) {
        let mut nodes = self.table.all();
        nodes.retain(|node| node.spec.node_type.keeps_addresses());
        let mut closed: BTreeSet<Zone> = nodes.iter().map(|node| node.spec.zone.clone()).collect();
        for node in nodes {
            if node.is_up() && !node.unschedulable {
                closed.remove(&node.spec.zone);
            }
        }
        for (uid, key, zone) in self.agent.stranded(self.clock.now(), &closed) {
            let note = format!(
                "the pod must be in zone {zone}, by itself or for the address that is kept for it there, and no virtual \
                 node of the zone takes pods: open it again, or delete the pod, which is pinned to no closed zone when it \
                 is made again"
            );
            self.say(Arc::new(uid), key, Reason::FixedIPZoneClosed.into(), note);
        }
    }

    fn say(&mut self, uid: Arc<PodUid>, key: PodKey, topic: Topic, note: String) {
        self.metrics.pods.said(topic);
        self.recorder.record(uid, key, topic, note);
    }

    fn submit(&mut self, writer: &Writer) -> Result<(), Error> {
        writer.backed_up(self.agent.is_backed_up());
        while let Some(work) = self.work.pop_front() {
            if let Some(work) = writer.submit(work).map_err(|_| Error::WriterGone)? {
                self.work.push_front(work);
                break;
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) {
        let tenure = self.tenure.clone();
        match action {
            Action::Commit(number, job) => self.work.push_back(Work::Job(number, job)),
            Action::Call(number, request) => self.work.push_back(Work::Call(number, request)),
            Action::WriteStatus { uid, key, write } => self.desk.write(|client| async move {
                let result = fenced(&tenure, api::write_status(&client, &key, write)).await;
                Input::Wrote(uid, result)
            }),
            Action::Delete(uid, key) => self.desk.write(|client| async move {
                let result = fenced(&tenure, api::delete(&client, &key, &uid)).await;
                Input::DeleteSent(uid, result)
            }),
            Action::Tolerate(uid, key, version, patch) => {
                self.desk.ask(Lane::Others, |client| async move {
                    let request = api::tolerate(&client, &key, &uid, &version, patch);
                    let result = fenced(&tenure, request).await;
                    let pause = match result {
                        Err(Refused::Later) => TOLERATE_AGAIN,
                        _ => Duration::ZERO,
                    };
                    (Input::Tolerated(uid, key, result), pause)
                });
            }
            Action::Look(key) => self.look(key),
            Action::LookNode(name) => self.look_node(name),
            Action::LookObject(key) => self.look_object(key),
            Action::Event(uid, key, topic, note) => self.say(uid, key, topic, note),
            Action::Forget(uid) => (self.forget)(&uid),
            Action::Started(after) => self.metrics.pods.started(after.unsigned_abs()),
            Action::Refuse(why) => {
                self.refusal.get_or_insert(why);
            }
        }
    }

    /// The agent asks once at a time.
    fn look(&self, key: PodKey) {
        self.desk.ask(Lane::Pods, |client| async move {
            let result = api::look(&client, &key).await;
            let pause = after_failure(&result, ASK_AGAIN);
            (Input::Looked(key, result), pause)
        });
    }

    fn look_node(&mut self, name: NodeName) {
        if !self.nodes.insert(name.clone()) {
            return;
        }
        self.desk.ask(Lane::Others, |client| async move {
            let result: Result<Option<ForeignNode>, Refused> = api::look_node(&client, &name).await;
            let pause = after_failure(&result, ASK_AGAIN);
            (Input::NodeLooked(name, result), pause)
        });
    }

    /// The agent asks once at a time.
    fn look_object(&self, key: ObjectKey) {
        self.desk.ask(Lane::Others, |client| async move {
            let found = api::look_object(&client, &key).await;
            (Input::ObjectLooked(key, found), Duration::ZERO)
        });
    }
}

/// One watch of all pods for the whole process: kube speaks HTTP/1.1, so one for each node would
/// be a socket for each node.
fn pods(client: Client, watches: WatchMetrics) -> impl Stream<Item = Input> + Send {
    list_watch::pods(client)
        .backoff(kube_client::watch_backoff())
        .filter_map(move |told| {
            std::future::ready(match told {
                Ok(input) => Some(input),
                Err(error) => {
                    watches.broke("pods");
                    tracing::warn!(error = %chain(&error), "the pod watch broke off and is started again");
                    None
                }
            })
        })
}
