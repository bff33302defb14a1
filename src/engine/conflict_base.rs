//! The conflicts of a refused command, looked up after the decision and reported with the refusal.
//!
//! The conflicting paths come from the document that the command was decided against, and need no lookup. The values
//! at the expected version (the base) need a walk back through the journal. There are two tiers:
//!
//! - Up to [`STEPS_AT_ONCE`] versions are walked on the notifier thread. Nearly all conflicts are that short, and their
//!   refusals keep their place among the events of the shadow.
//! - Up to [`STEPS_MAX`] versions are walked on a thread of their own, so only the requester waits. That refusal and its
//!   acknowledgement may follow events of later versions. The acknowledgements of one client still leave in the order
//!   of its requests. If [`WAITING_MAX`] refusals wait for that thread, or a quarter of these of one principal, the next
//!   one is reported without base values.
//!
//! With one tier alone, either a requester that is far behind delays all events, or short conflicts lose their place
//! among the events and, under contention, some lose their base values.

use std::{
    sync::{
        Arc,
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::{Builder, Scope},
    time::Instant,
};

use crate::{
    admission::{Permit, PrincipalQuota, work},
    clock::Clock,
    engine::Requester,
    shadow::{Command, Rejection, ShadowKey, Timestamp, Version, collisions},
    store::{HistoryReader, JournalEntry, StoredShadow},
};

/// Most versions that are walked back.
const STEPS_MAX: u64 = 1000;

/// Most versions that are walked back on the notifier thread, which takes some tens of microseconds.
const STEPS_AT_ONCE: u64 = 8;

/// Most refusals that wait for the thread of long walks.
const WAITING_MAX: usize = 256;

/// A refusal that is not reported yet.
pub(super) struct PendingRefusal {
    pub(super) key: ShadowKey,
    pub(super) rejection: Rejection,
    /// The document that the command was decided against.
    pub(super) against: StoredShadow,
    pub(super) requester: Box<dyn Requester>,
    /// The quota of its principal, which pays for the lookup.
    pub(super) quota: Arc<PrincipalQuota>,
}

/// The notifier's handle to the thread of long walks, which ends when this is dropped.
pub(super) struct ConflictBaseLookup<'s> {
    past: &'s HistoryReader,
    long: Option<SyncSender<(PendingRefusal, Permit)>>,
}

impl<'s> ConflictBaseLookup<'s> {
    /// Starts the thread. If that fails, long walks are skipped.
    pub(super) fn start(scope: &'s Scope<'s, '_>, past: &'s HistoryReader, clock: &'s Clock) -> Self {
        let (sender, refusals) = mpsc::sync_channel::<(PendingRefusal, Permit)>(WAITING_MAX);
        let walk = move || {
            for (mut refusal, _permit) in refusals {
                refusal.find_base(past);
                refusal.report(clock.now());
            }
        };
        let started = Builder::new().name("conflict-base".to_owned()).spawn_scoped(scope, walk);
        if let Err(error) = &started {
            tracing::warn!(%error, "conflicts with versions far back are reported without base values");
        }
        Self { past, long: started.ok().map(|_| sender) }
    }

    /// Completes the refusal of `command` and reports it, now or later.
    pub(super) fn complete(&self, mut refusal: PendingRefusal, command: &Command, now: Timestamp) {
        let steps = refusal.find_conflicts(command);
        let units = steps.min(STEPS_MAX) * work::VERSION_BACK;
        let _throttles_its_connection = refusal.quota.charge_work(units, Instant::now());
        if (1..=STEPS_AT_ONCE).contains(&steps) {
            refusal.find_base(self.past);
        } else if (1..=STEPS_MAX).contains(&steps)
            && let Some(long) = &self.long
            && let Some(permit) = refusal.quota.conflict_lookup()
        {
            match long.try_send((refusal, permit)) {
                Ok(()) => return,
                Err(TrySendError::Full((back, _)) | TrySendError::Disconnected((back, _))) => refusal = back,
            }
        }
        refusal.report(now);
    }
}

impl PendingRefusal {
    /// Finds the conflicting paths. Returns the number of versions back to their base values; 0 if there is nothing to
    /// look up.
    fn find_conflicts(&mut self, command: &Command) -> u64 {
        let Rejection::VersionConflict { expected: Some(expected), collisions: reported, .. } = &mut self.rejection
        else {
            return 0;
        };
        let found = collisions(command, &self.against.document, *expected);
        let has_base = *expected > Version(0) && !found.conflicts.is_empty();
        *reported = Some(Box::new(found));
        if has_base { self.against.document.version.0.saturating_sub(expected.0) } else { 0 }
    }

    /// Finds the base values. Without them the refusal is as valid.
    fn find_base(&mut self, past: &HistoryReader) {
        let Rejection::VersionConflict { expected: Some(expected), collisions: Some(found), .. } = &mut self.rejection
        else {
            return;
        };
        let mut rewind = found.rewind();
        let (limit, mut bytes) = (STEPS_MAX.try_into().unwrap_or(usize::MAX), 0);
        let undo = |entry: &JournalEntry| {
            bytes += entry.bytes;
            rewind.undo(&entry.changes);
        };
        let walked = past.walk(&self.key, &self.against, *expected, limit, undo);
        if let units @ 1.. = work::journal_read(bytes) {
            let _throttles_its_connection = self.quota.charge_work(units, Instant::now());
        }
        match walked {
            Ok(true) => rewind.arrive(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the base values of a conflict cannot be read"),
        }
    }

    fn report(self, now: Timestamp) {
        self.requester.on_outcome(Err(&self.rejection), now);
    }
}
