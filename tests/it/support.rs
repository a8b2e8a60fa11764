//! What tests have in common: a scene with a cluster and holdfast in it, and words for what
//! happens there.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

pub(crate) use holdfast_testbed::free_ports_in_a_row;
use holdfast_testbed::{Holdfast, Leased, Options, eventually, lease, lease_alone, lease_with};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use crate::test_pod::{TestPod, merged};

/// Long enough for two slow cores, short enough to fail before anybody wonders.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) const FIXED_IP: &str = "network.alibabacloud.com/enable-fixed-ip";
pub(crate) const RELEASE_AFTER: &str = "network.alibabacloud.com/fixed-ip-release-after";
pub(crate) const ENI: &str = "network.alibabacloud.com/allocated-eni-id";
pub(crate) const ZONE_B: &str = "cn-wulanchabu-b";
pub(crate) const ZONE_C: &str = "cn-wulanchabu-c";
pub(crate) const NODE_B: &str = "virtual-kubelet-cn-wulanchabu-b";

/// An environment variable of every holdfast, and what it says: an address that is not the default.
pub(crate) const ADDRESS_VARIABLE: &str = "POD_IP";
pub(crate) const OTHER_ADDRESS: &str = "127.0.0.2";

/// A configuration with two zones and a simulated ECS node; `extra` is added at the end.
pub(crate) fn two_zones(extra: &str) -> String {
    with_cidrs("192.168.1.0/24", extra)
}

/// The same with another CIDR in zone b.
pub(crate) fn with_cidrs(cidr_b: &str, extra: &str) -> String {
    format!(
        "region: cn-wulanchabu\n\
         vswitches:\n\
         - {{id: vsw-b, zone: {ZONE_B}, cidr: {cidr_b}}}\n\
         - {{id: vsw-c, zone: {ZONE_C}, cidr: 192.168.2.0/24}}\n\
         nodes:\n\
         - {{zone: {ZONE_B}}}\n\
         - {{zone: {ZONE_C}}}\n\
         - {{name: ecs-1, zone: {ZONE_B}, type: ecs}}\n\
         {extra}\n"
    )
}

/// A cluster with holdfast in it, and a namespace of the test's own.
pub(crate) struct Scene {
    pub(crate) plane: Leased,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) dir: TempDir,
    /// By which holdfast reaches the API server.
    pub(crate) kubeconfig: PathBuf,
    /// More of its environment.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) holdfast: Option<Holdfast>,
    /// Where the log of the newest process begins.
    log_begin: usize,
    webhook: bool,
    /// The first of a few that are free.
    pub(crate) kubelet_port: u16,
}

