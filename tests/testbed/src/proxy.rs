//! A way to the API server that can be cut while the cluster behind it lives on.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Forwards TCP connections to one address until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of loopback that was free, and forwards to `target`.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.context("no free port on loopback")?;
        let address = listener.local_addr().context("no free port on loopback")?;
        let (open, is_open) = watch::channel(true);
        let task = tokio::spawn(serve(listener, target, is_open));
        Ok(Self {
            address,
            open,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks all connections off, and new ones as they come, until [`Proxy::mend`].
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, is_open: watch::Receiver<bool>) {
    loop {
        // Nothing but a lack of file descriptors ends an accept here, and that ends the test.
        let Ok((mut near, _)) = listener.accept().await else {
            return;
        };
        let mut is_open = is_open.clone();
        tokio::spawn(async move {
            let forward = async {
                if let Ok(mut far) = TcpStream::connect(target).await {
                    // Either end may go at any time; whoever is left notices.
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            };
            tokio::select! {
                biased;
                // An error means that the proxy is gone.
                _ = is_open.wait_for(|open| !open) => {}
                () = forward => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::eventually;

    /// Answers every connection with one byte and keeps it.
    async fn server() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(b"x").await.unwrap();
                kept.push(stream);
            }
        });
        address
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_lets_none_through_until_it_is_mended() {
        let proxy = Proxy::start(server().await).await.unwrap();
        let mut byte = [0];
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        old.read_exact(&mut byte).await.unwrap();

        proxy.cut();
        assert_eq!(old.read(&mut byte).await.unwrap_or(0), 0, "it has ended");
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(new.read(&mut byte).await.unwrap_or(0), 0, "nothing answers");

        proxy.mend();
        eventually("an answer", Duration::from_secs(10), async || {
            let mut next = TcpStream::connect(proxy.address())
                .await
                .map_err(|e| e.to_string())?;
            let read = next.read_exact(&mut [0]).await;
            read.map(drop).map_err(|e| e.to_string())
        })
        .await
        .unwrap();
    }
}
