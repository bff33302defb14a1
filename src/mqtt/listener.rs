//! One listening socket: accepts, bounds the number of connections, and owns their tasks.
//!
//! A connection above a bound is closed at once and accepting goes on, so that a full server is seen to be full. An
//! accept that fails for want of file descriptors is tried again after a pause; nothing that is connected suffers.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    config::ListenerConfig,
    mqtt::{broker::Broker, handshake},
};

/// A bound socket that accepts MQTT over TCP.
#[derive(Debug)]
pub struct Listener {
    config: ListenerConfig,
    socket: TcpListener,
}

impl Listener {
    /// Binds the address of `config`.
    ///
    /// # Errors
    ///
    /// Those of the operating system: the address is in use, is not this machine's, or may not be bound.
    pub fn bind(config: ListenerConfig) -> io::Result<Self> {
        let socket = match config.bind {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(config.bind)?;
        Ok(Self { socket: socket.listen(BACKLOG)?, config })
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
        let mut closing = broker.closing();
        loop {
            tokio::select! {
                _ = closing.changed() => break,
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
        peer: SocketAddr,
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
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let (broker, timeout) = (broker.clone(), self.config.connect_timeout);
        connections.spawn(async move {
            handshake::serve(stream, peer, broker, timeout).await;
            drop((own, shared));
        });
    }
}

/// Connections the kernel completes before they are accepted.
const BACKLOG: u32 = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
