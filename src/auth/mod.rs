//! Authentication and authorization.
//!
//! `login` identifies a client by its certificate, its password (`passwords`) or its token (`tokens`). `policy` holds
//! the roles, which are sets of rules (`rule`), and the grants. It makes the [`Access`] of a client, which answers
//! every authorization check for MQTT and HTTP. `pattern` and `topics` define how rules name devices, principals and
//! topics. `explain` reports to operators which rule allows an operation.
//!
//! *Invariant:* a command reaches the service only with the [`Sender`](crate::shadow::Sender) that [`Access::admit`]
//! made for it. Every rendering of a shadow goes through a [`Projection`].

mod access;
pub mod access_keys;
pub mod authority;
pub mod certificate;
pub mod explain;
mod file_error;
mod hash_pool;
mod identity;
pub mod login;
mod login_throttle;
mod password;
mod password_cache;
mod passwords;
pub mod pattern;
pub mod policy;
mod principal;
mod projection;
mod ring_provider;
pub mod rule;
mod token_keys;
mod tokens;
mod topics;
mod users;
pub mod users_file;

pub use access::{Access, NameFilter};
pub use authority::{AuthContext, Authority, LoginRequest};
pub use file_error::FileError;
pub use login::Method;
pub use password::{HashError, PASSWORD_BYTES_MAX, PasswordHash};
pub use policy::Policy;
pub use principal::{NameError, Principal};
pub use projection::Projection;
pub use rule::Operation;
pub use tokens::Expiry;
pub use topics::is_reserved;
