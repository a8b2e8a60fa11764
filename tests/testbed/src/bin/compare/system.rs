//! holdfast and KWOK as processes on the same control plane: configured alike, started, killed and cleared away.
//!
//! Every start has a node of its own name, so that nothing of an earlier one holds it up: KWOK waits for up to 41 s
//! until the lease of a node that another process of it had has run out.

use std::{
    ffi::OsString,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_testbed::{ControlPlane, Holdfast, KWOK, eventually, free_ports_in_a_row, run};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use tempfile::TempDir;

use crate::options::Kind;

/// Usable addresses of the largest pool here, a /16.
pub(crate) const POOL_MAX: usize = 65_532;

/// First address of holdfast's pool. Networks of all sizes up to /16 begin here.
const POOL: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);

/// What KWOK's documentation has for a cluster without delays, of its own files (`kustomize/stage`).
const STAGES: [&str; 5] = [
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-complete.yaml",
    "pod/fast/pod-delete.yaml",
];

/// KWOK takes the nodes that have it.
const KWOK_NODE: (&str, &str) = ("kwok.x-k8s.io/node", "fake");

const NODE_LIMIT: Duration = Duration::from_mins(2);

/// What a system is to be started for.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Of its only node, or what the names of its nodes begin with.
    pub(crate) node: String,
    pub(crate) nodes: usize,
    /// Pods at once.
    pub(crate) pods: usize,
    /// Of holdfast; KWOK's stages have no delays.
    pub(crate) profile: Profile,
}

/// How holdfast goes about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// No delays, fewest writes.
    Fast,
    /// Delays as ACS has them; calls to the cloud per second, 0: no limit.
    Acs { calls_per_s: u32 },
}

impl Setup {
    /// Of each node.
    pub(crate) fn names(&self) -> Vec<String> {
        match self.nodes {
            1 => vec![self.node.clone()],
            nodes => (0..nodes)
                .map(|index| format!("{}-{index}", self.node))
                .collect(),
        }
    }
}

/// The programs, built.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) holdfast: PathBuf,
    /// Of another holdfast.
    pub(crate) other: Option<PathBuf>,
    pub(crate) kwok: PathBuf,
}

/// A system that runs.
pub(crate) struct System {
    pub(crate) kind: Kind,
    /// The nodes that pods are to be made on.
    pub(crate) nodes: Vec<String>,
    /// When its process was first started.
    pub(crate) started: Instant,
    program: PathBuf,
    args: Vec<OsString>,
    kubeconfig: PathBuf,
    client: Client,
    dir: TempDir,
    process: Holdfast,
}

impl System {
    /// Starts it and waits until the first of its nodes is ready.
    ///
    /// # Errors
    /// It cannot be started, or the node is not ready in two minutes (the error shows its log).
    pub(crate) async fn start(
        kind: Kind,
        programs: &Programs,
        plane: &ControlPlane,
        setup: &Setup,
    ) -> Result<Self> {
        let dir = TempDir::new().context("cannot make a directory")?;
        let client = plane.client().await?;
        let nodes = setup.names();
        let (program, args) = match kind {
            Kind::Holdfast => (&programs.holdfast, holdfast_args(dir.path(), setup)?),
            Kind::Other => {
                let program = programs.other.as_ref().context("it has no program")?;
                (program, holdfast_args(dir.path(), setup)?)
            }
            Kind::Kwok4 | Kind::Kwok64 => {
                let args = kwok_args(dir.path(), kind, setup.pods)?;
                each(&nodes, |name| create_node(&client, name)).await?;
                (&programs.kwok, args)
            }
        };
        let started = Instant::now();
        let kubeconfig = plane.kubeconfig().to_owned();
        let process = spawn(program, &args, &kubeconfig, dir.path()).await?;
        let mut system = Self {
            kind,
            nodes,
            started,
            program: program.clone(),
            args,
            kubeconfig,
            client,
            dir,
            process,
        };
        system.wait_until_ready().await?;
        Ok(system)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends the process the hard way.
    ///
    /// # Errors
    /// It had ended before.
    pub(crate) async fn kill9(&mut self) -> Result<()> {
        self.process.kill9().await
    }

    /// Starts it again on what the killed process has left.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        let dir = self.dir.path();
        self.process = spawn(&self.program, &self.args, &self.kubeconfig, dir).await?;
        Ok(())
    }

