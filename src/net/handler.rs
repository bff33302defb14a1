//! What is behind a listener.

use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::net::Peer;

/// Serves connections, whatever they came over. A clone serves one, so cloning is cheap.
pub trait ConnectionHandler: Clone + Send + Sync + 'static {
    /// Serves `peer` on `stream` to its end, in the task of the connection. What the peer must say first, it must have
    /// said by `deadline`.
    fn serve<S: Stream>(self, stream: S, peer: Peer, deadline: Instant) -> impl Future<Output = ()> + Send;
}

/// Bytes in and out.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}
