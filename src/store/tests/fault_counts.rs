//! The faults in histories that follow a seed, counted by kind: a history without faults would show nothing.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    AppendRefused,
    /// An append that is lost.
    AppendLost,
    /// An append that times out, and arrives later.
    AppendDelayed,
    /// An append that is stored, whose answer is lost.
    AppendUnheard,
    /// An append that arrives when nobody waits for it any more, or again, and is stored.
    LateAppendStored,
    /// The same, refused.
    LateAppendRefused,
    /// The log loses acknowledged records from its end.
    EndLost,
    /// A node finds that the log has other records than it has applied.
    Fork,
    DeciderPaused,
    NodePaused,
    LogCut,
    MessageLost,
    DeciderKilled,
    NodeKilled,
    /// A sync that fails and makes nothing durable.
    SyncFailed,
    /// A sync that fails after it has made everything durable.
    SyncUnheard,
    WriteFailed,
    ReadFailed,
    SessionOpened,
    /// A client that has had a session at another node opens one.
    SessionMoved,
    /// An update that is refused since its client has opened a session at another node.
    RequestSuperseded,
}

#[derive(Clone, Debug, Default)]
pub(super) struct FaultCounts(BTreeMap<Fault, u64>);

impl FaultCounts {
    pub(super) fn note(&mut self, fault: Fault) {
        self.note_many(fault, 1);
    }

    pub(super) fn note_many(&mut self, fault: Fault, count: u64) {
        *self.0.entry(fault).or_default() += count;
    }

    pub(super) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(fault, count)| self.note_many(*fault, *count));
    }

    /// Checks that each of `faults` was there at least `count` times.
    pub(super) fn check(&self, faults: &[Fault], count: u64) {
        let is_rare = |fault: &&Fault| self.0.get(fault).is_none_or(|found| *found < count);
        let rare: Vec<_> = faults.iter().filter(is_rare).collect();
        assert!(rare.is_empty(), "fewer than {count} of {rare:?}: {:?}", self.0);
    }
}
