//! Authentication and authorization.
//!
//! `login` identifies a client by its certificate, its password (`passwords`) or its token (`tokens`). `policy` holds
//! the roles, which are sets of rules (`rule`), and the grants. It makes the [`Access`] of a client, which answers
//! every authorization check for MQTT and HTTP. `pattern` and `topics` define how rules name devices, principals and
//! topics. `explain` reports to operators which rule allows an operation. `ban_list` refuses principals by name.
//!
//! *Invariant:* a command reaches the service only with the [`Sender`](crate::shadow::Sender) that [`Access::admit`]
//! made for it. Every rendering of a shadow goes through a [`Projection`](crate::shadow::Projection).

pub mod authn;
pub mod authority;
pub mod authz;
mod ban_list;
mod file_error;
mod principal;

pub use crate::auth::authn::login::Method;
pub use crate::auth::authn::password::{HashError, PASSWORD_BYTES_MAX, PasswordHash};
pub use crate::auth::authn::tokens::Expiry;
pub use crate::auth::authz::access::{Access, NameFilter};
pub use crate::auth::authz::administration::Administration;
pub use crate::auth::authz::devices::{DeviceRange, DeviceSet};
pub use crate::auth::authz::policy::Policy;
pub use crate::auth::authz::rule::Operation;
pub use crate::auth::authz::topics::is_reserved;
pub use authority::{AuthContext, Authority, LoginRecord, LoginRequest};
pub use file_error::FileError;
pub use principal::{NameError, Principal};
