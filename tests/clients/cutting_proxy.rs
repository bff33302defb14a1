//! A proxy between client and server, which can cut connections and switch to another server.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::harness::Seed;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    cuts: Arc<AtomicU64>,
    // Its connections end with it.
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Returns a proxy to `server`.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        Self::start(server, None).await
    }

    /// Returns a proxy to `server` that cuts each connection after a random number of bytes.
    pub(crate) async fn cutting(server: SocketAddr, seed: u64) -> Self {
        Self::start(server, Some(Seed(seed))).await
    }

    async fn start(server: SocketAddr, seed: Option<Seed>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (server, cuts) = (Arc::new(Mutex::new(server)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server.clone(), seed, cuts.clone()));
        Self { address, server, cuts, _tasks: tasks }
    }

    /// Sends new connections to another server.
    pub(crate) fn now_to(&self, server: SocketAddr) {
        *self.server.lock().expect("no panic holds it") = server;
    }

    /// Returns the number of connections cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, server: Arc<Mutex<SocketAddr>>, mut seed: Option<Seed>, cuts: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (address, cuts) = (*server.lock().expect("no panic holds it"), cuts.clone());
        let budget = seed.as_mut().map_or(usize::MAX, |seed| 100 + seed.below(2_500) as usize);
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(address).await else { return };
            if forward(client, server, budget).await {
                cuts.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Forwards `budget` bytes, both directions together; returns true if the budget ended it.
async fn forward(mut client: TcpStream, mut server: TcpStream, mut budget: usize) -> bool {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    while budget > 0 {
        let forwarded = tokio::select! {
            read = client.read(&mut up) => copy(&up, read, &mut server, budget).await,
            read = server.read(&mut down) => copy(&down, read, &mut client, budget).await,
        };
        match forwarded {
            Some(bytes) => budget -= bytes,
            None => return false,
        }
    }
    true
}

/// Forwards what was read; returns the number of bytes, `None` at the end.
async fn copy(buffer: &[u8], read: std::io::Result<usize>, to: &mut TcpStream, budget: usize) -> Option<usize> {
    let bytes = read.ok().filter(|bytes| *bytes > 0)?.min(budget);
    to.write_all(&buffer[..bytes]).await.ok()?;
    Some(bytes)
}
