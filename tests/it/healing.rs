//! What others do to nodes, leases, pods and connections, and what a clock does, heals by itself.
//!
//! `HOLDFAST_AWAY_S` says how long the API server is away (default 25).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast_testbed::{Options, Proxy, Skew, eventually, lease_with};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};

use crate::support::*;

const NO_WEBHOOK: &str = "webhook: {enabled: false}";
/// The controller looks every second, and calls a node unreachable that was silent for longer than
/// one and a half renewals of its lease.
const QUICK_CONTROLLER: [&str; 2] = [
    "--node-monitor-period=1s",
    "--node-monitor-grace-period=15s",
];
/// Long enough for a client that tries again every few seconds.
const SOON: Duration = Duration::from_secs(10);

fn quick_controller() -> Options {
    Options {
        controller_manager_flags: QUICK_CONTROLLER.map(str::to_owned).to_vec(),
        ..Options::default()
    }
}

async fn node(scene: &Scene) -> Node {
    let api: Api<Node> = Api::all(scene.client.clone());
    api.get(NODE_B).await.unwrap()
}

fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == "Ready")
}

fn ready(node: &Node) -> Option<&str> {
    Some(&ready_condition(node)?.status)
}

async fn renewed(scene: &Scene) -> Option<Timestamp> {
    let api: Api<Lease> = Api::namespaced(scene.client.clone(), "kube-node-lease");
    let lease = api.get_opt(NODE_B).await.unwrap()?;
    Some(lease.spec?.renew_time?.0)
}

/// What of a pod must not change while it runs: who it is, its network, and the runs of its
/// containers.
fn life(pod: &Pod) -> Value {
    let status = serde_json::to_value(&pod.status).unwrap();
    json!({
        "uid": pod.metadata.uid,
        "eni": pod.metadata.annotations.as_ref().and_then(|all| all.get(ENI)),
        "phase": status["phase"],
        "podIPs": status["podIPs"],
        "startTime": status["startTime"],
        "containers": status["containerStatuses"],
    })
}

async fn lives(scene: &Scene) -> BTreeMap<String, Value> {
    let pods = scene.all_pods().await;
    let of = |pod: &Pod| (name(pod).to_owned(), life(pod));
    pods.iter().map(of).collect()
}

/// A fixed-IP pod and an ordinary one, and how they live.
async fn two_pods(scene: &Scene) -> BTreeMap<String, Value> {
    for pod in [TestPod::fixed("web-0"), TestPod::ordinary("plain")] {
        scene.create(&pod.on_node(NODE_B)).await;
    }
    for pod in ["web-0", "plain"] {
        scene.running(pod).await;
    }
    lives(scene).await
}

/// Waits until both are ready, and compares.
async fn two_pods_live_on(scene: &Scene, before: &BTreeMap<String, Value>) {
    for pod in ["web-0", "plain"] {
        scene.running(pod).await;
    }
    let mut after = lives(scene).await;
    after.retain(|name, _| before.contains_key(name));
    assert_eq!(after, *before);
}

#[tokio::test]
async fn a_deleted_node_comes_back_as_it_was_and_its_pods_never_notice() {
    let scene = Scene::start(&two_zones(NO_WEBHOOK)).await;
    let before = two_pods(&scene).await;
    let old = node(&scene).await;
    let api: Api<Node> = Api::all(scene.client.clone());
    api.delete(NODE_B, &DeleteParams::default()).await.unwrap();

    let what_is_ours = |node: &Node| {
        let node = serde_json::to_value(node).unwrap();
        let status = &node["status"];
        json!({
            "labels": node["metadata"]["labels"],
            "spec": node["spec"],
            "addresses": status["addresses"],
            "capacity": status["capacity"],
            "daemonEndpoints": status["daemonEndpoints"],
            "nodeInfo": status["nodeInfo"],
        })
    };
    eventually("the node is as it was", PATIENCE, async || {
        let new = api
            .get_opt(NODE_B)
            .await
            .map_err(|error| error.to_string())?;
        let new = new.ok_or("it is not there")?;
        let is_new = new.metadata.uid != old.metadata.uid;
        (is_new && ready(&new) == Some("True") && what_is_ours(&new) == what_is_ours(&old))
            .then_some(())
            .ok_or_else(|| format!("{new:#?}"))
    })
    .await
    .unwrap();
    scene
        .create(&TestPod::fixed("web-1").in_zone(ZONE_B).with(&json!({
            "tolerations": [{ "key": "virtual-kubelet.io/provider", "operator": "Exists" }],
        })))
        .await;
    scene.running("web-1").await;
    two_pods_live_on(&scene, &before).await;
}

