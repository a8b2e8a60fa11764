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
    let mut more = true;
    while more || newest.is_some() {
        tokio::select! {
            permit = sizes.reserve(), if newest.is_some() => {
                let (Ok(permit), Some(size)) = (permit, newest.take()) else {
                    return;
                };
                permit.send(size);
            }
            read = input.read_buf(&mut buffer), if more => {
                more = matches!(read, Ok(1..)) && parse(&mut buffer, &mut newest);
            }
        }
    }
}

/// Takes the sizes that are complete; false when what is there can become none.
fn parse(buffer: &mut Vec<u8>, newest: &mut Option<TerminalSize>) -> bool {
    let mut objects = serde_json::Deserializer::from_slice(buffer).into_iter();
    let malformed = loop {
        // After an error the offset is right only until the next call.
        match objects.next() {
            Some(Ok(size)) => *newest = Some(size),
            Some(Err(error)) => break !error.is_eof(),
            None => break false,
        }
    };
    let used = objects.byte_offset();
    buffer.drain(..used);
    if malformed || buffer.len() > OBJECT_LEN {
        debug!("the client sends terminal sizes that are none");
        return false;
    }
    true
}
