//! Who is on the other side of a connection, as far as the transport tells.

use std::net::SocketAddr;

use crate::auth::Principal;

/// What is known of a client before it has said anything.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is; behind a load balancer, where that says it is.
    pub address: SocketAddr,
    /// Who its certificate says it is.
    pub proof: Proof,
    /// Whether it may come without proof.
    pub anonymous: bool,
}

/// Who a client is, by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It showed none.
    None,
    /// It showed one that was verified, which names this principal.
    Certificate(Principal),
    /// It showed one that was verified, and whose name cannot be a principal.
    Unusable,
}
