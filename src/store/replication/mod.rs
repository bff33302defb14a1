//! The replicated log: the record of a decided batch, and the rules by which nodes agree on one order of records.
//!
//! A batch passes three steps. The writer *decides* queued commands in memory, which makes a [`batch_record::BatchRecord`]
//! and the outcomes of the requesters. A [`batch_log::BatchLog`] *appends* the record. The writer then *applies* it:
//! to the file, the cache, the dirty set and the rows. On a single node the commit of the file is the append. A
//! replica applies records that another node decided ([`replay`], [`following`]); both end in the same commit.
//!
//! A [`record::LogRecord`] is a record with its place in the log: each names the one before it by its digest, so the log
//! is a chain, which every reader checks ([`chain`]). Which node decides is in the log itself: [`replica`] claims the next
//! epoch, appends, tries again, and stops. It does no I/O. A [`member`] is a store that takes part; [`member::Link`] is its seam
//! to the engine that stores the log and to the other nodes.
//!
//! *Invariant:* applying a record depends on the store before it and on the record alone. A time that matters is in it.
//!
//! *Invariant:* a node appends one record at a time, under the condition that the log ends where the node's state does.

pub(super) mod applied_position;
pub(super) mod batch_log;
pub(super) mod batch_record;
pub(super) mod chain;
pub(super) mod command_codec;
pub(super) mod following;
pub(super) mod log_place;
pub(super) mod member;
pub(super) mod openings;
pub(super) mod record;
pub(super) mod record_ages;
pub(super) mod replay;
pub(super) mod replica;
pub(super) mod requests;
pub(super) mod seed_message;
pub(super) mod status;
