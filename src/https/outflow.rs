//! Whether the client of a connection takes what is written to it, for whoever has to make room for others.
//!
//! Knows nothing of what is written, and ends no connection by itself: a client may pause for as long as nobody needs
//! what it holds.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use http::Extensions;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What a connection writes. An extension of every request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outflow(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Since when the client has taken nothing of what there is, and who waits for it.
    stuck: Option<(Instant, Waker)>,
    ended: bool,
}

impl Outflow {
    /// That of the connection that a request came on. One that nobody watches takes everything.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Since when the client takes nothing of what is to be written; `None`: nothing waits to be written.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        self.lock().stuck.as_ref().map(|(since, _)| *since)
    }

    /// Breaks the connection off: whatever is written or read from now on fails.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        if let Some((_, waker)) = state.stuck.take() {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> io::Result<()> {
        if self.lock().ended {
            let why = "the client took nothing, and its place was needed";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(())
    }

    fn tried(&self, cx: &Context<'_>, is_pending: bool) {
        let mut state = self.lock();
        state.stuck = is_pending.then(|| {
            let since = state.stuck.as_ref().map(|(since, _)| *since);
            (since.unwrap_or_else(Instant::now), cx.waker().clone())
        });
    }
}

/// A connection, whose outflow is watched.
pub(crate) struct Watched<S> {
    stream: S,
    outflow: Outflow,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, outflow: Outflow) -> Self {
        Self { stream, outflow }
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.outflow.lock().stuck = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.outflow.check()?;
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.outflow.check()?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.outflow.tried(cx, written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outflow.check()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.outflow.tried(cx, written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outflow.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
impl Outflow {
    /// Waits until the client takes nothing, and tells since when.
    pub(crate) async fn stuck(&self) -> Instant {
        let stuck = async {
            loop {
                if let Some(since) = self.stuck_since() {
                    return since;
                }
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(20);
        let stuck = tokio::time::timeout(limit, stuck).await;
        stuck.expect("it takes nothing")
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_known_and_can_be_ended() {
        let (mut near, far) = duplex(16);
        let outflow = Outflow::default();
        let mut watched = Watched::new(far, outflow.clone());
        let writing = tokio::spawn(async move { watched.write_all(&[0; 64]).await });
        let first = outflow.stuck().await;
        tokio::task::yield_now().await;
        assert_eq!(outflow.stuck_since(), Some(first));

        near.read_exact(&mut [0; 16]).await.unwrap();
        while outflow.stuck().await == first {
            tokio::task::yield_now().await;
        }
        outflow.end();
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(outflow.stuck_since(), None);
    }

    #[tokio::test]
    async fn a_client_that_takes_everything_is_not_stuck() {
        let (_near, far) = duplex(64);
        let outflow = Outflow::default();
        let mut watched = Watched::new(far, outflow.clone());
        watched.write_all(&[0; 64]).await.unwrap();
        assert_eq!(outflow.stuck_since(), None);
        outflow.end();
        assert!(watched.write_all(&[0]).await.is_err());
        assert!(watched.read_u8().await.is_err());
    }
}
