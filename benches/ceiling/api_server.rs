//! An API server for one client: it keeps pods as text, answers at once, and tells its watch.
//!
//! Owns the life of each pod as a real API server showed it (`life.jsonl`: ADDED, MODIFIED by the
//! status write, MODIFIED by the user's DELETE, MODIFIED and DELETED by ours), and who is next. Its
//! work is done on a thread of its own, named `server`, so that its CPU can be told from that of
//! what is measured; its memory is taken at the start, for the same reason. Checks nothing but UIDs.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use holdfast::pod::protobuf;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Frame};
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::POD_LIST;
use crate::tables::{self, POD, enveloped};
use crate::testing::{cut, merge};

/// One real life, as `kubectl get --raw '/api/v1/pods?watch=1'` printed it: a pod of a StatefulSet
/// whose template names the node, profile `fast`, Kubernetes 1.36.3.
const LIFE: &str = include_str!("life.jsonl");
/// More than the longest text of a pod.
const SLOT_BYTES: usize = 7168;
/// All versions have as many digits, so that a later one can take an earlier one's place.
const FIRST_VERSION: u64 = 1_000_000_000;
const VERSION: &str = "\"resourceVersion\":\"";

/// What is done with pods, each by its number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Made; done with when it runs.
    Create,
    /// Deleted by its user; done with when it is gone.
    Delete,
    /// Made, deleted as soon as it runs, and done with when it is gone.
    Live,
}

/// What came of it.
pub(crate) struct Played {
    pub(crate) began: Instant,
    /// When the first was done with, and when the last.
    pub(crate) first: Instant,
    pub(crate) last: Instant,
    /// Requests other than GET meanwhile.
    pub(crate) writes: u64,
}

enum Order {
    Ask(Box<Request<Bytes>>, oneshot::Sender<Response<Answer>>),
    Play {
        pods: Range<usize>,
        window: usize,
        what: What,
        done: Sender<Played>,
    },
    Page(usize, Sender<Bytes>),
    Listed(Sender<[Option<Instant>; 2]>),
    HangUp,
    Forget(Range<usize>),
}

/// A handle on the server.
pub(crate) struct ApiServer(Sender<Order>);

impl ApiServer {
    /// A server that has room for so many pods.
    pub(crate) fn start(pods: usize) -> Self {
        let (orders, inbox) = channel();
        let mut server = Server::new(pods);
        std::thread::Builder::new()
            .name("server".into())
            .spawn(move || inbox.iter().for_each(|order| server.obey(order)))
            .expect("a thread");
        Self(orders)
    }

    /// The service below a client. The work is done on the server's thread.
    pub(crate) fn service(
        &self,
    ) -> impl tower::Service<
        Request<kube::client::Body>,
        Response = Response<Answer>,
        Error = kube::Error,
        Future: Send,
    > + Send
    + use<> {
        let orders = self.0.clone();
        tower::service_fn(move |request: Request<kube::client::Body>| {
            let orders = orders.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let (answer, answered) = oneshot::channel();
                let order = Order::Ask(Box::new(Request::from_parts(head, body)), answer);
                orders.send(order).expect("the server runs");
                Ok(answered.await.expect("the server answers"))
            }
        })
    }

    /// Does this with these pods, at most `window` at a time.
    pub(crate) fn play(&self, pods: Range<usize>, window: usize, what: What) -> Receiver<Played> {
        let (done, played) = channel();
        self.order(Order::Play {
            pods,
            window,
            what,
            done,
        });
        played
    }

    /// A page of the list, as it is sent.
    pub(crate) fn page(&self, from: usize) -> Bytes {
        self.ask(|answer| Order::Page(from, answer))
    }

    /// When the last list was first asked for, and when its last page was sent.
    pub(crate) fn listed(&self) -> [Option<Instant>; 2] {
        self.ask(Order::Listed)
    }

    /// The client is gone.
    pub(crate) fn hang_up(&self) {
        self.order(Order::HangUp);
    }

    /// These pods go, and nobody is told.
    pub(crate) fn forget(&self, pods: Range<usize>) {
        self.order(Order::Forget(pods));
    }

    fn ask<T>(&self, order: impl FnOnce(Sender<T>) -> Order) -> T {
        let (answer, answered) = channel();
        self.order(order(answer));
        answered.recv().expect("the server answers")
    }

    fn order(&self, order: Order) {
        self.0.send(order).expect("the server runs");
    }
}

