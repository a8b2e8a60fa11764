//! Behaviour on demand: what a pod's annotations ask of its simulated containers.
//!
//! Owns the names of the annotations and their meaning, and is the only place that reads them. It
//! decides nothing about a pod: the pod core acts on most of them, the kubelet API on log lines
//! and figures.
//!
//! `holdfast.dev/NAME` is for all containers of the pod, `CONTAINER.holdfast.dev/NAME` for one,
//! and the second goes before the first. Times count from the start of the container and are
//! durations such as `90s` or `1h30m`.
//!
//! | NAME | value | meaning |
//! |---|---|---|
//! | `run-for` | duration | the container ends after this time, with `exit-code` |
//! | `exit-code` | 0 to 255, default 0 | the exit code for `run-for` |
//! | `crash-after` | duration | the container fails after this time, exit code 1 |
//! | `oom-after` | duration | the container is killed for its memory after this time, exit code 137 |
//! | `not-ready` | `30s-1m,2m-` | the container is not ready in these spans; one without an end lasts |
//! | `start-after` | duration | the container runs, but is neither started nor ready before this time |
//! | `image-pull-error` | `true` or duration | its image cannot be pulled, ever or for this time from when the pod was bound |
//! | `log-lines` | lines | what it writes; a line may begin with `+DURATION`, when it is written, and then `stderr:` |
//! | `log-every` | duration, at least `10ms` | the `log-lines` are written again and again at this interval |
//! | `cpu` | quantity, such as `250m` | the CPU that it uses |
//! | `memory` | quantity, such as `64Mi` | the memory that it uses |

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;

use super::quantity;

/// The prefix of the annotations, and the end of that for one container.
pub const PREFIX: &str = "holdfast.dev";
/// Reason of the event that tells of an annotation that could not be used.
pub const INVALID: &str = "InvalidBehaviour";

/// No interval of repeated lines is shorter.
const LOG_EVERY_MIN: SignedDuration = SignedDuration::from_millis(10);
/// A hundred years: times beyond it are mistakes, and sums with it cannot overflow.
const TIME_MAX: SignedDuration = SignedDuration::from_hours(100 * 365 * 24);

/// What is asked of one container. The default asks for nothing: it runs until it is stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// How long it runs before it ends by itself with [`exit_code`](Self::exit_code).
    pub run_for: Option<SignedDuration>,
    /// Its exit code when it ends by itself.
    pub exit_code: Option<u8>,
    /// When it fails with exit code 1.
    pub crash_after: Option<SignedDuration>,
    /// When it is killed for its memory.
    pub oom_after: Option<SignedDuration>,
    /// When it is not ready.
    pub not_ready: Option<Vec<Span>>,
    /// How long it takes to be started.
    pub start_after: Option<SignedDuration>,
    /// Whether, and how long, its image cannot be pulled.
    pub image_pull_error: Option<PullError>,
    /// What it writes.
    pub log_lines: Option<Vec<LogTemplate>>,
    /// The interval at which it writes that again.
    pub log_every: Option<SignedDuration>,
    /// The CPU that it uses, in thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// The memory that it uses, in bytes.
    pub memory_bytes: Option<u64>,
}

/// From a time to another, both from the start of the container; without an end it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first moment in it.
    pub from: SignedDuration,
    /// The first moment after it.
    pub until: Option<SignedDuration>,
}

impl Span {
    /// Whether `age` is in it.
    pub fn contains(&self, age: SignedDuration) -> bool {
        self.from <= age && self.until.is_none_or(|until| age < until)
    }
}

/// How long an image cannot be pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullError {
    /// Always.
    Lasting,
    /// For this time from when the pod was bound to its node.
    For(SignedDuration),
}

/// A line that a container writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTemplate {
    /// When, from the start of the container or of the round.
    pub after: SignedDuration,
    /// Whether to stderr.
    pub is_error: bool,
    /// The line, without its end.
    pub text: Arc<str>,
}

/// How a container ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// When, from its start.
    pub after: SignedDuration,
    /// Its exit code.
    pub code: u8,
    /// Whether it was killed for its memory.
    pub out_of_memory: bool,
}

