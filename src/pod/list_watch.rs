//! One list and watch of all pods, in protobuf.
//!
//! Owns what the API server is asked for and when it is asked anew; kube's watcher does the same, but speaks JSON only.
//! In protobuf an event costs the API server less, and nothing that it has not spent already for the scheduler, which
//! watches pods in protobuf as well. Decides nothing about pods, and does not pause after an error.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, unfold};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, Request as HttpRequest, header};
use http_body_util::BodyExt as _;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, Status};
use kube::{Client, Resource as _};
use prost::Message;
use tokio::io::AsyncRead;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use self::page::Part;
use super::agent::Input;
use super::answer;
use super::protobuf;
use super::view::{GoneView, PodView};

mod page;

/// Pods per page of a list. Each page is a question and an answer, which wait for their turn at an API server that has
/// much to do; the next one does so while this one is read. It is no burden here, for it is read while it comes, but for
/// an API server that reads it out of etcd.
const PAGE: u32 = 5000;

/// What brings nothing for so long is dead: a watch, for the API server sends a bookmark about every minute, and this is
/// more than two of them late, and an answer as well, for which it takes at most a minute.
const SILENCE_MAX: Duration = Duration::from_secs(150);

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
    #[error("the connection of {0} broke")]
    Broken(&'static str, #[source] std::io::Error),
    /// What it sent is no list, event or pod.
    #[error("the API server sent {0} that cannot be read")]
    Unread(&'static str, #[source] protobuf::Error),
    /// There is nothing to go on from.
    #[error("the API server sent {0} without a resource version")]
    NoVersion(&'static str),
}

/// Why a connection is given up that is still there.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {} s", .0.as_secs_f32())]
struct Silent(Duration);

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
        server: Server {
            client,
            silence_max: SILENCE_MAX,
        },
        state: State::New,
    };
    watch.into_stream()
}

/// Of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto; what it holds comes in an envelope.
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

/// A page, as it comes.
type Page = BoxStream<'static, Result<Part, page::Error>>;
/// A page that was asked for. Nobody waits for it any more when this is dropped.
type AskedPage = AbortOnDropHandle<Result<Page, Error>>;

struct PodWatch {
    server: Server,
    state: State,
}

enum State {
    /// A list is to be taken.
    New,
    /// A page is awaited.
    Asked(AskedPage),
    /// A page comes. It has said of which version it is, and the one that follows it is on its way.
    Listing {
        page: Page,
        version: String,
        next: Option<AskedPage>,
    },
    /// A watch is to be started.
    Listed(String),
    /// What happened up to this version was told.
    Watching(String, BoxStream<'static, std::io::Result<BytesMut>>),
}

impl PodWatch {
    fn into_stream(self) -> impl Stream<Item = Result<Input, Error>> + Send {
        unfold(self, |mut watch| async {
            let next = watch.next().await;
            Some((next, watch))
        })
    }

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
                self.state = State::Asked(self.server.ask_page(None));
                Ok(Some(Input::ListBegan))
            }
            State::Asked(asked) => {
                let page = asked.await.map_err(std::io::Error::other);
                self.state = State::Listing {
                    page: page.map_err(|error| Error::Broken("the list", error))??,
                    version: String::new(),
                    next: None,
                };
                Ok(None)
            }
            State::Listing {
                page,
                version,
                next,
            } => match page.next().await.transpose().map_err(unread_list)? {
                Some(Part::Item(pod)) => Ok(Some(Input::Seen(read_pod(pod)?))),
                Some(Part::Metadata(told)) => {
                    *version = told.resource_version;
                    let token = Some(told.continue_).filter(|token| !token.is_empty());
                    *next = token.map(|token| self.server.ask_page(Some(token)));
                    Ok(None)
                }
                None => {
                    if let Some(asked) = next.take() {
                        self.state = State::Asked(asked);
                        return Ok(None);
                    }
                    if version.is_empty() {
                        return Err(Error::NoVersion("a list"));
                    }
                    self.state = State::Listed(std::mem::take(version));
                    Ok(Some(Input::ListDone))
                }
            },
            State::Listed(version) => {
                let frames = self.server.start(version).await?;
                self.state = State::Watching(std::mem::take(version), frames);
                Ok(None)
            }
            State::Watching(version, frames) => {
                if let Some(frame) = frames.next().await {
                    let frame = frame.map_err(|error| Error::Broken("the watch", error))?;
                    return told(frame.freeze(), version);
                }
                // It ends every watch after some minutes.
                self.state = State::Listed(std::mem::take(version));
                Ok(None)
            }
        }
    }
}