    /// Stops it and removes its node and whatever else it has made.
    ///
    /// # Errors
    /// It does not stop, or something cannot be removed.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if matches!(self.kind, Kind::Kwok4 | Kind::Kwok64) {
            self.process.kill9().await?;
            return each(&self.nodes, |name| delete_node(&self.client, name)).await;
        }
        let status = self
            .process
            .sigterm_and_wait(Duration::from_secs(30))
            .await?;
        ensure!(
            status.success(),
            "holdfast ended with {status}:\n{}",
            self.process.log()
        );
        let mut uninstall = Command::new(&self.program);
        uninstall.arg("uninstall").args(&self.args[1..]);
        uninstall.env("KUBECONFIG", &self.kubeconfig);
        run(uninstall).await?;
        Ok(())
    }

    /// The end of what it has written, for an error.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.process.log();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = self.nodes.first().context("it has no node")?;
        let process = &mut self.process;
        let ready = eventually("the node is ready", NODE_LIMIT, async || {
            if let Some(status) = process.exited().map_err(|e| format!("{e:#}"))? {
                return Ok(Some(status));
            }
            let node = nodes.get_opt(name).await.map_err(|e| e.to_string())?;
            let conditions = node
                .and_then(|it| it.status?.conditions)
                .unwrap_or_default();
            conditions
                .iter()
                .any(|it| it.type_ == "Ready" && it.status == "True")
                .then_some(None)
                .ok_or_else(|| format!("{name} is not ready"))
        })
        .await
        .and_then(|ended| match ended {
            None => Ok(()),
            Some(status) => bail!("it has ended: {status}"),
        });
        ready.with_context(|| {
            format!(
                "the end of the log of {}:\n{}",
                self.kind.name(),
                self.log_tail()
            )
        })
    }
}

async fn spawn(
    program: &Path,
    args: &[OsString],
    kubeconfig: &Path,
    dir: &Path,
) -> Result<Holdfast> {
    let env = [
        ("KUBECONFIG", kubeconfig.as_os_str()),
        ("NO_COLOR", "1".as_ref()),
    ];
    Holdfast::spawn(program, args, env, &dir.join("log")).await
}

fn holdfast_args(dir: &Path, setup: &Setup) -> Result<Vec<OsString>> {
    let path = dir.join("holdfast.yaml");
    let ledger = json!(dir.join("holdfast.db").to_string_lossy());
    let node = match (&setup.node, setup.nodes) {
        (node, 1) => format!("name: {node}"),
        (node, nodes) => format!("name: {node}-%d, count: {nodes}"),
    };
    let profile = match setup.profile {
        Profile::Fast => "fast".to_owned(),
        Profile::Acs { calls_per_s } => format!("acs\ncloud: {{calls_per_s: {calls_per_s}}}"),
    };
    let anonymous = match setup.profile {
        Profile::Fast => "",
        // They tell the calls that the cloud answered.
        Profile::Acs { .. } => "/metrics",
    };
    // The usual one may be that of a kubelet.
    let port = free_ports_in_a_row(1);
    let config = format!(
        "region: cn-wulanchabu\nledger: {ledger}\nprofile: {profile}\nvswitches:\n- {}\n\
         nodes:\n- {{{node}, zone: cn-wulanchabu-b}}\ncapacity: {{pods: {POOL_MAX}}}\n\
         kubelet: {{port: {port}, anonymous: [{anonymous}]}}\n",
        vswitch(setup.pods)
    );
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(["run".into(), "-c".into(), path.into()].to_vec())
}

