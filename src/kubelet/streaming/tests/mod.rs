//! Clients over real sockets against a hyper server, and clients that mean harm.

mod client;
mod exec;
mod hostile;
mod negotiate;
mod port_forward;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use super::Timeouts;

/// Nothing here takes long; a test that waits for what does not come fails after this.
const PATIENCE: Duration = Duration::from_mins(1);

const SHORT: Timeouts = Timeouts {
    idle: Duration::from_millis(300),
    creation: Duration::from_millis(300),
    linger: Duration::from_millis(300),
};

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes too long")
}

/// Serves every path with `answer`, on a port of its own, until the runtime of the test ends.
async fn serve<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response> + Send,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(router.clone());
            let connection = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::spawn(connection);
        }
    });
    address
}

/// Bytes that do not repeat soon, so that none can be lost, doubled or swapped unseen.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}
