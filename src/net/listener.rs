//! One listening socket: accepts connections, bounds their number, and owns their tasks.
//!
//! A connection above a bound, or without a file descriptor left for it, is closed at once, and accepting goes on. So
//! clients see that the server is full, and open connections are not affected. The PROXY header and the TLS handshake
//! are read in the task of the connection, so a slow client delays no other.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
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
    config::{ListenerConfig, ListenerKind},
    net::{
        ConnectionHandler, ListenerCounters, Peer,
        inherited::InheritedSockets,
        preauth_stream::PreAuthStream,
        proxy::{self, ProxyError},
        reserved_fd::ReservedFd,
        tcp::{Tcp, bound_send_buffers, probe_peers},
        tls::Tls,
    },
    observability::logging::limited,
};

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    config: ListenerConfig,
    /// The name in `config`, shared with the connections.
    shared_name: Arc<str>,
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
}

/// State that all listeners share.
#[derive(Clone, Debug)]
pub struct ListenerContext {
    /// The quotas of source addresses.
    pub quotas: Arc<Quotas>,
    /// Permits for connections.
    pub connection_permits: Arc<Semaphore>,
    /// The counters of the listeners.
    pub counters: Arc<ListenerCounters>,
    /// Becomes true when no more connections are accepted.
    pub closing: watch::Receiver<bool>,
}

