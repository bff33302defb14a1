//! The shadow document in memory. Changes are applied in `apply`; queries are in `changed_after` and `delta`.

pub(super) mod apply;
pub mod canonical;
pub mod change;
pub(super) mod changed_after;
pub mod delta;
pub(super) mod equality;
pub mod etag;
pub(super) mod find;
pub(super) mod limits;
pub(super) mod merge;
pub(super) mod reverse_apply;
pub(super) mod tombstone;
pub mod tree;
use std::sync::Arc;

use crate::shadow::{
    document::{etag::Etag, tree::Members},
    pointer::{Pointer, SectionName},
};

/// The version of a shadow: 0 before the first write, then one more for each accepted write. It never decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub u64);

/// Seconds since 1970-01-01T00:00:00Z. May decrease when the system clock is set back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// The version, time and author of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The version the change made.
    pub version: Version,
    /// The time of the decision.
    pub timestamp: Timestamp,
    /// The principal that made the change.
    pub by: Arc<str>,
}

impl Stamp {
    /// Returns the stamp of a leaf in a former version of which only `version` is known: time 0, empty principal.
    #[must_use]
    pub fn forgotten(version: Version) -> Self {
        Self { version, timestamp: Timestamp(0), by: "".into() }
    }

    /// Returns true if only the version is known.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.by.is_empty() && self.timestamp == Timestamp(0)
    }
}

/// A shadow at one version. Cheap to clone: unchanged sections are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The version.
    pub version: Version,
    /// The time at which this version was made.
    pub timestamp: Timestamp,
    /// True if this version deleted the shadow; its sections are empty then.
    pub deleted: bool,
    /// The etag of `desired` and `reported` at this version.
    pub etag: Etag,
    /// The oldest version that a path can be compared against; against any older version every path counts as changed.
    pub floor: Version,
    /// The requested state.
    pub desired: Arc<Section>,
    /// The state that the device reports.
    pub reported: Arc<Section>,
    /// Notes of the back end.
    pub tags: Arc<Section>,
    /// Paths that were removed or changed their kind, oldest first.
    pub tombstones: Arc<Vec<Tombstone>>,
}

/// One section of a document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// The members; empty if the section is absent from the document.
    pub members: Members,
    /// Bytes of the RFC 8785 form; 0 if the section is absent.
    pub canonical_bytes: usize,
    /// Number of leaves; each array element counts.
    pub leaves: usize,
}

/// A path whose value was removed, or changed between object and leaf, at a known version.
#[derive(Clone, Debug, PartialEq)]
pub struct Tombstone {
    /// The path.
    pub path: Pointer,
    /// The change that removed the value.
    pub removed: Arc<Stamp>,
}

/// The limits of one shadow, PROTOCOL section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentLimits {
    /// Most canonical bytes of `desired` and `reported` together.
    pub document_bytes_max: usize,
    /// Most canonical bytes of `tags`.
    pub tags_bytes_max: usize,
    /// Most leaves of all sections; each array element counts.
    pub leaves_max: usize,
    /// Most levels of objects and arrays below a section.
    pub depth_max: usize,
    /// Most path tombstones; evicting the oldest raises the floor. Their keys have a limit, too, which is a constant.
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
    /// Returns the document before the first write: version 0 and empty sections.
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

    /// Returns the document of a shadow without a record on a device whose names were purged up to version `floor`: a
    /// tombstone at that version. At version 0, this is [`Document::absent`].
    #[must_use]
    pub fn absent_at(floor: Version) -> Self {
        let absent = Self::absent();
        let etag = Etag { version: floor, ..absent.etag };
        Self { version: floor, deleted: floor > Version(0), etag, floor, ..absent }
    }

    /// Returns true if the shadow was written and is not deleted.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.version > Version(0) && !self.deleted
    }

    /// Returns the section `name`.
    #[must_use]
    pub fn section(&self, name: SectionName) -> &Arc<Section> {
        match name {
            SectionName::Desired => &self.desired,
            SectionName::Reported => &self.reported,
            SectionName::Tags => &self.tags,
        }
    }

    /// Returns the sections that are present, in the order of the JSON document.
    pub fn sections(&self) -> impl Iterator<Item = (SectionName, &Section)> {
        let all = SectionName::ALL.into_iter().map(|name| (name, &**self.section(name)));
        all.filter(|(_, section)| !section.members.is_empty())
    }

    /// Returns the canonical bytes of `desired` and `reported` together.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.desired.canonical_bytes + self.reported.canonical_bytes
    }

    /// Returns the number of leaves of all sections; each array element counts.
    #[must_use]
    pub fn leaves(&self) -> usize {
        self.desired.leaves + self.reported.leaves + self.tags.leaves
    }
}
