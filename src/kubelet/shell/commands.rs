//! The commands that there are, and those that change the shell itself.

use std::fmt;
use std::io;
use std::time::Duration;

use super::interpreter::{Flow, Shell};
use super::{archive, facts, files, print, terminal, text};

/// All commands, as the message for an unknown one lists them.
pub(super) const NAMES: &[&str] = &[
    ":", "[", "cat", "cd", "clear", "command", "date", "echo", "env", "exec", "exit", "export",
    "false", "grep", "head", "hostname", "id", "ip", "ls", "mkdir", "printenv", "printf", "pwd",
    "rm", "set", "sh", "sleep", "stty", "tail", "tar", "test", "touch", "true", "unset", "wc",
    "whoami",
];

/// Where a container image would have them.
const DIRECTORIES: [&str; 6] = [
    "/bin/",
    "/sbin/",
    "/usr/bin/",
    "/usr/sbin/",
    "/usr/local/bin/",
    "/usr/local/sbin/",
];

/// Exit code of a command that is not there.
const NOT_FOUND: i32 = 127;

impl Shell<'_> {
    /// Says what went wrong in a command and returns 1, the exit code that most have for it.
    pub(super) async fn fail(&self, name: &str, message: impl fmt::Display) -> io::Result<i32> {
        self.io.stderr.write(format!("{name}: {message}\n")).await?;
        Ok(1)
    }
}

/// The command that is meant by a name or a path.
fn base(name: &str) -> &str {
    let in_directory = DIRECTORIES
        .iter()
        .find_map(|directory| name.strip_prefix(directory));
    in_directory.unwrap_or(name)
}

/// Runs a command. Errors are those of its streams.
pub(super) async fn call(shell: &mut Shell<'_>, name: &str, args: &[String]) -> io::Result<Flow> {
    let status = match base(name) {
        ":" | "true" => 0,
        "false" => 1,
        "[" => files::test(shell, "[", args).await?,
        "test" => files::test(shell, "test", args).await?,
        "cat" => text::cat(shell, args).await?,
        "cd" => cd(shell, args).await?,
        "clear" => {
            shell.io.stdout.write("\u{1b}[H\u{1b}[2J").await?;
            0
        }
        "command" => return command(shell, args).await,
        "date" => print::date(shell, args).await?,
        "echo" => print::echo(shell, args).await?,
        "env" => return env(shell, args).await,
        "exec" if args.is_empty() => 0,
        "exec" => return Ok(Flow::Exit(shell.run_boxed(args.to_vec()).await)),
        "exit" => return exit(shell, args).await,
        "export" => export(shell, args).await?,
        "grep" => text::grep(shell, args).await?,
        "head" => text::head(shell, args).await?,
        "hostname" => facts::hostname(shell, args).await?,
        "id" => facts::id(shell, args).await?,
        "ip" => facts::ip(shell, args).await?,
        "ls" => files::ls(shell, args).await?,
        "mkdir" => files::mkdir(shell, args).await?,
        "printenv" => facts::printenv(shell, args).await?,
        "printf" => print::printf(shell, args).await?,
        "pwd" => {
            shell.io.stdout.write(format!("{}\n", shell.cwd)).await?;
            0
        }
        "rm" => files::rm(shell, args).await?,
        "set" => set(shell, args).await?,
        "sh" => sh(shell, args).await?,
        "sleep" => sleep(shell, args).await?,
        "stty" => terminal::stty(shell, args).await?,
        "tail" => text::tail(shell, args).await?,
        "tar" => archive::tar(shell, args).await?,
        "touch" => files::touch(shell, args).await?,
        "unset" => {
            for name in args {
                shell.variables.unset(name);
            }
            0
        }
        "wc" => text::wc(shell, args).await?,
        "whoami" => facts::whoami(shell).await?,
        _ => not_found(shell, name).await?,
    };
    Ok(Flow::Next(status))
}

async fn not_found(shell: &Shell<'_>, name: &str) -> io::Result<i32> {
    let known = NAMES.join(" ");
    let message = format!("{name}: not found in this simulated container; it has: {known}");
    shell.fail("sh", message).await.map(|_| NOT_FOUND)
}

async fn cd(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let home = shell.variables.get("HOME").unwrap_or("/").to_owned();
    let name = args.first().unwrap_or(&home).clone();
    let path = match &*name {
        "-" => shell.path(shell.variables.get("OLDPWD").unwrap_or(".")),
        name => shell.path(name),
    };
    let problem = match shell.world.node(&path) {
        None => "No such file or directory",
        Some(node) if !node.is_directory() => "Not a directory",
        Some(_) => {
            let old = std::mem::replace(&mut shell.cwd, path).to_string();
            shell.variables.set("OLDPWD", old, false)?;
            shell.variables.set("PWD", shell.cwd.to_string(), false)?;
            return Ok(0);
        }
    };
    shell
        .fail("cd", format!("can't cd to {name}: {problem}"))
        .await
}

