//! Commands that are run to their end, and the one that builds the program under test.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Has Cargo build holdfast, with its progress on standard error, and returns the program's path.
///
/// # Errors
/// Cargo is missing, or the build fails.
pub async fn build_holdfast(release: bool) -> Result<PathBuf> {
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        // Not by package, for the same reason as in the alias of this demo.
        .args([
            "build",
            "--bin",
            "holdfast",
            "--message-format=json-render-diagnostics",
        ])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"))
        .stderr(Stdio::inherit());
    if release {
        build.arg("--release");
    }
    // What `cargo run` says of this program: build scripts that read the like of it would find it changed, here and at
    // the next `cargo build`, and half of all crates would be compiled again each time.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|it| name.starts_with(it))
        {
            build.env_remove(name);
        }
    }
    let output = run(build).await?;
    let messages =
        String::from_utf8(output.stdout).context("cargo wrote something that is not UTF-8")?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|it| it["reason"] == "compiler-artifact" && it["target"]["name"] == "holdfast")
        .find_map(|it| it["executable"].as_str().map(PathBuf::from))
        .context("cargo names no program holdfast")
}

/// Runs a command to its end; a command that fails is an error with what it wrote on standard error.
///
/// # Errors
/// There is no such program, or it fails.
pub async fn run(command: Command) -> Result<Output> {
    let name = format!("{command:?}");
    let output = tokio::process::Command::from(command)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {name}"))?;
    ensure!(
        output.status.success(),
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output)
}
