//! Page checksums of the redb file, verified without redb, which follows damaged pages wherever they lead.
//!
//! [`file`] reads the header and pages, [`tree`] walks a tree of pages, [`check`] keeps the results by table, and [`verifier`]
//! is the thread for large files.

pub(super) mod check;
pub(super) mod file;
pub(super) mod tree;
pub(super) mod verifier;
