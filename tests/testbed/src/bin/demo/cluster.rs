//! The cluster of the demo and holdfast on it: started, asked, and left without a trace.

use std::{
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_testbed::{
    CONTROL_PLANE, ControlPlane, Holdfast, Options, build_holdfast, eventually,
    free_ports_in_a_row, run,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, coordination::v1::Lease,
    core::v1::Node,
};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::screen::Screen;

/// How long an hour of retention lasts in milliseconds: the documentation's 48 hours become 24 seconds. A rolling
/// upgrade takes a quarter of that for each pod.
const HOUR_MS: u64 = 500;

/// The names that holdfast gives to the nodes of the configuration below.
const NODES: [&str; 3] = [
    "virtual-kubelet-cn-wulanchabu-b",
    "virtual-kubelet-cn-wulanchabu-c",
    "ecs-1",
];

const READY_LIMIT: Duration = Duration::from_mins(1);

/// A cluster, and holdfast once it serves it.
pub(crate) struct Cluster {
    plane: ControlPlane,
    client: Client,
    screen: Screen,
    /// The program that is a kubectl too; none for the cluster of `KUBECONFIG`, whose owner has one.
    kubectl: Option<PathBuf>,
    program: PathBuf,
    config: PathBuf,
    namespace: String,
    holdfast: Option<Holdfast>,
}

/// An open claim as `holdfast claims -o json` shows it.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) state: String,
    pub(crate) address: String,
    /// When it ends, unless a pod of its name comes before.
    pub(crate) expires_at: Option<Timestamp>,
}

impl Cluster {
    /// Builds what is needed and starts a control plane, or uses the cluster of `KUBECONFIG`.
    pub(crate) async fn start(screen: Screen) -> Result<Self> {
        screen.text("Building holdfast.");
        let program = build_holdfast(false).await?;
        screen.text(
            "Starting a control plane, or connecting to the cluster of KUBECONFIG if that is set.",
        );
        let plane = ControlPlane::start(Options::default()).await?;
        let client = plane.client().await?;
        let version = client
            .apiserver_version()
            .await
            .context("cannot ask the API server for its version")?
            .git_version;
        screen.text(&if plane.is_external() {
            format!("The cluster of KUBECONFIG answers: Kubernetes {version}.")
        } else {
            format!(
                "etcd, kube-apiserver, kube-controller-manager and kube-scheduler {version} run on loopback."
            )
        });
        Ok(Self {
            client,
            screen,
            kubectl: if plane.is_external() {
                None
            } else {
                Some(CONTROL_PLANE.path()?)
            },
            program,
            config: plane.dir().join("holdfast.yaml"),
            // Not `default` where others live.
            namespace: if plane.is_external() {
                format!("holdfast-demo-{}", std::process::id())
            } else {
                "default".to_owned()
            },
            holdfast: None,
            plane,
        })
    }

    /// Starts holdfast and returns when its nodes are ready and its webhook is registered.
    pub(crate) async fn serve(&mut self) -> Result<()> {
        let config = self.write_config().await?;
        if self.plane.is_external() {
            self.refuse_an_occupied_cluster().await?;
        }
        self.screen.heading(
            "holdfast",
            "Two ACS virtual nodes in two zones, each with a vSwitch, and a simulated ECS node:",
        );
        self.screen.output(config.trim());
        self.screen.command("holdfast run -c holdfast.yaml");
        let args: [&Path; 5] = [
            "run".as_ref(),
            "-c".as_ref(),
            &self.config,
            "--kubeconfig".as_ref(),
            self.plane.kubeconfig(),
        ];
        // Its log is read by people, in an editor or in an error of ours.
        let plain = [("NO_COLOR", "1")];
        let holdfast = Holdfast::spawn(&self.program, args, plain, &self.log()).await?;
        self.holdfast = Some(holdfast);
        if self.plane.is_external() {
            self.show_kubectl(&["create", "namespace", &self.namespace])
                .await?;
        }
        self.wait_until_serving().await
    }

    async fn write_config(&self) -> Result<String> {
        let address = address_towards_the_api_server(self.plane.kubeconfig()).await?;
        let ledger = self.plane.dir().join("holdfast.db");
        // One for each entry of `nodes`; the usual ones may be those of a kubelet.
        let port = free_ports_in_a_row(3);
        let config = format!(
            "\
region: cn-wulanchabu
ledger: {ledger}
profile: acs
vswitches:
- {{id: vsw-b, zone: cn-wulanchabu-b, cidr: 192.168.1.0/24}}
- {{id: vsw-c, zone: cn-wulanchabu-c, cidr: 192.168.2.0/24}}
nodes:
- {{zone: cn-wulanchabu-b}}
- {{zone: cn-wulanchabu-c}}
- {{name: ecs-1, zone: cn-wulanchabu-b, type: ecs}}
retention: {{hours: 48, hour: {HOUR_MS}ms}}   # an hour of retention lasts {HOUR_MS} ms here, so 48 are {} s
kubelet: {{address: {address}, port: {port}}}
webhook: {{address: {address}}}
",
            48 * HOUR_MS / 1000,
            // A JSON string is a YAML string, whatever the path has in it.
            ledger = json!(ledger.to_string_lossy()),
            address = json!(address.to_string()),
        );
        tokio::fs::write(&self.config, &config)
            .await
            .with_context(|| format!("cannot write {}", self.config.display()))?;
        Ok(config)
    }

