//! Sends pod events, without letting them get in the way.
//!
//! Owns a bounded queue and what was said lately: the same sentence about the same pod is not
//! repeated, and takes no place in the queue. kube's own recorder is not used, since it leaves out
//! a second note that has the same reason. Events are for people; nothing here depends on their
//! arrival.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use holdfast_provider::id::{PodKey, PodUid};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::core::Status;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::core::Topic;
use super::life::OOM_KILLED;
use crate::chain::chain;

/// Events that wait to be sent; more than that are dropped, and counted in the log.
const QUEUE: usize = 1024;
/// How long the same sentence is not said again.
const SILENCE: Duration = Duration::from_mins(5);
/// How much is remembered of what was said; the oldest is forgotten first.
const REMEMBERED: usize = 4096;
/// The API's limit of an event's message, in bytes.
const MESSAGE_MAX: usize = 1024;
/// The API's limit of an object's name, in bytes.
const NAME_MAX: usize = 253;
/// What the API server names as the cause when a namespace takes nothing new because it is going.
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";
const DEADLINE: Duration = Duration::from_secs(10);
const TRIES: u32 = 5;

/// A handle for sending events.
pub(super) struct Recorder {
    queue: mpsc::Sender<Said>,
    lately: Lately,
}

type About = (Arc<PodUid>, Topic);

/// What was said lately.
#[derive(Default)]
struct Lately {
    notes: HashMap<About, (String, Instant)>,
    /// All that was said, the oldest first, also what was followed by another note about the same.
    order: VecDeque<(About, Instant)>,
}

impl Lately {
    fn has(&self, about: &About, note: &str) -> bool {
        self.notes
            .get(about)
            .is_some_and(|(said, at)| said == note && at.elapsed() < SILENCE)
    }

    fn remember(&mut self, about: About, note: String) {
        if self.order.len() >= REMEMBERED
            && let Some((oldest, said_at)) = self.order.pop_front()
            && self
                .notes
                .get(&oldest)
                .is_some_and(|(_, at)| *at == said_at)
        {
            self.notes.remove(&oldest);
        }
        let now = Instant::now();
        self.order.push_back((about.clone(), now));
        self.notes.insert(about, (note, now));
    }
}

struct Said {
    uid: Arc<PodUid>,
    key: PodKey,
    topic: Topic,
    note: String,
    at: Timestamp,
}

impl Recorder {
    /// Starts the task that sends.
    pub(super) fn start(client: Client) -> Self {
        let (queue, said) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(client, said));
        Self {
            queue,
            lately: Lately::default(),
        }
    }

    /// Queues an event, unless it was said lately.
    pub(super) fn record(&mut self, uid: Arc<PodUid>, key: PodKey, topic: Topic, note: String) {
        // What is told of every pod must not crowd out what is told of one.
        if topic.is_routine && self.queue.capacity() < QUEUE / 2 {
            return;
        }
        let about = (Arc::clone(&uid), topic);
        if self.lately.has(&about, &note) {
            return;
        }
        let said = Said {
            uid,
            key,
            topic,
            note: note.clone(),
            at: crate::clock::wall(),
        };
        match self.queue.try_send(said) {
            Ok(()) => self.lately.remember(about, note),
            Err(error) => tracing::warn!(%error, "an event was dropped"),
        }
    }
}

async fn send_all(client: Client, mut queue: mpsc::Receiver<Said>) {
    let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "holdfast".to_owned());
    while let Some(said) = queue.recv().await {
        send(&client, &event(&said, &instance)).await;
    }
}

async fn send(client: &Client, event: &Event) {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let params = PostParams::default();
    let mut pause = Duration::from_millis(100);
    for tries in 1..=TRIES {
        let (error, is_final) =
            match tokio::time::timeout(DEADLINE, api.create(&params, event)).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(status))) if is_moot(&status) => return,
                Ok(Err(error)) => (chain(&error).to_string(), is_final(&error)),
                Err(_) => ("no answer in time".to_owned(), false),
            };
        if is_final || tries == TRIES {
            tracing::warn!(
                error,
                reason = event.reason.as_deref(),
                "an event could not be sent"
            );
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// The namespace is going or gone, and its events with it, or a try whose answer was lost has come through.
fn is_moot(refusal: &Status) -> bool {
    let is_terminating = || {
        let details = refusal.details.as_ref();
        details.is_some_and(|details| {
            let mut causes = details.causes.iter();
            causes.any(|cause| cause.reason == NAMESPACE_TERMINATING)
        })
    };
    matches!(refusal.code, 404 | 409) || is_terminating()
}

/// The same request would be refused again. While it is tried, all other events wait.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422))
}

/// As client-go names events, unique enough for one pod and one process; but what the API allows as a
/// pod's name may be too long with more behind it.
fn name(said: &Said) -> String {
    let suffix = format!(".{:x}", said.at.as_nanosecond());
    let pod = &said.key.name;
    let pod = &pod[..pod.floor_char_boundary(NAME_MAX - suffix.len())];
    pod.trim_end_matches(['.', '-']).to_owned() + &suffix
}

fn event(said: &Said, instance: &str) -> Event {
    let kind = if said.topic.is_warning {
        "Warning"
    } else {
        "Normal"
    };
    // Tools pick the events of ACS itself by their source (ACS, "Pod events").
    let component = match said.topic.reason {
        OOM_KILLED => "AcsService",
        _ if said.topic.is_routine => "kubelet",
        _ => "holdfast",
    };
    let at = Time(said.at);
    Event {
        metadata: ObjectMeta {
            name: Some(name(said)),
            namespace: Some(said.key.namespace.to_string()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(said.key.name.to_string()),
            namespace: Some(said.key.namespace.to_string()),
            uid: Some(said.uid.to_string()),
            ..ObjectReference::default()
        },
        reason: Some(said.topic.reason.into()),
        message: Some(shortened(&said.note, MESSAGE_MAX)),
        type_: Some(kind.into()),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        count: Some(1),
        source: Some(EventSource {
            component: Some(component.into()),
            host: None,
        }),
        reporting_component: Some(component.into()),
        reporting_instance: Some(instance.into()),
        ..Event::default()
    }
}

/// At most `max` bytes of `text`, cut between characters and marked.
fn shortened(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests;
