//! The pure core: the shadow document and the commands that change it.
//!
//! This module does no I/O, reads no clock, takes no lock and is not async. The time `now` is an argument, and a
//! decision is a return value. [`decide()`] is the only place where a command is checked against a document.
//! [`Document::apply`] is the only place where changes become the next document, in live updates and in recovery.
//!
//! The JSON envelopes are in `wire`; storage and ordering are in `store`.

pub mod command;
pub mod document;
pub mod index;
pub mod name;
pub mod patch;
pub mod pointer;
mod rights;
pub mod selection;
#[cfg(test)]
pub(crate) mod tests;
pub mod text;

pub use crate::shadow::command::conflicts::{Collisions, Conflict, collisions};
pub use crate::shadow::command::decide::{Decision, Disposition, decide};
pub use crate::shadow::command::idempotency::{FirstOutcome, IdempotencyKey, Keyed, Remembered, RememberedKey};
pub use crate::shadow::command::rejection::{Rejection, SizeLimit};
pub use crate::shadow::document::apply::{PreviousVersion, ReverseChange};
pub use crate::shadow::document::change::{Change, Effect};
pub use crate::shadow::document::etag::Etag;
pub use crate::shadow::document::reverse_apply::ReverseApply;
pub use crate::shadow::patch::JsonPatch;
pub use crate::shadow::rights::paths::Paths;
pub use crate::shadow::rights::projection::Projection;
pub use crate::shadow::rights::{Revocable, Scope, Sender, SenderLogin};
pub use command::{ClientToken, Command, Delete, OnConflict, Patch, Preconditions, SectionPatch, Update};
pub use document::{Document, DocumentLimits, Section, Stamp, Timestamp, Version};
pub(crate) use name::excerpt;
pub use name::{DeviceId, ShadowKey, ShadowName};
pub use pointer::Pointer;
