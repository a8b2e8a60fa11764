//! The streams of a command: shared by the commands of a line, and a terminal where there is one.
//!
//! Owns the little of a terminal's line discipline that people notice: echo, erasing, `^C`, `^D`
//! and line ends. With a terminal the client sends keys as they are pressed. Nothing is buffered
//! without a bound: who reads slowly is waited for.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use super::terminal::Terminal;
use crate::kubelet::scratch::Reserved;

/// Most bytes that are taken from a stream at once.
pub(super) const CHUNK: usize = 64 * 1024;
/// Longest line; a longer one is taken in parts.
pub(super) const LINE_MAX: usize = 1 << 20;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const ERASE: [u8; 2] = [0x08, 0x7f];
const ERASE_LINE: u8 = 0x15;

pub(super) type Reader<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;
pub(super) type Writer<'a> = Box<dyn AsyncWrite + Send + Unpin + 'a>;

/// The three streams of a command.
#[derive(Clone)]
pub(super) struct Io<'a> {
    pub(super) stdin: Input<'a>,
    pub(super) stdout: Output<'a>,
    pub(super) stderr: Output<'a>,
}

/// Where a command writes. Clones are the same stream, which ends with the last of them.
#[derive(Clone)]
pub(super) struct Output<'a>(Arc<Mutex<Sink<'a>>>);

enum Sink<'a> {
    Stream { writer: Writer<'a>, is_tty: bool },
    Nowhere,
    File { content: Vec<u8>, room: Reserved },
}

impl<'a> Output<'a> {
    pub(super) fn stream(writer: Writer<'a>, is_tty: bool) -> Self {
        Self::new(Sink::Stream { writer, is_tty })
    }

    pub(super) fn nowhere() -> Self {
        Self::new(Sink::Nowhere)
    }

    /// Keeps what is written until it is [taken](Self::take).
    pub(super) fn file(room: Reserved) -> Self {
        let content = Vec::new();
        Self::new(Sink::File { content, room })
    }

    fn new(sink: Sink<'a>) -> Self {
        Self(Arc::new(Mutex::new(sink)))
    }

    /// Writes all of it, waiting for the reader as long as that takes.
    pub(super) async fn write(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        match &mut *self.0.lock().await {
            Sink::Nowhere => Ok(()),
            Sink::File { content, room } => {
                room.grow(bytes.len())
                    .map_err(|full| io::Error::new(io::ErrorKind::StorageFull, full))?;
                content.extend_from_slice(bytes);
                Ok(())
            }
            Sink::Stream { writer, is_tty } => {
                if !*is_tty {
                    return writer.write_all(bytes).await;
                }
                for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
                    if number > 0 {
                        writer.write_all(b"\r\n").await?;
                    }
                    writer.write_all(line).await?;
                }
                writer.flush().await
            }
        }
    }

    pub(super) async fn flush(&self) -> io::Result<()> {
        match &mut *self.0.lock().await {
            Sink::Stream { writer, .. } => writer.flush().await,
            Sink::Nowhere | Sink::File { .. } => Ok(()),
        }
    }

    /// What was written to a file.
    pub(super) async fn take(&self) -> Vec<u8> {
        match &mut *self.0.lock().await {
            Sink::File { content, .. } => std::mem::take(content),
            Sink::Stream { .. } | Sink::Nowhere => Vec::new(),
        }
    }
}

/// What a command reads. Clones are the same stream.
#[derive(Clone)]
pub(super) struct Input<'a> {
    source: Arc<Mutex<Source<'a>>>,
    terminal: Option<Terminal>,
}

struct Source<'a> {
    reader: Option<Reader<'a>>,
    /// Ready to be read.
    ready: VecDeque<u8>,
    tty: Option<Tty<'a>>,
}

struct Tty<'a> {
    echo: Output<'a>,
    /// Keys that came and were not looked at.
    keys: VecDeque<u8>,
    /// The line that is being typed.
    line: Vec<u8>,
}

impl<'a> Input<'a> {
    pub(super) fn empty() -> Self {
        Self::new(None, None)
    }

    pub(super) fn stream(reader: Reader<'a>) -> Self {
        Self::new(Some(reader), None)
    }

    /// A terminal, which shows what is typed on `echo`.
    pub(super) fn tty(reader: Reader<'a>, terminal: Terminal, echo: Output<'a>) -> Self {
        let tty = Tty {
            echo,
            keys: VecDeque::new(),
            line: Vec::new(),
        };
        Self {
            terminal: Some(terminal),
            ..Self::new(Some(reader), Some(tty))
        }
    }

    /// Some bytes and no more.
    pub(super) fn bytes(bytes: bytes::Bytes) -> Self {
        Self::stream(Box::new(io::Cursor::new(bytes)))
    }

