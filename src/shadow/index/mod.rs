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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::shadow::{DeviceId, document::change::Effect};

    #[test]
    fn an_index_is_concerned_by_changes_of_its_paths() {
        let paths =
            IndexedPaths::new(["reported.a.b", "shadow.name.cfg.tags.*"].map(|path| path.parse().unwrap()).into());
        let device = DeviceId::new("dev-1").unwrap();
        let classic = ShadowKey::classic(device.clone());
        let named = ShadowKey::named(device, ShadowName::new("cfg").unwrap());
        for (key, path, is_concerned) in [
            (&classic, "/reported/a/b", true),
            (&classic, "/reported/a/b/c", true),
            (&classic, "/reported/a", true),
            (&classic, "/reported", true),
            (&classic, "/reported/a/c", false),
            (&classic, "/desired/a/b", false),
            (&classic, "/tags/x", false),
            (&named, "/tags/x", true),
            (&named, "/reported/a/b", false),
        ] {
            let changes = [Change { path: path.parse().unwrap(), replaced: None, effect: Effect::Remove }];
            assert_eq!(paths.are_concerned(key, &changes, false), is_concerned, "{key} {path}");
            assert!(paths.are_concerned(key, &changes, true));
            assert!(!IndexedPaths::default().are_concerned(key, &changes, true), "nothing is indexed");
        }
        assert!(!paths.are_concerned(&classic, &[], false) && paths.are_concerned(&classic, &[], true));
        let shown: Vec<_> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["reported.a.b", "shadow.name.cfg.tags.*"]);
        assert!(!paths.is_empty() && IndexedPaths::default().is_empty());
    }

    #[test]
    fn a_path_is_indexed_by_itself_or_one_above() {
        let paths = IndexedPaths::new(["reported.a", "tags.*"].map(|path| path.parse().unwrap()).into());
        for (path, is_indexed) in
            [("/reported/a", true), ("/reported/a/b", false), ("/tags/x/y", true), ("/desired/a", false)]
        {
            let pointer: Pointer = path.parse().unwrap();
            let value = ValuePath { shadow: None, section: pointer.section, keys: pointer.keys.clone() };
            assert_eq!((paths.has(&value), value.pointer()), (is_indexed, pointer), "{path}");
        }
        let [exact, below] = [0, 1].map(|index| paths.iter().nth(index).unwrap());
        assert!(!exact.is_below() && below.is_below());
        let name = ShadowName::new("cfg").unwrap();
        assert!(exact.is_of_shadow(None) && !exact.is_of_shadow(Some(&name)));
    }
}
