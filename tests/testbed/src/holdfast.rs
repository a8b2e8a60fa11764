//! The program under test as a process: started, signalled, and never left behind.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{eventually, process::Supervised};

/// Runs a program that does not watch its standard input, and kills it when the guard's own ends.
///
/// `$0` is the file that gets the program's process id, `$@` the program. The watcher is a process of its own, so it
/// does its work even if the guard itself is killed. Both let go of the program's output, and the shell's remark about
/// a killed job goes nowhere: the log is the program's alone. A shell and not a part of the control plane's program,
/// because with KUBECONFIG that one need not exist.
const GUARD: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
program=$!
exec >/dev/null 2>&1
printf %s "$program" >"$0.partial" && mv "$0.partial" "$0"
{ while read -r _; do :; done; kill -9 "$program"; } <&3 &
watcher=$!
wait "$program"
status=$?
kill "$watcher"
exit "$status"
"#;

/// A running holdfast (or any program); killed when dropped, and by the kernel's help when the test process is.
#[derive(Debug)]
pub struct Holdfast {
    guard: Supervised,
    pid: Pid,
}

impl Holdfast {
    /// Starts `program`; what it writes is appended to the file `log`.
    ///
    /// # Errors
    /// There is no such program or it cannot be started.
    pub async fn spawn(
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        env: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
        log: &Path,
    ) -> Result<Self> {
        ensure!(program.is_file(), "{} is not a program", program.display());
        let dir = TempDir::new().context("cannot make a directory for the process id")?;
        let pid_file = dir.path().join("pid");
        let mut command = Command::new("sh");
        command
            .args(["-c", GUARD])
            .arg(&pid_file)
            .arg(program)
            .args(args)
            .envs(env);
        let guard = Supervised::spawn("holdfast", &mut command, log)?;
        let pid = eventually(
            "the process id of holdfast",
            Duration::from_secs(10),
            async || {
                let text = tokio::fs::read_to_string(&pid_file)
                    .await
                    .map_err(|e| e.to_string())?;
                let number = text
                    .parse()
                    .map_err(|_| format!("{text:?} is no process id"))?;
                Pid::from_raw(number).ok_or_else(|| "it is zero".to_owned())
            },
        )
        .await?;
        Ok(Self { guard, pid })
    }

    /// The process id of the program itself.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The exit status if the program has ended; 128 plus the number of a signal that ended it.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.guard.exited()
    }

    /// Ends the program with SIGKILL and returns when it is gone.
    ///
    /// # Errors
    /// It had ended before, or does not end within ten seconds.
    pub async fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait(Duration::from_secs(10)).await.map(drop)
    }

    /// Asks the program to end with SIGTERM and returns its exit status; see [`Holdfast::exited`].
    ///
    /// # Errors
    /// It had ended before, or does not end within `limit` (the error shows the end of its log).
    pub async fn sigterm_and_wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit).await
    }

    /// Stops the program without ending it, as if its machine had paused.
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// All that was written to the log file, by earlier programs with the same file too.
    pub fn log(&self) -> String {
        self.guard.log()
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        // While the guard runs it has not collected the program, so the number cannot be somebody else's.
        let ended = self.guard.exited()?;
        ensure!(
            ended.is_none(),
            "holdfast has ended already:\n{}",
            self.guard.log_tail()
        );
        kill_process(self.pid, signal).context("cannot signal holdfast")
    }

    async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let guard = &mut self.guard;
        let ended = eventually("the end of holdfast", limit, async || {
            guard
                .exited()
                .map_err(|e| format!("{e:#}"))?
                .ok_or_else(|| "it still runs".to_owned())
        })
        .await;
        ended.with_context(|| format!("the end of its log:\n{}", self.guard.log_tail()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_ENV: [(&str, &str); 0] = [];

    async fn shell(script: &str, env: &[(&str, &str)], log: &Path) -> Holdfast {
        let env = env.iter().copied();
        Holdfast::spawn(Path::new("/bin/sh"), ["-c", script], env, log)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn sigterm_reaches_the_program_and_its_own_exit_status_comes_back() {
        let dir = TempDir::new().unwrap();
        let log = dir.path().join("log");
        let mut program = shell(
            "trap 'exit 7' TERM; echo \"$GREETING\"; while :; do sleep 0.02; done",
            &[("GREETING", "ready")],
            &log,
        )
        .await;
        eventually("the trap is set", Duration::from_secs(10), async || {
            (program.log() == "ready\n")
                .then_some(())
                .ok_or_else(|| program.log())
        })
        .await
        .unwrap();
        let status = program
            .sigterm_and_wait(Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(program.kill9().await.is_err(), "it has ended");
    }

    #[tokio::test]
    async fn a_killed_program_is_gone_and_its_log_holds_its_own_words_only() {
        let dir = TempDir::new().unwrap();
        let log = dir.path().join("log");
        let mut program = shell("echo out; echo err >&2; exec sleep 1000", &[], &log).await;
        eventually(
            "the program has written",
            Duration::from_secs(10),
            async || {
                (program.log() == "out\nerr\n")
                    .then_some(())
                    .ok_or_else(|| program.log())
            },
        )
        .await
        .unwrap();
        program.kill9().await.unwrap();
        assert_eq!(program.exited().unwrap().unwrap().code(), Some(137));
        assert_eq!(program.log(), "out\nerr\n");
    }

    #[tokio::test]
    async fn a_dropped_program_is_gone() {
        let dir = TempDir::new().unwrap();
        let program = shell("exec sleep 1000", &[], &dir.path().join("log")).await;
        let pid = program.pid;
        drop(program);
        assert!(kill_process(pid, Signal::CONT).is_err());
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_refused_by_name() {
        let dir = TempDir::new().unwrap();
        let missing = dir.path().join("missing");
        let refused = Holdfast::spawn(&missing, [""; 0], NO_ENV, &dir.path().join("log")).await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("missing is not a program")
        );
    }
}