    /// What another holdfast has there would be taken over by ours and removed at the end.
    async fn refuse_an_occupied_cluster(&self) -> Result<()> {
        let asking = "cannot see whether the cluster of KUBECONFIG has a holdfast";
        let mut found = Vec::new();
        let nodes = Api::<Node>::all(self.client.clone());
        for name in NODES {
            if nodes.get_opt(name).await.context(asking)?.is_some() {
                found.push(format!("node {name}"));
            }
        }
        if webhook_is_registered(&self.client).await.context(asking)? {
            found.push("the webhook configuration holdfast".to_owned());
        }
        let leases = Api::<Lease>::namespaced(self.client.clone(), "kube-system");
        let lease = leases.get_opt("holdfast").await.context(asking)?;
        if lease.is_some_and(|it| it.spec.is_some_and(|it| it.holder_identity.is_some())) {
            found.push("the Lease kube-system/holdfast".to_owned());
        }
        ensure!(
            found.is_empty(),
            "the cluster of KUBECONFIG has a holdfast already ({}), and the demo would take its place: stop it and run \
             `holdfast uninstall`, or unset KUBECONFIG",
            found.join(", ")
        );
        Ok(())
    }

    async fn wait_until_serving(&mut self) -> Result<()> {
        let client = self.client.clone();
        // In its place all the time: an interruption must find what there is to clean up.
        let holdfast = self.holdfast.as_mut().context("holdfast was not started")?;
        let ended = eventually(
            "holdfast serves the cluster",
            READY_LIMIT,
            async || match holdfast.exited() {
                Ok(None) => is_serving(&client).await.map(|()| None),
                Ok(Some(status)) => Ok(Some(format!("holdfast ended ({status})"))),
                Err(e) => Ok(Some(format!("{e:#}"))),
            },
        )
        .await;
        match ended.with_context(|| format!("holdfast's log:\n{}", holdfast.log()))? {
            None => Ok(()),
            Some(ended) => bail!("{ended}; its log:\n{}", holdfast.log().trim_end()),
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace of the demo's pods.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Runs kubectl in the demo's namespace, and shows the command and what it says.
    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<()> {
        if self.plane.is_external() {
            self.show_kubectl(&[args, &["-n", &self.namespace]].concat())
                .await
        } else {
            self.show_kubectl(args).await
        }
    }

    async fn show_kubectl(&self, args: &[&str]) -> Result<()> {
        let words: Vec<_> = args.iter().map(|arg| quoted(arg)).collect();
        self.screen.command(&format!("kubectl {}", words.join(" ")));
        self.screen.output(&self.plane.kubectl(args).await?);
        Ok(())
    }

    /// Runs a command of holdfast that asks the ledger, and shows the command and the answer.
    pub(crate) async fn show_ledger(&self, command: &str) -> Result<()> {
        self.screen.command(&format!("holdfast {command}"));
        self.screen.output(&self.ask_ledger(&[command]).await?);
        Ok(())
    }

    /// The claim of a pod of the demo, if there is one.
    pub(crate) async fn claim(&self, pod: &str) -> Result<Option<Claim>> {
        let claims = self.ask_ledger_json("claims").await?;
        let claim = claims
            .iter()
            .find(|it| it["namespace"] == self.namespace && it["name"] == pod);
        let Some(claim) = claim else { return Ok(None) };
        Ok(Some(Claim {
            state: text(&claim["state"])?,
            address: text(&claim["address"])?,
            expires_at: match &claim["expires_at"] {
                Value::Null => None,
                at => Some(text(at)?.parse().context("`expires_at` is no time")?),
            },
        }))
    }

    /// The address, ENI and MAC that the ledger has for the pod with this UID.
    pub(crate) async fn address_of(&self, uid: &str) -> Result<[String; 3]> {
        let addresses = self.ask_ledger_json("addresses").await?;
        let row = addresses
            .iter()
            .find(|it| it["uid"] == uid)
            .with_context(|| format!("the ledger has no address for the pod with uid {uid}"))?;
        Ok([
            text(&row["address"])?,
            text(&row["eni"])?,
            text(&row["mac"])?,
        ])
    }

    /// Whether nobody has or may come back to `address`.
    pub(crate) async fn is_free(&self, address: &str) -> Result<bool> {
        let taken = self.ask_ledger_json("addresses").await?;
        Ok(!taken.iter().any(|it| it["address"] == address))
    }

    async fn ask_ledger_json(&self, command: &str) -> Result<Vec<Value>> {
        let answer = self.ask_ledger(&[command, "-o", "json"]).await?;
        serde_json::from_str(&answer)
            .with_context(|| format!("`holdfast {command} -o json` is no JSON array"))
    }

    async fn ask_ledger(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(args).arg("-c").arg(&self.config);
        let output = run(command).await?;
        String::from_utf8(output.stdout).context("holdfast wrote something that is not UTF-8")
    }

    /// Where things are, for `--keep`.
    pub(crate) fn explain_how_to_look_around(&self) {
        let mut lines = Vec::new();
        if let Some(kubectl) = &self.kubectl {
            lines.push(format!(
                "export KUBECONFIG={}",
                self.plane.kubeconfig().display()
            ));
            lines.push(format!("alias kubectl='{} kubectl'", kubectl.display()));
        }
        let namespace = if self.plane.is_external() {
            format!(" -n {}", self.namespace)
        } else {
            String::new()
        };
        for command in ["get pod -o wide -w", "rollout restart statefulset web"] {
            lines.push(format!("kubectl {command}{namespace}"));
        }
        let (program, config) = (self.program.display(), self.config.display());
        lines.push(format!("{program} claims -c {config}"));
        self.screen.heading(
            "The cluster and holdfast keep running until Ctrl-C",
            &format!(
                "An hour of retention still lasts {HOUR_MS} ms. holdfast's log is {}. In another terminal:",
                self.log().display()
            ),
        );
        self.screen.output(&lines.join("\n"));
    }

    /// What an interrupted [`Cluster::close`] may leave behind.
    pub(crate) fn leftovers(&self) -> String {
        if self.plane.is_external() {
            format!(
                "the cluster may still have namespace {} and the nodes and the webhook configuration of holdfast",
                self.namespace
            )
        } else {
            "nothing is left".to_owned()
        }
    }

    /// Removes the demo's traces from a cluster that stays; one of our own ends with everything in it when dropped.
    pub(crate) async fn close(&mut self) -> Result<()> {
        let Some(mut holdfast) = self.holdfast.take() else {
            return Ok(());
        };
        if !self.plane.is_external() {
            return Ok(());
        }
        self.screen
            .heading("Cleaning up", "The cluster gets back to what it was.");
        let namespace = ["delete", "namespace", &self.namespace, "--ignore-not-found"];
        // While holdfast serves: it ends the pods.
        let emptied = self.show_kubectl(&namespace).await;
        if holdfast.exited()?.is_some() {
            // It was refused or has failed, so it may not be the one whose nodes are there.
            return emptied;
        }
        holdfast.sigterm_and_wait(Duration::from_secs(30)).await?;
        let mut uninstall = Command::new(&self.program);
        uninstall.arg("uninstall").arg("-c").arg(&self.config);
        uninstall.arg("--kubeconfig").arg(self.plane.kubeconfig());
        self.screen.command("holdfast uninstall -c holdfast.yaml");
        let output = run(uninstall).await?;
        self.screen.output(&String::from_utf8_lossy(&output.stdout));
        emptied
    }

    fn log(&self) -> PathBuf {
        self.plane.dir().join("holdfast.log")
    }
}

async fn webhook_is_registered(client: &Client) -> kube::Result<bool> {
    let webhooks = Api::<MutatingWebhookConfiguration>::all(client.clone());
    Ok(webhooks.get_opt("holdfast").await?.is_some())
}

/// Whether all nodes are ready and pods go through the webhook; else what is missing.
async fn is_serving(client: &Client) -> Result<(), String> {
    let nodes = Api::<Node>::all(client.clone());
    for name in NODES {
        let node = nodes.get_opt(name).await.map_err(|e| e.to_string())?;
        let conditions = node
            .and_then(|it| it.status?.conditions)
            .unwrap_or_default();
        if !conditions
            .iter()
            .any(|it| it.type_ == "Ready" && it.status == "True")
        {
            return Err(format!("node {name} is not ready"));
        }
    }
    match webhook_is_registered(client).await {
        Ok(true) => Ok(()),
        Ok(false) => Err("its webhook is not registered".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// The address of this machine from which it reaches the API server, and so the one it can be reached at if there is
/// no address translation between them.
async fn address_towards_the_api_server(kubeconfig: &Path) -> Result<IpAddr> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("cannot use the kubeconfig")?;
    let server = config.cluster_url;
    let host = server.host().context("the kubeconfig names no server")?;
    let host = host.trim_matches(['[', ']']);
    // Connecting a datagram socket sends nothing; it only chooses the route.
    let unspecified = if host.contains(':') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let route = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(unspecified)?;
        socket.connect((host, server.port_u16().unwrap_or(443)))?;
        Ok(socket.local_addr()?.ip())
    };
    route().with_context(|| format!("there is no route to the API server {server}"))
}

fn text(value: &Value) -> Result<String> {
    let text = value
        .as_str()
        .with_context(|| format!("the ledger's answer has {value} in place of a text"))?;
    Ok(text.to_owned())
}

/// An argument the way a shell needs it.
fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
    if arg.chars().all(plain) {
        arg.to_owned()
    } else {
        format!("'{arg}'")
    }
}
