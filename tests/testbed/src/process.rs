//! Child processes that end when this process does.
//!
//! Each child's standard input is a pipe whose other end is held here and by nobody else. When this process ends, in
//! any way, `SIGKILL` included, the kernel closes that end, the child reads end of file and exits. No destructor or
//! signal handler has to run for it. The children get a process group of their own, so that Ctrl-C reaches only this
//! process and a program under test never dies from a signal its test did not send.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long a child may take to end after its standard input did; they do so at once unless the machine is busy.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Enough of a log to see why a component gave up; its last words are what matters.
const TAIL_BYTES: u64 = 4096;

/// A running child and its log file.
#[derive(Debug)]
pub(crate) struct Supervised {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Supervised {
    /// Starts `command`, which must end at the end of its standard input; its output is appended to `log`.
    pub(crate) fn spawn(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        let child = command
            .stdin(Stdio::piped())
            .stderr(out.try_clone().context("cannot share the log")?)
            .stdout(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name,
            child,
            log: log.to_owned(),
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the child has ended.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot ask for the state of {}", self.name))
    }

    /// Sends a signal that does not end the child.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Ends the child with SIGKILL and waits until it is gone.
    pub(crate) fn kill9(mut self) {
        // Both fail only for a child that has been waited for, and that one is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The whole log; not UTF-8 clean bytes are replaced.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |e| format!("cannot read {}: {e}", self.log.display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The end of the log, for error messages.
    pub(crate) fn log_tail(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) => format!("cannot read {}: {e}", self.log.display()),
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        stop_all(std::slice::from_mut(self));
    }
}

/// Ends all children together: closes their standard input, waits, and kills what is left after five seconds.
pub(crate) fn stop_all(children: &mut [Supervised]) {
    for it in &mut *children {
        drop(it.child.stdin.take());
    }
    let deadline = Instant::now() + STOP_LIMIT;
    for it in children {
        while Instant::now() < deadline && matches!(it.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        // Both fail only for a child that has been waited for, and that one is gone.
        let _ = it.child.kill();
        let _ = it.child.wait();
    }
}
