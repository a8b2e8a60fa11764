//! A running control plane, its clients, and the cluster of `KUBECONFIG` in its place.
//!
//! Owns the four processes and their directory. Sharing between tests and cleaning up between them are not here.

use std::{
    env,
    ffi::OsStr,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use crate::{
    CONTROL_PLANE, GoProgram, KUBECTL_1_30, eventually, flags, pki,
    process::{Supervised, stop_all},
    state::StateDir,
};

/// The label of namespaces that [`ControlPlane::create_namespace`] made, and that may be deleted with all they contain.
pub(crate) const NAMESPACE_LABEL: &str = "holdfast.dev/testbed";

/// Chooses the version of kubectl.
const KUBECTL_VARIABLE: &str = "HOLDFAST_KUBECTL";

/// Five seconds is usual on 2 cores; the rest is for a machine that compiles beside it.
const READY_LIMIT: Duration = Duration::from_mins(2);

pub(crate) const APISERVER: &str = "kube-apiserver";

/// A lost race for a port is rare; three in a row mean something else.
const STARTS_MAX: usize = 3;

/// What a control plane has beyond the usual. A cluster of `KUBECONFIG` cannot have any of it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More flags for kube-apiserver, such as `--enable-priority-and-fairness=false`.
    pub apiserver_flags: Vec<String>,
    /// More flags for kube-controller-manager.
    pub controller_manager_flags: Vec<String>,
    /// An audit policy (YAML) to log by; see [`ControlPlane::audit_log`].
    pub audit_policy: Option<String>,
}

impl Options {
    fn is_plain(&self) -> bool {
        self.apiserver_flags.is_empty()
            && self.controller_manager_flags.is_empty()
            && self.audit_policy.is_none()
    }
}

/// A control plane of real Kubernetes 1.36 on loopback; stopped and removed when dropped.
///
/// Holds no resource of an async runtime, so that tests with a runtime each can hand it on.
#[derive(Debug)]
pub struct ControlPlane {
    // Empty for a cluster of KUBECONFIG.
    pub(crate) components: Vec<Supervised>,
    /// To start it again as it was.
    pub(crate) apiserver_flags: Vec<String>,
    kubeconfig: PathBuf,
    state: StateDir,
}

impl ControlPlane {
    /// Starts a control plane (building it first where that has not happened yet) and waits until pods can be created.
    /// With `KUBECONFIG` set, waits for that cluster instead and starts nothing.
    ///
    /// # Errors
    /// The program cannot be built, a component ended or is not ready within two minutes (the error shows the end of
    /// its log), or `options` are given for a cluster of `KUBECONFIG`.
    pub async fn start(options: Options) -> Result<Self> {
        let mut starts = 0;
        loop {
            starts += 1;
            let mut plane = Self::launch(options.clone()).await?;
            match plane.wait_until_ready(&options).await {
                Ok(()) => return Ok(plane),
                Err(_) if starts < STARTS_MAX && plane.lost_a_port() => {}
                Err(e) => return Err(e),
            }
        }
    }

    async fn launch(options: Options) -> Result<Self> {
        if is_external() {
            ensure!(
                options.is_plain(),
                "this test gives its control plane flags or an audit policy, which the cluster of KUBECONFIG cannot \
                 be given; unset KUBECONFIG to run it"
            );
            return Self::external();
        }
        let launched = tokio::task::spawn_blocking(move || Self::launch_own(&options)).await;
        launched.context("starting the control plane panicked")?
    }

    fn external() -> Result<Self> {
        let state = StateDir::create()?;
        // KUBECONFIG may be a list of files with paths relative to each; one flat file serves every reader.
        let merged = Kubeconfig::from_env()
            .context("cannot read the file that KUBECONFIG names")?
            .context("KUBECONFIG names no file that exists")?;
        let kubeconfig = state.path().join("kubeconfig");
        let text = serde_json::to_string(&merged).context("cannot write the merged kubeconfig")?;
        fs::write(&kubeconfig, text).context("cannot write the merged kubeconfig")?;
        Ok(Self {
            components: Vec::new(),
            apiserver_flags: Vec::new(),
            kubeconfig,
            state,
        })
    }

    fn launch_own(options: &Options) -> Result<Self> {
        let program = CONTROL_PLANE.path()?;
        let state = StateDir::create()?;
        let dir = state.path();
        pki::write(dir)?;
        let [client_port, peer_port, secure_port] = free_ports()?;
        for user in ["admin", "controller-manager", "scheduler"] {
            write_kubeconfig(dir, user, secure_port)?;
        }
        let mut plane = Self {
            kubeconfig: dir.join("admin.kubeconfig"),
            components: Vec::new(),
            apiserver_flags: Vec::new(),
            state,
        };
        plane.spawn(&program, "etcd", &flags::etcd(client_port, peer_port))?;
        plane.apiserver_flags = flags::apiserver(plane.dir(), client_port, secure_port, options)?;
        plane.spawn(&program, APISERVER, &plane.apiserver_flags.clone())?;
        Ok(plane)
    }

