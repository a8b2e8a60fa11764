//! `cargo demo [--keep]`: shows on a real control plane what holdfast does, and checks that it does it.
//!
//! Owns the order of things from the building to the cleaning up. What is promised is in [`promise`], what is done to
//! see it in [`script`]; the cluster and holdfast on it are in [`cluster`], how it looks is in [`screen`]. Deliberately
//! knows holdfast only as its users do: by its command line, its events, and what pods show.
//!
//! Ends with 0 when everything was as promised, 1 when not, 2 when the arguments are wrong.

mod cluster;
mod promise;
mod screen;
mod script;

use std::{env, process::ExitCode, time::Instant};

use anyhow::{Context, Error, Result, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{cluster::Cluster, screen::Screen};

const USAGE: &str = "\
usage: cargo demo [--keep]

Builds holdfast, starts a Kubernetes control plane on this machine (or uses the cluster of KUBECONFIG), and shows pods
that keep their address over a rolling upgrade, lose it between ACS and ECS nodes, and lose it when its retention has
run out. Takes about a minute once everything is built.

  --keep   leaves the cluster and holdfast running at the end, until Ctrl-C, to look around with kubectl";

fn main() -> ExitCode {
    let mut keep = false;
    for arg in env::args().skip(1) {
        match arg.as_str() {
            "--keep" => keep = true,
            "-h" | "--help" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("demo: there is no argument {other}\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match block_on_run(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\ndemo: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn block_on_run(keep: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let result = runtime.block_on(run(keep));
    // After an interruption a thread may still wait for a Go build, which Ctrl-C has reached too.
    runtime.shutdown_background();
    result
}

async fn run(keep: bool) -> Result<()> {
    let screen = Screen::new();
    let mut interrupt = Interrupt::listen()?;
    let mut cluster = tokio::select! {
        biased;
        interrupted = interrupt.wait() => return Err(interrupted),
        started = Cluster::start(screen) => started?,
    };
    let (result, interrupted) = tokio::select! {
        biased;
        interrupted = interrupt.wait() => (Err(interrupted), true),
        result = show(&mut cluster, screen) => (result, false),
    };
    if keep && !interrupted {
        if let Err(e) = &result {
            eprintln!("\ndemo: {e:#}");
        }
        cluster.explain_how_to_look_around();
        // The one end that a kept cluster has; what was seen before it decides the exit status.
        let _ = interrupt.wait().await;
    } else if result.is_ok() {
        screen.text(
            "To look around with kubectl (none needs to be installed): `cargo demo --keep` leaves the cluster and \
             holdfast running at the end.",
        );
    }
    let closed = tokio::select! {
        biased;
        _ = interrupt.wait() => Err(anyhow!("interrupted while cleaning up: {}", cluster.leftovers())),
        closed = cluster.close() => closed,
    };
    result.and(closed)
}

async fn show(cluster: &mut Cluster, screen: Screen) -> Result<()> {
    let began = Instant::now();
    cluster.serve().await?;
    script::play(cluster, screen).await?;
    screen.good(&format!(
        "Everything was as promised; it took {} s.",
        began.elapsed().as_secs()
    ));
    Ok(())
}

/// Ctrl-C, or SIGTERM.
struct Interrupt([Signal; 2]);

impl Interrupt {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
        ]))
    }

    /// Waits for the next one and returns it as the error that ends the demo.
    async fn wait(&mut self) -> Error {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => anyhow!("interrupted before the end"),
            _ = terminate.recv() => anyhow!("told to stop before the end"),
        }
    }
}
