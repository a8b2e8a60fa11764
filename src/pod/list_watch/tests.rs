//! An API server that answers by a script, and what is made of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream;
use kube::client::Body;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::protobuf::tables::{POD, encode, enveloped, event};
use super::protobuf::write::append_bytes;
use super::*;
use crate::chain::chain;

/// An answer, and what is in the query of the request that it is for.
type Step = (&'static [&'static str], u16, Vec<u8>);

/// What is told until the script is at its end.
async fn played(script: impl IntoIterator<Item = Step>) -> Vec<String> {
    let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
    let over = CancellationToken::new();
    let (steps, ends) = (Arc::clone(&script), over.clone());
    let service = tower::service_fn(move |request: HttpRequest<Body>| {
        let step = steps.lock().unwrap().pop_front();
        let ends = ends.clone();
        async move {
            let Some((wanted, code, body)) = step else {
                ends.cancel();
                return std::future::pending().await;
            };
            let uri = request.uri().to_string();
            assert!(uri.starts_with("/api/v1/pods?"), "{uri}");
            assert!(wanted.iter().all(|part| uri.contains(part)), "{uri}");
            assert_eq!(request.headers()[header::ACCEPT], answer::PROTOBUF);
            let answer = http::Response::builder().status(code);
            Ok::<_, Infallible>(answer.body(Body::from(body)).unwrap())
        }
    });
    let mut pods = std::pin::pin!(pods(Client::new(service, "default")));
    let mut all = Vec::new();
    // Nothing but the next page is asked for before what came of the last answer was told.
    while let Some(Some(told)) = over.run_until_cancelled(pods.next()).await {
        all.push(told.map_or_else(|error| error.to_string(), said));
        assert!(all.len() < 100, "it does not end: {all:#?}");
    }
    assert!(script.lock().unwrap().is_empty(), "{all:#?}");
    all
}

fn said(input: Input) -> String {
    match input {
        Input::ListBegan => "list".to_owned(),
        Input::ListDone => "all".to_owned(),
        Input::Seen(pod) => format!("+{}", pod.metadata.uid.unwrap_or_default()),
        Input::Deleted(gone) => format!("-{}", gone.metadata.uid.unwrap_or_default()),
        other => format!("{other:?}"),
    }
}

fn pod(uid: &str, version: u32) -> Value {
    json!({"kind": "Pod", "metadata": {"uid": uid, "resourceVersion": version.to_string()}})
}

fn list(version: &str, token: &str, pods: &[Value]) -> Vec<u8> {
    let mut metadata = Vec::new();
    append_bytes(2, version.as_bytes(), &mut metadata);
    append_bytes(3, token.as_bytes(), &mut metadata);
    let mut list = Vec::new();
    append_bytes(1, &metadata, &mut list);
    for pod in pods {
        append_bytes(2, &encode(pod, POD), &mut list);
    }
    protobuf::envelope("v1", "PodList", &list)
}

fn tell(kind: &str, pod: &Value) -> Vec<u8> {
    event(kind, &enveloped(pod, POD))
}

/// `Status` with its message, reason and, with two bytes, code.
fn status(message: &str, reason: &str, code: u16) -> Vec<u8> {
    let mut status = Vec::new();
    append_bytes(3, message.as_bytes(), &mut status);
    append_bytes(4, reason.as_bytes(), &mut status);
    let [low, high] = [code & 0x7f | 0x80, code >> 7].map(|byte| u8::try_from(byte).unwrap());
    status.extend([6 << 3, low, high]);
    protobuf::envelope("v1", "Status", &status)
}

const LIST: &[&str] = &["limit=5000"];
const WATCH_FROM_7: &[&str] = &[
    "watch=true",
    "allowWatchBookmarks=true",
    "resourceVersion=7",
];

fn empty_list() -> Step {
    (LIST, 200, list("7", "", &[]))
}

