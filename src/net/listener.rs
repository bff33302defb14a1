//! One listening socket: accepts, bounds the number of connections, and owns their tasks.
//!
//! A connection above a bound, or for which the process has no file left, is closed at once and accepting goes on, so
//! that a full server is seen to be full; nothing that is connected suffers. What comes before the door, a PROXY header
//! and the TLS handshake, is the connection's own task, so that a slow one keeps nobody waiting.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};

use crate::{
    admission::{AddressPermit, Quotas},
    auth::authn::certificate::PeerCertificate,
    config::ListenerConfig,
    net::{
        ConnectionHandler, ListenerCounters, Peer,
        preauth_stream::PreAuthStream,
        proxy::{self, ProxyError},
        reserved_fd::ReservedFd,
        tcp::{Tcp, probe_peers},
        tls::Tls,
    },
};

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    config: ListenerConfig,
    /// The name in `config`, to be shared with its connections.
    shared_name: Arc<str>,
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
}

/// What all listeners share.
#[derive(Clone, Debug)]
pub struct ListenerContext {
    /// What one source address may have.
    pub quotas: Arc<Quotas>,
    /// Places for connections.
    pub places: Arc<Semaphore>,
    /// What happened so far.
    pub counters: Arc<ListenerCounters>,
    /// Turns true when no more are to be accepted.
    pub closing: watch::Receiver<bool>,
}

/// A connection on its way to the door.
struct PendingConnection {
    stream: Tcp,
    peer: Peer,
    /// Whether a PROXY header must come first.
    proxied: bool,
    /// Counts it for its source address.
    address_permit: Option<AddressPermit>,
    quotas: Arc<Quotas>,
    counters: Arc<ListenerCounters>,
    tls: Option<Arc<Tls>>,
    deadline: Instant,
    closing: watch::Receiver<bool>,
}

