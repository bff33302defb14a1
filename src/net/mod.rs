//! The transports: from a listening socket to a stream whose peer is known.
//!
//! A connection passes them in this order: `listener` accepts or refuses it, `proxy` reads the header of a load
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
pub mod listener;
pub mod peer;
mod pem;
pub mod preauth_stream;
mod proxy;
mod reserved_fd;
mod revalidating;
mod tcp;
pub mod tls;

pub use self::{
    counters::{HandshakeCounters, ListenerCounters},
    handler::ConnectionHandler,
    handshake_failure::HandshakeFailure,
    listener::{Listener, ListenerContext},
    peer::Peer,
    tls::Tls,
};
