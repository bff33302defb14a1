//! What a decision changes: the smallest set of paths that turns one document into the next.

use serde_json::Value;

use crate::shadow::{document::Version, pointer::Pointer};

/// One path that an accepted command changes.
///
/// Paths of one command never lie below one another. Where both old and new value are non-empty objects the change is
/// told for the members; where a value comes, goes or turns into another kind it is told whole, at that path.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub path: Pointer,
    /// What was there: its value and the latest version of a leaf in it; `None` if nothing was.
    pub replaced: Option<Replaced>,
    /// What is there now.
    pub effect: Effect,
}

/// A value that a change replaced or removed.
#[derive(Clone, Debug, PartialEq)]
pub struct Replaced {
    /// The value.
    pub value: Value,
    /// The version at which a leaf of it last changed.
    pub version: Version,
}

/// What a change does at its path.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The value is now this one.
    Set(Value),
    /// Nothing is there any more.
    Remove,
    /// The leaf there was sent again: its value, version and principal stay, its time is now that of the change.
    Touch,
}
