//! The journal: entries and their lineages, recovery from them, and retention.

pub(super) mod device_changes;
pub(super) mod entry;
pub(super) mod lineage;
pub(super) mod recovery;
pub(super) mod retention;
pub(super) mod unapplied;