    fn new(reader: Option<Reader<'a>>, tty: Option<Tty<'a>>) -> Self {
        Self {
            terminal: None,
            source: Arc::new(Mutex::new(Source {
                reader,
                ready: VecDeque::new(),
                tty,
            })),
        }
    }

    /// The terminal that it is, if it is one.
    pub(super) fn terminal(&self) -> Option<&Terminal> {
        self.terminal.as_ref()
    }

    /// Whether it is a terminal.
    pub(super) fn is_tty(&self) -> bool {
        self.terminal.is_some()
    }

    /// What there is, at most [`CHUNK`]; empty at the end of the stream.
    pub(super) async fn chunk(&self) -> io::Result<Vec<u8>> {
        let mut source = self.source.lock().await;
        if source.ready.is_empty() {
            source.fill().await?;
        }
        let length = source.ready.len().min(CHUNK);
        Ok(source.ready.drain(..length).collect())
    }

    /// A line with its end, or what is left before the end of the stream; empty at the end.
    pub(super) async fn line(&self) -> io::Result<Vec<u8>> {
        let mut source = self.source.lock().await;
        let mut line = Vec::new();
        loop {
            let room = LINE_MAX - line.len();
            let end = source
                .ready
                .iter()
                .take(room)
                .position(|byte| *byte == b'\n');
            let length = end.map_or(source.ready.len().min(room), |end| end + 1);
            line.extend(source.ready.drain(..length));
            if end.is_some() || line.len() == LINE_MAX || source.fill().await? == 0 {
                return Ok(line);
            }
        }
    }

    /// Returns when `^C` is pressed on a terminal; without one, never.
    pub(super) async fn interrupted(&self) {
        let mut source = self.source.lock().await;
        while source.tty.is_some() && source.reader.is_some() {
            let at = source
                .tty
                .as_ref()
                .and_then(|tty| tty.keys.iter().position(|key| *key == INTERRUPT));
            if let (Some(at), Some(tty)) = (at, &mut source.tty) {
                tty.keys.drain(..=at);
                let _ = tty.echo.write("^C\n").await;
                return;
            }
            if !source.more_keys().await.is_ok_and(|more| more) {
                break;
            }
        }
        drop(source);
        std::future::pending::<()>().await;
    }
}

impl Source<'_> {
    /// Makes more bytes ready; returns how many, 0 at the end.
    async fn fill(&mut self) -> io::Result<usize> {
        if self.tty.is_some() {
            return self.fill_from_keys().await;
        }
        let Some(reader) = &mut self.reader else {
            return Ok(0);
        };
        let mut buffer = vec![0; CHUNK];
        let length = reader.read(&mut buffer).await?;
        if length == 0 {
            self.reader = None;
        }
        self.ready.extend(&buffer[..length]);
        Ok(length)
    }

    /// Waits for keys; false when there will be none, or too many were pressed ahead.
    async fn more_keys(&mut self) -> io::Result<bool> {
        let (Some(reader), Some(tty)) = (&mut self.reader, &mut self.tty) else {
            return Ok(false);
        };
        if tty.keys.len() >= CHUNK {
            return Ok(false);
        }
        let mut buffer = [0; 1024];
        let length = reader.read(&mut buffer).await?;
        if length == 0 {
            self.reader = None;
        }
        tty.keys.extend(&buffer[..length]);
        Ok(length > 0)
    }

    async fn fill_from_keys(&mut self) -> io::Result<usize> {
        loop {
            let Some(tty) = &mut self.tty else {
                return Ok(0);
            };
            while let Some(key) = tty.keys.pop_front() {
                match key {
                    b'\r' | b'\n' => {
                        tty.echo.write("\n").await?;
                        tty.line.push(b'\n');
                    }
                    INTERRUPT => {
                        tty.line.clear();
                        tty.echo.write("^C\n").await?;
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    END if tty.line.is_empty() => return Ok(0),
                    END => {}
                    ERASE_LINE => {
                        let erased = "\u{8} \u{8}".repeat(characters(&tty.line));
                        tty.line.clear();
                        tty.echo.write(erased).await?;
                        continue;
                    }
                    key if ERASE.contains(&key) => {
                        if erase(&mut tty.line) {
                            tty.echo.write("\u{8} \u{8}").await?;
                        }
                        continue;
                    }
                    key => {
                        if tty.line.len() < LINE_MAX {
                            tty.line.push(key);
                            tty.echo.write([key]).await?;
                        }
                        continue;
                    }
                }
                let length = tty.line.len();
                self.ready.extend(tty.line.drain(..));
                return Ok(length);
            }
            if !self.more_keys().await? {
                return Ok(0);
            }
        }
    }
}

fn characters(line: &[u8]) -> usize {
    line.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// Takes away the last character, however many bytes it has.
fn erase(line: &mut Vec<u8>) -> bool {
    while let Some(byte) = line.pop() {
        if byte & 0xc0 != 0x80 {
            return true;
        }
    }
    false
}