impl Scene {
    /// Starts holdfast with this configuration (without `ledger`) and waits until it serves.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_on(lease().await.unwrap(), config).await
    }

    /// The same while no other test uses a control plane: for what is measured in seconds.
    pub(crate) async fn start_alone(config: &str) -> Self {
        Self::start_on(lease_alone().await.unwrap(), config).await
    }

    /// The same on a control plane with options of its own.
    pub(crate) async fn start_with(options: Options, config: &str) -> Self {
        Self::start_on(lease_with(options).await.unwrap(), config).await
    }

    async fn start_on(plane: Leased, config: &str) -> Self {
        let mut scene = Self::prepare(plane, config).await;
        scene.spawn(&[]).await;
        scene.is_serving().await;
        scene
    }

    /// All but holdfast itself.
    pub(crate) async fn prepare(plane: Leased, config: &str) -> Self {
        let client = plane.client().await.unwrap();
        let namespace = plane.create_namespace("it").await.unwrap();
        let mut scene = Self {
            kubeconfig: plane.kubeconfig().to_owned(),
            env: Vec::new(),
            plane,
            client,
            namespace,
            dir: TempDir::new().unwrap(),
            holdfast: None,
            log_begin: 0,
            webhook: true,
            kubelet_port: free_ports_in_a_row(4),
        };
        scene.configure(config);
        scene
    }

    /// Writes another configuration, for the next start or for SIGHUP.
    pub(crate) fn configure(&mut self, config: &str) {
        self.webhook = !config.contains("webhook: {enabled: false}");
        let ledger = self.ledger();
        let mut text = format!("{config}ledger: {}\n", ledger.display());
        if !config.contains("kubelet:") {
            writeln!(text, "kubelet: {{port: {}}}", self.kubelet_port).unwrap();
        }
        std::fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("holdfast.yaml")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.dir.path().join("holdfast.db")
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("holdfast.log")
    }

    /// Starts the program and waits for nothing.
    pub(crate) async fn spawn(&mut self, args: &[&str]) {
        self.log_begin = self.log().len();
        let config = self.config();
        let mut all = vec!["run", "-c", config.to_str().unwrap()];
        all.extend(args);
        let kubeconfig = ("KUBECONFIG", self.kubeconfig.to_str().unwrap());
        let more = self.env.iter().map(|(name, value)| (&**name, &**value));
        let env = more.chain([kubeconfig, (ADDRESS_VARIABLE, OTHER_ADDRESS)]);
        let spawned = Holdfast::spawn(program(), all, env, &self.log_path())
            .await
            .unwrap();
        self.holdfast = Some(spawned);
    }

    /// Waits until the newest process serves pods and its webhook is registered.
    pub(crate) async fn is_serving(&mut self) {
        let (begin, webhook) = (self.log_begin, self.webhook);
        let log_path = self.log_path();
        let holdfast = self.holdfast.as_mut().unwrap();
        let waited = eventually("holdfast serves", PATIENCE, async || {
            if let Some(status) = holdfast.exited().map_err(|error| error.to_string())? {
                return Err(format!("it has ended: {status}"));
            }
            let log = std::fs::read_to_string(&log_path).unwrap_or_default();
            let says = |text: &str| log[begin..].contains(text);
            let serves = says("new pods are served") && says("all nodes are registered");
            // Until then the API server asks the process before, at an address that nobody listens on.
            let admits = !webhook || says("webhook registered");
            (serves && admits).then_some(()).ok_or(log)
        });
        waited.await.unwrap();
        self.nodes_take_pods().await;
    }

    /// The node controller takes the taint off a new node a moment after it is Ready.
    async fn nodes_take_pods(&self) {
        let api: Api<Node> = Api::all(self.client.clone());
        eventually(
            "no node has the taint of an unready one",
            PATIENCE,
            async || {
                let nodes = api
                    .list(&ListParams::default())
                    .await
                    .map_err(|error| error.to_string())?;
                let tainted = nodes.items.iter().filter(|node| {
                    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
                    taints.is_some_and(|all| {
                        all.iter()
                            .any(|taint| taint.key == "node.kubernetes.io/not-ready")
                    })
                });
                let names: Vec<_> = tainted.map(|node| node.metadata.name.clone()).collect();
                names
                    .is_empty()
                    .then_some(())
                    .ok_or_else(|| format!("{names:?}"))
            },
        )
        .await
        .unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.holdfast.as_ref().unwrap().pid()
    }

    /// Resident memory of holdfast in kB.
    pub(crate) fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let text = line.unwrap().trim().trim_end_matches(" kB");
        text.parse().unwrap()
    }

    pub(crate) async fn kill9(&mut self) {
        self.holdfast.take().unwrap().kill9().await.unwrap();
    }

    pub(crate) async fn stop(&mut self) {
        let mut holdfast = self.holdfast.take().unwrap();
        let status = holdfast
            .sigterm_and_wait(Duration::from_secs(20))
            .await
            .unwrap();
        assert!(status.success(), "{status}: {}", holdfast.log());
    }

    /// Waits until the newest process ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut holdfast = self.holdfast.take().unwrap();
        eventually("holdfast ends", PATIENCE, async || {
            let ended = holdfast.exited().map_err(|error| error.to_string())?;
            ended.ok_or_else(|| "it runs".to_owned())
        })
        .await
        .unwrap()
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.spawn(&[]).await;
        self.is_serving().await;
    }

    /// Sends SIGHUP: the configuration file is read again.
    pub(crate) async fn hang_up(&self) {
        hang_up(self.holdfast.as_ref().unwrap().pid()).await;
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// What holdfast has written in the scene's namespace, such as `update pods`, in order; nothing is known of it in the
    /// cluster of `KUBECONFIG`.
    pub(crate) fn written(&self) -> Option<Vec<String>> {
        let log = std::fs::read_to_string(self.plane.audit_log()?).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let entries = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let ours = entries.filter(|entry: &Value| {
            entry["objectRef"]["namespace"] == self.namespace.as_str()
                && text(&entry["userAgent"]).starts_with("holdfast")
        });
        let words = ours.map(|entry| {
            format!(
                "{} {}",
                text(&entry["verb"]),
                text(&entry["objectRef"]["resource"])
            )
        });
        Some(words.collect())
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn sets(&self) -> Api<StatefulSet> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a pod out of what differs from a plain one.
    pub(crate) async fn create(&self, pod: &TestPod) -> Pod {
        self.pods()
            .create(&PostParams::default(), &pod.object())
            .await
            .unwrap()
    }

    pub(crate) async fn create_set(&self, name: &str, replicas: i32, pod: &TestPod) {
        let template = pod.object();
        let set = json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": { "name": name },
            "spec": {
                "replicas": replicas,
                "podManagementPolicy": "Parallel",
                "selector": { "matchLabels": { "app": name } },
                "template": {
                    "metadata": {
                        "labels": merged(&json!({ "app": name }), &json!(template.metadata.labels)),
                        "annotations": template.metadata.annotations,
                    },
                    "spec": template.spec,
                },
            },
        });
        let set = serde_json::from_value(set).unwrap();
        self.sets()
            .create(&PostParams::default(), &set)
            .await
            .unwrap();
    }

    pub(crate) async fn scale(&self, name: &str, replicas: i32) {
        self.patch_set(name, json!({ "spec": { "replicas": replicas } }))
            .await;
    }

    pub(crate) async fn patch_set(&self, name: &str, patch: Value) {
        let patch = Patch::Merge(patch);
        self.sets()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// What `kubectl rollout restart` does.
    pub(crate) async fn rollout_restart(&self, name: &str, round: usize) {
        let stamp = json!({ "kubectl.kubernetes.io/restartedAt": format!("round {round}") });
        let template = json!({ "template": { "metadata": { "annotations": stamp } } });
        self.patch_set(name, json!({ "spec": template })).await;
    }

    /// Waits until a StatefulSet's rollout is complete and all its pods are ready.
    pub(crate) async fn rolled_out(&self, name: &str) {
        let done = eventually("the rollout", PATIENCE, async || {
            let set = self
                .sets()
                .get(name)
                .await
                .map_err(|error| error.to_string())?;
            let spec = set.spec.clone().unwrap();
            let status = set.status.unwrap_or_default();
            let (replicas, updated) = (spec.replicas, status.updated_replicas);
            let partition = spec
                .update_strategy
                .and_then(|strategy| strategy.rolling_update)
                .and_then(|rolling| rolling.partition)
                .unwrap_or(0);
            let done = status.observed_generation == set.metadata.generation
                && status.ready_replicas.unwrap_or(0) == replicas.unwrap_or(1)
                && status.replicas == replicas.unwrap_or(1)
                && updated.unwrap_or(0) >= replicas.unwrap_or(1) - partition;
            done.then_some(()).ok_or_else(|| {
                format!(
                    "{updated:?} updated, {:?} ready of {replicas:?}",
                    status.ready_replicas
                )
            })
        })
        .await;
        if let Err(error) = done {
            panic!("{error:#}\n{}", self.state().await);
        }
    }

    pub(crate) async fn running(&self, name: &str) -> Pod {
        self.pod_with(name, "runs", |pod| {
            pod_phase(pod) == "Running" && is_ready(pod)
        })
        .await
    }

    pub(crate) async fn pod_with(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&Pod) -> bool,
    ) -> Pod {
        eventually(&format!("pod {name} {what}"), PATIENCE, async || {
            let pod = self
                .pods()
                .get(name)
                .await
                .map_err(|error| error.to_string())?;
            if holds(&pod) {
                Ok(pod)
            } else {
                Err(format!("{:?}", pod.status))
            }
        })
        .await
        .unwrap()
    }

    /// What to look at when something did not happen in time: the pods, and what holdfast wrote.
    async fn state(&self) -> String {
        let line = |pod: &Pod| {
            let meta = &pod.metadata;
            format!(
                "{} uid {:?} version {:?} deleted {:?} {} ready {}",
                name(pod),
                meta.uid,
                meta.resource_version,
                meta.deletion_timestamp,
                pod_phase(pod),
                is_ready(pod)
            )
        };
        let mut lines: Vec<String> = self.all_pods().await.iter().map(line).collect();
        lines.extend(std::fs::read_to_string(self.log_path()));
        lines.join("\n")
    }

    pub(crate) async fn all_pods(&self) -> Vec<Pod> {
        self.pods()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.pods()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
        self.is_gone(name).await;
    }

    pub(crate) async fn is_gone(&self, name: &str) {
        eventually(
            &format!("the end of pod {name}"),
            PATIENCE,
            async || match self.pods().get_opt(name).await {
                Ok(None) => Ok(()),
                Ok(Some(pod)) => Err(format!("{:?}", pod.status)),
                Err(error) => Err(error.to_string()),
            },
        )
        .await
        .unwrap();
    }

    /// Waits for an event of this reason on a pod (of the newest UID) and gives its message.
    pub(crate) async fn event(&self, pod: &Pod, reason: &str) -> Event {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let uid = pod.metadata.uid.as_deref().unwrap();
        let list =
            ListParams::default().fields(&format!("involvedObject.uid={uid},reason={reason}"));
        eventually(&format!("event {reason}"), PATIENCE, async || {
            let found = api.list(&list).await.map_err(|error| error.to_string())?;
            found
                .items
                .into_iter()
                .next_back()
                .ok_or_else(|| "none yet".to_owned())
        })
        .await
        .unwrap()
    }

    pub(crate) async fn cordon(&self, node: &str, cordoned: bool) {
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": cordoned } }));
        api.patch(node, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// The answer of a command on the ledger.
    pub(crate) async fn ask(&self, args: &[&str]) -> Value {
        let output = self.command(args).await;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command with the scene's configuration.
    pub(crate) async fn command(&self, args: &[&str]) -> std::process::Output {
        tokio::process::Command::new(program())
            .args(args)
            .arg("-c")
            .arg(self.config())
            .env("KUBECONFIG", self.plane.kubeconfig())
            .output()
            .await
            .unwrap()
    }

    pub(crate) async fn claims(&self) -> Vec<Value> {
        let all = self.ask(&["claims", "-o", "json"]).await;
        let mine = all.as_array().unwrap().iter();
        mine.filter(|claim| claim["namespace"] == self.namespace.as_str())
            .cloned()
            .collect()
    }

    /// Waits until so many addresses of vSwitch `vsw-b` are in these states.
    pub(crate) async fn has_counts(&self, wanted: &[(&str, u64)]) {
        eventually(&format!("addresses are {wanted:?}"), PATIENCE, async || {
            let mut found = Vec::new();
            for (state, _) in wanted {
                found.push((*state, self.count("vsw-b", state).await));
            }
            let same = found == wanted;
            same.then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await
        .unwrap();
    }

    /// How many addresses of a vSwitch are `free`, `in_use`, `retained` or `detaching`.
    pub(crate) async fn count(&self, vswitch: &str, state: &str) -> u64 {
        let all = self.ask(&["vswitches", "-o", "json"]).await;
        let row = all
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["id"] == vswitch)
            .unwrap();
        row[state].as_u64().unwrap()
    }
}

/// A number that whoever runs the tests gives by a variable.
pub(crate) async fn hang_up(pid: u32) {
    let kill = tokio::process::Command::new("kill")
        .args(["-HUP", &pid.to_string()])
        .status()
        .await;
    assert!(kill.unwrap().success());
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let parsed = text.parse();
    Some(parsed.unwrap_or_else(|_| panic!("{variable} must be a whole number, not {text:?}")))
}

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_holdfast"))
}

/// Address, ENI, node and zone of a pod, as its object shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) address: String,
    pub(crate) eni: String,
    pub(crate) zone: String,
}

pub(crate) fn identity(pod: &Pod) -> Identity {
    let annotation = |key: &str| pod.metadata.annotations.as_ref().unwrap()[key].clone();
    Identity {
        address: address(pod).expect("the pod shows an address"),
        eni: annotation(ENI),
        zone: annotation("topology.kubernetes.io/zone"),
    }
}

pub(crate) fn address(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.pod_ip.clone()
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap()
}

pub(crate) fn pod_phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("")
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one.type_ == "Ready" && one.status == "True")
    })
}

pub(crate) fn message(event: &Event) -> &str {
    event.message.as_deref().unwrap_or("")
}
