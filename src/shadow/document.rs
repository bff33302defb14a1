//! A shadow as the engine holds it. How changes make the next one is in `apply`, what is asked of one in
//! `changed_after` and `delta`.

use std::sync::Arc;

use crate::shadow::{
    etag::Etag,
    pointer::{Pointer, SectionName},
    tree::Members,
};

/// The version of a shadow: 1 for its first accepted write, one more for each later one, never back. 0: none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub u64);

/// Seconds since 1970-01-01T00:00:00Z. May go back when the machine's clock does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// Who changed something, when, and at which version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The version the change made.
    pub version: Version,
    /// When it was decided.
    pub timestamp: Timestamp,
    /// The principal.
    pub by: Arc<str>,
}

impl Stamp {
    /// Of a leaf of a former version, of which only `version` is still known: at time 0, by nobody.
    #[must_use]
    pub fn forgotten(version: Version) -> Self {
        Self { version, timestamp: Timestamp(0), by: "".into() }
    }

    /// Whether nothing but the version is known.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.by.is_empty() && self.timestamp == Timestamp(0)
    }
}

/// A shadow at one version. Cheap to clone: sections are shared until one changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The version.
    pub version: Version,
    /// When this version was made.
    pub timestamp: Timestamp,
    /// Set when this version deleted the shadow; the sections are empty then.
    pub deleted: bool,
    /// Validator of `desired` and `reported` at this version.
    pub etag: Etag,
    /// Comparing a path against a version below this one always finds it changed.
    pub floor: Version,
    /// What it should be.
    pub desired: Arc<Section>,
    /// What it is.
    pub reported: Arc<Section>,
    /// Back-end notes.
    pub tags: Arc<Section>,
    /// Paths that were removed or turned into another kind, oldest first.
    pub tombstones: Arc<Vec<Tombstone>>,
}

/// One section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Empty: the section is absent from the document.
    pub members: Members,
    /// Bytes of its RFC 8785 form; 0 if it is absent.
    pub canonical_bytes: usize,
    /// Its leaves, array elements counted.
    pub leaves: usize,
}

/// A path where, at a version, a thing ceased to be: it was removed, or an object became a leaf or a leaf an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Tombstone {
    /// Where.
    pub path: Pointer,
    /// By which change.
    pub removed: Arc<Stamp>,
}

/// The limits of one shadow, PROTOCOL section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentLimits {
    /// Canonical bytes of `desired` and `reported` together.
    pub document_bytes_max: usize,
    /// Canonical bytes of `tags`.
    pub tags_bytes_max: usize,
    /// Leaves of all sections, array elements counted.
    pub leaves_max: usize,
    /// Levels of objects and arrays below a section.
    pub depth_max: usize,
    /// Path tombstones; the oldest are evicted, which raises the floor.
    pub path_tombstones_max: usize,
}

impl Default for DocumentLimits {
    fn default() -> Self {
        Self {
            document_bytes_max: 8192,
            tags_bytes_max: 8192,
            leaves_max: 1024,
            depth_max: 8,
            path_tombstones_max: 256,
        }
    }
}

impl Document {
    /// The shadow before its first write: version 0, nothing in it.
    #[must_use]
    pub fn absent() -> Self {
        let empty = Arc::new(Section::default());
        Self {
            version: Version(0),
            timestamp: Timestamp(0),
            deleted: false,
            etag: Etag::of(Version(0), &empty.members, &empty.members),
            floor: Version(0),
            desired: empty.clone(),
            reported: empty.clone(),
            tags: empty,
            tombstones: Arc::default(),
        }
    }

    /// Whether there is a shadow to get: written and not deleted.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.version > Version(0) && !self.deleted
    }

    /// One section.
    #[must_use]
    pub fn section(&self, name: SectionName) -> &Arc<Section> {
        match name {
            SectionName::Desired => &self.desired,
            SectionName::Reported => &self.reported,
            SectionName::Tags => &self.tags,
        }
    }

    /// The sections that are there, in the order documents show them.
    pub fn sections(&self) -> impl Iterator<Item = (SectionName, &Section)> {
        let all = SectionName::ALL.into_iter().map(|name| (name, &**self.section(name)));
        all.filter(|(_, section)| !section.members.is_empty())
    }

    /// Canonical bytes of `desired` and `reported` together.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.desired.canonical_bytes + self.reported.canonical_bytes
    }

    /// Leaves of all sections, array elements counted.
    #[must_use]
    pub fn leaves(&self) -> usize {
        self.desired.leaves + self.reported.leaves + self.tags.leaves
    }
}
