//! Backups: the file format, copying a store in and out, and the check of its records.

pub(super) mod audit;
pub(super) mod copy;
pub(super) mod file;
pub(super) mod readable;
pub(super) mod seed;
