//! The command line: what is asked, and how answers and errors look.
//!
//! Owns arguments, exit codes and output formats. Contains no rule: `run` is wired in
//! [`crate::serve`], and the commands that read ask [`holdfast_provider::ledger::Reader`].
//!
//! Exit codes: 0 done, 1 it failed, 2 the arguments or the configuration are wrong, 3 no: the
//! address is in use, nothing is known of that time or pod, or a check found something.

mod check;
mod explain;
mod faults;
mod history;
mod output;
mod release;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use holdfast_provider::cloud::sim;
use holdfast_provider::id::PodKey;
use holdfast_provider::ledger::faults::Error as FaultError;
use holdfast_provider::ledger::{self, Reader, operator};
use kube::Client;
use tracing_subscriber::EnvFilter;

use crate::chain::chain;
use crate::cluster_lease::ClusterLease;
use crate::config::{self, Config, PROCESS};
use crate::{clock, kube_client, node, serve, webhook};

use output::Format;

/// Virtual Kubernetes nodes whose pods keep their IP address, ENI and MAC when they are deleted
/// and made again under the same name.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the virtual nodes.
    Run(Run),
    /// Remove the nodes, their leases, the cluster lease and the webhook configuration.
    Uninstall(Cluster),
    /// List the vSwitches and what their addresses do.
    Vswitches(Query),
    /// List the addresses that are not free.
    Addresses {
        #[command(flatten)]
        query: Query,
        /// List the free ones too.
        #[arg(long)]
        all: bool,
    },
    /// List the claims: who holds a fixed address, or for how long it is still kept.
    Claims {
        #[command(flatten)]
        query: Query,
        /// Only the claims of this namespace.
        #[arg(short, long)]
        namespace: Option<String>,
    },
    /// Tell what became of an address, or of a pod and its addresses.
    History(history::HistoryArgs),
    /// Tell which pod had an address at some time.
    Who(history::WhoArgs),
    /// End the claim of a pod that is gone before its time, so that its address becomes free.
    Release(release::Args),
    /// Tell what a pod gets, or would get if it were made now, and why.
    Explain(explain::Args),
    /// List the faults of the simulated cloud, or set and clear them while holdfast runs.
    Faults(faults::Args),
    /// Check that the ledger has lost, doubled or stolen no address. Changes nothing in it.
    Check(check::Args),
}

/// Exit code of an answer that is no.
const NO: u8 = 3;

/// The configuration that is read when none is named.
const CONFIG: &str = "holdfast.yaml";

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    cluster: Cluster,
    /// Replace another holdfast that serves this cluster from another ledger.
    #[arg(long)]
    take_over: bool,
}

