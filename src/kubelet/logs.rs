//! `GET /containerLogs/...`: which lines of a container's log are sent, and how.
//!
//! Owns the options and the selection. What the lines say is not decided here ([`super::life`]), nor how a log goes
//! on ([`super::follow`]). Words and codes of refusals are the kubelet's (kubernetes/kubernetes,
//! pkg/kubelet/server/server.go, `getContainerLogs`).

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use futures::{StreamExt, stream};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::time::timeout;

use super::follow::Follow;
use super::life::{self, LogLine, NoLogs, Stream};
use super::limits::Full;
use super::routes::Endpoint;
use crate::https::Outflow;
use crate::pod::is_object_name;

pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A log goes out in portions of about this size: nobody needs a second copy of it as one text.
const PORTION_BYTES: usize = 64 * 1024;
/// A query with one sane value for each option is far shorter.
const QUERY_MAX_BYTES: usize = 4096;

/// No log is sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{{\"message\": \"Unable to decode query.\"}}")]
    Query,
    #[error("{{\"message\": \"Invalid request.\"}}")]
    Invalid,
    #[error("pod {0:?} does not exist")]
    NoPod(String),
    #[error("{0}")]
    NoLogs(#[from] NoLogs),
    #[error("cannot read pod {pod:?} from the API server")]
    Unreachable {
        pod: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the API server did not answer for pod {pod:?} within {} s", REQUEST_TIMEOUT.as_secs())]
    TimedOut { pod: String },
    #[error(transparent)]
    Full(#[from] Full),
}

impl Error {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NoPod(_) | Self::NoLogs(NoLogs::NoSuchContainer { .. }) => StatusCode::NOT_FOUND,
            Self::Query | Self::NoLogs(_) => StatusCode::BAD_REQUEST,
            Self::Unreachable { .. } | Self::TimedOut { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// `PodLogOptions` of the Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    since: Option<Since>,
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    stream: Option<Stream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Seconds(i64),
    Time(Timestamp),
}

impl Options {
    fn parse(query: &str) -> Result<Self, Error> {
        if query.len() > QUERY_MAX_BYTES {
            return Err(Error::Query);
        }
        let mut options = Self::default();
        let (mut tail, mut limit) = (None, None);
        let (mut seconds, mut time) = (None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "follow" => options.follow = truth(&value)?,
                "previous" => options.previous = truth(&value)?,
                "timestamps" => options.timestamps = truth(&value)?,
                "tailLines" => tail = Some(number(&value)?),
                "tail" if value != "all" => tail = Some(number(&value)?),
                "limitBytes" => limit = Some(number(&value)?),
                "sinceSeconds" => seconds = Some(number(&value)?),
                "sinceTime" => time = Some(value.parse().map_err(|_| Error::Query)?),
                "stream" => {
                    options.stream = match &*value {
                        "" | "All" => None,
                        "Stdout" => Some(Stream::Stdout),
                        "Stderr" => Some(Stream::Stderr),
                        _ => return Err(Error::Invalid),
                    }
                }
                _ => {}
            }
        }
        options.since = match (seconds, time) {
            (Some(_), Some(_)) => return Err(Error::Invalid),
            (Some(seconds), None) if seconds < 1 => return Err(Error::Invalid),
            (Some(seconds), None) => Some(Since::Seconds(seconds)),
            (None, time) => time.map(Since::Time),
        };
        options.tail_lines = tail
            .map(|lines| usize::try_from(lines).map_err(|_| Error::Invalid))
            .transpose()?;
        options.limit_bytes = match limit {
            Some(bytes) if bytes < 1 => return Err(Error::Invalid),
            limit => limit.and_then(|bytes| usize::try_from(bytes).ok()),
        };
        // Lines of one stream cannot be counted from the end of both.
        if options.stream.is_some() && options.tail_lines.is_some() {
            return Err(Error::Invalid);
        }
        Ok(options)
    }

    fn since(&self, now: Timestamp) -> Option<Timestamp> {
        self.since.map(|since| match since {
            Since::Seconds(seconds) => now
                .checked_sub(SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MIN),
            Since::Time(time) => time,
        })
    }

    /// The lines to begin with.
    fn select(&self, mut lines: Vec<LogLine>, now: Timestamp) -> Vec<LogLine> {
        let since = self.since(now).unwrap_or(Timestamp::MIN);
        let earlier = lines.partition_point(|line| line.at < since);
        let tail = self.tail_lines.unwrap_or(lines.len());
        lines.split_off(earlier.max(lines.len().saturating_sub(tail)))
    }

    fn print(&self, line: &LogLine, into: &mut String) {
        if self.stream.is_some_and(|stream| stream != line.stream) {
            return;
        }
        if self.timestamps {
            // Writing to a String cannot fail.
            let _ = write!(into, "{:.9} ", line.at);
        }
        into.push_str(&line.text);
        into.push('\n');
    }
}

/// Go's `strconv.ParseBool`, by which the query is read; a key without a value is true.
fn truth(value: &str) -> Result<bool, Error> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::Query),
    }
}

