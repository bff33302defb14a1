//! The pure core: the shadow document and the commands that change it.
//!
//! This module does no I/O, reads no clock, takes no lock and is not async. The time `now` is an argument, and a
//! decision is a return value. [`decide()`] is the only place where a command is checked against a document.
//! [`Document::apply`] is the only place where changes become the next document, in live updates and in recovery.
//!
//! The JSON envelopes are in `wire`; storage and ordering are in `store`.

mod apply;
pub(crate) mod canonical;
pub mod change;
mod changed_after;
pub mod collisions;
pub mod command;
pub mod decide;
pub mod delta;
pub mod document;
mod equality;
pub mod etag;
mod find;
pub mod idempotency;
pub mod json_patch;
mod limits;
mod merge;
pub mod name;
mod paths;
pub mod pointer;
mod precondition;
pub mod rejection;
mod resolution;
mod reverse_apply;
mod scope;
mod seen;
#[cfg(test)]
pub(crate) mod tests;
mod tombstone;
pub mod tree;

pub use apply::{PreviousVersion, ReverseChange};
pub use change::{Change, Effect};
pub use collisions::{Collisions, Conflict, collisions};
pub use command::{Command, Delete, OnConflict, Patch, Preconditions, SectionPatch, Update};
pub use decide::{Decision, Disposition, decide};
pub use document::{Document, DocumentLimits, Section, Stamp, Timestamp, Version};
pub use etag::Etag;
pub use idempotency::{FirstOutcome, IdempotencyKey, Keyed, Remembered, RememberedKey};
pub use json_patch::JsonPatch;
pub use name::{DeviceId, ShadowKey, ShadowName};
pub use paths::Paths;
pub use pointer::Pointer;
pub use rejection::{Rejection, SizeLimit};
pub use reverse_apply::ReverseApply;
pub use scope::{Scope, Sender};
