//! The transports: from a listening socket to a stream whose peer is known.
//!
//! In the order of a connection's way in: `listener` accepts it or refuses it, `proxy` takes the header of a load
//! balancer, `tls` unlocks, and a [`ConnectionHandler`] serves what comes out. A stream over TLS is a `trusted` one: it fails once a
//! reload finds its peer's certificate revoked. `handshake_failure` names the causes of handshakes that fail. `tcp` sets
//! the options of sockets and acknowledges promptly. `pem` reads the files, `reserved_fd` is for when the process has no file
//! left. `preauth_stream` reads no more of a client than there is room for.
//!
//! Nothing here knows what a door speaks, and each listener has the one that it was given.

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
