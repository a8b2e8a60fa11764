//! A watch that goes on where the API server has broken it off, which it does with whoever reads too slowly.
//!
//! Owns the order of changes and nothing of what they mean.

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http::Request;
use kube::{Client, core::WatchEvent};
use serde::{Deserialize, de::DeserializeOwned};

/// What every object that is watched has, and no more: decoding whole ones would load the machine that is measured.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) resource_version: String,
}

/// An object as far as it is looked at.
pub(crate) trait View: Clone + DeserializeOwned + Send + 'static {
    fn metadata(&self) -> &Metadata;
}

/// What has become of an object.
#[derive(Clone, Debug)]
pub(crate) enum Change<T> {
    Is(T),
    Gone(T),
}

/// See the module.
pub(crate) struct Feed<T> {
    client: Client,
    path: String,
    version: String,
    events: BoxStream<'static, kube::Result<WatchEvent<T>>>,
}

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
            match event {
                WatchEvent::Added(it) | WatchEvent::Modified(it) => {
                    self.version.clone_from(&it.metadata().resource_version);
                    return Ok(Change::Is(it));
                }
                WatchEvent::Deleted(it) => {
                    self.version.clone_from(&it.metadata().resource_version);
                    return Ok(Change::Gone(it));
                }
                WatchEvent::Bookmark(mark) => self.version = mark.metadata.resource_version,
                WatchEvent::Error(status) => bail!("the API server says: {}", status.message),
            }
        }
    }
}

async fn events<T: View>(
    client: &Client,
    path: &str,
    version: &str,
) -> Result<BoxStream<'static, kube::Result<WatchEvent<T>>>> {
    let request = Request::get(format!("{path}&resourceVersion={version}"))
        .body(Vec::new())
        .context("cannot build a request")?;
    let events = client.request_events::<T>(request).await;
    let events = events.with_context(|| format!("cannot watch {path}"))?;
    Ok(events.boxed())
}
