//! The peer of a connection, as far as the transport knows it.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    admission::PreAuthPermit,
    auth::{AuthContext, authn::certificate::PeerCertificate},
};

/// Properties of a client that are known before its first packet or request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address; behind a load balancer, the one in the PROXY header.
    pub address: SocketAddr,
    /// The identity in the client's certificate.
    pub proof: PeerCertificate,
    /// The name of the listener that accepted the connection.
    pub listener: Arc<str>,
    /// An earlier login, which counts if the client sends no credentials.
    pub signed_in: Option<Arc<AuthContext>>,
    /// Accounts for the client's memory until it is authenticated.
    pub preauth_permit: PreAuthPermit,
}
