//! A small set of commands that answer from a pod's own facts.
//!
//! Owns what `kubectl exec` and `kubectl cp` find in a simulated container: a shell and the commands
//! that people look around with. Nothing runs on the host and no file of the host is read: all that
//! there is, is in [`World`]. What is not there is refused with a sentence and exit code 127.

mod archive;
mod commands;
mod facts;
mod files;
mod interpreter;
mod io;
mod options;
mod parse;
mod print;
mod text;
mod world;

use tokio::io::{AsyncRead, AsyncWrite};

pub use world::{Clock, World};

use interpreter::Shell;
use io::{Input, Io, Output};

/// Runs a command and returns its exit code, 0 to 255.
///
/// Streams may be of any size: what is read is handed on before more is read, and slow readers are
/// waited for. With `tty`, what is typed is echoed to `stdout`, and without `stderr` messages go there
/// too. To stop a command, drop the future.
pub async fn run(
    world: &World,
    command: &[String],
    tty: bool,
    stdin: Option<impl AsyncRead + Send + Unpin>,
    stdout: impl AsyncWrite + Send + Unpin,
    stderr: Option<impl AsyncWrite + Send + Unpin>,
) -> i32 {
    let stdout = Output::stream(Box::new(stdout), tty);
    let stderr = match stderr {
        Some(stderr) => Output::stream(Box::new(stderr), tty),
        None if tty => stdout.clone(),
        None => Output::nowhere(),
    };
    let stdin = match stdin {
        Some(stdin) if tty => Input::tty(Box::new(stdin), stdout.clone()),
        Some(stdin) => Input::stream(Box::new(stdin)),
        None => Input::empty(),
    };
    let io = Io {
        stdin,
        stdout,
        stderr,
    };
    let mut shell = Shell::new(world, io.clone());
    let status = shell.run_command(command.to_vec()).await;
    // Who has hung up misses nothing.
    let _ = io.stdout.flush().await;
    let _ = io.stderr.flush().await;
    status & 0xff
}

#[cfg(test)]
mod tests;
