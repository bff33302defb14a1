//! Who is asking, and what they may see.
//!
//! Who a client is, [`login`] decides; so far whoever comes in may do everything, as the role `admin` says.
//! The types are here so that every request carries its principal, every delivery asks [`Access::may_receive`], and
//! everything rendered of a shadow goes through a [`Projection`].

pub mod certificate;
mod checks;
mod failures;
mod file_error;
mod identity;
pub mod login;
mod password;
mod passwords;
mod principal;
pub mod projection;
mod ring_provider;
mod token_keys;
mod tokens;
mod users;
pub mod users_file;
mod verified;

pub use file_error::FileError;
pub use password::{HashError, PASSWORD_BYTES_MAX, PasswordHash};
pub use principal::{NameError, Principal};
pub use projection::Projection;

/// What one connection may do.
#[derive(Clone, Debug)]
pub struct Access {
    principal: Principal,
    receives: fn(&str) -> bool,
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
