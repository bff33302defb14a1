//! The rows of the broker: its sessions, queued and retained messages, as keys and values that the store does not
//! interpret.
//!
//! Edits of rows are written in the same commits as the journal. A commit appends its edits to the row log, and only that
//! makes them durable. The rows with edits that the table does not have yet are kept in memory ([`dirty_rows`]) and
//! flushed in key order, like documents ([`super::state::dirty_set`]); the log up to the checkpoint is removed then. So a
//! row that is inserted and removed within the lag costs two records in the log, and never reaches the table. A start
//! reads the table and the rest of the log.
//!
//! Edits are absolute: applying one again changes nothing. So after a failed commit its edits are written again, and
//! nobody is notified of it.
//!
//! *Invariant:* the edits of the log are in the order in which they were sent, without a gap. An edit is on disk only
//! together with all that were sent before it.

pub(super) mod dirty_rows;
pub(super) mod edit;
pub(super) mod pending;
pub(super) mod tables;
