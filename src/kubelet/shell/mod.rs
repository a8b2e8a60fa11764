//! A small set of commands that answer from a pod's own facts.
//!
//! Owns what `kubectl exec` and `kubectl cp` find in a simulated container: a shell and the commands
//! that people look around with. Nothing runs on the host and no file of the host is read: all that
//! there is, is in [`World`]. What is not there is refused with a sentence and exit code 127.

mod archive;
mod commands;
mod expand;
mod facts;
mod files;
mod interpreter;
mod io;
mod options;
mod parse;
mod print;
mod terminal;
mod text;
mod variables;
mod world;

use tokio::io::{AsyncRead, AsyncWrite};

pub use terminal::Terminal;
pub use world::{Clock, World};

use interpreter::Shell;
use io::{Input, Io, Output};

/// Runs a command and returns its exit code, 0 to 255.
///
/// Streams may be of any size: what is read is handed on before more is read, and slow readers are
/// waited for. With a `terminal`, what is typed is echoed to `stdout`, and without `stderr` messages go
/// there too. To stop a command, drop the future.
pub async fn run(
    world: &World,
    command: &[String],
    terminal: Option<Terminal>,
    stdin: Option<impl AsyncRead + Send + Unpin>,
    stdout: impl AsyncWrite + Send + Unpin,
    stderr: Option<impl AsyncWrite + Send + Unpin>,
) -> i32 {
    let tty = terminal.is_some();
    let stdout = Output::stream(Box::new(stdout), tty);
    let stderr = match stderr {
        Some(stderr) => Output::stream(Box::new(stderr), tty),
        None if tty => stdout.clone(),
        None => Output::nowhere(),
    };
    let stdin = match (stdin, terminal) {
        (Some(stdin), Some(terminal)) => Input::tty(Box::new(stdin), terminal, stdout.clone()),
        (Some(stdin), None) => Input::stream(Box::new(stdin)),
        (None, _) => Input::empty(),
    };
    let io = Io {
        stdin,
        stdout,
        stderr,
    };
    // Who has hung up misses nothing, here and below.
    let status = match Shell::new(world, io.clone()) {
        Ok(mut shell) => shell.run_command(command.to_vec()).await,
        Err(error) => interpreter::refuse(&io, error).await,
    };
    let _ = io.stdout.flush().await;
    let _ = io.stderr.flush().await;
    status & 0xff
}

#[cfg(test)]
mod tests;