#[tokio::test]
async fn pods_that_the_node_controller_called_unready_are_ready_again_when_holdfast_is() {
    let mut scene = Scene::start_with(quick_controller(), &two_zones(NO_WEBHOOK)).await;
    let before = two_pods(&scene).await;
    scene.holdfast.as_mut().unwrap().freeze().unwrap();
    eventually("the node is unreachable", PATIENCE, async || {
        let node = node(&scene).await;
        (ready(&node) == Some("Unknown"))
            .then_some(())
            .ok_or_else(|| format!("{:?}", ready(&node)))
    })
    .await
    .unwrap();
    for pod in ["web-0", "plain"] {
        scene
            .pod_with(pod, "is called unready", |pod| !is_ready(pod))
            .await;
    }

    scene.holdfast.as_mut().unwrap().thaw().unwrap();
    eventually("the node is ready", PATIENCE, async || {
        let node = node(&scene).await;
        (ready(&node) == Some("True"))
            .then_some(())
            .ok_or_else(|| format!("{:?}", ready(&node)))
    })
    .await
    .unwrap();
    two_pods_live_on(&scene, &before).await;
}

/// How long the API server is away.
fn away() -> Duration {
    Duration::from_secs(number("HOLDFAST_AWAY_S").unwrap_or(25))
}

/// What is true before, while and after an API server that is gone or mute.
struct Absence {
    scene: Scene,
    before: BTreeMap<String, Value>,
    resident_kb: u64,
}

impl Absence {
    async fn begins(scene: Scene) -> Self {
        let before = two_pods(&scene).await;
        let brief = json!({ "restartPolicy": "Never" });
        let brief = TestPod::ordinary("brief").with(&brief).on_node(NODE_B);
        scene
            .create(&brief.annotated("holdfast.dev/run-for", "12s"))
            .await;
        scene.running("brief").await;
        let resident_kb = scene.resident_kb();
        Self {
            scene,
            before,
            resident_kb,
        }
    }

    /// As long as it lasts, memory stays.
    async fn lasts(&self) {
        let began = Instant::now();
        let mut period = tokio::time::interval(Duration::from_millis(500));
        while began.elapsed() < away() {
            period.tick().await;
            let now_kb = self.scene.resident_kb();
            let limit_kb = self.resident_kb + 4096;
            assert!(now_kb < limit_kb, "{} kB, then {now_kb}", self.resident_kb);
        }
    }

    async fn ends(self) {
        let Self { scene, before, .. } = self;
        let (back, back_at) = (Instant::now(), Timestamp::now());
        eventually("the lease is renewed", SOON, async || {
            let at = renewed(&scene).await;
            (at > Some(back_at))
                .then_some(())
                .ok_or_else(|| format!("{at:?}"))
        })
        .await
        .unwrap();
        println!("the lease was renewed after {:?}", back.elapsed());
        scene.create(&TestPod::fixed("web-1").on_node(NODE_B)).await;
        eventually("a new pod runs", SOON, async || {
            let pod = scene
                .pods()
                .get("web-1")
                .await
                .map_err(|error| error.to_string())?;
            is_ready(&pod)
                .then_some(())
                .ok_or_else(|| format!("{:?}", pod.status))
        })
        .await
        .unwrap();
        println!("a new pod ran after {:?}", back.elapsed());
        scene
            .pod_with("brief", "has ended", |pod| pod_phase(pod) == "Succeeded")
            .await;
        two_pods_live_on(&scene, &before).await;
    }
}

#[tokio::test]
async fn an_api_server_that_was_gone_moves_nothing_and_is_used_at_once_when_it_is_back() {
    let options = Options::default();
    let scene = Scene::start_with(
        options,
        &two_zones("profile: fast\nwebhook: {enabled: false}"),
    )
    .await;
    let mut absence = Absence::begins(scene).await;
    absence.scene.plane.kill_apiserver().unwrap();
    absence.lasts().await;
    absence.scene.plane.start_apiserver().await.unwrap();
    absence.ends().await;
}

#[tokio::test]
async fn an_api_server_that_was_mute_moves_nothing_and_is_used_at_once_when_it_answers() {
    let options = Options::default();
    let scene = Scene::start_with(
        options,
        &two_zones("profile: fast\nwebhook: {enabled: false}"),
    )
    .await;
    let absence = Absence::begins(scene).await;
    absence.scene.plane.freeze_apiserver().unwrap();
    absence.lasts().await;
    absence.scene.plane.thaw_apiserver().unwrap();
    absence.ends().await;
}