#[derive(Debug, Args)]
struct Cluster {
    /// The configuration.
    #[arg(short, long, default_value = CONFIG)]
    config: PathBuf,
    /// The cluster; else KUBECONFIG, `~/.kube/config`, or the service account of the pod.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Query {
    /// The configuration that names the ledger; else holdfast.yaml.
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// The ledger file itself; no configuration is read then, save by `check --repair --yes`.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// How the answer looks.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // An error here would mean that something else has chosen already, and nothing else does.
    drop(rustls::crypto::ring::default_provider().install_default());
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("holdfast: {}", chain(error.as_ref()));
            exit_code(&error)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_usage = error.chain().any(|cause| {
        cause.is::<config::Error>()
            || cause.is::<sim::Invalid>()
            || cause.is::<check::Unconfigured>()
    });
    // A transparent error hides the one that it tells from the chain.
    let is_invalid = matches!(
        error.downcast_ref::<FaultError>(),
        Some(FaultError::Invalid(_))
    );
    let (is_ambiguous, in_use) = match error.downcast_ref::<operator::Error>() {
        Some(operator::Error::Ambiguous { .. }) => (true, false),
        Some(operator::Error::InUse { .. }) => (false, true),
        _ => (false, false),
    };
    match error.downcast_ref::<explain::Error>() {
        Some(explain::Error::Arguments(_)) => return ExitCode::from(2),
        Some(explain::Error::Unknown { .. }) => return ExitCode::from(NO),
        None => {}
    }
    ExitCode::from(match (is_usage || is_invalid || is_ambiguous, in_use) {
        (true, _) => 2,
        (_, true) => NO,
        _ => 1,
    })
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Run(run) => {
            log_to_stderr();
            let config = Config::load_with(&run.cluster.config, PROCESS)?;
            let source = run.cluster.config.clone();
            block_on(serve::run(
                config,
                source,
                run.cluster.kubeconfig,
                run.take_over,
            ))
        }
        Command::Uninstall(cluster) => {
            log_to_stderr();
            let config = Config::load(&cluster.config)?;
            block_on(uninstall(&config, cluster.kubeconfig.as_deref()))
        }
        Command::Vswitches(query) => {
            let rows = reader(&query)?
                .vswitches(clock::wall())
                .context("could not read the ledger")?;
            output::print(query.output, &rows)
        }
        Command::Addresses { query, all } => {
            let rows = reader(&query)?
                .addresses(all)
                .context("could not read the ledger")?;
            output::print(query.output, &rows)
        }
        Command::Claims { query, namespace } => {
            let now = clock::wall();
            let mut rows = reader(&query)?
                .claims(now)
                .context("could not read the ledger")?;
            if let Some(namespace) = namespace {
                rows.retain(|claim| *claim.key.namespace == *namespace);
            }
            output::print(query.output, &output::Timed { rows: &rows, now })
        }
        Command::History(args) => history::history(&args),
        Command::Who(args) => return history::who(&args),
        Command::Release(args) => release::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Faults(args) => faults::run(&args),
        Command::Check(args) => return check::run(&args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// What is logged unless RUST_LOG says otherwise. kube's client reports every connection that
/// fails, and so does whoever tried, once per outage and with the purpose.
const LOGGED: &str = "info,kube_client=off";

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // One thread: what runs here waits nearly always, and each further thread keeps memory of its
    // own. The ledger and the kubelet API have threads of their own.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().context("could not start")?;
    runtime.block_on(work)
}

fn reader(query: &Query) -> anyhow::Result<Reader> {
    Ok(Reader::open(&query.ledger()?)?)
}

impl Query {
    fn config(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(CONFIG))
    }

    /// The file that is asked.
    fn ledger(&self) -> anyhow::Result<PathBuf> {
        match &self.ledger {
            Some(path) => Ok(path.clone()),
            None => Ok(Config::load(self.config())?.ledger),
        }
    }
}

/// NAMESPACE/POD.
fn pod_key(text: &str) -> Result<PodKey, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(PodKey::new(namespace, name))
        }
        _ => Err("write NAMESPACE/POD, such as default/web-0".to_owned()),
    }
}

/// Who holds the cluster's Lease while an uninstall runs that has no ledger of its own.
const UNINSTALL: &str = "uninstall";

async fn uninstall(config: &Config, kubeconfig: Option<&Path>) -> anyhow::Result<()> {
    let ledger = &config.ledger;
    if ledger::is_running(ledger)? {
        bail!(
            "a holdfast still runs on the ledger {} and would make everything anew: stop it first",
            ledger.display()
        );
    }
    let known = if ledger.exists() {
        Reader::open(ledger)?.id()?
    } else {
        None
    };
    let access = kube_client::access(kubeconfig).await?;
    let client = kube_client::client(&access)?;
    // Nobody else can begin to serve the cluster while its nodes go.
    let holder = known.as_deref().unwrap_or(UNINSTALL);
    let mut lease = ClusterLease::acquire(kube_client::client(&access)?, holder, false)
        .await
        .context("nothing was removed")?;
    let removed = tokio::select! {
        removed = remove_all(client, config) => removed?,
        lost = lease.hold() => return Err(lost).context("stopped halfway"),
    };
    lease.release().await?;
    for node in &removed.nodes {
        println!("removed node {node}");
    }
    println!(
        "removed {} nodes, {} node leases, the cluster's lease and the webhook configuration",
        removed.nodes.len(),
        removed.leases
    );
    for kept in removed.kept {
        println!("left alone: node {kept}, which holdfast did not make");
    }
    Ok(())
}

/// The webhook goes first: left behind alone, it would keep pods from being created.
async fn remove_all(client: Client, config: &Config) -> anyhow::Result<node::Uninstalled> {
    webhook::unregister(client.clone()).await?;
    Ok(node::uninstall(client, config).await?)
}
