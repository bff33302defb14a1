//! Page checksums of the redb file, verified without redb, which follows damaged pages wherever they lead.
//!
//! [`file`] reads the header and pages, [`tree`] walks a tree of pages, [`links`] compares the journal with the state
//! table, [`check`] keeps the results by table, and [`verifier`] is the thread for large files.

pub(super) mod check;
pub(super) mod file;
mod links;
pub(super) mod tree;
pub(super) mod verifier;
