//! One list and watch of all pods, in protobuf.
//!
//! Owns what the API server is asked for and when it is asked anew; kube's watcher does the same, but speaks JSON only.
//! In protobuf an event costs the API server less, and nothing that it has not spent already for the scheduler, which
//! watches pods in protobuf as well. Decides nothing about pods, and does not pause after an error.

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, unfold};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, Request as HttpRequest, header};
use http_body_util::BodyExt as _;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, Status};
use kube::{Client, Resource as _};
use prost::Message;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::io::StreamReader;

use super::agent::Input;
use super::answer::{self, ask, decoded};
use super::protobuf::{self, schema};
use super::view::PodView;

/// Pods per page of a list: a page is in memory at once.
const PAGE: u32 = 200;

/// Why the list or the watch broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The API server refused, or could not be reached.
    #[error("the API server does not {0}")]
    Refused(&'static str, #[source] kube::Error),
    /// It said so within the watch.
    #[error("the API server ended the watch: {} ({})", .0.message, .0.reason)]
    Ended(Box<Status>),
    /// The connection broke.
    #[error("the connection of the watch broke")]
    Broken(#[source] std::io::Error),
    /// What it sent is no list, event or pod.
    #[error("the API server sent {0} that cannot be read")]
    Unread(&'static str, #[source] protobuf::Error),
    /// There is nothing to go on from.
    #[error("the API server sent {0} without a resource version")]
    NoVersion(&'static str),
}

impl Error {
    /// Whether only a new list leads on: what happened since the last version is not kept any more.
    fn is_expired(&self) -> bool {
        match self {
            Self::Ended(status) | Self::Refused(_, kube::Error::Api(status)) => {
                status.code == http::StatusCode::GONE.as_u16()
            }
            Self::NoVersion(_) => true,
            _ => false,
        }
    }
}

/// All pods as they are now, and then what happens to them, without an end. After an error it goes on where it was, or
/// with a new list.
pub(super) fn pods(client: Client) -> impl Stream<Item = Result<Input, Error>> + Send {
    let watch = PodWatch {
        client,
        state: State::New,
    };
    unfold(watch, |mut watch| async {
        let next = watch.next().await;
        Some((next, watch))
    })
}

/// `PodList`, with its pods as they were sent.
#[derive(Message)]
struct Page {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    items: Vec<Bytes>,
}

/// Of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto.
#[derive(Message)]
struct ListMeta {
    #[prost(string, tag = "2")]
    resource_version: String,
    #[prost(string, tag = "3")]
    continue_: String,
}

/// Of the same file; what it holds comes in an envelope.
#[derive(Message)]
struct WatchEvent {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(message, optional, tag = "2")]
    object: Option<RawExtension>,
}

/// Of k8s.io/apimachinery/pkg/runtime/generated.proto.
#[derive(Message)]
struct RawExtension {
    #[prost(bytes = "bytes", tag = "1")]
    raw: Bytes,
}

struct PodWatch {
    client: Client,
    state: State,
}

enum State {
    /// A list is to be taken.
    New,
    /// The pods of a page that are left, and the page after it.
    Listing(std::vec::IntoIter<Bytes>, After),
    /// A watch is to be started.
    Listed(String),
    /// What happened up to this version was told.
    Watching(String, BoxStream<'static, std::io::Result<BytesMut>>),
}

/// What follows a page.
enum After {
    Page(Option<String>),
    Watch(String),
}

impl PodWatch {
    async fn next(&mut self) -> Result<Input, Error> {
        loop {
            match self.step().await {
                Ok(Some(input)) => return Ok(input),
                Ok(None) => {}
                Err(error) => {
                    self.recover(&error);
                    return Err(error);
                }
            }
        }
    }

    /// A list begins anew: its pages are of one moment, and a pod that is left out of it counts as gone. A watch goes
    /// on after the last event. An event that cannot be read is left out: asked for again it would be the same.
    fn recover(&mut self, error: &Error) {
        self.state = match std::mem::replace(&mut self.state, State::New) {
            State::Watching(version, frames) if matches!(error, Error::Unread(..)) => {
                State::Watching(version, frames)
            }
            State::Listed(version) | State::Watching(version, _) if !error.is_expired() => {
                State::Listed(version)
            }
            _ => State::New,
        };
    }

    async fn step(&mut self) -> Result<Option<Input>, Error> {
        match &mut self.state {
            State::New => {
                self.state = State::Listing(Vec::new().into_iter(), After::Page(None));
                Ok(Some(Input::ListBegan))
            }
            State::Listing(pods, after) => {
                if let Some(pod) = pods.next() {
                    return Ok(Some(Input::Seen(read_pod(pod)?)));
                }
                match after {
                    After::Page(token) => {
                        let (pods, after) = page(&self.client, token.take()).await?;
                        self.state = State::Listing(pods.into_iter(), after);
                        Ok(None)
                    }
                    After::Watch(version) => {
                        self.state = State::Listed(std::mem::take(version));
                        Ok(Some(Input::ListDone))
                    }
                }
            }
            State::Listed(version) => {
                let frames = start(&self.client, version).await?;
                self.state = State::Watching(std::mem::take(version), frames);
                Ok(None)
            }
            State::Watching(version, frames) => {
                if let Some(frame) = frames.next().await {
                    return told(frame.map_err(Error::Broken)?.freeze(), version);
                }
                // It ends every watch after some minutes.
                self.state = State::Listed(std::mem::take(version));
                Ok(None)
            }
        }
    }
}

async fn page(client: &Client, token: Option<String>) -> Result<(Vec<Bytes>, After), Error> {
    let params = ListParams {
        limit: Some(PAGE),
        continue_token: token,
        ..ListParams::default()
    };
    let request = request().list(&params).map_err(kube::Error::BuildRequest);
    let asked = async { ask(client, in_protobuf(request?)).await };
    let body = asked
        .await
        .map_err(|error| Error::Refused("give the list of pods", error))?;
    let page: Page = decoded(&body).map_err(|error| Error::Unread("a list", error))?;
    let ListMeta {
        resource_version,
        continue_,
    } = page.metadata.unwrap_or_default();
    let after = if !continue_.is_empty() {
        After::Page(Some(continue_))
    } else if !resource_version.is_empty() {
        After::Watch(resource_version)
    } else {
        return Err(Error::NoVersion("a list"));
    };
    Ok((page.items, after))
}

async fn start(
    client: &Client,
    version: &str,
) -> Result<BoxStream<'static, std::io::Result<BytesMut>>, Error> {
    let request = request().watch(&WatchParams::default(), version);
    let request = request.map_err(kube::Error::BuildRequest);
    let asked = async { answer::send(client, in_protobuf(request?)).await };
    let body = asked
        .await
        .map_err(|error| Error::Refused("start the watch of pods", error))?;
    let bytes = body.into_data_stream().map_err(std::io::Error::other);
    let frames = FramedRead::new(StreamReader::new(bytes), LengthDelimitedCodec::new());
    Ok(frames.boxed())
}

fn request() -> Request {
    Request::new(PodView::url_path(&(), None))
}

fn in_protobuf(mut request: HttpRequest<Vec<u8>>) -> HttpRequest<Vec<u8>> {
    let accept = HeaderValue::from_static(answer::PROTOBUF);
    request.headers_mut().insert(header::ACCEPT, accept);
    request
}

/// What an event says. Its version is the last one from then on.
fn told(frame: Bytes, version: &mut String) -> Result<Option<Input>, Error> {
    let unread = |error| Error::Unread("an event", error);
    let event = WatchEvent::decode(frame).map_err(|error| unread(error.into()))?;
    let object = event.object.unwrap_or_default().raw;
    if event.kind == "ERROR" {
        return Err(Error::Ended(Box::new(answer::refusal(None, &object))));
    }
    let object = protobuf::enclosed(&object).map_err(unread)?;
    let pod = read_pod(object)?;
    match &pod.metadata.resource_version {
        Some(new) => version.clone_from(new),
        None => return Err(Error::NoVersion("an event")),
    }
    Ok(match event.kind.as_str() {
        "BOOKMARK" => None,
        "DELETED" => Some(Input::Deleted(pod)),
        _ => Some(Input::Seen(pod)),
    })
}

fn read_pod(raw: Bytes) -> Result<Box<PodView>, Error> {
    let read = protobuf::from_slice::<PodView>(&raw, schema::POD);
    let mut pod = Box::new(read.map_err(|error| Error::Unread("a pod", error))?);
    pod.encoded = raw;
    Ok(pod)
}

#[cfg(test)]
mod tests;
