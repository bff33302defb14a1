//! One section of a shadow: its values and, at every leaf, who changed it when.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::shadow::document::Stamp;

/// The members of an object, by key.
pub type Members = BTreeMap<Box<str>, Node>;

/// A value in a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A scalar, an array (compared and replaced whole) or an empty object.
    Leaf(Leaf),
    /// An object with at least one member.
    Object(Members),
}

/// A leaf with the stamp of the change that gave it its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// Never a non-empty object and never null.
    pub value: Value,
    /// The last change of the value.
    pub changed: Arc<Stamp>,
}