impl Behaviour {
    /// How it ends by itself, if it does: whatever comes first.
    pub fn exit(&self) -> Option<Exit> {
        let exit = |after: Option<SignedDuration>, code, out_of_memory| {
            after.map(|after| Exit {
                after,
                code,
                out_of_memory,
            })
        };
        let ways = [
            exit(self.oom_after, 137, true),
            exit(self.crash_after, 1, false),
            exit(self.run_for, self.exit_code.unwrap_or(0), false),
        ];
        ways.into_iter().flatten().min_by_key(|exit| exit.after)
    }

    /// Whether it is not ready at `age`, because it still starts or was told to be.
    pub fn is_unready(&self, age: SignedDuration) -> bool {
        self.start_after.is_some_and(|start| age < start)
            || self
                .not_ready
                .iter()
                .flatten()
                .any(|span| span.contains(age))
    }

    fn or(self, other: &Self) -> Self {
        let other = other.clone();
        Self {
            run_for: self.run_for.or(other.run_for),
            exit_code: self.exit_code.or(other.exit_code),
            crash_after: self.crash_after.or(other.crash_after),
            oom_after: self.oom_after.or(other.oom_after),
            not_ready: self.not_ready.or(other.not_ready),
            start_after: self.start_after.or(other.start_after),
            image_pull_error: self.image_pull_error.or(other.image_pull_error),
            log_lines: self.log_lines.or(other.log_lines),
            log_every: self.log_every.or(other.log_every),
            cpu_milli: self.cpu_milli.or(other.cpu_milli),
            memory_bytes: self.memory_bytes.or(other.memory_bytes),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "run-for" => self.run_for = Some(duration(value)?),
            "exit-code" => {
                let code = value.trim().parse();
                self.exit_code = Some(code.map_err(|_| "a whole number from 0 to 255")?);
            }
            "crash-after" => self.crash_after = Some(duration(value)?),
            "oom-after" => self.oom_after = Some(duration(value)?),
            "not-ready" => self.not_ready = Some(spans(value)?),
            "start-after" => self.start_after = Some(duration(value)?),
            "image-pull-error" => {
                self.image_pull_error = match value.trim() {
                    "true" => Some(PullError::Lasting),
                    "false" => None,
                    other => Some(PullError::For(
                        duration(other).map_err(|_| "true, false or a duration such as 90s")?,
                    )),
                };
            }
            "log-lines" => self.log_lines = Some(log_lines(value)?),
            "log-every" => {
                let every = duration(value).ok().filter(|every| *every >= LOG_EVERY_MIN);
                self.log_every = Some(every.ok_or("a duration of at least 10ms")?);
            }
            "cpu" => {
                let cpu = quantity::milli(value.trim());
                self.cpu_milli = Some(cpu.ok_or("a quantity such as 250m")?);
            }
            "memory" => {
                let memory = quantity::bytes(value.trim());
                self.memory_bytes = Some(memory.ok_or("a quantity such as 64Mi")?);
            }
            _ => return Err(NO_SUCH_NAME),
        }
        Ok(())
    }
}

const NO_SUCH_NAME: &str = "one of run-for, exit-code, crash-after, oom-after, not-ready, \
    start-after, image-pull-error, log-lines, log-every, cpu and memory";

/// What is asked of the containers of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviours {
    all: Behaviour,
    own: BTreeMap<String, Behaviour>,
}

impl Behaviours {
    /// Takes over what others say is used, and nothing else of them.
    pub(super) fn take_figures(&mut self, others: &Self) {
        let take = |mine: &mut Behaviour, theirs: &Behaviour| {
            (mine.cpu_milli, mine.memory_bytes) = (theirs.cpu_milli, theirs.memory_bytes);
        };
        // What is asked of all stands in the part of each container that has one.
        for name in others.own.keys() {
            let all = &self.all;
            let own = self.own.entry(name.clone());
            own.or_insert_with(|| all.clone());
        }
        for (name, mine) in &mut self.own {
            take(mine, others.of(name));
        }
        take(&mut self.all, &others.all);
    }

    /// What is asked of one container.
    pub fn of(&self, container: &str) -> &Behaviour {
        self.own.get(container).unwrap_or(&self.all)
    }
}