/// A vSwitch with hardly more addresses than pods: what is left over of the smallest network that holds them is
/// excluded, so that an address which is given out twice or lost has no room to hide.
fn vswitch(pods: usize) -> String {
    let wanted = pods + pods / 100 + 8;
    let prefix = (16..=28)
        .rev()
        .find(|prefix| wanted <= (1_usize << (32 - prefix)) - 4)
        .unwrap_or(16);
    let size = 1_u32 << (32 - prefix);
    let at = |index: u32| Ipv4Addr::from(u32::from(POOL) + index);
    // The first address is not usable, and neither are the last three.
    let (spare, last) = (u32::try_from(wanted).unwrap_or(size) + 1, size - 4);
    let exclude = if spare <= last {
        format!(", exclude: [{}-{}]", at(spare), at(last))
    } else {
        String::new()
    };
    format!("{{id: vsw-b, zone: cn-wulanchabu-b, cidr: {POOL}/{prefix}{exclude}}}")
}

fn kwok_args(dir: &Path, kind: Kind, pods: usize) -> Result<Vec<OsString>> {
    let mut args: Vec<OsString> = Vec::new();
    let mut config = |name: &str, text: &str| -> Result<()> {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        args.extend(["--config".into(), path.into()]);
        Ok(())
    };
    if kind == Kind::Kwok64 {
        config(
            "workers.yaml",
            "apiVersion: config.kwok.x-k8s.io/v1alpha1\nkind: KwokConfiguration\n\
             options: {podPlayStageParallelism: 64, nodePlayStageParallelism: 64, \
             nodeLeaseParallelism: 64, podsOnNodeSyncParallelism: 1}\n",
        )?;
    }
    for (index, stage) in STAGES.iter().enumerate() {
        let path = format!("kustomize/stage/{stage}");
        let text = KWOK.module_file("sigs.k8s.io/kwok", &path)?;
        config(&format!("stage-{index}.yaml"), &text)?;
    }
    ensure!(pods <= POOL_MAX, "{pods} pods do not fit KWOK's CIDR");
    let (key, value) = KWOK_NODE;
    args.extend(
        [
            "--manage-all-nodes=false".to_owned(),
            format!("--manage-nodes-with-annotation-selector={key}={value}"),
            "--cidr=10.128.0.0/16".to_owned(),
            "--node-ip=127.0.0.1".to_owned(),
            "--node-lease-duration-seconds=40".to_owned(),
        ]
        .map(OsString::from),
    );
    Ok(args)
}

/// Does `work` for each node, several at a time.
async fn each<'a, F>(nodes: &'a [String], work: impl Fn(&'a str) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    stream::iter(nodes)
        .map(|name| work(name))
        .buffer_unordered(16)
        .try_collect()
        .await
}

async fn delete_node(client: &Client, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let deleted = nodes.delete(name, &DeleteParams::default()).await;
    deleted.map(drop).context("cannot delete KWOK's node")
}

/// KWOK manages nodes that somebody else makes.
async fn create_node(client: &Client, name: &str) -> Result<()> {
    let (key, value) = KWOK_NODE;
    let node = serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "annotations": {key: value},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name},
        },
    }))
    .context("cannot build a node")?;
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .create(&PostParams::default(), &node)
        .await
        .context("cannot create KWOK's node")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_hardly_larger_than_the_pods() {
        assert_eq!(
            vswitch(200),
            "{id: vsw-b, zone: cn-wulanchabu-b, cidr: 10.64.0.0/24, exclude: [10.64.0.211-10.64.0.252]}"
        );
        assert_eq!(
            vswitch(12_000),
            "{id: vsw-b, zone: cn-wulanchabu-b, cidr: 10.64.0.0/18, exclude: [10.64.47.97-10.64.63.252]}"
        );
        assert_eq!(
            vswitch(POOL_MAX),
            "{id: vsw-b, zone: cn-wulanchabu-b, cidr: 10.64.0.0/16}"
        );
    }
}
