//! Channels over a WebSocket: carries messages between the two and wakes whoever waits.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::debug;

use super::channels::Channels;
use super::mux::Shared;

/// Longest message of a client. Clients in Go send 32 KiB; some others send a whole file.
const MESSAGE_LEN: usize = 2 * 1024 * 1024;
const BUFFER_LEN: usize = 16 * 1024;

/// The server's end of a WebSocket whose handshake is done.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_LEN)
        .write_buffer_size(BUFFER_LEN)
        .max_message_size(Some(MESSAGE_LEN))
        .max_frame_size(Some(MESSAGE_LEN));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Carries messages until the client closes the connection, it fails, or nothing was sent for `idle`.
pub(super) async fn drive<S>(
    socket: WebSocketStream<S>,
    shared: Arc<Shared<Channels>>,
    idle: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    let (active, mut activity) = watch::channel(Instant::now());

    let receive = async {
        loop {
            poll_fn(|cx| {
                let mut inner = shared.lock();
                inner.set_driver(cx);
                if inner.mux.has_room() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            let Some(message) = stream.next().await else {
                return Ok(());
            };
            active.send_replace(Instant::now());
            let bytes: Bytes = match message? {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => return Ok(()),
                _ => continue,
            };
            let mut inner = shared.lock();
            match inner.mux.receive(bytes) {
                Ok(Some(channel)) => inner.wake_reader(channel),
                Ok(None) => {}
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, "a WebSocket ends");
                    return Ok(());
                }
            }
        }
    };
    let send = async {
        while let Some(message) = next_message(&shared).await {
            sink.send(message).await?;
            active.send_replace(Instant::now());
        }
        let normal = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        sink.send(Message::Close(Some(normal))).await?;
        std::future::pending::<Result<(), Error>>().await
    };
    let expire = async {
        loop {
            let deadline = *activity.borrow_and_update() + idle;
            sleep_until(deadline).await;
            if *activity.borrow() + idle <= Instant::now() {
                return;
            }
        }
    };
    let ended = tokio::select! {
        ended = receive => ended,
        ended = send => ended,
        () = expire => Ok(()),
    };
    if let Err(error) = ended {
        debug!(
            error = &error as &dyn std::error::Error,
            "a WebSocket broke"
        );
    }
    shared.lock().mux.break_off();
}

/// The next message to send; None when there will be none any more.
async fn next_message(shared: &Shared<Channels>) -> Option<Message> {
    poll_fn(|cx| {
        let mut inner = shared.lock();
        inner.set_driver(cx);
        match inner.mux.message() {
            Some((message, room)) => {
                inner.took();
                if room {
                    inner.wake_writers();
                }
                Poll::Ready(Some(message))
            }
            None if inner.closing => Poll::Ready(None),
            None => Poll::Pending,
        }
    })
    .await
}
