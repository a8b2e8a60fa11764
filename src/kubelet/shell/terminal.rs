//! What a command can know of its terminal: how large it is.
//!
//! Modes are not kept: the line discipline in [`super::io`] is the only one.

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::interpreter::Shell;
use crate::kubelet::streaming::TerminalSize;

/// Clients send the first size with the command or right after it.
const FIRST_SIZE_PATIENCE: Duration = Duration::from_secs(1);

/// The terminal of a session.
#[derive(Clone, Debug)]
pub struct Terminal(watch::Receiver<Option<TerminalSize>>);

impl Terminal {
    /// A terminal that is as large as the newest value says; none is known before the first.
    pub fn new(size: watch::Receiver<Option<TerminalSize>>) -> Self {
        Self(size)
    }

    /// Its size now. A client that never says one has a terminal of no size, as a pseudo-terminal begins with.
    async fn size(&self) -> TerminalSize {
        let mut known = self.0.clone();
        let first = timeout(FIRST_SIZE_PATIENCE, known.wait_for(Option::is_some)).await;
        let size = first.ok().and_then(Result::ok).and_then(|size| *size);
        size.unwrap_or(TerminalSize {
            width: 0,
            height: 0,
        })
    }
}

pub(super) async fn stty(shell: &Shell<'_>, args: &[String]) -> io::Result<i32> {
    let Some(terminal) = shell.io.stdin.terminal() else {
        let message = "standard input: Inappropriate ioctl for device";
        return shell.fail("stty", message).await;
    };
    match args {
        [what] if what == "size" => {
            let TerminalSize { width, height } = terminal.size().await;
            shell.io.stdout.write(format!("{height} {width}\n")).await?;
            Ok(0)
        }
        _ => {
            let message = "only `stty size` is known in this simulated container";
            shell.fail("stty", message).await
        }
    }
}