#[tokio::test]
async fn what_went_while_the_watch_expired_lets_go_and_what_stayed_is_not_touched() {
    let plane = lease_with(Options::default()).await.unwrap();
    let mut scene = Scene::prepare(
        plane,
        &two_zones("profile: fast\nwebhook: {enabled: false}"),
    )
    .await;
    let proxy = Proxy::start(scene.plane.address().unwrap()).await.unwrap();
    scene.kubeconfig = scene.plane.kubeconfig_at(proxy.address()).unwrap();
    scene.spawn(&[]).await;
    scene.is_serving().await;
    let before = two_pods(&scene).await;
    let gone = [TestPod::fixed("gone-0"), TestPod::ordinary("gone-plain")];
    let anew = TestPod::fixed("anew-0").on_node(NODE_B);
    for pod in gone.clone() {
        scene.create(&pod.on_node(NODE_B)).await;
    }
    scene.create(&anew).await;
    for pod in ["gone-0", "gone-plain"] {
        scene.running(pod).await;
    }
    let had = identity(&scene.running("anew-0").await);

    proxy.cut();
    let force = DeleteParams::default().grace_period(0);
    for pod in ["gone-0", "gone-plain", "anew-0"] {
        scene.pods().delete(pod, &force).await.unwrap();
        scene.is_gone(pod).await;
    }
    scene.create(&anew).await;
    let unseen_until = Timestamp::now();
    // It knows no past before its own start, so whoever watches from before has to list anew.
    scene.plane.kill_apiserver().unwrap();
    scene.plane.start_apiserver().await.unwrap();
    proxy.mend();

    assert_eq!(identity(&scene.running("anew-0").await), had);
    eventually("what is gone has let go", PATIENCE, async || {
        let claims = scene.claims().await;
        let of = |name: &str| claims.iter().find(|claim| claim["name"] == name).cloned();
        let (gone, in_use) = (of("gone-0"), scene.count("vsw-b", "in_use").await);
        let retained = gone
            .as_ref()
            .is_some_and(|claim| claim["state"] == "retained");
        // web-0, plain and anew-0.
        (retained && in_use == 3)
            .then_some(())
            .ok_or_else(|| format!("{gone:?}, {in_use} in use"))
    })
    .await
    .unwrap();
    let log = scene.log();
    assert!(log.contains("too old resource version"), "{log}");
    scene.create(&TestPod::fixed("web-1").on_node(NODE_B)).await;
    scene.running("web-1").await;
    two_pods_live_on(&scene, &before).await;
    // Nobody saw the deletion, so the clock starts when the absence is known.
    let claims = scene.claims().await;
    let gone = claims
        .iter()
        .find(|claim| claim["name"] == "gone-0")
        .unwrap();
    let began: Timestamp = gone["deleted_at"].as_str().unwrap().parse().unwrap();
    assert!(began > unseen_until, "{gone:#}, cut until {unseen_until}");
}

/// How long a jumped clock must stand before retentions end by it.
const STANDS: SignedDuration = SignedDuration::from_secs(60);

#[tokio::test]
async fn a_wall_clock_that_jumps_forward_and_back_ends_no_retention_and_no_node() {
    let plane = lease_with(quick_controller()).await.unwrap();
    let config = two_zones("profile: fast\nretention: {hour: 20s}\nwebhook: {enabled: false}");
    let mut scene = Scene::prepare(plane, &config).await;
    let skew = Skew::new(scene.dir.path()).unwrap();
    scene.env = skew.env().to_vec();
    scene.spawn(&[]).await;
    scene.is_serving().await;
    let before = two_pods(&scene).await;
    // A node that is called unreachable is ready again within milliseconds, but not since before.
    let since = |node: &Node| ready_condition(node).unwrap().last_transition_time.clone();
    let ready_since = since(&node(&scene).await);
    let kept = TestPod::fixed("kept-0").annotated(RELEASE_AFTER, "1");
    scene.create(&kept.on_node(NODE_B)).await;
    scene.running("kept-0").await;
    scene.delete("kept-0").await;
    let deadline = Timestamp::now() + SignedDuration::from_secs(19);
    let jumps = async |count: usize| {
        eventually("the jump is noticed", SOON, async || {
            let log = scene.log();
            let found = log.matches("the wall clock jumped").count();
            (found == count).then_some(()).ok_or(log)
        })
        .await
        .unwrap();
        Timestamp::now()
    };
    skew.set(SignedDuration::from_hours(1)).unwrap();
    jumps(1).await;
    eventually("the lease shows the new time", PATIENCE, async || {
        let at = renewed(&scene).await;
        let half_way = Timestamp::now() + SignedDuration::from_mins(30);
        (at > Some(half_way))
            .then_some(())
            .ok_or_else(|| format!("{at:?}"))
    })
    .await
    .unwrap();
    skew.set(SignedDuration::ZERO).unwrap();
    let undone = jumps(2).await;

    // For as long as the retention stands, and beyond any patience of the node controller.
    let ended = eventually("the retention ends", PATIENCE, async || {
        let (node, claims) = (node(&scene).await, scene.claims().await);
        assert_eq!(since(&node), ready_since, "{:#?}", ready_condition(&node));
        let found = claims.iter().find(|claim| claim["name"] == "kept-0");
        found.map_or(Ok(Timestamp::now()), |claim| Err(format!("{claim:#}")))
    })
    .await
    .unwrap();
    assert!(ended > deadline, "{ended}, due at {deadline}");
    let stood = ended.duration_since(undone);
    // It was looked at up to a second before it was noticed here, and time runs on until it is seen.
    let slack = SignedDuration::from_secs(2);
    assert!(
        stood > STANDS - slack && stood < STANDS + slack * 3,
        "{stood:#}"
    );
    two_pods_live_on(&scene, &before).await;
    scene.create(&TestPod::fixed("web-1").on_node(NODE_B)).await;
    scene.running("web-1").await;
}
