//! Who is on the other side of a connection, as far as the transport tells.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    admission::PreAuthPermit,
    auth::{AuthContext, authn::certificate::PeerCertificate},
};

/// What is known of a client before it has said anything.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is; behind a load balancer, where that says it is.
    pub address: SocketAddr,
    /// Who its certificate says it is.
    pub proof: PeerCertificate,
    /// The listener it came to, by name.
    pub listener: Arc<str>,
    /// What it was let in on before, as which it may be known without showing anything again.
    pub signed_in: Option<Arc<AuthContext>>,
    /// To be told once it is known who it is.
    pub preauth_permit: PreAuthPermit,
}
