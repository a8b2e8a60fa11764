//! Sizes of the client's terminal, out of a stream of JSON objects.

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tracing::debug;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
    /// Lines.
    #[serde(rename = "Height")]
    pub height: u16,
}

/// An object has some 30 bytes.
const OBJECT_LEN: usize = 1024;

/// Hands sizes on until the client sends no more, nobody wants them, or what comes is no size. The client is
/// never held up: while nobody takes a size, the newest replaces it.
pub(super) async fn pump(mut input: impl AsyncRead + Unpin, sizes: mpsc::Sender<TerminalSize>) {
    let mut buffer = Vec::new();
    let mut newest = None;
    loop {
        tokio::select! {
            permit = sizes.reserve(), if newest.is_some() => match permit {
                Ok(permit) => {
                    if let Some(size) = newest.take() {
                        permit.send(size);
                    }
                }
                Err(_) => return,
            },
            read = input.read_buf(&mut buffer) => {
                if !matches!(read, Ok(1..)) {
                    if let Some(size) = newest {
                        // Nobody is left to be told that nobody takes it.
                        let _ = sizes.send(size).await;
                    }
                    return;
                }
            }
        }
        let mut objects = serde_json::Deserializer::from_slice(&buffer).into_iter();
        let mut malformed = false;
        for object in &mut objects {
            match object {
                Ok(size) => newest = Some(size),
                Err(error) => malformed = !error.is_eof(),
            }
        }
        let used = objects.byte_offset();
        buffer.drain(..used);
        if malformed || buffer.len() > OBJECT_LEN {
            debug!("the client sends terminal sizes that are none");
            return;
        }
    }
}
