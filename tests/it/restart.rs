//! Restarts under load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use holdfast_testbed::eventually;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;

use crate::support::*;

async fn create_many(scene: &Scene, prefix: &str, count: usize) {
    let pods =
        (0..count).map(|number| TestPod::ordinary(&format!("{prefix}-{number}")).on_node(NODE_B));
    futures::stream::iter(pods)
        .for_each_concurrent(16, async |pod| {
            scene.create(&pod).await;
        })
        .await;
}

async fn all_run(scene: &Scene, count: usize) -> Vec<Pod> {
    eventually(&format!("{count} pods run"), PATIENCE, async || {
        let pods = scene.all_pods().await;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        if ready == count {
            Ok(pods)
        } else {
            Err(format!("{ready} ready"))
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn two_hundred_pods_a_kill_and_two_hundred_more_share_no_address() {
    let cidr = "192.168.0.0/23";
    let extra = "profile: fast\nwebhook: {enabled: false}";
    let config = with_cidrs(cidr, extra).replace("192.168.2.0/24", "192.168.2.0/28");
    let mut scene = Scene::start_alone(&config).await;
    create_many(&scene, "old", 200).await;
    let before = all_run(&scene, 200).await;
    scene.kill9().await;
    create_many(&scene, "new", 200).await;

    let started = Instant::now();
    scene.spawn(&[]).await;
    let first = first_new_pod(&scene, started).await;
    let after = all_run(&scene, 400).await;
    let mut holders: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in &after {
        holders
            .entry(address(pod).unwrap())
            .or_default()
            .push(name(pod));
    }
    let shared: Vec<_> = holders.iter().filter(|(_, pods)| pods.len() > 1).collect();
    assert!(shared.is_empty(), "{shared:?}");
    for old in &before {
        let now = after.iter().find(|pod| name(pod) == name(old)).unwrap();
        assert_eq!(
            now.metadata.resource_version,
            old.metadata.resource_version,
            "{}",
            name(old)
        );
    }
    println!("the first new pod ran {first:?} after the start");
    assert!(first < Duration::from_secs(1), "{first:?}");
}

async fn first_new_pod(scene: &Scene, started: Instant) -> Duration {
    let mut watch = std::pin::pin!(watcher(scene.pods(), watcher::Config::default()));
    let seen = async {
        while let Some(event) = watch.next().await {
            let (watcher::Event::InitApply(pod) | watcher::Event::Apply(pod)) = event.unwrap()
            else {
                continue;
            };
            if name(&pod).starts_with("new-") && is_ready(&pod) {
                return started.elapsed();
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap()
}
