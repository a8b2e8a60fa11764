//! Proves at the start that the API server calls the webhook: creates an opted-in pod as a dry
//! run and waits for its review to arrive.
//!
//! The API server learns of a registration a moment after it was written, and a registration
//! says nothing about the way back: the address may not be reachable from where the API server
//! runs. Without the right to create pods there is no proof, and none is demanded.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::mutate::ACS;

/// How long the API server may take to notice the registration, before an operator is told.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Returns when a review has arrived, when none will, or after [`PATIENCE`].
pub(super) async fn reach(client: &Client, mut reached: watch::Receiver<bool>) {
    let api = Api::<Pod>::namespaced(client.clone(), "default");
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod = pod();
    let mut refusal = None;
    let attempts = async {
        loop {
            match api.create(&params, &pod).await {
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    debug!(
                        reason = status.message,
                        "no proof that the webhook is reached"
                    );
                    return;
                }
                Err(error) => refusal = Some(error),
                Ok(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let proof = async {
        tokio::select! {
            () = attempts => {}
            _ = reached.wait_for(|&reached| reached) => {}
        }
    };
    if timeout(PATIENCE, proof).await.is_err() {
        let error = refusal
            .as_ref()
            .map(|error| error as &dyn std::error::Error);
        warn!(
            error,
            "the API server does not reach the webhook: check webhook.address, or set webhook.service"
        );
    }
}

fn pod() -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("holdfast-webhook-probe".to_owned()),
            labels: Some([(ACS.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "probe".to_owned(),
                image: Some("probe".to_owned()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}
