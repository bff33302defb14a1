//! Authentication over HTTP: callers, browser sessions, SigV4, and the Host and Origin guard.

pub(super) mod caller;
pub(super) mod guard;
pub(super) mod kicks;
pub(super) mod sessions;
pub mod sigv4;
pub(super) mod url_keys;
