//! The mutating admission webhook: lets pods that opt in onto the virtual nodes, and pins a pod
//! that has an address to come back to, to the zone of that address.
//!
//! Owns the decision what is changed in a pod ([`mutate()`], pure), the HTTPS server, its
//! certificate, and its registration with the API server. Does not own claims or nodes: it asks
//! for them through [`Claims`] and [`Nodes`]. Of what a pod asks for it refuses only a size that
//! cannot be had, as ACS does; whatever else is wrong is said in events, by those who serve
//! the pod.
//!
//! ```text
//! API server --POST /mutate--> https --> review --> pin::key --> Claims --> Nodes
//!     ^                                    '------> mutate (selector, pin) --> JSON patch
//!     '--- register (every 30 s) <-- certificate (CA)
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;
use k8s_openapi::api::core::v1::Taint;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::config::WebhookConfig;
use crate::descriptors;
use crate::https;
use tracing::{info, warn};

use holdfast_provider::id::{PodKey, VSwitchId, Zone};

mod certificate;
mod intake;
mod mutate;
mod pin;
mod probe;
mod register;
mod review;
pub mod selector;
mod surplus;

pub use certificate::Error as CertificateError;
pub use mutate::{
    Affinity, ContainerForAdmission, MetadataForAdmission, OwnerForAdmission, PodForAdmission,
    PodSpec, mutate, opted_in, taint, toleration_patch,
};
pub use register::{Error as RegisterError, NAME, WEBHOOK, unregister};

/// The API server opens one HTTP/1.1 connection for each call in flight, and by default handles
/// at most 200 changing requests at a time; this leaves room for two of them. It shows no
/// certificate here (it has none unless its operator configures one), so callers are not
/// authenticated: an answer tells a caller nothing but the zone of a claim.
const CONNECTIONS_MAX: usize = 512;
/// The path the API server posts to.
const PATH: &str = "/mutate";
/// How often the registration is compared with what it should be.
const PERIOD: Duration = Duration::from_secs(30);
/// Longest pause between two attempts to register at the start.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Where the address of a claim lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPlace {
    /// Its zone.
    pub zone: Zone,
    /// Its vSwitch.
    pub vswitch: VSwitchId,
}

/// The claims, as far as admission needs them.
pub trait Claims: Send + Sync + 'static {
    /// Where the claim of `key` is, if it has one that has not run out at `now`. May block.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn unexpired(
        &self,
        key: &PodKey,
        now: Timestamp,
    ) -> Result<Option<ClaimPlace>, Box<dyn std::error::Error + Send + Sync>>;
}

/// The nodes, as far as admission needs them.
pub trait Nodes: Send + Sync + 'static {
    /// The ACS virtual nodes of this process in `zone`, as they stand in the API server. Answers
    /// from memory.
    fn candidates(&self, zone: &Zone) -> Vec<Candidate>;
}

/// A node that a pod could be pinned to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`: cordoned.
    pub unschedulable: bool,
}

/// The webhook could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not of this machine.
    #[error(
        "webhook cannot listen on {address}: free that port, or set `webhook.port` or `webhook.address`"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No certificate.
    #[error("webhook has no certificate")]
    Certificate(#[source] CertificateError),
    /// The API server refuses the registration for good.
    #[error("webhook cannot be registered")]
    Register(#[source] RegisterError),
}

/// Binds the webhook's port. One that is taken is waited for until `give_up`.
///
/// # Errors
/// When it cannot be bound.
pub async fn bind(
    settings: &WebhookConfig,
    give_up: Instant,
) -> Result<std::net::TcpListener, Error> {
    let address = SocketAddr::new(settings.address, settings.port);
    let bound = https::listen(address, give_up).await;
    bound.map_err(|source| Error::Listen { address, source })
}

/// Serves the webhook and keeps it registered until `shutdown`. `ready` gets the address it
/// listens on once the registration stands. The registration stays behind: see [`unregister`].
///
/// # Errors
/// When it cannot start. Later failures are logged and tried again.
pub async fn run(
    client: Client,
    settings: WebhookConfig,
    listener: std::net::TcpListener,
    claims: Arc<dyn Claims>,
    nodes: Arc<dyn Nodes>,
    ready: oneshot::Sender<SocketAddr>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let address = SocketAddr::new(settings.address, settings.port);
    let listen = |source| Error::Listen { address, source };
    let listener = TcpListener::from_std(listener).map_err(listen)?;
    let listening = listener.local_addr().map_err(listen)?;
    let identity = certificate::Identity::new(names(&settings), Timestamp::now())
        .map_err(Error::Certificate)?;
    let identity = Arc::new(identity);
    let webhook = register::webhook(&settings, listening, &identity.ca_pem());
    let (reached, reached_rx) = watch::channel(false);
    let reviewer = review::Reviewer {
        settings,
        claims,
        nodes,
        reached,
        intake: intake::Intake::default(),
    };
    let router = review::router(Arc::new(reviewer));
    let registered = async {
        first_registration(&client, &webhook).await?;
        probe::reach(&client, reached_rx).await;
        info!(%listening, "webhook registered");
        // A caller that no longer waits is shutting down.
        let _ = ready.send(listening);
        keep_registered(&client, &webhook, PERIOD).await;
        Ok(())
    };
    let registered = async {
        let ended = shutdown.run_until_cancelled(Box::pin(registered)).await;
        ended.unwrap_or(Ok(()))
    };
    let served = async {
        let places = Arc::new(https::Places::new(descriptors::share(CONNECTIONS_MAX)));
        https::serve(listener, identity, router, places, shutdown.clone()).await;
        Ok(())
    };
    tokio::try_join!(served, registered).map(|_| ())
}

/// Takes back what an earlier start has registered: while nobody serves it, the API server refuses
/// the pods that opt in.
pub async fn withdraw(client: Client) {
    let mut ticks = tokio::time::interval(PERIOD);
    let mut told = false;
    loop {
        ticks.tick().await;
        match unregister(client.clone()).await {
            Ok(true) => {
                info!("the webhook is off; what an earlier start had registered is removed");
                return;
            }
            Ok(false) => return,
            Err(error) if !std::mem::replace(&mut told, true) => warn!(
                error = &error as &dyn std::error::Error,
                "the webhook is off, but what an earlier start had registered may still be there \
                 and keep pods that opt in from being created: trying again every {} s; delete \
                 mutatingwebhookconfiguration {NAME} if that does not help",
                PERIOD.as_secs()
            ),
            Err(_) => {}
        }
    }
}

/// The names that the API server may look for in the certificate.
fn names(settings: &WebhookConfig) -> Vec<String> {
    let service = settings
        .service
        .iter()
        .map(|service| format!("{}.{}.svc", service.name, service.namespace));
    service.chain([settings.address.to_string()]).collect()
}

/// Registers, however long it takes for the API server to come up.
async fn first_registration(client: &Client, webhook: &MutatingWebhook) -> Result<(), Error> {
    let mut pause = Duration::from_millis(100);
    loop {
        match register::register(client, webhook).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_permanent() => return Err(Error::Register(error)),
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "webhook not registered yet"
            ),
        }
        tokio::time::sleep(pause).await;
        pause = BACKOFF_MAX.min(pause * 2);
    }
}

/// Puts the registration back whenever it is missing or different. Never returns.
async fn keep_registered(client: &Client, webhook: &MutatingWebhook, period: Duration) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match register::register(client, webhook).await {
            Ok(register::Found::Right) => {}
            Ok(found) => warn!(?found, "webhook registration put back"),
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "cannot compare the webhook's registration"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
