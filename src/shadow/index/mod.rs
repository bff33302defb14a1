//! Indexed paths: which values of a document are in an index, and in which order.
//!
//! An index has an *entry* for each value at an indexed path. Its key is the path, a [`term`] of the value, and the shadow. A
//! term keeps the order and the equality of queries, but not the value: it has no case and a bounded length. So a range of terms has
//! all values that a test wants, and perhaps others. What the index finds is therefore only proposed, and each document is tested.

mod path;
pub mod term;

pub use self::{
    path::{IndexedPath, NotIndexable, PATHS_MAX},
    term::TermRange,
};
use crate::shadow::{Change, Pointer, ShadowKey, ShadowName, pointer::SectionName};

/// The paths that are indexed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexedPaths(Vec<IndexedPath>);

/// A search for shadows by the values at a path.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexLookup {
    /// The path.
    pub path: ValuePath,
    /// The terms that one of the values must have: one of these ranges.
    pub ranges: Vec<TermRange>,
}

/// The path of values in all shadows with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValuePath {
    /// The name of the shadow; `None` for the classic one.
    pub shadow: Option<ShadowName>,
    /// The section.
    pub section: SectionName,
    /// The keys from the section down.
    pub keys: Vec<Box<str>>,
}

impl ValuePath {
    /// Returns the path within a shadow.
    #[must_use]
    pub fn pointer(&self) -> Pointer {
        Pointer { section: self.section, keys: self.keys.clone() }
    }
}

impl IndexedPaths {
    /// Returns these paths.
    #[must_use]
    pub fn new(paths: Vec<IndexedPath>) -> Self {
        Self(paths)
    }

    /// Returns true if nothing is indexed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the paths.
    pub fn iter(&self) -> impl Iterator<Item = &IndexedPath> {
        self.0.iter()
    }

    /// Returns true if `path` is indexed.
    #[must_use]
    pub fn has(&self, path: &ValuePath) -> bool {
        self.iter().any(|indexed| indexed.below(path).is_some())
    }

    /// Returns true if these changes of the shadow `key`, which made it exist or not if `exists_changed`, may change an entry,
    /// or the number of devices.
    #[must_use]
    pub fn are_concerned(&self, key: &ShadowKey, changes: &[Change], exists_changed: bool) -> bool {
        let is_concerned = |path: &IndexedPath| changes.iter().any(|change| path.is_concerned(key, &change.path));
        !self.is_empty() && (exists_changed || self.iter().any(is_concerned))
    }
}