/// Who is asked.
#[derive(Clone)]
struct Server {
    client: Client,
    /// See [`SILENCE_MAX`].
    silence_max: Duration,
}

impl Server {
    /// Asks for the first page, or for the one of this token, at once.
    fn ask_page(&self, token: Option<String>) -> AskedPage {
        let server = self.clone();
        let params = ListParams {
            limit: Some(PAGE),
            continue_token: token,
            ..ListParams::default()
        };
        AbortOnDropHandle::new(tokio::spawn(async move {
            let body = server
                .ask(request().list(&params))
                .await
                .map_err(|error| Error::Refused("give the list of pods", error))?;
            Ok(FramedRead::new(body, page::Parts::default()).boxed())
        }))
    }

    async fn start(
        &self,
        version: &str,
    ) -> Result<BoxStream<'static, std::io::Result<BytesMut>>, Error> {
        let body = self
            .ask(request().watch(&WatchParams::default(), version))
            .await
            .map_err(|error| Error::Refused("start the watch of pods", error))?;
        Ok(FramedRead::new(body, LengthDelimitedCodec::new()).boxed())
    }

    /// The body of the answer in protobuf, as it comes. It breaks where nothing comes.
    async fn ask(
        &self,
        request: Result<HttpRequest<Vec<u8>>, kube::core::request::Error>,
    ) -> kube::Result<impl AsyncRead + Send + use<>> {
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        let accept = HeaderValue::from_static(answer::PROTOBUF);
        request.headers_mut().insert(header::ACCEPT, accept);
        let silence_max = self.silence_max;
        let body = timeout(silence_max, answer::send(&self.client, request))
            .await
            .map_err(|_| kube::Error::Service(Silent(silence_max).into()))??;
        let bytes = body.into_data_stream().map_err(std::io::Error::other);
        Ok(StreamReader::new(unless_silent(bytes, silence_max)))
    }
}

/// The same bytes, and an error at the end where nothing came for `silence_max`. Only where nothing is there does it set
/// a timer.
fn unless_silent(
    bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    silence_max: Duration,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    unfold(Some(bytes), move |bytes| async move {
        let mut bytes = bytes?;
        match timeout(silence_max, bytes.next()).await {
            Ok(next) => next.map(|next| (next, Some(bytes))),
            Err(_) => Some((Err(std::io::Error::other(Silent(silence_max))), None)),
        }
    })
}

fn request() -> Request {
    Request::new(PodView::url_path(&(), None))
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
    let (input, new) = if event.kind == "DELETED" {
        let gone = GoneView::decode(&object).map_err(unread_pod)?;
        let version = gone.metadata.resource_version.clone();
        (Some(Input::Deleted(gone)), version)
    } else {
        let pod = read_pod(object)?;
        let version = pod.metadata.resource_version.clone();
        let is_news = event.kind != "BOOKMARK";
        (is_news.then_some(Input::Seen(pod)), version)
    };
    *version = new.ok_or(Error::NoVersion("an event"))?;
    Ok(input)
}

fn unread_list(error: page::Error) -> Error {
    match error {
        page::Error::Broken(error) => Error::Broken("the list", error),
        page::Error::Unread(error) => Error::Unread("a list", error),
    }
}

fn read_pod(raw: Bytes) -> Result<Box<PodView>, Error> {
    PodView::decode(raw).map(Box::new).map_err(unread_pod)
}

fn unread_pod(error: protobuf::Error) -> Error {
    Error::Unread("a pod", error)
}

#[cfg(test)]
mod tests;