async fn exit(shell: &Shell<'_>, args: &[String]) -> io::Result<Flow> {
    let Some(code) = args.first() else {
        return Ok(Flow::Exit(shell.status));
    };
    if let Ok(code) = code.parse::<i32>() {
        return Ok(Flow::Exit(code & 0xff));
    }
    let message = format!("Illegal number: {code}");
    shell.fail("exit", message).await.map(|_| Flow::Exit(2))
}

async fn command(shell: &mut Shell<'_>, args: &[String]) -> io::Result<Flow> {
    match args {
        [flag, name] if flag == "-v" => {
            let known = NAMES.contains(&base(name));
            if known {
                shell.io.stdout.write(format!("{name}\n")).await?;
            }
            Ok(Flow::Next(if known { 0 } else { NOT_FOUND }))
        }
        args => Ok(Flow::Next(shell.run_boxed(args.to_vec()).await)),
    }
}

async fn env(shell: &mut Shell<'_>, args: &[String]) -> io::Result<Flow> {
    let is_assignment = |arg: &&String| arg.contains('=') && !arg.starts_with('=');
    let count = args.iter().take_while(is_assignment).count();
    let mut inner = match shell.nested() {
        Ok(inner) => inner,
        Err(error) => return shell.fail("env", error).await.map(Flow::Next),
    };
    for (name, value) in args[..count].iter().filter_map(|arg| arg.split_once('=')) {
        inner.variables.set(name, value.to_owned(), true)?;
    }
    let status = match &args[count..] {
        [] => facts::printenv(&mut inner, &[]).await?,
        [flag, ..] if flag.starts_with('-') => {
            let message = format!("{flag}: not supported in this simulated container");
            shell.fail("env", message).await?
        }
        words => inner.run_boxed(words.to_vec()).await,
    };
    Ok(Flow::Next(status))
}

async fn export(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let mut status = 0;
    for arg in args.iter().filter(|arg| *arg != "-p") {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (
                &**arg,
                shell.variables.get(arg).unwrap_or_default().to_owned(),
            ),
        };
        if super::parse::is_name(name) {
            shell.variables.set(name, value, true)?;
        } else {
            status = shell
                .fail("export", format!("{name}: bad variable name"))
                .await?;
        }
    }
    Ok(status)
}

async fn set(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    for arg in args {
        match &**arg {
            "-e" => shell.errexit = true,
            "+e" => shell.errexit = false,
            _ => {
                let message =
                    format!("{arg}: only -e and +e are known in this simulated container");
                return shell.fail("set", message).await;
            }
        }
    }
    Ok(0)
}

/// `sh -c SCRIPT [NAME ARG...]`, `sh FILE [ARG...]` and `sh`.
async fn sh(shell: &mut Shell<'_>, args: &[String]) -> io::Result<i32> {
    let mut inner = match shell.nested() {
        Ok(inner) => inner,
        Err(error) => return shell.fail("sh", error).await,
    };
    inner.errexit = false;
    inner.status = 0;
    let flags = args
        .iter()
        .take_while(|arg| arg.starts_with('-') && arg.len() > 1)
        .count();
    let (flags, words) = args.split_at(flags);
    let mut is_script = false;
    for letter in flags.iter().flat_map(|flag| flag[1..].chars()) {
        match letter {
            'c' => is_script = true,
            'e' => inner.errexit = true,
            'i' | 'l' | 's' => {}
            _ => {
                let message = format!("-{letter}: not supported in this simulated container");
                return shell.fail("sh", message).await.map(|_| 2);
            }
        }
    }
    match words.split_first() {
        Some((script, args)) if is_script => {
            if !args.is_empty() {
                inner.args = args.to_vec();
            }
            Ok(inner.run_text(script).await.status())
        }
        None if is_script => shell.fail("sh", "-c requires an argument").await.map(|_| 2),
        Some((file, _)) => {
            let content = match shell.world.read(&shell.path(file)) {
                Ok(content) => content,
                Err(error) => {
                    let message = format!("can't open '{file}': {error}");
                    return shell.fail("sh", message).await.map(|_| 2);
                }
            };
            inner.args = words.to_vec();
            let script = String::from_utf8_lossy(&content).into_owned();
            Ok(inner.run_text(&script).await.status())
        }
        None => Ok(inner.run_lines().await),
    }
}

async fn sleep(shell: &Shell<'_>, args: &[String]) -> io::Result<i32> {
    let mut total = Duration::ZERO;
    for arg in args {
        match seconds(arg) {
            Some(time) => total = total.saturating_add(time),
            None => return shell.fail("sleep", format!("invalid number '{arg}'")).await,
        }
    }
    if args.is_empty() {
        return shell.fail("sleep", "usage: sleep NUMBER[smhd]...").await;
    }
    tokio::select! {
        () = tokio::time::sleep(total) => Ok(0),
        () = shell.io.stdin.interrupted() => Err(io::ErrorKind::Interrupted.into()),
    }
}

fn seconds(text: &str) -> Option<Duration> {
    // Longer than any exec lasts, and short enough for every timer.
    const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);
    if text == "infinity" {
        return Some(LONGEST);
    }
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let factor = match unit {
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => 1.0,
    };
    let time = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * factor);
    Some(time.unwrap_or(LONGEST).min(LONGEST))
}
