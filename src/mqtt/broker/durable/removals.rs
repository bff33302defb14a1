//! The ends of sessions that the disk does not have yet.
//!
//! A client that receives a CONNACK without a session must not find a former one after a power cut. So the end of a session that
//! outlived its connection is noted here under the lock under which it leaves the table of sessions, and forgotten when its rows
//! are removed on disk. A connection of the same client waits for that ([`Recorder::removed`](super::Recorder::removed)).
//!
//! An end is kept by the hash of its session, so its memory is small whatever the client id. While there are [`MANY`], every
//! new session waits: there are never more than these and those of the sessions that there were.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    mem,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::mqtt::broker::sessions::SessionKey;

/// Ends from which on every new session waits for the disk.
const MANY: usize = 16 << 10;

/// The ends that are not on disk; see the module.
#[derive(Debug, Default)]
pub(super) struct PendingRemovals {
    hasher: RandomState,
    table: Mutex<RemovalTable>,
}

#[derive(Debug, Default)]
struct RemovalTable {
    /// The newest end of each session, by the hash of its key.
    pending: HashMap<u64, PendingRemoval>,
    made: u64,
}

#[derive(Debug)]
struct PendingRemoval {
    number: u64,
    /// A sender to each connection that waits for it. Dropped if the removal is given up.
    waiting: Vec<oneshot::Sender<()>>,
}

/// The end of a session whose rows are to be removed; dropped before they are, it is given up.
#[derive(Debug)]
pub(in crate::mqtt) struct Removal {
    pending: Arc<PendingRemovals>,
    hash: u64,
    number: u64,
}

impl PendingRemovals {
    /// Notes that the session of `key` ends. Those who wait for an earlier end of it wait for this one.
    pub(super) fn begin(self: &Arc<Self>, key: &SessionKey) -> Removal {
        let hash = self.hasher.hash_one(key);
        let table = &mut *self.table.lock();
        table.made += 1;
        let number = table.made;
        let pending = table.pending.entry(hash).or_insert(PendingRemoval { number, waiting: Vec::new() });
        pending.number = number;
        Removal { pending: Arc::clone(self), hash, number }
    }

    /// Returns the end of a session of `key` that is not on disk, if there is one: a value comes when it is.
    pub(super) fn find(&self, key: &SessionKey) -> Option<oneshot::Receiver<()>> {
        let hash = self.hasher.hash_one(key);
        let mut table = self.table.lock();
        let waiting = &mut table.pending.get_mut(&hash)?.waiting;
        waiting.retain(|waiting| !waiting.is_closed());
        let (done, wait) = oneshot::channel();
        waiting.push(done);
        Some(wait)
    }

    /// Returns true if every new session is to wait for the disk.
    pub(super) fn are_many(&self) -> bool {
        self.table.lock().pending.len() >= MANY
    }
}

impl Removal {
    /// Lets those go on who wait for it: the rows are removed on disk, or belong to another session.
    pub(in crate::mqtt::broker) fn done(self) {
        for waiting in self.take_waiting() {
            let _nobody_waits_any_more = waiting.send(());
        }
    }

    /// Removes it, unless the session has ended again since.
    fn take_waiting(&self) -> Vec<oneshot::Sender<()>> {
        let mut table = self.pending.table.lock();
        match table.pending.entry(self.hash) {
            Entry::Occupied(mut pending) if pending.get().number == self.number => {
                let waiting = mem::take(&mut pending.get_mut().waiting);
                pending.remove();
                waiting
            }
            _ => Vec::new(),
        }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        drop(self.take_waiting());
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;
    use crate::auth::Principal;

    fn key(client: &str) -> SessionKey {
        SessionKey { principal: Principal::anonymous(client), client_id: client.into() }
    }

    #[test]
    fn an_end_is_waited_for_until_the_newest_of_its_session_is_on_disk() {
        let removals = Arc::new(PendingRemovals::default());
        assert!(removals.find(&key("a")).is_none());
        let (first, other) = (removals.begin(&key("a")), removals.begin(&key("b")));
        let mut wait = removals.find(&key("a")).expect("it has ended");
        let second = removals.begin(&key("a"));
        first.done();
        assert_eq!(wait.try_recv(), Err(TryRecvError::Empty), "it has ended again");
        second.done();
        assert_eq!(wait.try_recv(), Ok(()));
        assert!(removals.find(&key("a")).is_none() && removals.find(&key("b")).is_some());
        drop(other);
        assert!(removals.table.lock().pending.is_empty());
    }

    #[test]
    fn an_end_that_is_given_up_is_reported() {
        let removals = Arc::new(PendingRemovals::default());
        let removal = removals.begin(&key("a"));
        let mut wait = removals.find(&key("a")).expect("it has ended");
        drop(removal);
        assert_eq!(wait.try_recv(), Err(TryRecvError::Closed));
    }

    #[test]
    fn all_wait_while_there_are_many() {
        let removals = Arc::new(PendingRemovals::default());
        let mut all: Vec<_> = (0..MANY).map(|n| removals.begin(&key(&n.to_string()))).collect();
        assert!(removals.are_many());
        all.pop();
        assert!(!removals.are_many());
    }
}
