//! Answers one `AdmissionReview`: looks up what is known about the pod, has [`mutate`] decide.
//!
//! [`mutate`]: super::mutate::mutate

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Json, State};
use axum::routing::post;
use jiff::Timestamp;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, warn};

use holdfast_provider::id::PodKey;

use super::mutate::{PodForAdmission, misfit, mutate};
use super::{ClaimPlace, Claims, Nodes, PATH, pin};
use crate::config::{FailurePolicy, WebhookConfig};

/// The API server takes objects of up to 3 MiB; the review adds who asked and how.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Below the 5 s that the API server waits, so that the caller learns the reason.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(3);

/// What an answer needs.
pub(super) struct Reviewer {
    pub(super) settings: WebhookConfig,
    pub(super) claims: Arc<dyn Claims>,
    pub(super) nodes: Arc<dyn Nodes>,
    /// Set by the first review: the proof that the API server reaches this process.
    pub(super) reached: watch::Sender<bool>,
}

/// The claim of a pod could not be read, so nobody knows which zone it belongs to.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("reading the claim failed")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("reading the claim took longer than {}s", CLAIM_TIMEOUT.as_secs())]
    Timeout,
    #[error("reading the claim was cut short")]
    Task(#[source] tokio::task::JoinError),
}

/// The routes of the webhook.
pub(super) fn router(reviewer: Arc<Reviewer>) -> Router {
    Router::new()
        .route(PATH, post(review))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(reviewer)
}

async fn review(
    State(reviewer): State<Arc<Reviewer>>,
    Json(review): Json<AdmissionReview<PodForAdmission>>,
) -> Json<AdmissionReview<DynamicObject>> {
    reviewer.reached.send_replace(true);
    let response = match review.try_into() {
        Ok(request) => reviewer.answer(&request).await,
        Err(error) => AdmissionResponse::invalid(error),
    };
    Json(response.into_review())
}

impl Reviewer {
    async fn answer(&self, request: &AdmissionRequest<PodForAdmission>) -> AdmissionResponse {
        let mut response = AdmissionResponse::from(request);
        let Some(pod) = &request.object else {
            return response;
        };
        // The rest of a pod's life is not this webhook's: affinity can no longer be changed.
        if request.operation != Operation::Create {
            return response;
        }
        if let Some(error) = misfit(pod) {
            let mut refused = response.deny(error.to_string());
            refused.result.code = 422;
            "Invalid".clone_into(&mut refused.result.reason);
            return refused;
        }
        let key = pin::key(pod, request.namespace.as_deref(), &self.settings);
        let claim = match key.clone() {
            None => None,
            Some(key) => match self.claim(key).await {
                Ok(claim) => claim,
                Err(error) => {
                    warn!(
                        namespace = request.namespace,
                        pod = pod.metadata.name,
                        error = &error as &dyn std::error::Error,
                        "cannot tell which zone a pod belongs to"
                    );
                    if self.settings.failure_policy == FailurePolicy::Fail {
                        return unavailable(response, &error);
                    }
                    response.warnings = Some(vec![format!(
                        "holdfast: {error}; the pod is not pinned to the zone of its address"
                    )]);
                    None
                }
            },
        };
        let candidates = claim
            .as_ref()
            .map(|claim| self.nodes.candidates(&claim.zone))
            .unwrap_or_default();
        let patch = mutate(pod, claim.as_ref(), &candidates, &self.settings);
        debug!(
            namespace = request.namespace,
            pod = pod.metadata.name,
            steps = patch.0.len(),
            "reviewed a pod"
        );
        if patch.0.is_empty() {
            return response;
        }
        let patched = response.with_patch(patch);
        patched.expect("a JSON patch can be written as JSON")
    }

    /// The unexpired claim of `key`. The read blocks on the ledger's file, hence the thread.
    async fn claim(&self, key: PodKey) -> Result<Option<ClaimPlace>, ClaimError> {
        let claims = self.claims.clone();
        let read = tokio::task::spawn_blocking(move || claims.unexpired(&key, Timestamp::now()));
        match timeout(CLAIM_TIMEOUT, read).await {
            Ok(Ok(read)) => read.map_err(ClaimError::Read),
            Ok(Err(error)) => Err(ClaimError::Task(error)),
            Err(_) => Err(ClaimError::Timeout),
        }
    }
}

/// Refuses the pod for a fault on this side, so that its controller tries again.
fn unavailable(response: AdmissionResponse, error: &ClaimError) -> AdmissionResponse {
    let mut reasons = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        reasons = format!("{reasons}: {error}");
        cause = error.source();
    }
    let mut response = response.deny(format!(
        "{reasons}; without it the pod could lose its fixed IP, so create it again when holdfast has recovered"
    ));
    response.result.code = 500;
    "InternalError".clone_into(&mut response.result.reason);
    response
}
