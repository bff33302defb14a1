//! The state table: records, the documents in memory, and the dirty set between them.

pub(super) mod cache;
pub(super) mod dictionary;
pub(super) mod dirty_set;
pub(super) mod floor;
pub(super) mod names;
pub(super) mod part;
pub(super) mod purge;
pub(super) mod record;
pub(super) mod remembered;
pub(super) mod unflushed;
