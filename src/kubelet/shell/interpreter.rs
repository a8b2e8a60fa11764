//! Runs scripts: expands words, connects pipes and finds commands.

use std::collections::BTreeMap;
use std::io;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::commands;
use super::io::{CHUNK, Input, Io, Output};
use super::parse::{
    self, Command, Direction, Part, Pipeline, Redirection, Script, SyntaxError, When,
};
use super::world::World;
use crate::kubelet::tree::TreePath;

/// Deepest nesting of shells in shells.
const DEPTH_MAX: usize = 16;

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

#[derive(Clone)]
struct Variable {
    value: String,
    exported: bool,
}

/// A shell. A clone is a subshell.
#[derive(Clone)]
pub(super) struct Shell<'a> {
    pub(super) world: &'a World,
    pub(super) io: Io<'a>,
    pub(super) cwd: TreePath,
    pub(super) status: i32,
    /// Ends at the first command that fails (`set -e`).
    pub(super) errexit: bool,
    /// `$0` and after it the positional parameters.
    pub(super) args: Vec<String>,
    variables: BTreeMap<String, Variable>,
    depth: usize,
}

impl<'a> Shell<'a> {
    pub(super) fn new(world: &'a World, io: Io<'a>) -> Self {
        let spec = world.spec();
        let cwd = spec.and_then(|spec| spec.working_dir.as_deref());
        let exported = |(name, value): &(String, String)| {
            let variable = Variable {
                value: value.clone(),
                exported: true,
            };
            (name.clone(), variable)
        };
        Self {
            world,
            io,
            cwd: cwd.map_or_else(TreePath::root, TreePath::from),
            status: 0,
            errexit: false,
            args: vec!["sh".to_owned()],
            variables: world.environment.iter().map(exported).collect(),
            depth: 0,
        }
    }

