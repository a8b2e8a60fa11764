//! What a peer may cost.

use std::time::Duration;

/// What a peer may cost. With the defaults a session holds at most 1 MB, idle about 50 kB.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams at a time; more are refused.
    pub streams: usize,
    /// Bytes of a control frame without its head.
    pub control_frame_len: usize,
    /// Bytes of a header block when inflated.
    pub header_block_len: usize,
    /// Headers of a block.
    pub headers: u32,
    /// Unread bytes of a stream. Above 64 KiB: that much a peer that keeps windows sends unasked, and
    /// only by more does one that keeps none show it.
    pub stream_buffer_len: usize,
    /// Unread bytes of all streams together.
    pub session_buffer_len: usize,
    /// Bytes of data that wait to be sent.
    pub output_len: usize,
    /// The session ends when no frame went either way for so long.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 256,
            control_frame_len: 16 * 1024,
            header_block_len: 16 * 1024,
            headers: 64,
            stream_buffer_len: 96 * 1024,
            session_buffer_len: 256 * 1024,
            output_len: 128 * 1024,
            // `streamingConnectionIdleTimeout` of the kubelet.
            idle_timeout: Duration::from_hours(4),
        }
    }
}
