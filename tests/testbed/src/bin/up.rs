//! `up [PROGRAM ARGUMENTS...]`: starts a control plane and, with its `KUBECONFIG`, the program; keeps both until Ctrl-C.
//!
//! For looking around by hand, and for the test that nothing is left behind when its owner is killed.

use std::{env, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use holdfast_testbed::{ControlPlane, Holdfast, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let plane = ControlPlane::start(Options::default()).await?;
    let mut pids = plane.pids();
    println!("export KUBECONFIG={}", plane.kubeconfig().display());

    let mut command = env::args_os().skip(1);
    let program = match command.next() {
        Some(program) => {
            let log = plane.dir().join("program.log");
            println!("# its log is {}", log.display());
            let env = [("KUBECONFIG", plane.kubeconfig())];
            Some(Holdfast::spawn(Path::new(&program), command, env, &log).await?)
        }
        None => None,
    };
    pids.extend(program.as_ref().map(Holdfast::pid));
    println!("# running as {pids:?}");

    tokio::signal::ctrl_c()
        .await
        .context("cannot wait for Ctrl-C")?;
    drop(program);
    plane.stop();
    Ok(())
}
