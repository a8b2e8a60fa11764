//! Channels over a WebSocket: carries messages between the two and wakes whoever waits.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::{Sink, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
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
/// For a client to hear that its message is too long, before the connection is closed.
const GOODBYE: Duration = Duration::from_secs(1);

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
    if let Err(error) = &ended {
        debug!(error = error as &dyn std::error::Error, "a WebSocket broke");
    }
    shared.lock().mux.break_off();
    if let Err(Error::Capacity(_)) = ended {
        refuse(sink).await;
    }
}

/// Tells the client that its message is too long.
async fn refuse(mut sink: impl Sink<Message, Error = Error> + Unpin) {
    let reason = format!("a message is longer than {MESSAGE_LEN} bytes");
    let too_long = CloseFrame {
        code: CloseCode::Size,
        reason: reason.into(),
    };
    // How it ends is no matter: nothing else is left to tell.
    let _ = timeout(GOODBYE, sink.send(Message::Close(Some(too_long)))).await;
    // A connection that is closed with something unread is reset, and the client might lose what it was told.
    sleep(GOODBYE).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::streaming::channels::{Codec, Direction};

    #[tokio::test]
    async fn a_client_hears_that_its_message_is_too_long() {
        let (client, server) = tokio::io::duplex(BUFFER_LEN);
        let channels = Channels::new(Codec::Raw, true, &[Direction::FromClient]);
        let driven = drive(
            accept(server).await,
            Shared::new(channels),
            Duration::from_mins(1),
        );
        let asked = async {
            let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
            let (mut sink, mut stream) = client.split();
            let message = Message::binary(vec![0; MESSAGE_LEN + MESSAGE_LEN / 2]);
            tokio::select! {
                sent = sink.send(message) => panic!("all of it was taken: {sent:?}"),
                answer = stream.next() => answer.unwrap().unwrap(),
            }
        };
        let ((), answer) = timeout(Duration::from_secs(20), async {
            tokio::join!(driven, asked)
        })
        .await
        .unwrap();
        let Message::Close(Some(frame)) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(frame.code, CloseCode::Size);
        assert_eq!(frame.reason, "a message is longer than 2097152 bytes");
    }
}