#[tokio::test]
async fn pages_are_one_list_and_the_watch_goes_on_from_it() {
    let told = played([
        (LIST, 200, list("7", "more", &[pod("a", 3), pod("b", 5)])),
        (
            &["limit=5000", "continue=more"],
            200,
            list("7", "", &[pod("c", 6)]),
        ),
        (
            WATCH_FROM_7,
            200,
            [tell("ADDED", &pod("d", 8)), tell("DELETED", &pod("a", 9))].concat(),
        ),
        // The API server has ended the watch, as it does.
        (&["resourceVersion=9"], 200, tell("BOOKMARK", &pod("", 12))),
        (
            &["resourceVersion=12"],
            200,
            tell("MODIFIED", &pod("b", 13)),
        ),
    ]);
    let want = ["list", "+a", "+b", "+c", "all", "+d", "-a", "+b"];
    assert_eq!(told.await, want);
}

#[tokio::test]
async fn the_next_page_is_asked_for_while_one_is_read() {
    let asked = CancellationToken::new();
    let service = tower::service_fn(move |request: HttpRequest<Body>| {
        let asked = asked.clone();
        async move {
            let body = if request.uri().query().unwrap().contains("continue=more") {
                asked.cancel();
                axum::body::Body::from(list("7", "", &[pod("b", 5)]))
            } else {
                let mut begin = list("7", "more", &[pod("a", 3)]);
                let end = begin.split_off(begin.len() - 1);
                let end = stream::once(asked.cancelled_owned()).map(move |()| end.clone());
                let pieces = stream::iter([begin]).chain(end);
                axum::body::Body::from_stream(pieces.map(Ok::<_, Infallible>))
            };
            Ok::<_, Infallible>(http::Response::new(body))
        }
    });
    let told = pods(Client::new(service, "default")).take(4);
    let told = tokio::time::timeout(Duration::from_mins(1), told.collect::<Vec<_>>()).await;
    let told = told.expect("the first page does not end before the second is asked for");
    assert!(matches!(
        told[..],
        [
            Ok(Input::ListBegan),
            Ok(Input::Seen(_)),
            Ok(Input::Seen(_)),
            Ok(Input::ListDone)
        ]
    ));
}