/// An accepted connection before its handler runs.
struct PendingConnection {
    stream: Tcp,
    peer: Peer,
    /// True if a PROXY header must come first.
    proxied: bool,
    /// Counts the connection for its source address.
    address_permit: Option<AddressPermit>,
    quotas: Arc<Quotas>,
    counters: Arc<ListenerCounters>,
    tls: Option<Arc<Tls>>,
    deadline: Instant,
    closing: watch::Receiver<bool>,
    /// Counts the connection for all listeners.
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Binds the address of `config`, unless `inherited` has a socket for it; `tls` are its TLS files, if any.
    ///
    /// # Errors
    ///
    /// The operating system refuses the address: it is in use, is not of this machine, or may not be bound.
    pub fn bind(config: ListenerConfig, tls: Option<Arc<Tls>>, inherited: &mut InheritedSockets) -> io::Result<Self> {
        let shared_name = config.name.as_str().into();
        if let Some(socket) = inherited.remove(config.bind) {
            prepare(&socket, &config)?;
            socket.set_nonblocking(true)?;
            tracing::info!(listener = config.name, address = %config.bind, "listening on a socket of the service manager");
            return Ok(Self { socket: TcpListener::from_std(socket)?, config, shared_name, tls });
        }
        let socket = match config.bind {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        prepare(&socket, &config)?;
        socket.bind(config.bind)?;
        Ok(Self { socket: socket.listen(BACKLOG)?, config, shared_name, tls })
    }

    /// Returns the bound address, with the actual port if the configured one was 0.
    ///
    /// # Errors
    ///
    /// Returns the errors of the operating system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Returns the name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns the TLS state, which can be reloaded.
    #[must_use]
    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Accepts connections for `handler` until `listener_context.closing` is true, then waits for them to end.
    pub async fn run<H: ConnectionHandler>(self, listener_context: ListenerContext, handler: H) {
        let mut connections = self.accept(&listener_context, &handler).await;
        drop(self.socket);
        while connections.join_next().await.is_some() {}
    }

    /// As [`Listener::run`], but returns the listener, whose socket stays open for another handler.
    pub async fn run_for_now<H: ConnectionHandler>(self, listener_context: ListenerContext, handler: H) -> Self {
        let mut connections = self.accept(&listener_context, &handler).await;
        while connections.join_next().await.is_some() {}
        self
    }

    /// Accepts connections until `listener_context.closing` is true, and returns those that are open.
    async fn accept<H: ConnectionHandler>(&self, listener_context: &ListenerContext, handler: &H) -> JoinSet<()> {
        let mut connections = JoinSet::new();
        let mut reserved_fd = ReservedFd::new();
        let mut closing = listener_context.closing.clone();
        let mut shortage = false;
        loop {
            tokio::select! {
                () = closed(&mut closing) => return connections,
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, address)) => {
                        shortage = false;
                        self.admit(stream, address, listener_context, handler, &mut connections);
                    }
                    Err(error) => {
                        self.refuse(&error, &mut reserved_fd, &listener_context.counters, shortage).await;
                        shortage = true;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Spawns the task of a connection if there are permits for it.
    fn admit<H: ConnectionHandler>(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        listener_context: &ListenerContext,
        handler: &H,
        connections: &mut JoinSet<()>,
    ) {
        let Ok(permit) = listener_context.connection_permits.clone().try_acquire_owned() else {
            listener_context.counters.connections_refused.add(1);
            return;
        };
        let stream = match Tcp::new(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(peer = %address, %error, "connection lost before it was served"),
        };
        let ip = address.ip().to_canonical();
        let proxied = self.config.proxy_from.iter().any(|network| network.contains(&ip));
        // Behind a load balancer the address is known after the PROXY header.
        let address_permit = match proxied {
            true => None,
            false => match listener_context.quotas.enter(ip, Instant::now()) {
                Some(address_permit) => Some(address_permit),
                None => return,
            },
        };
        let pending = PendingConnection {
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
            _permit: permit,
        };
        connections.spawn(pending.serve(handler.clone()));
    }

    /// On EMFILE: closes the oldest pending connection using the reserved descriptor, else backs off. Logs once per
    /// shortage.
    async fn refuse(
        &self,
        error: &io::Error,
        reserved_fd: &mut ReservedFd,
        counters: &ListenerCounters,
        shortage: bool,
    ) {
        if !shortage {
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

impl PendingConnection {
    /// Reads the PROXY header, performs the TLS handshake, and runs the handler.
    ///
    /// A block, since the future of an async function has its arguments twice. The steps of some connections only are
    /// boxed, or a task of plain TCP would be as large as one of TLS.
    #[expect(clippy::manual_async_fn, reason = "see above")]
    fn serve<H: ConnectionHandler>(mut self, handler: H) -> impl Future<Output = ()> + Send {
        async move {
            if self.proxied && !Box::pin(self.read_proxy_header()).await {
                return;
            }
            self.counters.connections_accepted.add(1);
            match self.tls.take() {
                None => {
                    let stream = PreAuthStream::new(self.stream, self.peer.preauth_permit.clone());
                    handler.serve(stream, self.peer, self.deadline).await;
                }
                Some(tls) => Box::pin(self.handshake(tls, handler)).await,
            }
        }
    }

    /// Reads the header of a load balancer. Returns false if the connection is over.
    async fn read_proxy_header(&mut self) -> bool {
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
            Ok(Err(error)) => {
                limited!(warn, self.counters.proxy_lines, peer = %balancer, %error, "invalid PROXY header");
            }
            Err(_) => limited!(warn, self.counters.proxy_lines, peer = %balancer, "no PROXY header in time"),
        }
        false
    }

    /// Performs the TLS handshake and runs `handler` on the resulting stream.
    async fn handshake<H: ConnectionHandler>(mut self, tls: Arc<Tls>, handler: H) {
        let (peer, deadline) = (self.peer, self.deadline);
        let stream = PreAuthStream::new(self.stream, peer.preauth_permit.clone());
        let handshake = tokio::select! {
            handshake = tokio::time::timeout_at(deadline.into(), tls.clone().accept(stream)) => handshake,
            () = closed(&mut self.closing) => return,
        };
        let error = match handshake {
            Ok(Ok((stream, proof))) => {
                peer.preauth_permit.release();
                return handler.serve(stream, Peer { proof, ..peer }, deadline).await;
            }
            Ok(Err(error)) => error,
            Err(_late) => io::ErrorKind::TimedOut.into(),
        };
        self.counters.tls_handshakes_failed.add(tls.log_failure(&peer, &error));
        self.quotas.addresses.handshake_failed(peer.address.ip(), Instant::now());
    }
}

/// Sets the options of the connections that `socket` will accept.
fn prepare(socket: &impl AsFd, config: &ListenerConfig) -> io::Result<()> {
    probe_peers(socket)?;
    match config.kind {
        ListenerKind::Http(_) => bound_send_buffers(socket),
        ListenerKind::Mqtt => Ok(()),
    }
}

/// Connections that the kernel completes before they are accepted.
const BACKLOG: u32 = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