/// A client of the server; needs a runtime around it.
pub(crate) fn client(server: &ApiServer, requests: &holdfast::metrics::Requests) -> Client {
    use tower::Layer as _;
    Client::new(requests.layer(server.service()), "default")
}

/// The body of an answer.
pub(crate) enum Answer {
    Whole(Option<Bytes>),
    Watch(mpsc::UnboundedReceiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Self::Whole(data) => Poll::Ready(data.take()),
            Self::Watch(events) => events.poll_recv(context),
        };
        data.map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Absent,
    Pending,
    Running,
    Leaving,
}

struct Playing {
    left: Range<usize>,
    under_way: usize,
    what: What,
    began: Instant,
    first: Option<Instant>,
    writes_before: u64,
    done: Sender<Played>,
}

struct Server {
    /// The recorded pod before it ran, and its managed fields after.
    recorded: String,
    fields: Value,
    states: Vec<State>,
    lengths: Vec<usize>,
    /// The text of each pod that has a status.
    texts: Vec<u8>,
    version: u64,
    watch: Option<mpsc::UnboundedSender<Bytes>>,
    /// What has happened since the last list.
    backlog: Vec<Bytes>,
    listed: [Option<Instant>; 2],
    playing: Option<Playing>,
    writes: u64,
}

impl Server {
    fn new(pods: usize) -> Self {
        let mut life = LIFE.lines().map(|line| {
            let event: Value = serde_json::from_str(line).expect("a watch event");
            event["object"].clone()
        });
        let recorded = life.next().expect("ADDED").to_string();
        let running = life.next().expect("MODIFIED");
        Self {
            recorded,
            fields: running["metadata"]["managedFields"].clone(),
            states: vec![State::Absent; pods],
            lengths: vec![0; pods],
            // Not zeroes, which would not be resident before they are used.
            texts: vec![b' '; pods * SLOT_BYTES],
            version: FIRST_VERSION,
            watch: None,
            backlog: Vec::new(),
            listed: [None; 2],
            playing: None,
            writes: 0,
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Ask(request, answer) => {
                let response = self.answer(&request);
                // Nobody waits any more once the client has gone.
                drop(answer.send(response));
            }
            Order::Play {
                pods,
                window,
                what,
                done,
            } => {
                assert!(self.playing.is_none(), "one at a time");
                self.playing = Some(Playing {
                    left: pods,
                    under_way: 0,
                    what,
                    began: Instant::now(),
                    first: None,
                    writes_before: self.writes,
                    done,
                });
                (0..window).for_each(|_| self.begin_next());
            }
            Order::Page(from, answer) => {
                drop(answer.send(self.page(from, usize::MAX).0));
            }
            Order::Listed(answer) => drop(answer.send(self.listed)),
            Order::HangUp => self.watch = None,
            Order::Forget(pods) => self.states[pods].fill(State::Absent),
        }
    }

    fn begin_next(&mut self) {
        let Some(playing) = &mut self.playing else {
            return;
        };
        let what = playing.what;
        let Some(pod) = playing.left.next() else {
            return;
        };
        playing.under_way += 1;
        match what {
            What::Create | What::Live => self.create(pod),
            What::Delete => self.delete(pod),
        }
    }

    /// A pod runs, or is gone.
    fn came_to(&mut self, pod: usize, state: State) {
        let Some(playing) = &mut self.playing else {
            return;
        };
        match (playing.what, state) {
            (What::Live, State::Running) => self.delete(pod),
            (What::Create, State::Running) | (What::Delete | What::Live, State::Absent) => {
                let now = Instant::now();
                playing.first.get_or_insert(now);
                playing.under_way -= 1;
                if playing.under_way > 0 || !playing.left.is_empty() {
                    self.begin_next();
                } else if let Some(playing) = self.playing.take() {
                    let played = Played {
                        began: playing.began,
                        first: playing.first.unwrap_or(now),
                        last: now,
                        writes: self.writes - playing.writes_before,
                    };
                    drop(playing.done.send(played));
                }
            }
            _ => {}
        }
    }

