//! Sends pod events, without letting them get in the way.
//!
//! Owns a bounded queue and what was sent lately: the same sentence about the same pod is not
//! repeated. kube's own recorder is not used, since it leaves out a second note that has the same
//! reason. Events are for people; nothing here depends on their arrival.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_provider::id::{PodKey, PodUid};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
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
/// How much is remembered of what was said.
const REMEMBERED: usize = 4096;
/// The API's limit of an event's message, in bytes.
const MESSAGE_MAX: usize = 1024;
const DEADLINE: Duration = Duration::from_secs(10);
const TRIES: u32 = 5;

/// A handle for sending events.
pub(super) struct Recorder {
    queue: mpsc::Sender<Said>,
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
        Self { queue }
    }

    /// Queues an event.
    pub(super) fn record(&self, uid: Arc<PodUid>, key: PodKey, topic: Topic, note: String) {
        // What is told of every pod must not crowd out what is told of one.
        if topic.is_routine && self.queue.capacity() < QUEUE / 2 {
            return;
        }
        let said = Said {
            uid,
            key,
            topic,
            note,
            at: crate::clock::wall(),
        };
        if let Err(error) = self.queue.try_send(said) {
            tracing::warn!(%error, "an event was dropped");
        }
    }
}

async fn send_all(client: Client, mut queue: mpsc::Receiver<Said>) {
    let mut lately: HashMap<(Arc<PodUid>, Topic), (String, Instant)> = HashMap::new();
    let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "holdfast".to_owned());
    while let Some(said) = queue.recv().await {
        let about = (Arc::clone(&said.uid), said.topic);
        let repeated = lately
            .get(&about)
            .is_some_and(|(note, at)| *note == said.note && at.elapsed() < SILENCE);
        if repeated {
            continue;
        }
        if lately.len() >= REMEMBERED {
            lately.retain(|_, (_, at)| at.elapsed() < SILENCE);
        }
        if lately.len() < REMEMBERED {
            lately.insert(about, (said.note.clone(), Instant::now()));
        }
        send(&client, &event(&said, &instance)).await;
    }
}

async fn send(client: &Client, event: &Event) {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let params = PostParams::default();
    let mut pause = Duration::from_millis(100);
    for tries in 1..=TRIES {
        let error = match tokio::time::timeout(DEADLINE, api.create(&params, event)).await {
            Ok(Ok(_)) => return,
            // The namespace is going, and its events with it.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => return,
            Ok(Err(error)) => chain(&error).to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        if tries == TRIES {
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
            // As client-go names them; unique enough for one pod and one process.
            name: Some(format!("{}.{:x}", said.key.name, said.at.as_nanosecond())),
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
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(shortened("short", 1024), "short");
        let cut = shortened(&"ä".repeat(600), 1024);
        assert!(cut.len() <= 1024 && cut.ends_with('…'), "{}", cut.len());
    }
}
