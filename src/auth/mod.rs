//! Who is asking, and what they may see.
//!
//! A client is who its certificate says, or else anonymous; so far either may do everything, as the role `admin` says.
//! The types are here so that every request carries its principal, every delivery asks [`Access::may_receive`], and
//! everything rendered of a shadow goes through a [`Projection`].

pub mod certificate;
pub mod projection;

use std::sync::Arc;

pub use projection::Projection;

/// The identity a request is made under, as recorded in metadata and history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Arc<str>);

/// What one connection may do.
#[derive(Clone, Debug)]
pub struct Access {
    principal: Principal,
    receives: fn(&str) -> bool,
}

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

impl Access {
    /// Everything, for `principal`: the role `admin`.
    #[must_use]
    pub fn admin(principal: Principal) -> Self {
        Self { principal, receives: |_| true }
    }

    /// Whose access this is.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whether a message on `topic` may be delivered.
    #[must_use]
    pub fn may_receive(&self, topic: &str) -> bool {
        (self.receives)(topic)
    }

    /// Access that may receive the topics that `receives` tells.
    #[cfg(test)]
    pub(crate) fn receiving(receives: fn(&str) -> bool) -> Self {
        Self { principal: Principal::anonymous("test"), receives }
    }
}
