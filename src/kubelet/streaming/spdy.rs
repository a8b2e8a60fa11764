//! A SPDY session over a connection: carries bytes between the two and wakes whoever waits.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_spdy::{
    Event, Headers, Limits, Read, Role, Session, SessionError, StreamId, WriteError,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::debug;

use super::mux::{Multiplexer, Shared};

const INPUT_LEN: usize = 16 * 1024;

impl Multiplexer for Session {
    type Id = StreamId;

    fn read(&mut self, id: StreamId, out: &mut [u8]) -> Read {
        Session::read(self, id, out)
    }

    fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, WriteError> {
        Session::write(self, id, bytes)
    }

    fn finish(&mut self, id: StreamId) {
        Session::finish(self, id);
    }

    fn ignore(&mut self, id: StreamId) {
        Session::ignore(self, id);
    }

    fn is_sent(&self) -> bool {
        self.output().is_empty()
    }
}

/// A stream that the client has opened and that waits for an answer.
pub(super) struct Opened {
    pub(super) id: StreamId,
    pub(super) headers: Headers,
}

/// One end of a session on `io`. Nothing happens unless the driver is polled. A peer has `linger` to take the
/// farewell of a session that has failed.
pub(super) fn connect<S>(
    io: S,
    role: Role,
    limits: Limits,
    linger: Duration,
) -> (
    Arc<Shared<Session>>,
    mpsc::UnboundedReceiver<Opened>,
    Driver<S>,
) {
    let session = Session::new(role, limits, Instant::now().into_std());
    let deadline = Instant::from_std(session.deadline());
    let shared = Shared::new(session);
    // Bounded by the streams that a session may have.
    let (sender, opened) = mpsc::unbounded_channel();
    let driver = Driver {
        io,
        shared: shared.clone(),
        opened: sender,
        input: vec![0; INPUT_LEN].into_boxed_slice(),
        begin: 0,
        end: 0,
        linger,
        timer: Box::pin(sleep_until(deadline)),
        unflushed: false,
        shut: false,
        failed: None,
    };
    (shared, opened, driver)
}

/// Ends when the peer closes the connection, or after the session or the connection has failed.
pub(super) struct Driver<S> {
    io: S,
    shared: Arc<Shared<Session>>,
    opened: mpsc::UnboundedSender<Opened>,
    input: Box<[u8]>,
    /// Of `input`, what the session has not taken yet.
    begin: usize,
    end: usize,
    linger: Duration,
    /// Goes off when nothing was sent for too long, and once more for the farewell.
    timer: Pin<Box<Sleep>>,
    unflushed: bool,
    shut: bool,
    failed: Option<SessionError>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.shared.lock().set_driver(cx);
        loop {
            this.expire(cx)?;
            let sent = this.send(cx)?;
            if this.failed.is_some() {
                return if this.shut {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            match this.receive(cx)? {
                Received::End => return Poll::Ready(Ok(())),
                Received::Some => {}
                Received::Nothing if sent => {}
                Received::Nothing => return Poll::Pending,
            }
        }
    }
}

enum Received {
    Some,
    Nothing,
    End,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// True when something was sent, which may have made room to receive.
    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut sent = false;
        let closing = loop {
            let mut inner = self.shared.lock();
            let output = inner.mux.output();
            if output.is_empty() {
                break inner.closing || self.failed.is_some();
            }
            match Pin::new(&mut self.io).poll_write(cx, output)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(len) => {
                    inner.mux.sent(len, Instant::now().into_std());
                    drop(inner);
                    self.dispatch();
                    (sent, self.unflushed) = (true, true);
                }
                Poll::Pending => return Ok(sent),
            }
        };
        if self.unflushed && Pin::new(&mut self.io).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        if closing && !self.shut && Pin::new(&mut self.io).poll_shutdown(cx)?.is_ready() {
            self.shut = true;
        }
        Ok(sent)
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<Received> {
        if self.begin == self.end {
            let mut input = ReadBuf::new(&mut self.input);
            if Pin::new(&mut self.io)
                .poll_read(cx, &mut input)?
                .is_pending()
            {
                return Ok(Received::Nothing);
            }
            (self.begin, self.end) = (0, input.filled().len());
            if self.end == 0 {
                self.shared.lock().mux.end_of_input();
                self.dispatch();
                return Ok(Received::End);
            }
        }
        let input = &self.input[self.begin..self.end];
        let now = Instant::now().into_std();
        let taken = self.shared.lock().mux.receive(input, now);
        let taken = taken.unwrap_or_else(|error| {
            self.fail(error);
            self.end - self.begin
        });
        self.begin += taken;
        // Events that are taken make room as well.
        if self.dispatch() || taken > 0 {
            Ok(Received::Some)
        } else {
            Ok(Received::Nothing)
        }
    }

    fn expire(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.failed.is_some() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let expired = self.shared.lock().mux.expire(Instant::now().into_std());
            if let Err(error) = expired {
                self.fail(error);
            } else {
                let deadline = Instant::from_std(self.shared.lock().mux.deadline());
                self.timer.as_mut().reset(deadline);
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: SessionError) {
        debug!(
            error = &error as &dyn std::error::Error,
            "a SPDY session ends"
        );
        self.failed = Some(error);
        self.timer.as_mut().reset(Instant::now() + self.linger);
        self.dispatch();
    }

    /// Hands on what the peer did; true when that was something.
    fn dispatch(&self) -> bool {
        let mut inner = self.shared.lock();
        let mut any = false;
        while let Some(event) = inner.mux.event() {
            any = true;
            match event {
                Event::Opened { id, headers } => {
                    if self.opened.send(Opened { id, headers }).is_err() {
                        inner
                            .mux
                            .reset(id, holdfast_spdy::RstStatus::REFUSED_STREAM);
                    }
                }
                Event::Readable(id) => inner.wake_reader(id),
                Event::Accepted(id) | Event::Writable(Some(id)) => inner.wake_writer(id),
                Event::Writable(None) => inner.wake_writers(),
                Event::GoAway(status) => debug!(status = status.0, "the SPDY peer is leaving"),
            }
        }
        any
    }
}
