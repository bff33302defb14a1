//! A node's part in the log, without I/O: it follows, claims an epoch, appends its records and notices what others append.
//!
//! The caller carries out the [`Action`]s that the methods return, one at a time, and reports each result. The rules:
//!
//! - A record is decided in the state that is exactly the log up to a number, and appended under the condition that the
//!   log ends there. Only one append is under way: with a second one behind it, another node's claim may come between.
//! - After an unknown outcome the same bytes are appended again under the same condition. If they are refused, the record at
//!   that number is read: it is this node's own, which is therefore stored, or another's, and this node does not decide any more.
//! - If the log ends before what this node has applied, and what it has agrees with it, the node appends the missing records
//!   again before its own. If it no longer keeps them all, as after a start, it waits until another node has appended them. If what it has
//!   does not agree, the node is *latched*: it neither decides nor follows any more.
//!
//! Time is not known here. When to claim is the caller's choice: claims of several nodes may meet, and one of them is stored.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::store::{
    replication::{
        chain::{Chain, ChainError, ReadRecord},
        record::{Claim, Epoch, LogPosition, RecordContent, RecordDigest},
    },
    schema::JournalPosition,
};

/// Bytes of the last records that a node keeps, to append them again.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// A node's part in the log; see the module.
pub(in crate::store) struct Replica {
    /// The claim that this node makes.
    claim: Claim,
    chain: Chain,
    kept: KeptRecords,
    duty: Duty,
    /// The own record that follows the last record read: a claim, or a batch if this node decides.
    own: Option<OwnRecord>,
    pending: Option<Pending>,
    /// The end of the log, if that is before what this node has applied and others have to append what is missing.
    short: Option<u64>,
}

/// A record that this node appends. Its content is kept, so that it need not be decoded when the log has it.
struct OwnRecord {
    epoch: Epoch,
    content: RecordContent,
    encoded: Bytes,
}

/// The duty of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Duty {
    Following,
    /// The node has the newest claim that it knows of.
    Deciding,
    /// The log contradicts what the node has applied.
    Latched(ChainError),
}

/// The action whose result is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    /// The append of the record with this number: the own one, or one that the log has lost.
    Append(u64),
    /// The read of the record that is there instead.
    Conflict(u64),
    /// The question where the log ends.
    Tail,
    /// The read of its last record.
    End(u64),
}

/// The outcome of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The record is on the disks of a majority.
    Stored,
    /// The log does not end at the expected record.
    Refused,
    /// The record may have been appended, or may be later.
    Unknown,
}

/// An action that the caller carries out. It reports the result, or carries the action out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Append the record; the result goes to [`Replica::appended`].
    Append {
        /// The number of the last record of the log.
        expected: u64,
        /// The encoded record.
        record: Bytes,
    },
    /// Read the record with this number; the result goes to [`Replica::found`].
    Read(u64),
    /// Find the end of the log; the result goes to [`Replica::ends_at`].
    Tail,
}

/// The consequence of a result.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::store) struct Reaction {
    /// The next action.
    pub(in crate::store) action: Option<Action>,
    /// The record that follows in the log, which is to be applied.
    pub(in crate::store) record: Option<ReadRecord>,
    /// True if this node decided it: its requesters may be answered.
    pub(in crate::store) is_own: bool,
}

impl Replica {
    /// Returns a follower that has applied the log up to the position of `chain`.
    pub(in crate::store) fn new(claim: Claim, chain: Chain, kept: KeptRecords) -> Self {
        Self { claim, chain, kept, duty: Duty::Following, own: None, pending: None, short: None }
    }

    /// Returns the position up to which this node has read the log.
    pub(in crate::store) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Returns the last records, for a node that starts again.
    pub(in crate::store) fn kept(&self) -> &KeptRecords {
        &self.kept
    }

    /// Returns true if this node decides.
    pub(in crate::store) fn is_deciding(&self) -> bool {
        self.duty == Duty::Deciding
    }

