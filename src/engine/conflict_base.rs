//! What a version conflict collided with, found out after the decision and told with the refusal.
//!
//! Which paths collided is read off the document that the command was decided against, on the announcer's thread. What
//! was there at the expected version takes a walk back through the journal. A short one is made at once. A long one is
//! left to a thread of its own, so that nobody waits for it but who asked: that refusal, with its acknowledgement, may
//! then come after events of later versions; the acknowledgements of one client still leave in the order of its
//! requests. If too many wait for that thread, the next one is told without the former values.

use std::{
    sync::mpsc::{self, SyncSender, TrySendError},
    thread::{Builder, Scope},
};

use crate::{
    clock::Clock,
    engine::Requester,
    shadow::{Command, Rejection, ShadowKey, Timestamp, Version, collisions},
    store::{HistoryReader, StoredShadow},
};

/// Most versions that are walked back at all.
const STEPS_MAX: u64 = 1000;

/// Most versions that are walked back while the announcer waits: some tens of microseconds.
const STEPS_AT_ONCE: u64 = 8;

/// Fewest versions that are left to the thread.
const STEPS_LATER: u64 = STEPS_AT_ONCE + 1;

/// Refusals that may wait for the thread.
const WAITING_MAX: usize = 256;

/// A refusal that is not told yet.
pub(super) struct PendingRefusal {
    pub(super) key: ShadowKey,
    pub(super) rejection: Rejection,
    /// What the command was decided against.
    pub(super) against: StoredShadow,
    pub(super) requester: Box<dyn Requester>,
}

/// The announcer's side of the thread that makes long walks, which ends when this is dropped.
pub(super) struct ConflictBaseLookup<'s> {
    past: &'s HistoryReader,
    long: Option<SyncSender<PendingRefusal>>,
}

impl<'s> ConflictBaseLookup<'s> {
    /// Starts the thread; without one, long walks are not made.
    pub(super) fn start(scope: &'s Scope<'s, '_>, past: &'s HistoryReader, clock: &'s Clock) -> Self {
        let (sender, refusals) = mpsc::sync_channel::<PendingRefusal>(WAITING_MAX);
        let walk = move || {
            for mut refused in refusals {
                refused.walk(past);
                refused.tell(clock.now());
            }
        };
        let started = Builder::new().name("hindsight".to_owned()).spawn_scoped(scope, walk);
        if let Err(error) = &started {
            tracing::warn!(%error, "conflicts are told without former values from further back");
        }
        Self { past, long: started.ok().map(|_| sender) }
    }

    /// Completes a refusal of `command` and tells it, now or later.
    pub(super) fn tell(&self, mut refused: PendingRefusal, command: &Command, now: Timestamp) {
        match refused.collide(command) {
            0 => {}
            1..=STEPS_AT_ONCE => refused.walk(self.past),
            STEPS_LATER..=STEPS_MAX => {
                if let Some(long) = &self.long {
                    match long.try_send(refused) {
                        Ok(()) => return,
                        Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => refused = back,
                    }
                }
            }
            _ => {}
        }
        refused.tell(now);
    }
}

impl PendingRefusal {
    /// Finds the paths that collided. Returns how many versions lie between them and their former values; 0 if there
    /// is nothing to look for.
    fn collide(&mut self, command: &Command) -> u64 {
        let Rejection::VersionConflict { expected: Some(expected), collisions: told, .. } = &mut self.rejection else {
            return 0;
        };
        let found = collisions(command, &self.against.document, *expected);
        let any = *expected > Version(0) && !found.conflicts.is_empty();
        *told = Some(Box::new(found));
        if any { self.against.document.version.0.saturating_sub(expected.0) } else { 0 }
    }

    /// Finds the former values. If they cannot be found, the refusal is as true without.
    fn walk(&mut self, past: &HistoryReader) {
        let Rejection::VersionConflict { expected: Some(expected), collisions: Some(found), .. } = &mut self.rejection
        else {
            return;
        };
        let mut rewind = found.rewind();
        let limit = STEPS_MAX.try_into().unwrap_or(usize::MAX);
        match past.walk(&self.key, &self.against, *expected, limit, |entry| rewind.undo(&entry.changes)) {
            Ok(true) => rewind.arrive(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the former values of a conflict cannot be read"),
        }
    }

    fn tell(self, now: Timestamp) {
        self.requester.on_outcome(Err(&self.rejection), now);
    }
}
