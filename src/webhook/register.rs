//! The `MutatingWebhookConfiguration` that sends pods here: written when the listener is up,
//! compared with what the API server has on a period, and put back when somebody changed it.
//!
//! It stays when holdfast stops, so that no pod is created without its zone in between; only
//! [`unregister`] removes it.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations,
    ServiceReference, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use tokio::time::timeout;

use holdfast_provider::policy::opt_in::{COMPUTE_CLASS, ENABLE_FIXED_IP};

use super::PATH;
use super::mutate::ACS;
use crate::config::WebhookConfig;

/// Name of the configuration object.
pub const NAME: &str = "holdfast";
/// Name of the one webhook in it.
pub const WEBHOOK: &str = "pods.holdfast.dev";

/// How long the API server waits for an answer, in seconds.
const TIMEOUT_S: i32 = 5;
/// Bound of one request: kube's client has no read timeout of its own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Writes that lose to somebody else's in a row before it is left to the next period.
const CONFLICTS_MAX: u32 = 5;

/// The registration could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request, or was not reached.
    #[error("cannot {action} the webhook configuration `{NAME}`")]
    Request {
        /// What was asked of it.
        action: &'static str,
        /// Why not.
        #[source]
        source: kube::Error,
    },
    /// The API server gave no answer in time.
    #[error("no answer within {}s to the request to {action} the webhook configuration `{NAME}`", REQUEST_TIMEOUT.as_secs())]
    Timeout {
        /// What was asked of it.
        action: &'static str,
    },
    /// Somebody else keeps changing the object.
    #[error(
        "the webhook configuration `{NAME}` was changed by somebody else {CONFLICTS_MAX} times while it was being written"
    )]
    Contended,
}

impl Error {
    /// Whether trying again cannot help: holdfast may not write the object, or it is refused as
    /// invalid.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Request {
                source: kube::Error::Api(status),
                ..
            } => {
                matches!(status.code, 400 | 401 | 403 | 422)
            }
            Self::Request { .. } | Self::Timeout { .. } | Self::Contended => false,
        }
    }
}

/// The webhook as it has to stand in the API server. Fields that the API server would fill in
/// are given too, so that what it returns can be compared.
pub(super) fn webhook(
    settings: &WebhookConfig,
    listening: SocketAddr,
    ca_pem: &str,
) -> MutatingWebhook {
    let service = settings.service.as_ref();
    let texts = |texts: &[&str]| Some(texts.iter().map(|&text| text.to_owned()).collect());
    MutatingWebhook {
        name: WEBHOOK.to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: WebhookClientConfig {
            ca_bundle: Some(ByteString(ca_pem.as_bytes().to_vec())),
            url: service
                .is_none()
                .then(|| format!("https://{listening}{PATH}")),
            service: service.map(|service| ServiceReference {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                port: Some(service.port.into()),
                path: Some(PATH.to_owned()),
            }),
        },
        rules: Some(vec![RuleWithOperations {
            operations: texts(&["CREATE"]),
            api_groups: texts(&[""]),
            api_versions: texts(&["v1"]),
            resources: texts(&["pods"]),
            scope: Some("Namespaced".to_owned()),
        }]),
        match_conditions: Some(vec![MatchCondition {
            name: "opted-in".to_owned(),
            expression: opted_in_expression(),
        }]),
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: Some(LabelSelector::default()),
        object_selector: Some(LabelSelector::default()),
        failure_policy: Some(settings.failure_policy.as_str().to_owned()),
        // Another webhook may add affinity terms after this one, and each needs the zone.
        reinvocation_policy: Some("IfNeeded".to_owned()),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(TIMEOUT_S),
    }
}

/// [`super::opted_in`] in CEL.
fn opted_in_expression() -> String {
    let is_true =
        |map: &str, key: &str| format!("object.metadata.?{map}[?'{key}'].orValue('') == 'true'");
    format!(
        "{} || {} || object.metadata.?labels[?'{COMPUTE_CLASS}'].hasValue()",
        is_true("annotations", ENABLE_FIXED_IP),
        is_true("labels", ACS),
    )
}

/// What [`register`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The registration stood as it should.
    Right,
    /// There was none; now there is.
    Missing,
    /// It differed, and was put right.
    Different,
}

/// Makes the configuration hold `webhook` and nothing else. Labels and annotations that others
/// have put on the object stay.
pub(super) async fn register(client: &Client, webhook: &MutatingWebhook) -> Result<Found, Error> {
    let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let webhooks = Some(vec![webhook.clone()]);
    let params = PostParams::default();
    for _ in 0..CONFLICTS_MAX {
        let live = bounded("read", api.get_opt(NAME)).await?;
        let (found, written) = match live {
            Some(live) if live.webhooks == webhooks => return Ok(Found::Right),
            Some(live) => {
                let right = MutatingWebhookConfiguration {
                    webhooks: webhooks.clone(),
                    ..live
                };
                let written = bounded("replace", api.replace(NAME, &params, &right)).await;
                (Found::Different, written)
            }
            None => {
                let new = MutatingWebhookConfiguration {
                    metadata: ObjectMeta {
                        name: Some(NAME.to_owned()),
                        ..ObjectMeta::default()
                    },
                    webhooks: webhooks.clone(),
                };
                let written = bounded("create", api.create(&params, &new)).await;
                (Found::Missing, written)
            }
        };
        match written {
            Ok(_) => return Ok(found),
            // Changed, removed or made by somebody else since it was read.
            Err(Error::Request {
                source: kube::Error::Api(status),
                ..
            }) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Contended)
}

/// Removes the registration, and says whether there was one.
pub async fn unregister(client: Client) -> Result<bool, Error> {
    let api = Api::<MutatingWebhookConfiguration>::all(client);
    match bounded("delete", api.delete(NAME, &DeleteParams::default())).await {
        Ok(_) => Ok(true),
        Err(Error::Request {
            source: kube::Error::Api(status),
            ..
        }) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn bounded<T>(
    action: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|source| Error::Request { action, source }),
        Err(_) => Err(Error::Timeout { action }),
    }
}