    /// Returns the reason why this node takes no part any more.
    pub(in crate::store) fn latched(&self) -> Option<&ChainError> {
        match &self.duty {
            Duty::Latched(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the end of the log, if it lacks records that this node has applied and does not keep. It is to be
    /// [compared](Self::check) again after some time.
    pub(in crate::store) fn short(&self) -> Option<u64> {
        self.short
    }

    /// Returns the action whose result is awaited.
    pub(in crate::store) fn action(&self) -> Option<Action> {
        match self.pending? {
            Pending::Append(number) => {
                let is_own = number > self.chain.position.number;
                let record = if is_own { self.own_encoded() } else { self.kept.record(number) };
                Some(Action::Append { expected: number.checked_sub(1)?, record: record?.clone() })
            }
            Pending::Conflict(number) | Pending::End(number) => Some(Action::Read(number)),
            Pending::Tail => Some(Action::Tail),
        }
    }

    /// Claims the next epoch, in the state whose journal ends at `journal`; `None` unless this node only follows.
    pub(in crate::store) fn claim(&mut self, journal: JournalPosition) -> Option<Action> {
        self.claim_by(RecordContent::Claim(self.claim, journal))
    }

    /// Claims as [`Replica::claim`] does, by the first record of a log that makes the store of any node: this one's is empty.
    pub(in crate::store) fn begin(&mut self) -> Option<Action> {
        self.claim_by(RecordContent::Beginning(self.claim))
    }

    fn claim_by(&mut self, claim: RecordContent) -> Option<Action> {
        let epoch = Epoch(self.chain.epoch.0 + 1);
        (self.duty == Duty::Following && self.short.is_none()).then(|| self.append(epoch, claim, usize::MAX)).flatten()
    }

    /// Appends a record that was decided in the present state; `None` unless this node decides, nothing is under way, and the
    /// record has at most `bytes_max`.
    pub(in crate::store) fn propose(&mut self, content: RecordContent, bytes_max: usize) -> Option<Action> {
        (self.duty == Duty::Deciding).then(|| self.append(self.chain.epoch, content, bytes_max)).flatten()
    }

    fn append(&mut self, epoch: Epoch, content: RecordContent, bytes_max: usize) -> Option<Action> {
        if self.pending.is_some() {
            return None;
        }
        let encoded = self.chain.encode_next(epoch, &content);
        if encoded.len() > bytes_max {
            return None;
        }
        self.own = Some(OwnRecord { epoch, content, encoded: encoded.into() });
        self.pending = Some(Pending::Append(self.chain.position.number + 1));
        self.action()
    }

    /// Compares the end of the log with what this node has applied; `None` if something else is under way.
    pub(in crate::store) fn check(&mut self) -> Option<Action> {
        if self.pending.is_some() || self.latched().is_some() || self.chain.position.number == 0 {
            return None;
        }
        self.pending = Some(Pending::Tail);
        self.action()
    }

    /// Takes the outcome of an append.
    pub(in crate::store) fn appended(&mut self, outcome: Appended) -> Reaction {
        let Some(Pending::Append(number)) = self.pending else { return Reaction::default() };
        match outcome {
            Appended::Stored => self.stored(number),
            Appended::Refused => self.go_on(Pending::Conflict(number)),
            Appended::Unknown => self.go_on(Pending::Append(number)),
        }
    }

    /// Takes the record that was read, `None` if the log has none at that number.
    pub(in crate::store) fn found(&mut self, record: Option<&Bytes>) -> Reaction {
        let (number, position) = match self.pending {
            Some(Pending::Conflict(number)) if number > self.chain.position.number => {
                return match record {
                    None => self.go_on(Pending::Tail),
                    Some(record) => self.observe(record),
                };
            }
            Some(Pending::Conflict(number) | Pending::End(number)) => (number, self.position(number)),
            _ => return Reaction::default(),
        };
        match record {
            // A log that was restored from a store begins after its last record. What follows names the digest of that.
            None if number == self.chain.position.number && matches!(self.pending, Some(Pending::End(_))) => {
                self.stored(number)
            }
            None => self.go_on(Pending::Tail),
            Some(record) if position.is_some_and(|position| position.digest == RecordDigest::of(record)) => {
                self.stored(number)
            }
            Some(_) => self.latch(ChainError::Forked { number }),
        }
    }

    /// Takes the number of the last record of the log.
    pub(in crate::store) fn ends_at(&mut self, tail: u64) -> Reaction {
        let number = self.chain.position.number;
        match self.pending {
            Some(Pending::Tail) => {}
            _ => return Reaction::default(),
        }
        if self.own.is_some() && tail > number {
            return self.go_on(Pending::Conflict(number + 1));
        }
        match tail.min(number) {
            0 => self.stored(0),
            end if self.position(end).is_some() => self.go_on(Pending::End(end)),
            _ => self.wait_for_others(tail),
        }
    }

    /// Takes the record that follows in the log, while this node follows it or after a refused append.
    pub(in crate::store) fn observe(&mut self, record: &Bytes) -> Reaction {
        if self.latched().is_some() {
            return Reaction::default();
        }
        let own = self.own.take().filter(|own| own.encoded == *record);
        self.pending = None;
        let is_own = own.is_some();
        let read = match own {
            Some(OwnRecord { epoch, content, .. }) => self.chain.go_on(epoch, content, record),
            None => match self.chain.read(record) {
                Ok(read) => read,
                Err(error) => return self.latch(error),
            },
        };
        self.kept.push(self.chain.position, record.clone());
        self.short = None;
        self.duty = if is_own { Duty::Deciding } else { Duty::Following };
        Reaction { action: None, record: Some(read), is_own }
    }

    /// Goes on after the log was found to have the same records as this node up to `number`, or to have stored that one.
    fn stored(&mut self, number: u64) -> Reaction {
        let applied = self.chain.position.number;
        match self.own_encoded().cloned() {
            Some(own) if number > applied => self.observe(&own),
            // The caller only wanted to compare.
            None => {
                (self.pending, self.short) = (None, None);
                Reaction::default()
            }
            Some(_) if number == applied || self.kept.record(number + 1).is_some() => {
                self.go_on(Pending::Append(number + 1))
            }
            Some(_) => self.wait_for_others(number),
        }
    }

    fn go_on(&mut self, pending: Pending) -> Reaction {
        self.pending = Some(pending);
        Reaction { action: self.action(), ..Reaction::default() }
    }

    fn wait_for_others(&mut self, tail: u64) -> Reaction {
        self.duty = Duty::Following;
        (self.own, self.pending, self.short) = (None, None, Some(tail));
        Reaction::default()
    }

    fn latch(&mut self, error: ChainError) -> Reaction {
        self.duty = Duty::Latched(error);
        self.own = None;
        self.pending = None;
        Reaction::default()
    }

    fn own_encoded(&self) -> Option<&Bytes> {
        self.own.as_ref().map(|own| &own.encoded)
    }

    /// Returns the position with `number`, if this node has applied it and still knows it.
    fn position(&self, number: u64) -> Option<LogPosition> {
        let last = self.chain.position;
        if number == last.number { Some(last) } else { self.kept.position(number) }
    }
}

/// The last records that a node has read, of a bounded number of bytes.
#[derive(Clone, Default)]
pub(in crate::store) struct KeptRecords {
    records: VecDeque<(LogPosition, Bytes)>,
    bytes: usize,
}

impl KeptRecords {
    fn push(&mut self, position: LogPosition, record: Bytes) {
        self.bytes += record.len();
        self.records.push_back((position, record));
        while self.bytes > KEPT_BYTES_MAX
            && let Some((_, oldest)) = self.records.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    fn get(&self, number: u64) -> Option<&(LogPosition, Bytes)> {
        let (first, _) = self.records.front()?;
        self.records.get(usize::try_from(number.checked_sub(first.number)?).ok()?)
    }

    fn position(&self, number: u64) -> Option<LogPosition> {
        self.get(number).map(|(position, _)| *position)
    }

    pub(in crate::store) fn record(&self, number: u64) -> Option<&Bytes> {
        self.get(number).map(|(_, record)| record)
    }
}
