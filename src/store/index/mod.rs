//! The index of values at declared paths ([`crate::shadow::index`]), a table of the file beside the state table.
//!
//! The index describes the *state table*, exactly: a commit that flushes a record writes the entries that differ from those of
//! the record before ([`keeper`]). Shadows whose document is newer than its record and may have other entries are *stale*
//! ([`super::state::unflushed`]); a search takes them as found ([`lookup`]), and whoever searches tests the newest documents. So
//! nothing that was answered is missing.
//!
//! A newly declared path is built in the background: the writer adds the entries of some records to each commit, in key order, and
//! goes on where it stopped ([`state`]). Until then, no search uses the path.
//!
//! *Invariant:* a damaged table is neither read nor written. Its pages are verified when the file is opened, and another table
//! is built then.

pub(super) mod entry;
pub(super) mod keeper;
pub(super) mod lookup;
pub(super) mod state;
pub(super) mod status;
mod waiting;
pub(super) mod writing;

use redb::TableDefinition;

/// The beginning of the names of tables of an index. The rest is the number of the table.
pub(super) const INDEX_TABLES: &str = "index.";

/// Returns the name of the table with this number.
pub(super) fn table_name(generation: u64) -> String {
    format!("{INDEX_TABLES}{generation}")
}

/// Returns the number of the table with this name, if it is one of an index.
pub(super) fn generation_of(name: &str) -> Option<u64> {
    name.strip_prefix(INDEX_TABLES)?.parse().ok()
}

/// Returns the definition of the table with this name.
pub(super) fn table(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}
