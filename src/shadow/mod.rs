//! The pure core: what a shadow is and what a command does to it.
//!
//! Nothing here does I/O, reads a clock, takes a lock or is async: `now` comes in as an argument, a decision comes
//! out as a value. [`decide()`] is the one place where a command is checked against a document; [`Document::apply`] is
//! the one place where changes become the next document, for a live update and for recovery alike.
//!
//! JSON envelopes are `wire`'s; storing and ordering are `store`'s.

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
mod rewind;
mod scope;
mod seen;
#[cfg(test)]
pub(crate) mod tests;
mod tombstone;
pub mod tree;

pub use apply::{Former, Undoing};
pub use change::{Change, Effect};
pub use collisions::{Collisions, Conflict, collisions};
pub use command::{Command, Delete, OnConflict, Patch, Preconditions, SectionPatch, Update};
pub use decide::{Decision, Manner, decide};
pub use document::{Document, DocumentLimits, Section, Stamp, Timestamp, Version};
pub use etag::Etag;
pub use idempotency::{FirstOutcome, IdempotencyKey, Keyed, Remembered, RememberedKey};
pub use json_patch::JsonPatch;
pub use name::{DeviceId, ShadowKey, ShadowName};
pub use paths::Paths;
pub use pointer::Pointer;
pub use rejection::{Measured, Rejection};
pub use rewind::Rewind;
pub use scope::{Scope, Sender};