#[tokio::test]
async fn a_list_that_breaks_off_begins_anew() {
    let refused = status("the server is starting", "ServiceUnavailable", 503);
    let mut cut = list("7", "", &[pod("a", 3), pod("b", 5)]);
    cut.pop();
    let told = played([
        (LIST, 200, cut),
        (LIST, 200, list("7", "more", &[pod("a", 3)])),
        (&["continue=more"], 503, refused),
        (LIST, 200, list("", "", &[])),
        (LIST, 200, b"<html>".to_vec()),
        (LIST, 200, list("8", "", &[pod("b", 8)])),
        (&["resourceVersion=8"], 200, Vec::new()),
    ]);
    let want = [
        "list",
        "+a",
        "the API server sent a list that cannot be read",
        "list",
        "+a",
        "the API server does not give the list of pods",
        "list",
        "the API server sent a list without a resource version",
        "list",
        "the API server sent a list that cannot be read",
        "list",
        "+b",
        "all",
    ];
    assert_eq!(told.await, want);
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_listed_again() {
    let expired = || status("too old resource version: 7 (9)", "Expired", 410);
    let told = played([
        empty_list(),
        (WATCH_FROM_7, 200, event("ERROR", &expired())),
        empty_list(),
        (WATCH_FROM_7, 410, expired()),
        empty_list(),
        (WATCH_FROM_7, 200, Vec::new()),
    ]);
    let want = [
        "list",
        "all",
        "the API server ended the watch: too old resource version: 7 (9) (Expired)",
        "list",
        "all",
        "the API server does not start the watch of pods",
        "list",
        "all",
    ];
    assert_eq!(told.await, want);
}

#[tokio::test]
async fn a_watch_that_breaks_goes_on_after_the_last_event() {
    let begun = [tell("ADDED", &pod("a", 8)), tell("ADDED", &pod("b", 9))].concat();
    let cut = begun[..begun.len() - 3].to_vec();
    let failed = event("ERROR", &status("etcd has no leader", "InternalError", 500));
    let told = played([
        empty_list(),
        (
            WATCH_FROM_7,
            503,
            status("try again", "ServiceUnavailable", 503),
        ),
        (WATCH_FROM_7, 200, cut),
        (&["resourceVersion=8"], 200, failed),
        (&["resourceVersion=8"], 200, tell("ADDED", &pod("b", 9))),
    ]);
    let want = [
        "list",
        "all",
        "the API server does not start the watch of pods",
        "+a",
        "the connection of the watch broke",
        "the API server ended the watch: etcd has no leader (InternalError)",
        "+b",
    ];
    assert_eq!(told.await, want);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_told_and_holds_up_no_other() {
    let no_pod = event("ADDED", &protobuf::envelope("v1", "Pod", &[0x08, 1]));
    let json = event("ADDED", b"{}");
    let after = tell("ADDED", &pod("a", 9));
    let told = played([
        empty_list(),
        (WATCH_FROM_7, 200, [no_pod, json, after].concat()),
        (&["resourceVersion=9"], 200, Vec::new()),
    ]);
    let want = [
        "list",
        "all",
        "the API server sent a pod that cannot be read",
        "the API server sent an event that cannot be read",
        "+a",
    ];
    assert_eq!(told.await, want);
}

/// The watch of a server whose answers are these bodies, in turn; where there is none, nothing comes, not even a head.
fn watched(
    silence_max: Duration,
    answers: impl IntoIterator<Item = Option<axum::body::Body>>,
) -> impl Stream<Item = Result<Input, Error>> {
    let answers = Mutex::new(answers.into_iter().collect::<VecDeque<_>>());
    let service = tower::service_fn(move |_: HttpRequest<Body>| {
        let answer = answers.lock().unwrap().pop_front().flatten();
        async move {
            match answer {
                Some(body) => Ok::<_, Infallible>(http::Response::new(body)),
                None => std::future::pending().await,
            }
        }
    });
    let server = Server {
        client: Client::new(service, "default"),
        silence_max,
    };
    let state = State::New;
    PodWatch { server, state }.into_stream()
}

/// These pieces, and then nothing.
fn then_silence(pieces: impl Stream<Item = Vec<u8>> + Send + 'static) -> axum::body::Body {
    let all = pieces.chain(stream::pending());
    axum::body::Body::from_stream(all.map(Ok::<_, Infallible>))
}

fn empty() -> axum::body::Body {
    axum::body::Body::from(list("7", "", &[]))
}

async fn first(count: usize, told: impl Stream<Item = Result<Input, Error>>) -> Vec<String> {
    let said =
        |told: Result<Input, Error>| told.map_or_else(|error| chain(&error).to_string(), said);
    let told = told.map(said).take(count).collect();
    let told = tokio::time::timeout(Duration::from_mins(1), told).await;
    told.expect("a silence goes unnoticed")
}

#[tokio::test]
async fn an_api_server_that_falls_silent_is_asked_again() {
    let mut half = list("7", "", &[pod("a", 3), pod("b", 5)]);
    half.pop();
    let event = tell("ADDED", &pod("c", 8));
    let told = watched(
        Duration::from_millis(100),
        [
            None,
            Some(then_silence(stream::iter([half]))),
            Some(empty()),
            None,
            Some(then_silence(stream::iter([event]))),
        ],
    );
    let want = [
        "list",
        "the API server does not give the list of pods: ServiceError: nothing came for 0.1 s",
        "list",
        "+a",
        "the connection of the list broke: nothing came for 0.1 s",
        "list",
        "all",
        "the API server does not start the watch of pods: ServiceError: nothing came for 0.1 s",
        "+c",
        "the connection of the watch broke: nothing came for 0.1 s",
    ];
    assert_eq!(first(want.len(), told).await, want);
}

#[tokio::test]
async fn a_watch_that_brings_something_now_and_then_goes_on() {
    let silence_max = Duration::from_secs(2);
    let drops = stream::iter(8..38).then(|version| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tell("BOOKMARK", &pod("", version))
    });
    let last = stream::iter([tell("ADDED", &pod("a", 40))]);
    let began = std::time::Instant::now();
    let told = watched(
        silence_max,
        [Some(empty()), Some(then_silence(drops.chain(last)))],
    );
    assert_eq!(first(3, told).await, ["list", "all", "+a"]);
    assert!(
        began.elapsed() > silence_max,
        "it was no longer than one silence"
    );
}
