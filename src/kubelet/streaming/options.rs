//! What the query of a request asks for.

use thiserror::Error;

/// Which streams a client wants, and for which command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOptions {
    /// The client sends standard input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error.
    pub stderr: bool,
    /// The command gets a terminal.
    pub tty: bool,
    /// Program and arguments; none for `attach`.
    pub command: Vec<String>,
    /// Name of the container.
    pub container: String,
}

/// A query that the kubelet answers with 400.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OptionsError {
    /// The words are those of the kubelet.
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    NoStream,
    /// A WebSocket port-forward names its ports in the query.
    #[error("query parameter \"port\" is required")]
    NoPort,
    /// Ports are from 1 to 65535.
    #[error("unable to parse {0:?} as a port: name a number from 1 to 65535")]
    Port(String),
    /// Channels are numbered with a byte.
    #[error("{0} ports are named, at most {max} can be forwarded at a time", max = PORTS)]
    Ports(usize),
}

/// Two channels for each port, and 255 is taken.
const PORTS: usize = 127;

impl ExecOptions {
    /// Reads the kubelet's parameters `command` (repeated), `input`, `output`, `error` and `tty`, where only "1"
    /// counts; and the API server's names for them, `stdin`, `stdout` and `stderr`, where "true" counts as well.
    ///
    /// A terminal has no standard error: asked for both, the client gets none, as from the kubelet.
    pub fn from_query(query: &str, container: impl Into<String>) -> Result<Self, OptionsError> {
        let on = |names: [&str; 2]| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            let found = pairs.find(|(name, _)| names.contains(&name.as_ref()));
            found.is_some_and(|(_, value)| value == "1" || value == "true")
        };
        let tty = on(["tty", "tty"]);
        let options = Self {
            stdin: on(["input", "stdin"]),
            stdout: on(["output", "stdout"]),
            stderr: on(["error", "stderr"]) && !tty,
            tty,
            command: values(query, "command"),
            container: container.into(),
        };
        if !options.stdin && !options.stdout && !options.stderr {
            return Err(OptionsError::NoStream);
        }
        Ok(options)
    }
}

/// The ports of a WebSocket port-forward: `port` repeated, or with commas.
pub(super) fn ports(query: &str) -> Result<Vec<u16>, OptionsError> {
    let mut ports = Vec::new();
    for value in values(query, "port") {
        for port in value.split(',') {
            let number = port.parse().ok().filter(|port| *port > 0);
            ports.push(number.ok_or_else(|| OptionsError::Port(port.to_owned()))?);
        }
    }
    match ports.len() {
        0 => Err(OptionsError::NoPort),
        1..=PORTS => Ok(ports),
        len => Err(OptionsError::Ports(len)),
    }
}

fn values(query: &str, wanted: &str) -> Vec<String> {
    form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == wanted)
        .map(|(_, value)| value.into_owned())
        .collect()
}