    /// A path as this shell means it.
    pub(super) fn path(&self, path: &str) -> TreePath {
        self.cwd.join(path)
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|variable| &*variable.value)
    }

    pub(super) fn set(&mut self, name: &str, value: String, export: bool) {
        let exported = export || self.variables.get(name).is_some_and(|old| old.exported);
        self.variables
            .insert(name.to_owned(), Variable { value, exported });
    }

    pub(super) fn unset(&mut self, name: &str) {
        self.variables.remove(name);
    }

    /// The environment of a command.
    pub(super) fn exported(&self) -> impl Iterator<Item = (&str, &str)> {
        let exported = self
            .variables
            .iter()
            .filter(|(_, variable)| variable.exported);
        exported.map(|(name, variable)| (&**name, &*variable.value))
    }

    /// Runs a command that is already taken apart, to its exit code.
    pub(super) async fn run_command(&mut self, words: Vec<String>) -> i32 {
        self.execute(words).await.status()
    }

    /// As [`run_command`](Self::run_command), for commands that run others.
    pub(super) fn run_boxed(&mut self, words: Vec<String>) -> BoxFuture<'_, i32> {
        self.run_command(words).boxed()
    }

    /// Runs a script to its end or to an `exit`.
    pub(super) async fn run_text(&mut self, text: &str) -> Flow {
        match parse::parse(text) {
            Ok(script) => self.run_script(&script).await,
            Err(error) => Flow::Exit(self.syntax(&error).await),
        }
    }

    async fn syntax(&self, error: &SyntaxError) -> i32 {
        // Nobody is left to be told when this fails.
        let _ = self.io.stderr.write(format!("sh: {error}\n")).await;
        2
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
            match parse::parse(&text) {
                Err(SyntaxError::Unterminated) if !ended => continue,
                Err(error) => {
                    self.status = self.syntax(&error).await;
                    if !self.io.stdin.is_tty() {
                        return self.status;
                    }
                }
                Ok(script) => {
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
            commands => {
                let statuses = futures::future::join_all(self.connected(commands)).await;
                Flow::Next(statuses.last().copied().unwrap_or(0))
            }
        };
        match flow {
            Flow::Next(status) if pipeline.negated => Flow::Next(i32::from(status == 0)),
            flow => flow,
        }
    }

    /// A subshell for each command, reading what the one before it writes.
    fn connected<'s>(&self, commands: &'s [Command]) -> Vec<BoxFuture<'s, i32>>
    where
        'a: 's,
    {
        let mut next_stdin = Some(self.io.stdin.clone());
        let last = commands.len().saturating_sub(1);
        let stages = commands.iter().enumerate().map(|(number, command)| {
            let mut stage = self.clone();
            stage.io.stdin = next_stdin.take().unwrap_or_else(Input::empty);
            if number < last {
                let (write, read) = tokio::io::duplex(CHUNK);
                stage.io.stdout = Output::stream(Box::new(write), false);
                next_stdin = Some(Input::stream(Box::new(read)));
            }
            // The stage owns its ends of the pipes, so they close when it is done.
            async move { stage.run_simple(command).await.status() }.boxed()
        });
        stages.collect()
    }

    async fn run_simple(&mut self, command: &Command) -> Flow {
        let words: Vec<String> = command
            .words
            .iter()
            .flat_map(|word| self.fields(word))
            .collect();
        let assigned: Vec<(String, String)> = command
            .assignments
            .iter()
            .map(|(name, value)| (name.clone(), self.joined(value)))
            .collect();
        if words.is_empty() {
            for (name, value) in &assigned {
                self.set(name, value.clone(), false);
            }
        }
        let (io, files) = match self.redirected(&command.redirections) {
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
        let flow = if command.assignments.is_empty() {
            self.execute(words).await
        } else {
            let before = self.variables.clone();
            for (name, value) in assigned {
                self.set(&name, value, true);
            }
            let flow = self.execute(words).await;
            self.variables = before;
            flow
        };
        self.io = outer;
        match flow {
            Flow::Next(status) => Flow::Next(self.close(files, status).await),
            Flow::Exit(status) => Flow::Exit(self.close(files, status).await),
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

    /// A shell in this shell, unless there are too many.
    pub(super) fn nested(&self) -> Option<Self> {
        let mut nested = self.clone();
        nested.depth += 1;
        (nested.depth <= DEPTH_MAX).then_some(nested)
    }

    /// The streams of a command, and the files that are to be written when it is done.
    fn redirected(
        &self,
        redirections: &[Redirection],
    ) -> Result<(Io<'a>, Vec<Target<'a>>), String> {
        let (mut io, mut files) = (self.io.clone(), Vec::new());
        for redirection in redirections {
            let name = self.joined(&redirection.target);
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

    /// The fields that a word becomes: unquoted variables are split at their spaces.
    fn fields(&self, word: &[Part]) -> Vec<String> {
        let (mut fields, mut field) = (Vec::new(), None::<String>);
        for part in word {
            let (text, quoted) = self.expanded(part);
            if quoted || matches!(part, Part::Text { .. }) {
                field.get_or_insert_default().push_str(&text);
                continue;
            }
            if text.starts_with(char::is_whitespace) {
                fields.extend(field.take());
            }
            let mut pieces = text.split_whitespace().peekable();
            while let Some(piece) = pieces.next() {
                field.get_or_insert_default().push_str(piece);
                if pieces.peek().is_some() || text.ends_with(char::is_whitespace) {
                    fields.extend(field.take());
                }
            }
        }
        fields.extend(field);
        fields
    }

    fn joined(&self, word: &[Part]) -> String {
        word.iter().map(|part| self.expanded(part).0).collect()
    }

    fn expanded(&self, part: &Part) -> (String, bool) {
        match part {
            Part::Text { text, quoted } => (text.clone(), *quoted),
            Part::Variable {
                name,
                default,
                quoted,
            } => {
                let value = match &**name {
                    "?" => self.status.to_string(),
                    "$" => "1".to_owned(),
                    "#" => self.args.len().saturating_sub(1).to_string(),
                    "@" | "*" => self.args.get(1..).unwrap_or_default().join(" "),
                    name => match name.parse::<usize>() {
                        Ok(number) => self.args.get(number).cloned().unwrap_or_default(),
                        Err(_) => self.variable(name).unwrap_or_default().to_owned(),
                    },
                };
                match default {
                    Some(default) if value.is_empty() => (default.clone(), *quoted),
                    _ => (value, *quoted),
                }
            }
        }
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
