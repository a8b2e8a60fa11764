//! `cargo compare`: measures holdfast beside KWOK, in turn on one control plane.
//!
//! Owns the order of things. Who is measured is in [`system`], what is done to it in [`scenario`] and [`load`], how it
//! is told in [`report`]. A program of the test bed and not a command of holdfast, because the control plane is the
//! test bed's; it must itself be built for release, or the load would take the processors that it measures.
//!
//! Ends with 0 when all was measured, 1 when it broke off (what was measured until then is told all the same), 2 when
//! the arguments are wrong.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of pods and milliseconds are small and not negative"
)]

mod acs;
mod fairness;
mod feed;
mod leases;
mod load;
mod nodes;
mod options;
mod process;
mod progress;
mod report;
mod requests;
mod scenario;
mod system;

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use holdfast_testbed::{ControlPlane, KWOK, build_holdfast, is_external};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    options::{Kind, Options, Plan, Restart, Turn},
    progress::Progress,
    report::Entry,
    scenario::Bench,
    system::Programs,
};

fn main() -> ExitCode {
    let plan = match Options::parse().plan() {
        Ok(plan) => plan,
        Err(e) => {
            eprintln!("compare: {e:#}");
            return ExitCode::from(2);
        }
    };
    match block_on_run(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("compare: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn block_on_run(plan: &Plan) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let result = runtime.block_on(run(plan));
    // After an interruption a thread may still wait for a Go build, which Ctrl-C has reached too.
    runtime.shutdown_background();
    result
}

async fn run(plan: &Plan) -> Result<()> {
    ensure!(
        !is_external(),
        "the processes of the cluster of KUBECONFIG cannot be measured; unset KUBECONFIG"
    );
    raise_limit()?;
    let mut bench = interruptible(prepare(plan)).await?;
    let version = bench
        .client
        .apiserver_version()
        .await
        .context("cannot ask the API server for its version")?
        .git_version;
    let load_before = report::load_average();
    let mut entries = Vec::new();
    let measured = interruptible(measure(&mut bench, &mut entries)).await;
    if entries.is_empty() {
        return measured;
    }
    println!(
        "{}; Kubernetes {version}, priority and fairness {}; KWOK 0.8.0; load average before: {load_before}; {} rounds{}.\n\
         Medians (smallest-largest).\n\n{}",
        report::machine(),
        if plan.fairness { "on" } else { "off" },
        plan.rounds,
        if measured.is_ok() { "" } else { ", broken off" },
        report::table(&entries, &plan.systems)
    );
    let written = report::write_json(plan, &entries, &version, &load_before, measured.is_ok());
    measured.and(written)
}

async fn interruptible<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = work => result,
        _ = asked_to_stop() => Err(anyhow!("interrupted before the end")),
    }
}

/// Ctrl-C, or SIGTERM as `timeout` sends it. Not the end of a terminal: who starts this with `nohup` wants it to go on.
async fn asked_to_stop() -> Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot listen to signals"),
        _ = terminated.recv() => Ok(()),
    }
}

/// The load has a connection for each of its requests, and at a fixed rate as many of those as it takes.
fn raise_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}

/// Builds what is needed and starts the control plane.
async fn prepare(plan: &Plan) -> Result<Bench<'_>> {
    let mut progress = Progress::new();
    progress.begin("building holdfast and KWOK".to_owned());
    let programs = Programs {
        holdfast: build_holdfast(true).await?,
        other: plan.other.clone(),
        kwok: tokio::task::spawn_blocking(|| KWOK.path())
            .await
            .context("building KWOK panicked")??,
    };
    progress.begin("control plane".to_owned());
    let plane = ControlPlane::start(control_plane_options(plan)).await?;
    let client = plane.client().await?;
    Ok(Bench {
        plan,
        programs,
        plane,
        client,
        progress,
        starts: 0,
    })
}

/// One measure after the other, and in each of them the systems in turn, as often as there are rounds: so whatever
/// changes with time changes alike, and each turn follows one of another system that did the same. After another measure,
/// or the 41 s that a killed KWOK rests, an API server takes another time for the same.
async fn measure(bench: &mut Bench<'_>, entries: &mut Vec<Entry>) -> Result<()> {
    let plan = bench.plan;
    for pods in &plan.bursts {
        for turn in plan.turns(plan.rounds) {
            bench.begin(turn, &format!("burst of {pods}"));
            let sample = bench.burst(turn.kind, *pods).await?;
            keep(bench, entries, turn, sample);
        }
    }
    if !plan.rates.is_empty() {
        for turn in plan.turns(plan.rounds) {
            for sample in bench.latencies(turn).await? {
                keep(bench, entries, turn, sample);
            }
        }
    }
    for restart in &plan.restarts {
        for turn in plan.turns(plan.restart_rounds) {
            let Restart { old, new } = restart;
            bench.begin(turn, &format!("kill -9 with {old} pods, then {new} new"));
            let sample = bench.restart(turn.kind, *restart).await?;
            keep(bench, entries, turn, sample);
        }
    }
    measure_more(bench, entries).await
}

/// What holds for the whole of a system and not for its speed.
async fn measure_more(bench: &mut Bench<'_>, entries: &mut Vec<Entry>) -> Result<()> {
    let plan = bench.plan;
    for nodes in &plan.nodes {
        for turn in plan.turns(plan.rounds) {
            bench.begin(turn, &format!("{nodes} nodes"));
            let sample = bench.nodes(turn.kind, *nodes).await?;
            keep(bench, entries, turn, sample);
        }
    }
    for pods in &plan.tenant_bursts {
        for turn in plan.turns(plan.rounds) {
            bench.begin(turn, &format!("single pods beside a burst of {pods}"));
            let sample = bench.fairness(turn.kind, *pods).await?;
            keep(bench, entries, turn, sample);
        }
    }
    for pods in &plan.acs {
        let turns = plan.turns(plan.rounds);
        for turn in turns.filter(|turn| turn.kind == Kind::Holdfast) {
            bench.begin(turn, &format!("profile acs with {pods} pods"));
            let sample = bench.acs_delays(*pods).await?;
            keep(bench, entries, turn, sample);
            let sample = bench.acs_throttle(*pods).await?;
            keep(bench, entries, turn, sample);
        }
    }
    Ok(())
}

fn keep(bench: &Bench<'_>, entries: &mut Vec<Entry>, turn: Turn, sample: scenario::Sample) {
    bench
        .progress
        .say(&serde_json::to_string(&sample).unwrap_or_default());
    entries.push(Entry {
        round: turn.round,
        system: turn.kind.name(),
        sample,
    });
}

fn control_plane_options(plan: &Plan) -> holdfast_testbed::Options {
    let unlimited = [
        "--enable-priority-and-fairness=false",
        "--max-requests-inflight=0",
        "--max-mutating-requests-inflight=0",
    ];
    holdfast_testbed::Options {
        apiserver_flags: if plan.fairness {
            Vec::new()
        } else {
            unlimited.map(str::to_owned).to_vec()
        },
        ..holdfast_testbed::Options::default()
    }
}