fn number(value: &str) -> Result<i64, Error> {
    value.parse().map_err(|_| Error::Query)
}

/// A log that is being sent.
struct Sending {
    /// Those that are there and not yet sent.
    lines: std::vec::IntoIter<LogLine>,
    follow: Option<Follow>,
    options: Options,
    left_bytes: usize,
}

/// The log as the body of an answer.
pub(super) async fn open(
    endpoint: &Endpoint,
    namespace: &str,
    name: &str,
    container: &str,
    query: &str,
    outflow: Outflow,
) -> Result<Body, Error> {
    let options = Options::parse(query)?;
    let beginning = endpoint.shared.limits.beginning().await;
    let pod = read_here(endpoint, namespace, name).await?;
    let now = Timestamp::now();
    let lines = life::log_lines(&pod, container, options.previous, now)?;
    let goes_on = options.follow && !options.previous;
    let mut sending = Sending {
        follow: goes_on.then(|| Follow::after(&lines, endpoint, pod, container)),
        lines: options.select(lines, now).into_iter(),
        left_bytes: options.limit_bytes.unwrap_or(usize::MAX),
        options,
    };
    let first = sending.portion();
    if sending.has_ended() {
        // No reader, however slow, keeps more of it waiting than a connection's buffers hold.
        return Ok(Body::from(first));
    }
    let place = endpoint.shared.limits.place(outflow).await?;
    drop(beginning);
    let first = stream::iter(Some(first).filter(|first| !first.is_empty()));
    let rest = stream::unfold((sending, place), |(mut sending, place)| async move {
        let text = sending.next().await?;
        Some((text, (sending, place)))
    });
    let portions = first.chain(rest).map(Ok::<_, std::convert::Infallible>);
    Ok(Body::from_stream(portions))
}

impl Sending {
    /// Whether nothing more will come.
    fn has_ended(&self) -> bool {
        self.left_bytes == 0
            || self.lines.len() == 0 && self.follow.as_ref().is_none_or(Follow::has_ended)
    }

    /// More text, or `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            let text = self.portion();
            if !text.is_empty() {
                return Some(text);
            }
            if self.left_bytes == 0 {
                return None;
            }
            // What was sent may have been long, and the next line may be a long time off.
            self.lines = Vec::new().into_iter();
            self.lines = self.follow.as_mut()?.next().await?.into_iter();
        }
    }

    /// Some of the lines that are there; empty when there are none, or no more may be sent.
    fn portion(&mut self) -> String {
        let mut text = String::new();
        while text.len() < PORTION_BYTES.min(self.left_bytes) {
            let Some(line) = self.lines.next() else {
                break;
            };
            self.options.print(&line, &mut text);
        }
        if text.len() > self.left_bytes {
            text.truncate(text.floor_char_boundary(self.left_bytes));
            self.left_bytes = 0;
        } else {
            self.left_bytes -= text.len();
        }
        text
    }
}

