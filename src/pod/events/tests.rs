//! An API server that answers every event alike, and what it is sent.

use std::convert::Infallible;

use http::Request;
use kube::client::Body;
use kube::core::Status;
use serde_json::{Value, json};

use super::*;

const STRANDED: Topic = Topic::warning("FixedIPZoneClosed");

/// A recorder, and the events that its API server is sent, to each of which it says this.
fn recorder(code: u16, answer: Value) -> (Recorder, mpsc::UnboundedReceiver<Event>) {
    let (told, sent) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (told, answer) = (told.clone(), answer.to_string());
        async move {
            let body = request.into_body().collect_bytes().await.unwrap();
            told.send(serde_json::from_slice(&body).unwrap()).unwrap();
            let response = http::Response::builder().status(code);
            Ok::<_, Infallible>(response.body(Body::from(answer.into_bytes())).unwrap())
        }
    });
    (Recorder::start(Client::new(service, "default")), sent)
}

fn accepting() -> (Recorder, mpsc::UnboundedReceiver<Event>) {
    recorder(201, json!({"metadata": {}, "involvedObject": {}}))
}

fn refusing(code: u16) -> (Recorder, mpsc::UnboundedReceiver<Event>) {
    let status = Status::failure("no", "").with_code(code);
    recorder(code, serde_json::to_value(status).unwrap())
}

fn say(recorder: &mut Recorder, name: &str, note: &str) {
    let key = PodKey::new("default", name);
    recorder.record(Arc::new(name.into()), key, STRANDED, note.to_owned());
}

/// The pods that are told of until nothing waits any more.
async fn rest(recorder: Recorder, mut sent: mpsc::UnboundedReceiver<Event>) -> Vec<String> {
    drop(recorder);
    let mut pods = Vec::new();
    while let Some(event) = sent.recv().await {
        pods.push(about(&event).to_owned());
    }
    pods
}

fn about(event: &Event) -> &str {
    event.involved_object.name.as_deref().unwrap()
}

#[test]
fn a_long_note_is_cut_between_characters() {
    assert_eq!(shortened("short", 1024), "short");
    let cut = shortened(&"ä".repeat(600), 1024);
    assert!(cut.len() <= 1024 && cut.ends_with('…'), "{}", cut.len());
}

#[tokio::test]
async fn what_is_said_anew_is_told_once_however_much_was_said_before() {
    let (mut recorder, mut sent) = accepting();
    for pod in 0..REMEMBERED {
        say(&mut recorder, &format!("pod-{pod}"), "started");
        sent.recv().await.unwrap();
    }
    for name in ["web-0", "web-0", "web-1", "web-0", "last"] {
        say(&mut recorder, name, "its zone is closed");
    }
    assert_eq!(rest(recorder, sent).await, ["web-0", "web-1", "last"]);
}

#[tokio::test]
async fn what_is_said_over_and_over_of_many_pods_crowds_out_nothing() {
    let (mut recorder, sent) = accepting();
    for _ in 0..2 * QUEUE {
        say(&mut recorder, "web-0", "its zone is closed");
    }
    say(&mut recorder, "web-1", "its zone is closed");
    assert_eq!(rest(recorder, sent).await, ["web-0", "web-1"]);
}

#[tokio::test]
async fn the_name_of_an_event_is_a_valid_one_however_long_that_of_the_pod() {
    let (mut recorder, mut sent) = accepting();
    let long = "a".repeat(253);
    let at_a_dot = format!("{}.-b.{}", "a".repeat(233), "c".repeat(16));
    for pod in ["web-0", &long, &at_a_dot] {
        say(&mut recorder, pod, "");
        let event = sent.recv().await.unwrap();
        assert_eq!(about(&event), pod);
        let name = event.metadata.name.unwrap();
        let (prefix, suffix) = name.rsplit_once('.').unwrap();
        assert!(name.len() <= 253 && suffix.len() == 16, "{name}");
        assert!(
            pod.starts_with(prefix) && !prefix.ends_with(['.', '-']),
            "{name}"
        );
    }
}

#[tokio::test]
async fn only_what_trying_again_can_help_is_tried_again() {
    for (code, tries) in [
        (400, 1),
        (403, 1),
        (404, 1),
        (409, 1),
        (422, 1),
        (429, 2),
        (503, 2),
    ] {
        let (mut recorder, mut sent) = refusing(code);
        say(&mut recorder, "web-0", "");
        say(&mut recorder, "web-1", "");
        for _ in 0..tries {
            assert_eq!(about(&sent.recv().await.unwrap()), "web-0", "{code}");
        }
        if tries == 1 {
            assert_eq!(about(&sent.recv().await.unwrap()), "web-1", "{code}");
        }
    }
}
