//! Streams of `exec`, `attach` and `port-forward`, over WebSocket and over SPDY/3.1.
//!
//! Owns the upgrade, the protocols' versions, the channels, their end and their limits. Does not know who asks
//! (the routes have let him in), whether a pod exists, or what a command does: a future that gets [`Streams`]
//! and gives an [`ExitStatus`] stands for it.
//!
//! Sources: `k8s.io/cri-streaming/pkg/streaming/{remotecommand,portforward}`, `k8s.io/streaming/pkg/httpstream` and
//! `k8s.io/apiserver/pkg/util/proxy` at v0.36, which is what a kubelet serves these paths with. The connection
//! must be served with upgrades (`hyper`: `with_upgrades`).

mod channels;
mod exec;
mod mux;
mod negotiate;
mod options;
mod port_forward;
mod resize;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod tunnel;
mod websocket;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use exec::{serve_attach, serve_exec};
pub use options::{ExecOptions, OptionsError};
pub use port_forward::serve_port_forward;
pub use resize::TerminalSize;
pub use status::ExitStatus;

/// What a command reads.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// What a command writes. All that is written before it is dropped reaches the client.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// The streams of a command, each there when the client asked for it.
pub struct Streams {
    /// Ends when the client ends it; fails when the client breaks off.
    pub stdin: Option<Input>,
    /// Standard output, with a terminal the terminal's.
    pub stdout: Option<Output>,
    /// Never there with a terminal.
    pub stderr: Option<Output>,
    /// Sizes of the client's terminal, the first soon after the start. Only the newest matters: older ones that
    /// nobody took are left out.
    pub resizes: Option<mpsc::Receiver<TerminalSize>>,
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    /// Without a frame either way.
    idle: Duration,
    /// For opening the streams that belong together.
    creation: Duration,
    /// For closing after it has got everything.
    linger: Duration,
}

/// `streamingConnectionIdleTimeout` and `DefaultStreamCreationTimeout` of the kubelet. It closes at once at the
/// end, which loses the tail when the client still sends (kubernetes/kubernetes#124571).
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_hours(4),
    creation: Duration::from_secs(30),
    linger: Duration::from_secs(10),
};
