//! The changes of a decision: the smallest set of paths that turns one document into the next.

use serde_json::Value;

use crate::shadow::{document::Version, pointer::Pointer};

/// One path that an accepted command changes.
///
/// No path of a command lies below another path of it. If both the old and the new value are non-empty objects, each
/// changed member is a change of its own. If a value appears, disappears or changes its kind, it is one change at its
/// own path.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The changed path.
    pub path: Pointer,
    /// The old value and the version at which a leaf of it last changed; `None` if the path was empty.
    pub replaced: Option<Replaced>,
    /// The new state of the path.
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

/// The effect of a change at its path.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Sets this value.
    Set(Value),
    /// Removes the value.
    Remove,
    /// Refreshes the time of a leaf whose equal value was sent again; value, version and principal stay.
    Touch,
}