    /// The controllers and the scheduler give up when the API server stays away for ten seconds, so they come after it.
    fn launch_clients(&mut self, options: &Options) -> Result<()> {
        if self.is_external() {
            return Ok(());
        }
        let program = CONTROL_PLANE.path()?;
        let mut flags = flags::client("controller-manager");
        flags.extend(
            [
                "--service-account-private-key-file=service-account.key",
                "--root-ca-file=ca.crt",
                "--cluster-signing-cert-file=ca.crt",
                "--cluster-signing-key-file=ca.key",
                "--use-service-account-credentials",
            ]
            .map(str::to_owned),
        );
        flags.extend_from_slice(&options.controller_manager_flags);
        self.spawn(&program, "kube-controller-manager", &flags)?;
        self.spawn(&program, "kube-scheduler", &flags::client("scheduler"))
    }

    pub(crate) fn spawn(
        &mut self,
        program: &Path,
        name: &'static str,
        flags: &[String],
    ) -> Result<()> {
        let mut command = Command::new(program);
        // In the state directory, so that flags name files without their path.
        command.arg(name).args(flags).current_dir(self.dir());
        let log = self.dir().join(format!("{name}.log"));
        self.components
            .push(Supervised::spawn(name, &mut command, &log)?);
        Ok(())
    }

    async fn wait_until_ready(&mut self, options: &Options) -> Result<()> {
        self.wait_for_apiserver().await?;
        self.launch_clients(options)?;
        let client = self.client().await?;
        self.wait_for(
            "the controllers have made the default service account",
            async || service_account_exists(&client, "default").await,
        )
        .await
    }

    pub(crate) async fn wait_for_apiserver(&mut self) -> Result<()> {
        let client = self.client().await?;
        self.wait_for("the API server is ready", async || {
            let request = http::Request::get("/readyz")
                .body(Vec::new())
                .map_err(|e| e.to_string())?;
            client
                .request_text(request)
                .await
                .map(drop)
                .map_err(|e| e.to_string())
        })
        .await
    }

    /// Waits for `check`, but not for longer than all components run.
    async fn wait_for(
        &mut self,
        what: &str,
        check: impl AsyncFn() -> Result<(), String>,
    ) -> Result<()> {
        let components = &mut self.components;
        let ended = eventually(what, READY_LIMIT, async || {
            for component in &mut *components {
                match component.exited() {
                    Ok(None) => {}
                    Ok(Some(status)) => {
                        return Ok(Some(format!("{} ended ({status})", component.name())));
                    }
                    Err(e) => return Ok(Some(format!("{e:#}"))),
                }
            }
            // One slow answer must not hide that a component has ended meanwhile.
            let answer = tokio::time::timeout(Duration::from_secs(5), check()).await;
            answer.map_err(|_| "no answer".to_owned())?.map(|()| None)
        })
        .await;
        let failure = match ended {
            Ok(None) => return Ok(()),
            Ok(Some(ended)) => anyhow!("waiting for: {what}, but {ended}"),
            Err(e) => e,
        };
        let tails = components
            .iter()
            .map(|it| format!("\n---- the end of {}'s log\n{}", it.name(), it.log_tail()));
        Err(anyhow!("{failure:#}{}", tails.collect::<String>()))
    }

    /// Whether a component found its port taken by somebody who came between [`free_ports`] and it.
    fn lost_a_port(&self) -> bool {
        self.components
            .iter()
            .any(|it| it.log_tail().contains("address already in use"))
    }

    /// A kubeconfig file of a cluster administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A directory that is removed with the control plane: logs, certificates, and room for a test's own files.
    pub fn dir(&self) -> &Path {
        self.state.path()
    }

    /// The process ids of the components; none for a cluster of `KUBECONFIG`.
    pub fn pids(&self) -> Vec<u32> {
        self.components.iter().map(Supervised::pid).collect()
    }

    /// The API server's audit log, one JSON event per line; there is one if [`Options::audit_policy`] was given.
    pub fn audit_log(&self) -> Option<PathBuf> {
        Some(self.dir().join("audit.log")).filter(|path| path.exists())
    }

    /// Whether this is the cluster of `KUBECONFIG`, which may have nodes and pods that are not the tests'.
    pub fn is_external(&self) -> bool {
        self.components.is_empty()
    }

