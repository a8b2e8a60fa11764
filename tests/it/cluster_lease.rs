//! Which process may serve a cluster.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_testbed::{Holdfast, eventually};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, PostParams};

use crate::nodes::refused;
use crate::support::*;

const NO_WEBHOOK: &str = "webhook: {enabled: false}";

impl Scene {
    /// The Lease that the cluster's one holdfast holds.
    pub(crate) async fn cluster_lease(&self) -> Option<Lease> {
        self.cluster_leases().get_opt("holdfast").await.unwrap()
    }

    pub(crate) fn cluster_leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), "kube-system")
    }

    /// holdfast stands still from now on, and this waits until its Lease has run out.
    pub(crate) async fn freeze_until_the_lease_is_over(&mut self) {
        self.holdfast.as_mut().unwrap().freeze().unwrap();
        eventually("the end of the Lease", PATIENCE, async || {
            let lease = self.cluster_lease().await.ok_or("it is not there")?;
            let spec = lease.spec.ok_or("it is empty")?;
            let renewed = spec.renew_time.ok_or("it was never renewed")?.0;
            let lasts_s = spec.lease_duration_seconds.ok_or("it has no duration")?;
            let over = renewed + SignedDuration::from_secs(i64::from(lasts_s) + 1);
            (over < Timestamp::now())
                .then_some(())
                .ok_or_else(|| format!("it lasts until {over}"))
        })
        .await
        .unwrap();
    }

    pub(crate) fn thaw(&mut self) {
        self.holdfast.as_mut().unwrap().thaw().unwrap();
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_ledger_is_refused() {
    let scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    let config = scene.config();
    let refusal = refused(&scene, &["run", "-c", config.to_str().unwrap()]).await;
    let sentence = format!(
        "holdfast: another holdfast runs on the ledger {}: stop it, or give this one a ledger of its own",
        scene.ledger().display()
    );
    assert_eq!(refusal, sentence);
}

/// The configuration of the scene with another ledger.
fn second_config(scene: &Scene) -> PathBuf {
    let dir = scene.dir.path();
    let text = std::fs::read_to_string(scene.config()).unwrap();
    let text = text.replace("holdfast.db", "second.db");
    let path = dir.join("second.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_second_ledger_is_refused_until_it_takes_over_and_then_the_first_one_ends() {
    let mut scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    scene.create(&TestPod::fixed("web-0").on_node(NODE_B)).await;
    let had = identity(&scene.running("web-0").await);
    let holder = |lease: Option<Lease>| lease.unwrap().spec.unwrap().holder_identity.unwrap();
    let first = holder(scene.cluster_lease().await);
    let config = second_config(&scene);
    let config = config.to_str().unwrap();
    let refusal = refused(&scene, &["run", "-c", config]).await;
    for words in [
        format!("holdfast: ledger {first} serves this cluster"),
        "stop that holdfast, or take its place with `holdfast run --take-over`".to_owned(),
    ] {
        assert!(refusal.contains(&words), "{refusal}");
    }
    let refusal = refused(&scene, &["uninstall", "-c", config]).await;
    let words = format!("holdfast: nothing was removed: ledger {first} serves this cluster");
    assert!(refusal.contains(&words), "{refusal}");
    assert!(
        Api::<Node>::all(scene.client.clone())
            .get_opt(NODE_B)
            .await
            .unwrap()
            .is_some()
    );

    let log = scene.dir.path().join("second.log");
    let env = [("KUBECONFIG", scene.plane.kubeconfig())];
    let args = ["run", "-c", config, "--take-over"];
    let mut second = Holdfast::spawn(program(), args, env, &log).await.unwrap();
    assert_eq!(scene.ended().await.code(), Some(1), "{}", scene.log());
    let last = scene.log();
    let last = last.lines().last().unwrap();
    let words = "holdfast: lost the Lease kube-system/holdfast to ledger ";
    assert!(last.starts_with(words), "{last}");

    scene.create(&TestPod::fixed("web-1").on_node(NODE_B)).await;
    let next = identity(&scene.running("web-1").await);
    assert_ne!(
        next.address, had.address,
        "what runs is known to the second"
    );
    let lease = scene.cluster_lease().await;
    assert_ne!(holder(lease), first);
    let limit = Duration::from_secs(20);
    assert!(second.sigterm_and_wait(limit).await.unwrap().success());
    assert_eq!(scene.cluster_lease().await, None);
}

#[tokio::test]
async fn a_start_that_waits_for_a_lease_reads_no_signal_as_its_death_and_ends_when_it_is_told_to() {
    let mut scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    let first = scene.cluster_lease().await.unwrap();
    scene.holdfast.as_mut().unwrap().freeze().unwrap();
    let config = second_config(&scene);
    let log = scene.dir.path().join("second.log");
    let env = [("KUBECONFIG", scene.plane.kubeconfig())];
    let args = ["run", "-c", config.to_str().unwrap()];
    let mut second = Holdfast::spawn(program(), args, env, &log).await.unwrap();
    eventually("it watches the Lease", PATIENCE, async || {
        let log = second.log();
        let words = "another ledger holds the Lease";
        log.contains(words).then_some(()).ok_or(log)
    })
    .await
    .unwrap();
    hang_up(second.pid()).await;
    let limit = Duration::from_secs(5);
    let status = second.sigterm_and_wait(limit).await.unwrap();
    assert!(status.success(), "{status}");
    let words = "told to stop before the cluster was served";
    assert!(second.log().contains(words), "{}", second.log());
    scene.thaw();
    let holder = |lease: Lease| lease.spec.unwrap().holder_identity;
    let lease = scene.cluster_lease().await.unwrap();
    assert_eq!(holder(lease), holder(first));
}

#[tokio::test]
async fn a_holdfast_that_stood_still_while_another_ledger_took_its_place_writes_to_no_pod_any_more()
{
    let mut scene = Scene::start(&two_zones(&format!("profile: fast\n{NO_WEBHOOK}"))).await;
    scene.create(&TestPod::fixed("web-0").on_node(NODE_B)).await;
    scene.running("web-0").await;
    scene.freeze_until_the_lease_is_over().await;
    let before = scene.written();
    // One to be started, and one to be ended.
    scene.create(&TestPod::fixed("web-1").on_node(NODE_B)).await;
    let gently = DeleteParams::default();
    scene.pods().delete("web-0", &gently).await.unwrap();
    let mut lease = scene.cluster_lease().await.unwrap();
    lease.spec.as_mut().unwrap().holder_identity = Some("another".to_owned());
    let leases = scene.cluster_leases();
    leases
        .replace("holdfast", &PostParams::default(), &lease)
        .await
        .unwrap();

    scene.thaw();
    assert_eq!(scene.ended().await.code(), Some(1), "{}", scene.log());
    let log = scene.log();
    let last = log.lines().last().unwrap();
    assert!(
        last.contains("lost the Lease kube-system/holdfast to ledger another"),
        "{last}"
    );
    assert_eq!(scene.written(), before, "{log}");
}