impl Listener {
    /// Binds the address of `config`, whose TLS is `tls`.
    ///
    /// # Errors
    ///
    /// The operating system refuses the address: it is in use, is not this machine's, or may not be bound.
    pub fn bind(config: ListenerConfig, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        let socket = match config.bind {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        probe_peers(&socket)?;
        socket.bind(config.bind)?;
        let shared_name = config.name.as_str().into();
        Ok(Self { socket: socket.listen(BACKLOG)?, config, shared_name, tls })
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

    /// Its TLS, to be reloaded.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Accepts for `door` until the gate closes, then waits for the connections to end.
    pub async fn run<D: ConnectionHandler>(self, listener_context: ListenerContext, door: D) {
        let mut connections = JoinSet::new();
        let places = Arc::new(Semaphore::new(self.config.connections_max));
        let mut reserved_fd = ReservedFd::new();
        let mut closing = listener_context.closing.clone();
        let mut failing = false;
        loop {
            tokio::select! {
                () = closed(&mut closing) => break,
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, address)) => {
                        failing = false;
                        self.admit(stream, address, (&listener_context, &places), &door, &mut connections);
                    }
                    Err(error) => {
                        self.refuse(&error, &mut reserved_fd, &listener_context.counters, failing).await;
                        failing = true;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(self.socket);
        while connections.join_next().await.is_some() {}
    }

    /// Gives a connection a task, if there is a place for it.
    fn admit<D: ConnectionHandler>(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        (listener_context, places): (&ListenerContext, &Arc<Semaphore>),
        door: &D,
        connections: &mut JoinSet<()>,
    ) {
        let own = places.clone().try_acquire_owned();
        let shared = listener_context.places.clone().try_acquire_owned();
        let (Ok(own), Ok(shared)) = (own, shared) else {
            listener_context.counters.connections_refused.add(1);
            return;
        };
        let stream = match Tcp::new(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(peer = %address, %error, "lost before it was served"),
        };
        let ip = address.ip().to_canonical();
        let proxied = self.config.proxy_from.iter().any(|network| network.contains(&ip));
        // Of one that a load balancer brings, the address is known once it has said it.
        let address_permit = match proxied {
            true => None,
            false => match listener_context.quotas.enter(ip, Instant::now()) {
                Some(address_permit) => Some(address_permit),
                None => return,
            },
        };
        let arrival = PendingConnection {
            stream,
            peer: Peer {
                address,
                proof: PeerCertificate::None,
                listener: self.shared_name.clone(),
                signed_in: None,
                preauth_permit: listener_context.quotas.stranger(ip, Instant::now()),
            },
            proxied,
            address_permit,
            quotas: listener_context.quotas.clone(),
            counters: listener_context.counters.clone(),
            tls: self.tls.clone(),
            deadline: Instant::now() + self.config.connect_timeout,
            closing: listener_context.closing.clone(),
        };
        connections.spawn(in_place(arrival.enter(door.clone()), [own, shared]));
    }

    /// Has the client that waits longest know that it cannot be accepted, or rests. The log is told once of a shortage.
    async fn refuse(
        &self,
        error: &io::Error,
        reserved_fd: &mut ReservedFd,
        counters: &ListenerCounters,
        failing: bool,
    ) {
        if !failing {
            tracing::warn!(listener = self.config.name, %error, "cannot accept");
        }
        counters.accepts_failed.add(1);
        if !ReservedFd::is_wanted(error) || !reserved_fd.refuse(&self.socket).await {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Waits until `closing` is true.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Holds `places` for as long as `connection` takes.
async fn in_place(connection: impl Future<Output = ()>, places: [OwnedSemaphorePermit; 2]) {
    connection.await;
    drop(places);
}

impl PendingConnection {
    /// Takes what comes before the door, and has the door serve the rest.
    ///
    /// What only some connections need is in a box of its own, or a task of plain TCP would be as large as one of TLS.
    async fn enter<D: ConnectionHandler>(mut self, door: D) {
        if self.proxied && !Box::pin(self.take_proxy_header()).await {
            return;
        }
        let _visit = self.address_permit.take();
        self.counters.connections_accepted.add(1);
        match self.tls.take() {
            None => {
                let stream = PreAuthStream::new(self.stream, self.peer.preauth_permit.clone());
                door.serve(stream, self.peer, self.deadline).await;
            }
            Some(tls) => Box::pin(self.unlock(tls, door)).await,
        }
    }

    /// Reads the header of a load balancer. `false`: the connection is over.
    async fn take_proxy_header(&mut self) -> bool {
        let balancer = self.peer.address;
        let header = tokio::select! {
            header = tokio::time::timeout_at(self.deadline.into(), proxy::read(&mut self.stream)) => header,
            () = closed(&mut self.closing) => return false,
        };
        match header {
            Ok(Ok(address)) => {
                self.peer.address = address.unwrap_or(balancer);
                let (ip, now) = (self.peer.address.ip(), Instant::now());
                self.peer.preauth_permit = self.quotas.stranger(ip, now);
                self.address_permit = self.quotas.enter(ip, now);
                return self.address_permit.is_some();
            }
            Ok(Err(ProxyError::Stream(error))) => tracing::debug!(peer = %balancer, %error, "no PROXY header"),
            Ok(Err(error)) => tracing::warn!(peer = %balancer, %error, "not served"),
            Err(_) => tracing::warn!(peer = %balancer, "no PROXY header in time"),
        }
        false
    }

    /// Goes through the TLS handshake and has `door` serve what is in it.
    async fn unlock<D: ConnectionHandler>(mut self, tls: Arc<Tls>, door: D) {
        let (peer, deadline) = (self.peer, self.deadline);
        let stream = PreAuthStream::new(self.stream, peer.preauth_permit.clone());
        let unlocked = tokio::select! {
            unlocked = tokio::time::timeout_at(deadline.into(), tls.clone().accept(stream)) => unlocked,
            () = closed(&mut self.closing) => return,
        };
        let error = match unlocked {
            Ok(Ok((stream, proof))) => {
                peer.preauth_permit.release();
                return door.serve(stream, Peer { proof, ..peer }, deadline).await;
            }
            Ok(Err(error)) => error,
            Err(_late) => io::ErrorKind::TimedOut.into(),
        };
        self.counters.tls_handshakes_failed.add(tls.log_failure(&peer, &error));
        self.quotas.addresses.handshake_failed(peer.address.ip(), Instant::now());
    }
}

/// Connections the kernel completes before they are accepted.
const BACKLOG: u32 = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
