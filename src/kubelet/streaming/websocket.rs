//! Channels over a WebSocket: carries messages between the two and wakes whoever waits.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, copy};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
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
/// For a client to end its message that is too long, before the connection is closed.
const GOODBYE: Duration = Duration::from_secs(10);
/// Of a message that is too long, what is still taken and thrown away.
pub(super) const THROWN_AWAY_MAX: u32 = 16 << 20;

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
        ended = receive(&mut stream, &shared, &active) => ended,
        ended = send => ended,
        () = expire => Ok(()),
    };
    if let Err(error) = &ended {
        debug!(error = error as &dyn std::error::Error, "a WebSocket broke");
    }
    shared.lock().mux.break_off();
    if let Err(Error::Capacity(_)) = ended {
        refuse(sink, stream).await;
    }
}

/// Hands messages on until the client closes the connection or says what it may not.
async fn receive<S>(
    stream: &mut SplitStream<WebSocketStream<S>>,
    shared: &Shared<Channels>,
    active: &watch::Sender<Instant>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
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
}

/// Tells the client that its message is too long, and takes the rest of it: a connection that is closed with something
/// unread is reset, and a client that writes before it reads would not hear why.
async fn refuse<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    stream: SplitStream<WebSocketStream<S>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let reason = format!("a message is longer than {MESSAGE_LEN} bytes");
    let too_long = CloseFrame {
        code: CloseCode::Size,
        reason: reason.into(),
    };
    let told = async {
        sink.send(Message::Close(Some(too_long))).await?;
        let mut socket = sink.reunite(stream).expect("they are of one socket");
        let mut rest = socket.get_mut().take(THROWN_AWAY_MAX.into());
        copy(&mut rest, &mut tokio::io::sink()).await?;
        Ok::<_, Error>(())
    };
    if let Ok(Err(error)) = timeout(GOODBYE, told).await {
        debug!(
            error = &error as &dyn std::error::Error,
            "a client may not have heard that its message is too long"
        );
    }
}

/// The next message to send; None when there will be none any more.
async fn next_message(shared: &Shared<Channels>) -> Option<Message> {
    poll_fn(|cx| {
        let mut inner = shared.lock();
        inner.set_driver(cx);
        match inner.mux.message() {
            Some((message, room)) => {
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
