//! The transports: from a listening socket to a stream whose peer is known.
//!
//! A `listener` binds its socket, unless the service manager has opened it (`inherited`). A connection passes them in this
//! order: the listener accepts or refuses it, `proxy` reads the header of a load
//! balancer, `tls` performs the handshake, and a [`ConnectionHandler`] serves the resulting stream. A TLS stream is a
//! `revalidating` one: it fails once a reload finds its peer's certificate revoked. `handshake_failure` names the
//! causes of failed handshakes. `tcp` sets socket options and acknowledges promptly. `pem` reads the files, and
//! `reserved_fd` helps when no file descriptor is left. `preauth_stream` bounds the bytes read from clients that are
//! not authenticated.
//!
//! Nothing here knows the protocol of a handler; each listener has the handler that it was given.

mod counters;
pub mod handler;
mod handshake_failure;
pub mod inherited;
pub mod listener;
pub mod peer;
mod pem;
pub mod preauth_stream;
mod proxy;
mod reserved_fd;
mod revalidating;
mod tcp;
pub mod tls;

/// Implements `AsyncWrite` for a stream over another one in a field, without a change.
macro_rules! forward_writes {
    ($stream:ident, $field:ident) => {
        impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for $stream<S> {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.$field).poll_write(context, bytes)
            }

            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                parts: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.$field).poll_write_vectored(context, parts)
            }

            fn is_write_vectored(&self) -> bool {
                self.$field.is_write_vectored()
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$field).poll_flush(context)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$field).poll_shutdown(context)
            }
        }
    };
}
pub(crate) use forward_writes;

pub use self::{
    counters::{HandshakeCounters, ListenerCounters},
    handler::ConnectionHandler,
    handshake_failure::HandshakeFailure,
    listener::{Listener, ListenerContext},
    peer::Peer,
    tls::Tls,
};