    fn create(&mut self, pod: usize) {
        assert!(self.states[pod] == State::Absent, "made once");
        self.states[pod] = State::Pending;
        let now = cut(Timestamp::now());
        let text = self
            .recorded
            .replace("web-0", &name(pod))
            .replace("3ed0e16d-c374-422d-aa8b-6ae38e40311d", &uid(pod))
            .replace(
                "\"resourceVersion\":\"279\"",
                &format!("{VERSION}{FIRST_VERSION}\""),
            )
            .replace("\"2026-11-29T03:06:37Z\"", &now.to_string());
        self.show("ADDED", pod, text);
    }

    /// The user's.
    fn delete(&mut self, pod: usize) {
        let text = self.text(pod).to_owned();
        self.states[pod] = State::Leaving;
        let at = Timestamp::now() + jiff::SignedDuration::from_secs(30);
        let at = cut(at);
        let inserted =
            format!("\"metadata\":{{\"deletionTimestamp\":{at},\"deletionGracePeriodSeconds\":30,");
        let text = text.replacen("\"metadata\":{", &inserted, 1).replacen(
            "\"generation\":1",
            "\"generation\":2",
            1,
        );
        self.show("MODIFIED", pod, text);
    }

    /// Gives the text a new version, keeps it, and tells the watch.
    fn show(&mut self, kind: &str, pod: usize, mut text: String) {
        self.version += 1;
        let at = text.find(VERSION).expect("it has a version") + VERSION.len();
        let version = self.version.to_string();
        text.replace_range(at..at + version.len(), &version);
        let start = pod * SLOT_BYTES;
        assert!(text.len() <= SLOT_BYTES, "{} bytes of text", text.len());
        self.texts[start..start + text.len()].copy_from_slice(text.as_bytes());
        self.lengths[pod] = text.len();
        let object = enveloped(&parsed(&text), POD);
        let event = Bytes::from(tables::event(kind, &object));
        match &self.watch {
            // A client that has gone hears nothing; it will list.
            Some(watch) => drop(watch.send(event)),
            None => self.backlog.push(event),
        }
    }

    fn text(&self, pod: usize) -> &str {
        let start = pod * SLOT_BYTES;
        let text = &self.texts[start..start + self.lengths[pod]];
        std::str::from_utf8(text).expect("it was text")
    }

    fn answer(&mut self, request: &Request<Bytes>) -> Response<Answer> {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        if path == "/api/v1/pods" {
            return if query.contains("watch=true") {
                self.open_watch()
            } else {
                self.list(query)
            };
        }
        if *request.method() != Method::GET {
            self.writes += 1;
        }
        let pod = path.strip_prefix("/api/v1/namespaces/default/pods/");
        let pod = pod.and_then(|rest| number(rest.trim_end_matches("/status")));
        match (request.method(), pod) {
            (&Method::PUT, Some(pod)) => self.write_status(pod, put(request.body())),
            (&Method::PATCH, Some(pod)) => {
                let patch = serde_json::from_slice(request.body()).expect("JSON");
                self.write_status(pod, patch)
            }
            (&Method::DELETE, Some(pod)) => self.remove(pod, request.body()),
            (&Method::GET, Some(pod)) if self.states[pod] != State::Absent => {
                whole(StatusCode::OK, self.text(pod).to_owned())
            }
            // An event is answered as it came.
            (&Method::POST, None) => Response::new(Answer::Whole(Some(request.body().clone()))),
            _ => refusal(StatusCode::NOT_FOUND),
        }
    }

    fn open_watch(&mut self) -> Response<Answer> {
        let (watch, events) = mpsc::unbounded_channel();
        for event in self.backlog.drain(..) {
            watch.send(event).expect("it was just made");
        }
        self.watch = Some(watch);
        Response::new(Answer::Watch(events))
    }