/// A pod of the nodes of the listener that was asked.
pub(super) async fn read_here(
    endpoint: &Endpoint,
    namespace: &str,
    name: &str,
) -> Result<Pod, Error> {
    read(endpoint, namespace, name)
        .await?
        .filter(|pod| is_here(endpoint, pod))
        .ok_or_else(|| Error::NoPod(name.to_owned()))
}

pub(super) async fn read(
    endpoint: &Endpoint,
    namespace: &str,
    name: &str,
) -> Result<Option<Pod>, Error> {
    // They are part of the path of a request, which any other text could make one for another object.
    if ![namespace, name].into_iter().all(is_object_name) {
        return Ok(None);
    }
    let api: Api<Pod> = Api::namespaced(endpoint.shared.client.clone(), namespace);
    let pod = || name.to_owned();
    let answer = timeout(REQUEST_TIMEOUT, api.get_opt(name)).await;
    answer
        .map_err(|_| Error::TimedOut { pod: pod() })?
        .map_err(|source| Error::Unreachable {
            pod: pod(),
            source: Box::new(source),
        })
}

/// Whether the pod is bound to a node of the listener that was asked.
fn is_here(endpoint: &Endpoint, pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node.is_some_and(|node| endpoint.nodes.contains(node))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::limits::Limits;
    use super::super::routes::testing::{answering, endpoint};
    use super::*;
    use crate::chain::chain;

    #[tokio::test]
    async fn a_name_that_no_object_can_have_is_no_pods_and_makes_no_request() {
        let endpoint = endpoint(answering(|| panic!("nothing is asked")));
        for (namespace, name) in [
            ("shop", "../secrets/key"),
            ("shop", "web-0/status"),
            ("shop", "web-0?watch=1"),
            ("shop", ".."),
            ("shop", ""),
            ("..", "web-0"),
            ("shop/pods/web-0?x=", "web-0"),
            ("", "web-0"),
        ] {
            let error = read_here(&endpoint, namespace, name).await.unwrap_err();
            assert_eq!(error.status(), 404, "{namespace} {name}: {error}");
        }
    }

    /// Of this pod, whoever is asked for.
    fn endpoint_of_one_session(pod: serde_json::Value) -> Endpoint {
        let mut endpoint = endpoint(answering(move || (200, pod.clone())));
        let shared = std::sync::Arc::get_mut(&mut endpoint.shared).unwrap();
        shared.limits = Limits::new(1);
        endpoint
    }

    #[tokio::test]
    async fn the_log_of_a_container_that_has_ended_takes_no_place_also_when_it_is_followed() {
        let endpoint = endpoint_of_one_session(json!({
            "metadata": {"name": "job", "namespace": "shop", "uid": "u1"},
            "spec": {"nodeName": "vk-b", "containers": [{"name": "app"}]},
            "status": {"phase": "Succeeded", "containerStatuses": [{
                "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "startedAt": "2026-11-28T10:00:00Z"}},
            }]},
        }));
        let limits = &endpoint.shared.limits;
        let _taken = limits.place(Outflow::default()).await.unwrap();
        let query = "follow=true";
        let log = open(&endpoint, "shop", "job", "app", query, Outflow::default()).await;
        axum::body::to_bytes(log.unwrap(), usize::MAX)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_log_takes_a_place_until_it_was_sent_unless_it_is_short() {
        let pod = json!({
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u1",
                "annotations": {"holdfast.dev/log-lines": "a line", "holdfast.dev/log-every": "10ms"},
            },
            "spec": {"nodeName": "vk-b", "containers": [{"name": "app"}]},
            "status": {"containerStatuses": [{
                "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-11-28T10:00:00Z"}},
            }]},
        });
        let endpoint = endpoint_of_one_session(pod);
        let open = |query| open(&endpoint, "shop", "web-0", "app", query, Outflow::default());
        let unread = open("").await.unwrap();
        let refused = open("").await.unwrap_err();
        assert_eq!(refused.status(), 503, "{refused}");
        let refused = open("tailLines=1&follow=true").await.unwrap_err();
        assert_eq!(refused.status(), 503, "{refused}");
        let read = axum::body::to_bytes(open("tailLines=2").await.unwrap(), usize::MAX);
        assert_eq!(read.await.unwrap(), "a line\na line\n");
        let read = axum::body::to_bytes(unread, usize::MAX).await.unwrap();
        assert!(read.len() > PORTION_BYTES, "{}", read.len());
        assert!(open("").await.is_ok());
    }

    #[tokio::test]
    async fn a_pod_that_cannot_be_read_is_told_with_what_the_api_server_said() {
        let refusal = json!({
            "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "pods \"web-0\" is forbidden",
        });
        let endpoint = endpoint(answering(move || (403, refusal.clone())));
        let error = read_here(&endpoint, "default", "web-0").await.unwrap_err();
        let told = chain(&error).to_string();
        let head = "cannot read pod \"web-0\" from the API server: ";
        assert!(
            told.starts_with(head) && told.contains("is forbidden"),
            "{told}"
        );
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn lines() -> Vec<LogLine> {
        [(0, "a"), (10, "b"), (20, "c")]
            .map(|(seconds, text)| LogLine {
                at: at(seconds),
                stream: if text == "b" {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                },
                text: text.into(),
            })
            .into()
    }

    fn sending(query: &str, lines: Vec<LogLine>) -> Sending {
        let options = Options::parse(query).unwrap();
        Sending {
            lines: lines.into_iter(),
            follow: None,
            left_bytes: options.limit_bytes.unwrap_or(usize::MAX),
            options,
        }
    }

    fn selected(query: &str) -> String {
        let options = Options::parse(query).unwrap();
        let mut text = String::new();
        for line in options.select(lines(), at(30)) {
            options.print(&line, &mut text);
        }
        text
    }

    #[tokio::test]
    async fn a_long_log_is_sent_in_portions_and_no_further_than_its_limit() {
        let long = LogLine {
            at: at(0),
            stream: Stream::Stdout,
            text: "x".repeat(1000).into(),
        };
        for (query, want_bytes) in [("", 1001 * 200), ("limitBytes=100000", 100_000)] {
            let mut sending = sending(query, vec![long.clone(); 200]);
            let mut sent_bytes = 0;
            while let Some(portion) = sending.next().await {
                assert!(portion.len() < PORTION_BYTES + 1001, "{}", portion.len());
                sent_bytes += portion.len();
            }
            assert_eq!(sent_bytes, want_bytes, "{query}");
        }
    }

    #[test]
    fn each_option_selects_what_kubectl_means_by_it() {
        for (query, want) in [
            ("", "a\nb\nc\n"),
            ("tailLines=1", "c\n"),
            ("tail=all", "a\nb\nc\n"),
            ("tailLines=0", ""),
            ("tailLines=99", "a\nb\nc\n"),
            ("sinceSeconds=20", "b\nc\n"),
            ("sinceSeconds=19", "c\n"),
            ("sinceSeconds=9223372036854775807", "a\nb\nc\n"),
            ("sinceTime=2027-01-15T08:00:10Z", "b\nc\n"),
            ("sinceSeconds=25&tailLines=1", "c\n"),
            ("stream=Stderr", "b\n"),
            (
                "tailLines=1&timestamps=true",
                "2027-01-15T08:00:20.000000000Z c\n",
            ),
        ] {
            assert_eq!(selected(query), want, "{query}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_400_and_what_makes_no_sense_is_422() {
        for (query, want) in [
            ("tailLines=x", 400),
            ("sinceTime=yesterday", 400),
            ("follow=maybe", 400),
            (&*format!("x={}", "a".repeat(5000)), 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            ("sinceSeconds=1&sinceTime=2027-01-15T08:00:10Z", 422),
            ("stream=Stdin", 422),
            ("stream=Stdout&tailLines=1", 422),
        ] {
            let refused = Options::parse(query).unwrap_err();
            assert_eq!(refused.status().as_u16(), want, "{query}");
        }
    }
}
