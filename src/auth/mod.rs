//! Who is asking, and what that one may do.
//!
//! `certificate` tells who a client is. `policy` has the roles, which are sets of rules (`rule`), and who has them; it makes
//! the [`Access`] of a client, which answers every question of rights for every door. `pattern` and `topics` are how
//! rules name devices, principals and topics, `explain` tells people what is allowed and by which rule.
//!
//! *Invariant:* a command gets to the service only with the [`Sender`](crate::shadow::Sender) that [`Access::admit`] made
//! for it, and everything rendered of a shadow goes through a [`Projection`].

mod access;
pub mod certificate;
pub mod explain;
pub mod pattern;
pub mod policy;
mod projection;
pub mod rule;
mod topics;

use std::sync::Arc;

pub use access::{Access, Wanted};
pub use policy::{Method, Policy};
pub use projection::Projection;
pub use rule::Operation;

/// The identity a request is made under, as recorded in metadata and history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Arc<str>);

impl Principal {
    /// A client on a listener that asks for no proof: `anonymous/<client id>`.
    #[must_use]
    pub fn anonymous(client_id: &str) -> Self {
        Self(format!("anonymous/{client_id}").into())
    }

    /// A client that a certificate names, whose name was checked by [`certificate`].
    #[must_use]
    pub(crate) fn certified(name: &str) -> Self {
        Self(name.into())
    }

    /// The name, shared.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0
    }
}
