//! Answers one `AdmissionReview`: looks up what is known about the pod, has [`mutate`] decide.
//!
//! [`mutate`]: super::mutate::mutate

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use kube::core::admission::{AdmissionResponse, AdmissionReview, Operation};
use kube::core::response::Status;
use kube::core::{DynamicObject, TypeMeta};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use holdfast_provider::id::PodKey;

use super::intake::Intake;
use super::mutate::{PodForAdmission, misfit, mutate};
use super::{ClaimPlace, Claims, Nodes, PATH, pin};
use crate::config::{FailurePolicy, WebhookConfig};

/// Below the 5 s that the API server waits, so that the caller learns the reason.
const TIMEOUT: Duration = Duration::from_millis(4500);
/// Of these.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer. It is in memory for as long as its reader likes. Only a pod with some hundred kilobytes of required node
/// affinity, to which a zone is added, would have a longer one.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// What an answer needs.
pub(super) struct Reviewer {
    pub(super) settings: WebhookConfig,
    pub(super) claims: Arc<dyn Claims>,
    pub(super) nodes: Arc<dyn Nodes>,
    /// Set by the first review: the proof that the API server reaches this process.
    pub(super) reached: watch::Sender<bool>,
    pub(super) intake: Intake,
}

/// An `AdmissionReview` that asks. Only what an answer needs is kept of it; kube's own type keeps the options and the
/// managed fields as trees.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review {
    kind: String,
    api_version: String,
    request: Option<ReviewRequest>,
}

#[derive(Debug, Deserialize)]
struct ReviewRequest {
    uid: String,
    namespace: Option<String>,
    operation: Operation,
    object: Option<PodForAdmission>,
}

/// The claim of a pod could not be read, so nobody knows which zone it belongs to.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("reading the claim failed")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("reading the claim took too long")]
    Timeout,
    #[error("reading the claim was cut short")]
    Task(#[source] tokio::task::JoinError),
}

/// The routes of the webhook.
pub(super) fn router(reviewer: Arc<Reviewer>) -> Router {
    Router::new().route(PATH, post(review)).with_state(reviewer)
}

async fn review(
    State(reviewer): State<Arc<Reviewer>>,
    request: Request,
) -> Result<Response, Response> {
    let deadline = Instant::now() + TIMEOUT;
    let taken = reviewer.intake.take(request, deadline).await?;
    reviewer.reached.send_replace(true);
    let response = match &taken.review.request {
        Some(request) => {
            let types = TypeMeta {
                kind: taken.review.kind.clone(),
                api_version: taken.review.api_version.clone(),
            };
            reviewer.answer(request, types, deadline).await
        }
        None => AdmissionResponse::invalid("the AdmissionReview has no request"),
    };
    let answer: AdmissionReview<DynamicObject> = response.into_review();
    let answer = serde_json::to_vec(&answer).expect("an AdmissionReview can be written as JSON");
    if answer.len() > ANSWER_BYTES_MAX {
        let text = format!(
            "the answer would be longer than {ANSWER_BYTES_MAX} bytes: shorten the pod's node affinity"
        );
        return Err((StatusCode::PAYLOAD_TOO_LARGE, text).into_response());
    }
    Ok(([(CONTENT_TYPE, "application/json")], answer).into_response())
}

/// The answer that lets the object in as it is.
fn allowed(request: &ReviewRequest, types: TypeMeta) -> AdmissionResponse {
    let mut response = AdmissionResponse::invalid("");
    response.types = types;
    response.uid.clone_from(&request.uid);
    response.allowed = true;
    response.result = Status::default();
    response
}

impl Reviewer {
    async fn answer(
        &self,
        request: &ReviewRequest,
        types: TypeMeta,
        deadline: Instant,
    ) -> AdmissionResponse {
        let mut response = allowed(request, types);
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
            Some(key) => match self.claim(key, deadline).await {
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
    async fn claim(
        &self,
        key: PodKey,
        deadline: Instant,
    ) -> Result<Option<ClaimPlace>, ClaimError> {
        let claims = self.claims.clone();
        let read = tokio::task::spawn_blocking(move || claims.unexpired(&key, Timestamp::now()));
        let deadline = deadline.min(Instant::now() + CLAIM_TIMEOUT);
        match timeout_at(deadline, read).await {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_answer_needs_may_have_any_form_and_is_not_kept() {
        let tree = vec![json!({ "a": {} }); 1000];
        let review = json!({
            "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "more": tree,
            "request": {
                "uid": "1", "operation": "CREATE", "kind": tree, "resource": tree, "options": tree,
                "userInfo": tree, "oldObject": tree, "dryRun": tree, "namespace": "default",
                "object": {
                    "kind": tree, "apiVersion": tree, "status": tree,
                    "metadata": { "name": "web-0", "managedFields": tree, "finalizers": tree },
                    "spec": { "volumes": tree, "affinity": { "podAffinity": tree } },
                },
            },
        });
        let review: Review = serde_json::from_value(review).unwrap();
        let kept = format!("{review:?}");
        assert!(kept.len() < 1000, "{kept}");
        assert!(kept.contains("web-0"), "{kept}");
    }
}
