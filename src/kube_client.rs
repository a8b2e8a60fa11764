//! Clients for the API server. Owns how one is found and reached, not what is asked of it.

use std::path::Path;
use std::time::Duration;

use http::{HeaderValue, header};
use kube::api::ListParams;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;

use crate::metrics::Requests;
use crate::pause::{Backoff, WatchBackoff};

/// An API server that accepts no connection by then is down, and the caller tries again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For one page of a list.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The API server cannot be reached as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig file cannot be used.
    #[error("cannot use the kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error("found no cluster: give --kubeconfig, set KUBECONFIG, or run in a pod")]
    NoCluster(#[source] kube::config::InferConfigError),
    /// The client cannot be built, for instance out of an unreadable certificate.
    #[error("cannot build a client for the cluster")]
    Build(#[source] kube::Error),
}

/// How to reach the cluster, and a count of what all clients made of it ask there.
#[derive(Clone, Debug)]
pub struct Access {
    config: Config,
    requests: Requests,
}

impl Access {
    /// What was asked so far.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }
}

/// How to reach the cluster: `kubeconfig`, or else KUBECONFIG, `~/.kube/config` or the service
/// account of the pod.
pub async fn access(kubeconfig: Option<&Path>) -> Result<Access, Error> {
    let mut config = match kubeconfig {
        None => Config::infer().await.map_err(Error::NoCluster)?,
        Some(path) => {
            let unusable = |source| Error::Kubeconfig {
                path: path.display().to_string(),
                source,
            };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(unusable)?
        }
    };
    // Callers know their deadlines and retry themselves. kube would retry for minutes, POSTs
    // included, and hold a lease renewal past its lease.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Audit logs and managedFields tell by it who wrote.
    let agent = HeaderValue::from_static(concat!("holdfast/", env!("CARGO_PKG_VERSION")));
    config.headers.push((header::USER_AGENT, agent));
    let requests = Requests::default();
    Ok(Access { config, requests })
}

/// A client with connections of its own: what one client is waiting for delays no other.
///
/// There is no read timeout: it would cut idle connections as well, and kube's wakes the runtime once more after each
/// read that was waited for. A request is bounded where it is made, and a watch where it is read.
pub fn client(access: &Access) -> Result<Client, Error> {
    let builder = ClientBuilder::try_from(access.config.clone()).map_err(Error::Build)?;
    Ok(builder.with_layer(&access.requests).build())
}

/// The pauses between two tries of a broken watch. Two watches cannot be a burden, and new pods wait for
/// the longest of them; kube's default grows to a minute.
pub(crate) fn watch_backoff() -> WatchBackoff {
    let waits = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));
    WatchBackoff::new(waits, Duration::from_secs(30))
}

/// A list did not come.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The API server refused or could not be reached.
    #[error("the API server did not give the list")]
    Refused(#[source] kube::Error),
    /// It did not answer.
    #[error("no answer within {} s", PAGE_TIMEOUT.as_secs())]
    TimedOut,
}

/// Hands over every object that `params` ask for as they are at one moment, in answers of as many as those say.
/// After an error the list was not whole.
pub async fn list<K>(
    api: &Api<K>,
    mut params: ListParams,
    mut each: impl FnMut(K),
) -> Result<(), ListError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    loop {
        let answer = tokio::time::timeout(PAGE_TIMEOUT, api.list(&params))
            .await
            .map_err(|_| ListError::TimedOut)?
            .map_err(ListError::Refused)?;
        answer.items.into_iter().for_each(&mut each);
        match answer.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}