    /// A new client of a cluster administrator, bound to the caller's runtime.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig =
            Kubeconfig::read_from(&self.kubeconfig).context("cannot read the kubeconfig")?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .context("cannot use the kubeconfig")?;
        Client::try_from(config).context("cannot make a client")
    }

    /// Runs kubectl as a cluster administrator and returns what it wrote on standard output.
    ///
    /// # Errors
    /// kubectl cannot be run or fails; the error carries what it wrote on standard error.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command().await?;
        let output = command.args(args).output().await;
        let output = output.context("cannot run kubectl")?;
        ensure!(
            output.status.success(),
            "kubectl {} failed ({}): {}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).context("kubectl wrote something that is not UTF-8")
    }

    /// kubectl as a cluster administrator, killed when it is dropped: for tests that talk to it. It is of the control
    /// plane's version, unless `HOLDFAST_KUBECTL` asks for another.
    ///
    /// # Errors
    /// There is none and it cannot be built, or `HOLDFAST_KUBECTL` names a version that is not known.
    pub async fn kubectl_command(&self) -> Result<tokio::process::Command> {
        let built = async |program: GoProgram| {
            let path = tokio::task::spawn_blocking(move || program.path()).await;
            path.context("the build panicked")?
        };
        // A user with a cluster has kubectl; building one takes Go and minutes.
        let own = || {
            let mut own = Command::new("kubectl");
            own.args(["version", "--client"]).output().is_ok()
        };
        let mut command = match env::var(KUBECTL_VARIABLE).as_deref() {
            Ok("1.30") => tokio::process::Command::new(built(KUBECTL_1_30).await?),
            Ok(other) if !other.is_empty() => {
                bail!("{KUBECTL_VARIABLE} is {other:?}: only \"1.30\" is known beside the default")
            }
            _ if self.is_external() && own() => tokio::process::Command::new("kubectl"),
            _ => {
                let mut command = tokio::process::Command::new(built(CONTROL_PLANE).await?);
                command.arg("kubectl");
                command
            }
        };
        command
            .env("KUBECONFIG", &self.kubeconfig)
            // The default is in the user's home, by address: another control plane had this port a minute ago.
            .env("KUBECACHEDIR", self.dir().join("kubectl-cache"))
            .kill_on_drop(true);
        Ok(command)
    }

    /// Makes a namespace that nobody had before, named after `prefix`, ready for pods. It goes when the lease of the
    /// control plane is handed on.
    ///
    /// # Errors
    /// It cannot be created or gets no service account within 30 seconds.
    pub async fn create_namespace(&self, prefix: &str) -> Result<String> {
        let client = self.client().await?;
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"generateName": format!("{prefix}-"), "labels": {NAMESPACE_LABEL: "true"}}
        }))
        .context("cannot build a namespace")?;
        let created = Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await;
        let name = created
            .context("cannot create a namespace")?
            .metadata
            .name
            .context("it has no name")?;
        eventually(
            "the namespace has a service account",
            Duration::from_secs(30),
            async || service_account_exists(&client, &name).await,
        )
        .await?;
        Ok(name)
    }

    /// Stops all components and removes [`ControlPlane::dir`]; dropping does the same.
    pub fn stop(self) {}
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        stop_all(&mut self.components);
    }
}

/// Whether the tests are to use a cluster of the user's.
pub fn is_external() -> bool {
    env::var_os("KUBECONFIG").is_some_and(|value| !OsStr::is_empty(&value))
}

/// Pods are refused in a namespace until this service account exists.
async fn service_account_exists(client: &Client, namespace: &str) -> Result<(), String> {
    match Api::<ServiceAccount>::namespaced(client.clone(), namespace)
        .get_opt("default")
        .await
    {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err("there is none".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// Ports that were free a moment ago. The components bind them a moment later and cannot be handed a bound socket.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    // All are held until the last is known, so that they differ.
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?;
        *port = listener
            .local_addr()
            .context("no free port on loopback")?
            .port();
        held.push(listener);
    }
    Ok(ports)
}

fn write_kubeconfig(dir: &Path, user: &str, secure_port: u16) -> Result<()> {
    let file = |name: String| dir.join(name);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {
            "server": format!("https://127.0.0.1:{secure_port}"),
            "certificate-authority": file("ca.crt".to_owned()),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate": file(format!("{user}.crt")),
            "client-key": file(format!("{user}.key")),
        }}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
        "current-context": "testbed",
    });
    // JSON is YAML.
    fs::write(dir.join(format!("{user}.kubeconfig")), config.to_string())
        .with_context(|| format!("cannot write the kubeconfig of {user}"))
}
