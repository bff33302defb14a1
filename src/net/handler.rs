//! The handler behind a listener.

use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::net::Peer;

/// Serves connections of any transport. Each connection is served by a clone, so cloning is cheap.
pub trait ConnectionHandler: Clone + Send + Sync + 'static {
    /// Serves `peer` on `stream` to its end, in the task of the connection. The first packet or request, which the
    /// protocol demands of the peer, must arrive by `deadline`.
    fn serve<S: Stream>(self, stream: S, peer: Peer, deadline: Instant) -> impl Future<Output = ()> + Send;
}

/// A bidirectional stream of bytes.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}
