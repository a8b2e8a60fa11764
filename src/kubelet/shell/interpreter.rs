//! Runs scripts: connects pipes, opens files and finds commands.

use std::io;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::commands;
use super::expand::Assigned;
use super::io::{CHUNK, Input, Io, Output};
use super::parse::{self, Command, Direction, Pipeline, Redirection, Script, SyntaxError, When};
use super::variables::{Memory, OutOfMemory, Variables};
use super::world::World;
use crate::kubelet::tree::TreePath;

/// Deepest nesting of shells in shells.
const DEPTH_MAX: usize = 16;
/// Most shells of one exec at a time, those of its pipelines among them.
const SHELLS_MAX: usize = 64;

/// Exit codes of signals.
const INTERRUPTED: i32 = 130;
const BROKEN_PIPE: i32 = 141;

/// What goes on after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next(i32),
    Exit(i32),
}

impl Flow {
    pub(super) fn status(self) -> i32 {
        match self {
            Self::Next(status) | Self::Exit(status) => status,
        }
    }
}

/// Why there is no further shell, in the words of a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoShell {
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    #[error("can't fork: Resource temporarily unavailable")]
    TooMany,
    #[error("nested too deep")]
    TooDeep,
}

/// A shell.
pub(super) struct Shell<'a> {
    pub(super) world: &'a World,
    pub(super) io: Io<'a>,
    pub(super) cwd: TreePath,
    pub(super) status: i32,
    /// Ends at the first command that fails (`set -e`).
    pub(super) errexit: bool,
    /// `$0` and after it the positional parameters.
    pub(super) args: Vec<String>,
    pub(super) variables: Variables,
    depth: usize,
    /// Each shell of the exec holds one of these.
    shells: Arc<()>,
}

/// Says why there is no shell, or why it does not go on.
pub(super) async fn refuse(io: &Io<'_>, error: impl std::fmt::Display) -> i32 {
    // Nobody is left to be told when this fails.
    let _ = io.stderr.write(format!("sh: {error}\n")).await;
    2
}

impl<'a> Shell<'a> {
    pub(super) fn new(world: &'a World, io: Io<'a>) -> Result<Self, OutOfMemory> {
        let spec = world.spec();
        let cwd = spec.and_then(|spec| spec.working_dir.as_deref());
        Ok(Self {
            world,
            io,
            cwd: cwd.map_or_else(TreePath::root, TreePath::from),
            status: 0,
            errexit: false,
            args: vec!["sh".to_owned()],
            variables: Variables::new(&world.scratch, &world.environment)?,
            depth: 0,
            shells: Arc::new(()),
        })
    }

    /// A shell that begins with all that this one has.
    fn subshell(&self) -> Result<Self, NoShell> {
        if Arc::strong_count(&self.shells) >= SHELLS_MAX {
            return Err(NoShell::TooMany);
        }
        Ok(Self {
            world: self.world,
            io: self.io.clone(),
            cwd: self.cwd.clone(),
            status: self.status,
            errexit: self.errexit,
            args: self.args.clone(),
            variables: self.variables.copy(&self.world.scratch)?,
            depth: self.depth,
            shells: Arc::clone(&self.shells),
        })
    }

    /// A shell in this shell.
    pub(super) fn nested(&self) -> Result<Self, NoShell> {
        let mut nested = self.subshell()?;
        nested.depth = self.deeper()?;
        Ok(nested)
    }

    fn deeper(&self) -> Result<usize, NoShell> {
        let deeper = (self.depth < DEPTH_MAX).then_some(self.depth + 1);
        deeper.ok_or(NoShell::TooDeep)
    }

    /// Memory for the words of a command.
    pub(super) fn memory(&self) -> Memory {
        self.variables.memory(&self.world.scratch)
    }

    /// A path as this shell means it.
    pub(super) fn path(&self, path: &str) -> TreePath {
        self.cwd.join(path)
    }

    /// Runs a command that is already taken apart, to its exit code.
    pub(super) async fn run_command(&mut self, words: Vec<String>) -> i32 {
        self.execute(words).await.status()
    }

