//! One listening socket: accepts, bounds the number of connections, and owns their tasks.
//!
//! A connection above a bound is closed at once and accepting goes on, so that a full server is seen to be full. An
//! accept that fails for want of file descriptors is tried again after a pause; nothing that is connected suffers. A TLS
//! handshake is the connection's own task, so that a slow one keeps nobody waiting.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    config::ListenerConfig,
    mqtt::{
        broker::Broker,
        handshake::{self, Peer},
        tls::{Proof, Tls, TlsError},
    },
};

/// A bound socket that accepts MQTT over TCP.
#[derive(Debug)]
pub struct Listener {
    config: ListenerConfig,
    socket: TcpListener,
    tls: Option<Tls>,
}

/// Why a listener cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The operating system refuses the address: it is in use, is not this machine's, or may not be bound.
    #[error(transparent)]
    Bind(#[from] io::Error),
    /// A file that TLS needs.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Listener {
    /// Reads the certificates of `config` and binds its address.
    ///
    /// # Errors
    ///
    /// A [`ListenError`]; nothing is bound then.
    pub fn bind(config: ListenerConfig) -> Result<Self, ListenError> {
        let tls = config.tls.as_ref().map(|tls| Tls::open(tls, config.anonymous)).transpose()?;
        let socket = match config.bind {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(config.bind)?;
        Ok(Self { socket: socket.listen(BACKLOG)?, config, tls })
    }

    /// The address in use, its port found if the configured one was 0.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Accepts until the broker closes, then waits for the connections to end.
    pub async fn run(self, broker: Arc<Broker>) {
        let mut connections = JoinSet::new();
        let places = Arc::new(Semaphore::new(self.config.connections_max));
        loop {
            tokio::select! {
                () = broker.closed() => break,
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, &broker, &places, &mut connections),
                    Err(error) => {
                        tracing::warn!(listener = self.config.name, %error, "cannot accept");
                        broker.counters.accepts_failed.add(1);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(self.socket);
        while connections.join_next().await.is_some() {}
    }

    fn admit(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        broker: &Arc<Broker>,
        places: &Arc<Semaphore>,
        connections: &mut JoinSet<()>,
    ) {
        let own = places.clone().try_acquire_owned();
        let shared = broker.places.clone().try_acquire_owned();
        let (Ok(own), Ok(shared)) = (own, shared) else {
            broker.counters.connections_refused.add(1);
            return;
        };
        let Some(visit) = broker.service.quotas().enter(address.ip(), Instant::now()) else { return };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(peer = %address, %error, "cannot set TCP_NODELAY");
        }
        let deadline = Instant::now() + self.config.connect_timeout;
        let peer = Peer {
            address,
            proof: Proof::None,
            anonymous: self.config.anonymous,
            anonymous_role: self.config.anonymous_role.clone(),
            certificate_role: self.config.certificate_role.clone(),
        };
        let (broker, tls) = (broker.clone(), self.tls.clone());
        connections.spawn(async move {
            match tls {
                None => handshake::serve(stream, peer, broker, deadline).await,
                // Boxed, or a task of plain TCP would be as large as one of TLS.
                Some(tls) => Box::pin(serve_tls(tls, stream, peer, broker, deadline)).await,
            }
            drop((own, shared, visit));
        });
    }
}

/// Goes through the TLS handshake, then serves the client.
async fn serve_tls(tls: Tls, stream: TcpStream, peer: Peer, broker: Arc<Broker>, deadline: Instant) {
    match tokio::time::timeout_at(deadline.into(), tls.accept(stream)).await {
        Ok(Ok((stream, proof))) => handshake::serve(stream, Peer { proof, ..peer }, broker, deadline).await,
        failed => {
            let error = failed.ok().and_then(Result::err); // none: it took too long
            tracing::debug!(peer = %peer.address, ?error, "no TLS handshake in time");
            broker.service.quotas().addresses.handshake_failed(peer.address.ip(), Instant::now());
        }
    }
}

/// Connections the kernel completes before they are accepted.
const BACKLOG: u32 = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