    fn list(&mut self, query: &str) -> Response<Answer> {
        let given = |name: &str| {
            let mut all = form_urlencoded::parse(query.as_bytes());
            let (_, value) = all.find(|(key, _)| key == name)?;
            value.parse::<usize>().ok()
        };
        let from = given("continue");
        if from.is_none() {
            self.listed = [Some(Instant::now()), None];
        }
        let (page, is_last) = self.page(
            from.unwrap_or_default(),
            given("limit").unwrap_or(usize::MAX),
        );
        if is_last {
            self.listed[1] = Some(Instant::now());
            self.backlog.clear();
        }
        whole(StatusCode::OK, page)
    }

    /// From which pod on, and how many; whether there are no more.
    fn page(&self, from: usize, limit: usize) -> (Bytes, bool) {
        let limit = limit.min(200);
        let here = (from..self.states.len()).filter(|pod| self.states[*pod] != State::Absent);
        let pods: Vec<usize> = here.take(limit + 1).collect();
        let next = pods.get(limit).map_or_else(String::new, usize::to_string);
        let shown = pods.iter().take(limit);
        let page = json!({
            "kind": "PodList", "apiVersion": "v1",
            "metadata": {"resourceVersion": self.version.to_string(), "continue": next},
            "items": shown.map(|pod| parsed(self.text(*pod))).collect::<Vec<_>>(),
        });
        (enveloped(&page, POD_LIST).into(), pods.len() <= limit)
    }

    fn write_status(&mut self, pod: usize, patch: Value) -> Response<Answer> {
        if self.states[pod] == State::Absent {
            return refusal(StatusCode::NOT_FOUND);
        }
        let mut after = parsed(self.text(pod));
        assert_eq!(after["metadata"]["uid"], patch["metadata"]["uid"]);
        merge(&mut after, patch);
        after["metadata"]["managedFields"] = self.fields.clone();
        let runs = after["status"]["phase"] == "Running";
        self.show("MODIFIED", pod, after.to_string());
        let answer = whole(StatusCode::OK, enveloped(&after, POD));
        if runs && self.states[pod] == State::Pending {
            self.states[pod] = State::Running;
            self.came_to(pod, State::Running);
        }
        answer
    }

    /// DELETE with grace 0, which shows twice: the grace is put down, and the object goes.
    fn remove(&mut self, pod: usize, body: &[u8]) -> Response<Answer> {
        let options: Value = serde_json::from_slice(body).expect("JSON");
        if self.states[pod] == State::Absent {
            return refusal(StatusCode::NOT_FOUND);
        }
        assert_eq!(options["preconditions"]["uid"], *uid(pod));
        let text = self.text(pod).replacen(
            "\"deletionGracePeriodSeconds\":30",
            "\"deletionGracePeriodSeconds\":0",
            1,
        );
        self.show("MODIFIED", pod, text.clone());
        self.show("DELETED", pod, text);
        self.states[pod] = State::Absent;
        self.came_to(pod, State::Absent);
        let metadata = json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"name": name(pod), "namespace": "default", "uid": uid(pod)},
        });
        whole(StatusCode::OK, metadata.to_string())
    }
}

fn name(pod: usize) -> String {
    format!("web-{pod}")
}

fn number(name: &str) -> Option<usize> {
    name.strip_prefix("web-")?.parse().ok()
}

/// As random as the API server's, so that no index is filled in order.
fn uid(pod: usize) -> String {
    let seed = u64::try_from(pod).expect("a small number");
    let mut random = fastrand::Rng::with_seed(seed);
    format!(
        "{:08x}-{:04x}-4000-8000-{seed:012x}",
        random.u32(..),
        random.u16(..)
    )
}

/// What of a pod in protobuf was written: the same as a patch has.
fn put(body: &Bytes) -> Value {
    let raw = protobuf::enclosed(body).expect("an envelope");
    let pod: Value = tables::decode::from_slice(&raw, POD).expect("a pod");
    let metadata = &pod["metadata"];
    json!({
        "metadata": {"uid": metadata["uid"], "annotations": metadata["annotations"]},
        "status": pod["status"],
    })
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn whole(code: StatusCode, body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(body.into())));
    *response.status_mut() = code;
    response
}

fn refusal(code: StatusCode) -> Response<Answer> {
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16()});
    whole(code, status.to_string())
}