    /// As [`run_command`](Self::run_command), for commands that run others.
    pub(super) fn run_boxed(&mut self, words: Vec<String>) -> BoxFuture<'_, i32> {
        async move {
            let outer = self.depth;
            match self.deeper() {
                Ok(deeper) => self.depth = deeper,
                Err(error) => return self.refuse(error).await,
            }
            let status = self.run_command(words).await;
            self.depth = outer;
            status
        }
        .boxed()
    }

    /// Runs a script to its end or to an `exit`.
    pub(super) async fn run_text(&mut self, text: &str) -> Flow {
        match self.parsed(text) {
            Ok((script, _memory)) => self.run_script(&script).await,
            Err(error) => Flow::Exit(self.refuse(error).await),
        }
    }

    /// A script with the memory that it takes until it is done.
    fn parsed(&self, text: &str) -> Result<(Script, Memory), SyntaxError> {
        let memory = Memory::of_script(&self.world.scratch, text)?;
        Ok((parse::parse(text)?, memory))
    }

    /// Says why the shell itself does not go on.
    async fn refuse(&self, error: impl std::fmt::Display) -> i32 {
        refuse(&self.io, error).await
    }

    /// Runs what is typed or piped in, line by line.
    pub(super) async fn run_lines(&mut self) -> i32 {
        let mut text = String::new();
        loop {
            if self.io.stdin.is_tty() {
                let prompt = match (&*text, &self.cwd) {
                    ("", cwd) => format!("{cwd} # "),
                    _ => "> ".to_owned(),
                };
                if self.io.stdout.write(prompt).await.is_err() {
                    return BROKEN_PIPE;
                }
            }
            let line = match self.io.stdin.line().await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    text.clear();
                    self.status = INTERRUPTED;
                    continue;
                }
                Err(_) => return self.status,
                Ok(line) => line,
            };
            let ended = line.is_empty();
            text.push_str(&String::from_utf8_lossy(&line));
            match self.parsed(&text) {
                Err(SyntaxError::Unterminated) if !ended => continue,
                Err(error) => {
                    self.status = self.refuse(error).await;
                    if !self.io.stdin.is_tty() {
                        return self.status;
                    }
                }
                Ok((script, _memory)) => {
                    if let Flow::Exit(status) = self.run_script(&script).await {
                        return status;
                    }
                }
            }
            text.clear();
            if ended {
                return self.status;
            }
        }
    }

    fn run_script<'s>(&'s mut self, script: &'s Script) -> BoxFuture<'s, Flow> {
        async move {
            for (number, (when, pipeline)) in script.iter().enumerate() {
                let skipped = match when {
                    When::Always => false,
                    When::Succeeded => self.status != 0,
                    When::Failed => self.status == 0,
                };
                if skipped {
                    continue;
                }
                let flow = self.run_pipeline(pipeline).await;
                self.status = flow.status();
                if let Flow::Exit(_) = flow {
                    return flow;
                }
                let tested = pipeline.negated
                    || script
                        .get(number + 1)
                        .is_some_and(|(next, _)| *next != When::Always);
                if self.errexit && self.status != 0 && !tested {
                    return Flow::Exit(self.status);
                }
            }
            Flow::Next(self.status)
        }
        .boxed()
    }

    async fn run_pipeline(&mut self, pipeline: &Pipeline) -> Flow {
        let flow = match &*pipeline.commands {
            [command] => self.run_simple(command).await,
            commands => match self.connected(commands) {
                Ok(stages) => {
                    let statuses = futures::future::join_all(stages).await;
                    Flow::Next(statuses.last().copied().unwrap_or(0))
                }
                Err(error) => Flow::Exit(self.refuse(error).await),
            },
        };
        match flow {
            Flow::Next(status) if pipeline.negated => Flow::Next(i32::from(status == 0)),
            flow => flow,
        }
    }

    /// A subshell for each command, reading what the one before it writes.
    fn connected<'s>(&self, commands: &'s [Command]) -> Result<Vec<BoxFuture<'s, i32>>, NoShell>
    where
        'a: 's,
    {
        let mut next_stdin = Some(self.io.stdin.clone());
        let last = commands.len().saturating_sub(1);
        let stages = commands.iter().enumerate().map(|(number, command)| {
            let mut stage = self.subshell()?;
            stage.io.stdin = next_stdin.take().unwrap_or_else(Input::empty);
            if number < last {
                let (write, read) = tokio::io::duplex(CHUNK);
                stage.io.stdout = Output::stream(Box::new(write), false);
                next_stdin = Some(Input::stream(Box::new(read)));
            }
            // The stage owns its ends of the pipes, so they close when it is done.
            Ok(async move { stage.run_simple(command).await.status() }.boxed())
        });
        stages.collect()
    }

    async fn run_simple(&mut self, command: &Command) -> Flow {
        let mut memory = self.memory();
        let (words, assigned) = match self.expanded(command, &mut memory) {
            Ok(expanded) => expanded,
            Err(error) => return Flow::Exit(self.refuse(error).await),
        };
        if words.is_empty() {
            for (name, value) in &assigned {
                if let Err(error) = self.variables.set(name, value.clone(), false) {
                    return Flow::Exit(self.refuse(error).await);
                }
            }
        }
        let (io, files) = match self.redirected(&command.redirections, &mut memory) {
            Ok(redirected) => redirected,
            Err(message) => {
                let _ = self.io.stderr.write(format!("sh: {message}\n")).await;
                return Flow::Next(1);
            }
        };
        if words.is_empty() {
            return Flow::Next(self.close(files, 0).await);
        }
        let outer = std::mem::replace(&mut self.io, io);
        let flow = self.execute_with(assigned, words).await;
        self.io = outer;
        match flow {
            Flow::Next(status) => Flow::Next(self.close(files, status).await),
            Flow::Exit(status) => Flow::Exit(self.close(files, status).await),
        }
    }

    /// Runs a command that has variables of its own.
    async fn execute_with(&mut self, assigned: Assigned, words: Vec<String>) -> Flow {
        if assigned.is_empty() {
            return self.execute(words).await;
        }
        let mut own = self.variables.copy(&self.world.scratch);
        for (name, value) in assigned {
            own = own.and_then(|own| own.with(&name, value));
        }
        match own {
            Ok(own) => {
                let before = std::mem::replace(&mut self.variables, own);
                let flow = self.execute(words).await;
                self.variables = before;
                flow
            }
            Err(error) => Flow::Exit(self.refuse(error).await),
        }
    }

    fn execute(&mut self, words: Vec<String>) -> BoxFuture<'_, Flow> {
        async move {
            let Some((name, args)) = words.split_first() else {
                return Flow::Next(0);
            };
            match commands::call(self, name, args).await {
                Ok(flow) => flow,
                Err(error) => Flow::Next(match error.kind() {
                    io::ErrorKind::BrokenPipe => BROKEN_PIPE,
                    io::ErrorKind::Interrupted => INTERRUPTED,
                    _ => {
                        let _ = self.io.stderr.write(format!("{name}: {error}\n")).await;
                        1
                    }
                }),
            }
        }
        .boxed()
    }

    /// The streams of a command, and the files that are to be written when it is done.
    fn redirected(
        &self,
        redirections: &[Redirection],
        memory: &mut Memory,
    ) -> Result<(Io<'a>, Vec<Target<'a>>), String> {
        let (mut io, mut files) = (self.io.clone(), Vec::new());
        for redirection in redirections {
            let name = self.joined(&redirection.target, memory);
            let name = name.map_err(|error| error.to_string())?;
            match redirection.kind {
                Direction::StderrToStdout => io.stderr = io.stdout.clone(),
                Direction::StdoutToStderr => io.stdout = io.stderr.clone(),
                Direction::From if name == "/dev/null" => io.stdin = Input::empty(),
                Direction::From => {
                    let content = self.world.read(&self.path(&name));
                    let content = content.map_err(|error| format!("can't open {name}: {error}"))?;
                    io.stdin = Input::bytes(content);
                }
                Direction::To { stderr, append } => {
                    let output = match &*name {
                        "/dev/null" => Output::nowhere(),
                        "/dev/stdout" => io.stdout.clone(),
                        "/dev/stderr" => io.stderr.clone(),
                        _ => {
                            let target = self.open(&name, append)?;
                            files.push(target.clone());
                            target.output
                        }
                    };
                    *(if stderr {
                        &mut io.stderr
                    } else {
                        &mut io.stdout
                    }) = output;
                }
            }
        }
        Ok((io, files))
    }

    fn open(&self, name: &str, append: bool) -> Result<Target<'a>, String> {
        let path = self.path(name);
        let old = self.world.node(&path);
        let mode = old.as_ref().map_or(0o644, |old| old.mode);
        let kept = old.and_then(|old| old.content).filter(|_| append);
        // Written at once, so that what cannot be written is known before the command runs.
        let world = self.world;
        world
            .write(path.clone(), kept.unwrap_or_default(), mode)
            .map_err(|error| format!("can't create {name}: {error}"))?;
        Ok(Target {
            name: name.to_owned(),
            path,
            mode,
            output: Output::file(world.scratch.room()),
        })
    }

    /// Writes the files of a command that is done.
    async fn close(&self, files: Vec<Target<'a>>, status: i32) -> i32 {
        let mut status = status;
        for file in files {
            let new = file.output.take().await;
            let old = self.world.read(&file.path).unwrap_or_default();
            let content = [&*old, &*new].concat();
            if let Err(error) = self.world.write(file.path, content.into(), file.mode) {
                let message = format!("sh: can't write {}: {error}\n", file.name);
                let _ = self.io.stderr.write(message).await;
                status = status.max(1);
            }
        }
        status
    }
}

/// A file that a command writes.
#[derive(Clone)]
struct Target<'a> {
    name: String,
    path: TreePath,
    mode: u32,
    output: Output<'a>,
}
