//! A watch that goes on where the API server has broken it off, which it does with whoever reads too slowly.
//!
//! Owns the order of changes and nothing of what they mean.

use std::marker::PhantomData;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http::{Request, header};
use http_body_util::BodyExt as _;
use kube::{Client, client::Body};
use prost::Message;
use tokio_util::{
    codec::{FramedRead, LengthDelimitedCodec},
    io::StreamReader,
};

/// What every object that is watched has, and no more: decoding whole ones would load the machine that is measured.
/// For the same reason they come in protobuf, which the API server encodes for its own controllers in any case.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "6")]
    pub(crate) resource_version: String,
}

/// `WatchEvent` of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto.
#[derive(Message)]
struct Event {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(message, optional, tag = "2")]
    object: Option<RawExtension>,
}

/// `RawExtension` of k8s.io/apimachinery/pkg/runtime/generated.proto.
#[derive(Message)]
struct RawExtension {
    #[prost(bytes = "bytes", tag = "1")]
    raw: Bytes,
}

/// `Unknown` of the same file, the envelope of every object.
#[derive(Message)]
struct Envelope {
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

/// `Status` of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto.
#[derive(Message)]
struct Refusal {
    #[prost(string, tag = "3")]
    message: String,
}

/// An object as far as it is looked at: the message with the numbers of its kind.
pub(crate) trait View: Message + Default + 'static {
    fn metadata(&self) -> &Metadata;
}

/// What has become of an object.
#[derive(Debug)]
pub(crate) enum Change<T> {
    Is(T),
    Gone(T),
}

/// See the module.
pub(crate) struct Feed<T> {
    client: Client,
    path: String,
    version: String,
    events: Frames,
    of: PhantomData<T>,
}

type Frames = BoxStream<'static, std::io::Result<BytesMut>>;

impl<T: View> Feed<T> {
    /// Watches the collection at `path` from the state that the API server has now, objects that exist included.
    ///
    /// # Errors
    /// The API server refuses.
    pub(crate) async fn open(client: Client, path: &str) -> Result<Self> {
        let path = format!("{path}?watch=true&allowWatchBookmarks=true");
        let version = "0".to_owned();
        let events = events(&client, &path, &version).await?;
        Ok(Self {
            client,
            path,
            version,
            events,
            of: PhantomData,
        })
    }

    /// The next change, once there is one.
    ///
    /// # Errors
    /// The watch broke off in a way that it cannot go on from.
    pub(crate) async fn next(&mut self) -> Result<Change<T>> {
        loop {
            let Some(event) = self.events.try_next().await.context("it broke off")? else {
                self.events = events(&self.client, &self.path, &self.version).await?;
                continue;
            };
            let event = Event::decode(event.freeze()).context("no watch event")?;
            let object = event.object.unwrap_or_default().raw;
            let rest = object.strip_prefix(b"k8s\0").context("no envelope")?;
            let object = Envelope::decode(object.slice_ref(rest))?.raw;
            if event.kind == "ERROR" {
                bail!("the API server says: {}", Refusal::decode(object)?.message);
            }
            let it = T::decode(object).context("no object")?;
            self.version.clone_from(&it.metadata().resource_version);
            match event.kind.as_str() {
                "ADDED" | "MODIFIED" => return Ok(Change::Is(it)),
                "DELETED" => return Ok(Change::Gone(it)),
                _ => {}
            }
        }
    }
}

async fn events(client: &Client, path: &str, version: &str) -> Result<Frames> {
    let request = Request::get(format!("{path}&resourceVersion={version}"))
        .header(header::ACCEPT, "application/vnd.kubernetes.protobuf")
        .body(Body::empty())
        .context("cannot build a request")?;
    let answer = client.send(request).await;
    let answer = answer.with_context(|| format!("cannot watch {path}"))?;
    if !answer.status().is_success() {
        bail!("cannot watch {path}: {}", answer.status());
    }
    let bytes = answer.into_body().into_data_stream();
    let bytes = StreamReader::new(bytes.map_err(std::io::Error::other));
    Ok(FramedRead::new(bytes, LengthDelimitedCodec::new()).boxed())
}
