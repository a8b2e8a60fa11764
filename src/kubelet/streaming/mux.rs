//! Byte streams out of one connection that carries several.
//!
//! A [`Multiplexer`] says what is there to read and what room there is to write, without I/O; this module makes
//! it something to await. Whoever drives the connection holds the same [`Shared`].

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_spdy::{Read, WriteError};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tracing::debug;

/// Several streams on one connection.
pub(super) trait Multiplexer: Send + 'static {
    /// Names a stream.
    type Id: Copy + Ord + Send + Unpin;

    fn read(&mut self, id: Self::Id, out: &mut [u8]) -> Read;
    /// Takes the beginning of `bytes`, none when there is no room now.
    fn write(&mut self, id: Self::Id, bytes: &[u8]) -> Result<usize, WriteError>;
    /// Ends this side of a stream.
    fn finish(&mut self, id: Self::Id);
    /// Drops what comes on a stream from now on.
    fn ignore(&mut self, id: Self::Id);
    /// Whether all that was written has left.
    fn is_sent(&self) -> bool;
}

/// A multiplexer, and who waits for it.
pub(super) struct Shared<M: Multiplexer>(Mutex<Inner<M>>);

pub(super) struct Inner<M: Multiplexer> {
    pub(super) mux: M,
    readers: BTreeMap<M::Id, Waker>,
    writers: BTreeMap<M::Id, Waker>,
    driver: Option<Waker>,
    /// Nothing more will be written: say goodbye after what is there.
    pub(super) closing: bool,
}

impl<M: Multiplexer> Shared<M> {
    pub(super) fn new(mux: M) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            mux,
            readers: BTreeMap::new(),
            writers: BTreeMap::new(),
            driver: None,
            closing: false,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the multiplexer and lets the connection follow.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut M) -> T) -> T {
        let mut inner = self.lock();
        let out = change(&mut inner.mux);
        inner.wake_driver();
        out
    }

    /// What comes on `id`; dropping it drops what still comes.
    pub(super) fn reader(self: &Arc<Self>, id: M::Id) -> Reader<M> {
        let shared = self.clone();
        Reader { shared, id }
    }

    /// What goes on `id`; dropping it ends this side.
    pub(super) fn writer(self: &Arc<Self>, id: M::Id) -> Writer<M> {
        let shared = self.clone();
        Writer { shared, id }
    }

    /// Says goodbye after all that is written, and waits until the driver has ended because the client has left.
    /// A client that has got everything has `linger` for it; before that, it may be slow.
    pub(super) async fn close(&self, driver: impl Future + Unpin, linger: Duration) {
        {
            let mut inner = self.lock();
            inner.closing = true;
            inner.wake_driver();
        }
        let mut driver = driver;
        while timeout(linger, &mut driver).await.is_err() {
            if self.lock().mux.is_sent() {
                debug!("the client does not close a connection that has ended");
                return;
            }
        }
    }
}

impl<M: Multiplexer> Inner<M> {
    /// The task to wake when a stream was read or written.
    pub(super) fn set_driver(&mut self, cx: &Context<'_>) {
        match &mut self.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_reader(&mut self, id: M::Id) {
        if let Some(waker) = self.readers.remove(&id) {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self, id: M::Id) {
        if let Some(waker) = self.writers.remove(&id) {
            waker.wake();
        }
    }

    pub(super) fn wake_writers(&mut self) {
        for (_, waker) in std::mem::take(&mut self.writers) {
            waker.wake();
        }
    }
}

/// The client has reset a stream or left.
#[derive(Debug, Error)]
#[error("the client broke off the stream")]
struct BrokenOff;

/// Whether an error of a copy to or from a client is the client's doing, not the other side's.
pub(super) fn is_by_client(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|inner| inner.is::<BrokenOff>() || inner.is::<WriteError>())
}

/// The receiving side of a stream.
pub(super) struct Reader<M: Multiplexer> {
    shared: Arc<Shared<M>>,
    id: M::Id,
}

impl<M: Multiplexer> AsyncRead for Reader<M> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.shared.lock();
        match inner.mux.read(self.id, out.initialize_unfilled()) {
            Read::Data(len) => {
                out.advance(len);
                inner.wake_driver();
                Poll::Ready(Ok(()))
            }
            Read::Pending => {
                inner.readers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
            Read::End => Poll::Ready(Ok(())),
            Read::Reset => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                BrokenOff,
            ))),
        }
    }
}

impl<M: Multiplexer> Drop for Reader<M> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.readers.remove(&self.id);
        inner.mux.ignore(self.id);
        inner.wake_driver();
    }
}

/// The sending side of a stream.
pub(super) struct Writer<M: Multiplexer> {
    shared: Arc<Shared<M>>,
    id: M::Id,
}

impl<M: Multiplexer> AsyncWrite for Writer<M> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.shared.lock();
        match inner.mux.write(self.id, bytes) {
            Ok(0) if !bytes.is_empty() => {
                inner.writers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
            Ok(len) => {
                inner.wake_driver();
                Poll::Ready(Ok(len))
            }
            Err(error) => Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, error))),
        }
    }

    /// What is written is on its way: nothing that is written later overtakes it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|mux| mux.finish(self.id));
        Poll::Ready(Ok(()))
    }
}

impl<M: Multiplexer> Drop for Writer<M> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.writers.remove(&self.id);
        inner.mux.finish(self.id);
        inner.wake_driver();
    }
}