/// A value that could not be used: it counts as absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The annotation's whole name.
    pub annotation: String,
    /// A sentence for the event with reason [`INVALID`].
    pub message: String,
}

/// Reads the annotations of a pod with these containers, init and ephemeral ones included.
pub fn parse<'a>(
    annotations: &BTreeMap<String, String>,
    containers: impl IntoIterator<Item = &'a str>,
) -> (Behaviours, Vec<Warning>) {
    let containers: Vec<&str> = containers.into_iter().collect();
    let (mut behaviours, mut warnings) = (Behaviours::default(), Vec::new());
    for (annotation, value) in annotations {
        let Some((container, name)) = split(annotation) else {
            continue;
        };
        let target = match container {
            None => &mut behaviours.all,
            Some(one) if containers.contains(&one) => {
                behaviours.own.entry(one.to_owned()).or_default()
            }
            Some(one) => {
                let message = format!(
                    "annotation {annotation} is ignored: the pod has no container {one:?}; it has {}",
                    containers.join(", ")
                );
                warnings.push(Warning {
                    annotation: annotation.clone(),
                    message,
                });
                continue;
            }
        };
        if let Err(want) = target.set(name, value) {
            let message = if want == NO_SUCH_NAME {
                format!("annotation {annotation} is ignored: its name is not {want}")
            } else {
                let value = shortened(value);
                format!("annotation {annotation} is ignored: {value:?} is not {want}")
            };
            warnings.push(Warning {
                annotation: annotation.clone(),
                message,
            });
        }
    }
    for own in behaviours.own.values_mut() {
        *own = std::mem::take(own).or(&behaviours.all);
    }
    (behaviours, warnings)
}

/// Container and name of an annotation of ours.
fn split(annotation: &str) -> Option<(Option<&str>, &str)> {
    let (prefix, name) = annotation.split_once('/')?;
    if prefix == PREFIX {
        return Some((None, name));
    }
    let container = prefix.strip_suffix(PREFIX)?.strip_suffix('.')?;
    Some((Some(container), name))
}

fn shortened(value: &str) -> String {
    const SHOWN: usize = 60;
    match value.char_indices().nth(SHOWN) {
        None => value.to_owned(),
        Some((end, _)) => format!("{}…", &value[..end]),
    }
}

fn duration(value: &str) -> Result<SignedDuration, &'static str> {
    let parsed: Option<SignedDuration> = value.trim().parse().ok();
    parsed
        .filter(|time| (SignedDuration::ZERO..=TIME_MAX).contains(time))
        .ok_or("a duration such as 90s or 1h30m")
}

fn spans(value: &str) -> Result<Vec<Span>, &'static str> {
    const WANT: &str = "a list of spans such as 30s-1m,2m-";
    let span = |text: &str| {
        let (from, until) = text.split_once('-').ok_or(WANT)?;
        let until = match until.trim() {
            "" => None,
            until => Some(duration(until).map_err(|_| WANT)?),
        };
        let from = duration(from).map_err(|_| WANT)?;
        if until.is_some_and(|until| until <= from) {
            return Err(WANT);
        }
        Ok(Span { from, until })
    };
    value.split(',').map(span).collect()
}

fn log_lines(value: &str) -> Result<Vec<LogTemplate>, &'static str> {
    let line = |line: &str| -> Result<_, &'static str> {
        let (after, rest) = match line.strip_prefix('+') {
            None => (SignedDuration::ZERO, line),
            Some(rest) => {
                let (after, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let want = "lines, in which a plus sign at the start begins a duration (+5s text)";
                (duration(after).map_err(|_| want)?, rest)
            }
        };
        let error = rest.strip_prefix("stderr:");
        Ok(LogTemplate {
            after,
            is_error: error.is_some(),
            text: error
                .map_or(rest, |text| text.strip_prefix(' ').unwrap_or(text))
                .into(),
        })
    };
    let mut lines: Vec<_> = value.lines().map(line).collect::<Result<_, _>>()?;
    lines.sort_by_key(|line| line.after);
    Ok(lines)
}

#[cfg(test)]
mod tests;
