//! The rows of the broker, which are its sessions, queued and retained messages, and those of rollouts: keys and values that
//! the store does not interpret.
//!
//! Edits of rows are written in the same commits as the journal. A commit appends to the row log one edit of each row
//! edited since the last one, and only that makes them durable. The rows with edits that the table does not have yet are
//! kept in memory ([`dirty_rows`]) and flushed in key order, like documents ([`super::state::dirty_set`]); the log up to
//! the checkpoint is removed then. So a
//! row that is inserted and removed within the lag never reaches the table, and one that is removed before a commit not even
//! the log. A start reads the table and the rest of the log.
//!
//! Edits are absolute: applying one again changes nothing. So after a failed commit its edits are written again, and
//! nobody is notified of it.
//!
//! *Invariant:* the log has the edits in the order in which they were sent, without a gap; those of one row between two
//! commits are one edit. An edit is on disk only together with all that were sent before it.

pub(super) mod dirty_rows;
pub(super) mod edit;
pub(super) mod edited_row;
pub(super) mod pending;
pub(super) mod sent;
pub(super) mod tables;
