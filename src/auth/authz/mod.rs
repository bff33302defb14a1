//! Authorization: roles, rules, and the access of one principal.
//!
//! [`policy`] compiles `[[rule]]` and `[[grant]]` sections; [`access`] answers for one principal and its client.

pub(super) mod access;
pub mod administration;
pub mod devices;
pub mod explain;
pub mod pattern;
pub mod policy;
pub mod rule;
pub(super) mod topics;
