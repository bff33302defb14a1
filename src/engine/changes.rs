//! The feed of accepted changes inside the process: who follows a shadow is woken by its changes and by no others.
//!
//! The announcer thread tells each change here, after it was told to MQTT and in the order of the journal. Followers
//! are found by device, so that a thousand readers of one device each cost a change of one of them one look-up. What a
//! change says is rendered by the first reader that needs it, for all that see the same of it.
//!
//! A follower that reads the journal up to [`FollowHandle::since`] and then [`FollowHandle::next`] misses nothing and sees
//! nothing twice. A queue that grows beyond its bytes is cut: its follower is told so and has to start again from the
//! journal, which has what it missed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    auth::Projection,
    engine::{Notifier, Outcome, Requester},
    shadow::{
        Change, DeviceId, Document, Etag, Pointer, ShadowKey, ShadowName, Timestamp, Version, document::change::Effect,
        pointer::SectionName,
    },
    store::{JournalEntry, Seq},
    wire::ChangeEntry,
};

/// One accepted change, shared by all who are told of it.
#[derive(Debug)]
pub struct ChangeEvent {
    /// Its place in the journal.
    pub seq: Seq,
    /// The shadow.
    pub key: ShadowKey,
    version: Version,
    etag: Etag,
    timestamp: Timestamp,
    by: Arc<str>,
    client: Arc<str>,
    deleted: bool,
    changes: Vec<Change>,
    /// About the memory it takes, what is rendered of it included.
    bytes: usize,
    /// What was made of it, for each part of a shadow that somebody sees.
    rendered: Mutex<Vec<(Projection, Bytes)>>,
}

/// Which changes a follower cares about.
#[derive(Clone, Debug, Default)]
pub struct FeedFilter {
    /// Those of one device; `None`: of all.
    pub device: Option<DeviceId>,
    /// Those of its shadows of one name, `Some(None)` being the classic one; `None`: of all.
    pub name: Option<Option<ShadowName>>,
    /// Those at, above or below one of these paths; empty: all.
    pub paths: Vec<Pointer>,
}

/// What waits for a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueContent {
    /// Every change, up to so many bytes of them.
    All {
        /// About the memory they take.
        bytes_max: usize,
    },
    /// The document that the newest of them made.
    Newest,
}

/// What a follower is told.
#[derive(Clone, Debug)]
pub enum Next {
    /// A change, for who keeps [`QueueContent::All`].
    Change(Arc<ChangeEvent>),
    /// The shadow after its newest change, for who keeps [`QueueContent::Newest`].
    Newest(Arc<Document>),
    /// It was too slow; changes are missing from here on.
    Cut,
    /// The service is ending.
    Closed,
}

/// The feed.
#[derive(Debug)]
pub struct Changes(Mutex<Followers>);

/// A place in the feed, until it is dropped.
#[derive(Debug)]
pub struct FollowHandle {
    changes: Arc<Changes>,
    follower: Arc<Follower>,
    /// The last change that was told before.
    pub since: Seq,
}

#[derive(Debug)]
struct Followers {
    /// The last change that was told.
    told: Seq,
    of_device: HashMap<DeviceId, Vec<Arc<Follower>>>,
    of_all: Vec<Arc<Follower>>,
    closed: bool,
}

#[derive(Debug)]
struct Follower {
    interest: FeedFilter,
    keep: QueueContent,
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    told: VecDeque<Arc<ChangeEvent>>,
    /// What the changes in `told` take. They hold no documents, which are larger and are not counted.
    bytes: usize,
    newest: Option<Arc<Document>>,
    cut: bool,
    closed: bool,
}

/// Parts of shadows for which the rendering of one change is kept.
const RENDERED_MAX: usize = 8;

impl Changes {
    /// A feed that goes on after `head`, the last change in the journal.
    #[must_use]
    pub fn new(head: Seq) -> Self {
        Self(Mutex::new(Followers { told: head, of_device: HashMap::new(), of_all: Vec::new(), closed: false }))
    }

    /// Follows the changes after the last one that was told.
    #[must_use]
    pub fn follow(self: &Arc<Self>, interest: FeedFilter, keep: QueueContent) -> FollowHandle {
        let mut followers = self.0.lock();
        let queue = Mutex::new(Queue { closed: followers.closed, ..Queue::default() });
        let follower = Arc::new(Follower { interest, keep, queue, ready: Notify::new() });
        match &follower.interest.device {
            Some(device) => followers.of_device.entry(device.clone()).or_default().push(follower.clone()),
            None => followers.of_all.push(follower.clone()),
        }
        FollowHandle { changes: self.clone(), follower, since: followers.told }
    }

    /// Ends every follower once it has been told what waits for it.
    pub fn close(&self) {
        let mut followers = self.0.lock();
        followers.closed = true;
        for follower in followers.of_device.values().flatten().chain(&followers.of_all) {
            follower.queue.lock().closed = true;
            follower.ready.notify_one();
        }
    }

    fn leave(&self, follower: &Arc<Follower>) {
        let mut followers = self.0.lock();
        let left = |others: &mut Vec<Arc<Follower>>| others.retain(|other| !Arc::ptr_eq(other, follower));
        match &follower.interest.device {
            None => left(&mut followers.of_all),
            Some(device) => {
                if let Some(others) = followers.of_device.get_mut(device) {
                    left(others);
                    if others.is_empty() {
                        followers.of_device.remove(device);
                    }
                }
            }
        }
    }
}

impl Notifier for Arc<Changes> {
    fn announce(&mut self, outcome: &Outcome, _: &dyn Requester) {
        let Ok(applied) = &outcome.result else { return };
        let Some(seq) = applied.seq else { return };
        let mut followers = self.0.lock();
        followers.told = seq;
        let of_device = followers.of_device.get(&outcome.key.device);
        let mut followers = of_device.into_iter().flatten().chain(&followers.of_all).peekable();
        if followers.peek().is_none() {
            return;
        }
        let touched = |name| applied.changes.iter().any(|change| change.path.section == name);
        let sections = SectionName::ALL.map(|name| touched(name).then_some(name));
        let mut told = None;
        for follower in followers.filter(|follower| follower.interest.may_care(&outcome.key, &sections)) {
            match follower.keep {
                QueueContent::Newest => follower.replace(&applied.after),
                QueueContent::All { bytes_max } => {
                    follower
                        .push(told.get_or_insert_with(|| Arc::new(ChangeEvent::of(outcome, seq, applied))), bytes_max);
                }
            }
        }
    }
}

impl FeedFilter {
    /// Whether it cares about `told`.
    #[must_use]
    pub fn cares(&self, told: &ChangeEvent) -> bool {
        self.device.as_ref().is_none_or(|device| *device == told.key.device)
            && self.names(&told.key)
            && (self.paths.is_empty() || told.changes.iter().any(|change| self.meets_one(change)))
    }

    /// Whether it may care about a change in `sections` of `key`. Paths are compared by who is told: all who follow a
    /// device are asked this on one thread.
    fn may_care(&self, key: &ShadowKey, sections: &[Option<SectionName>]) -> bool {
        let met = |path: &Pointer| sections.contains(&Some(path.section));
        self.names(key) && (self.paths.is_empty() || self.paths.iter().any(met))
    }

    /// Whether what `reader` may see of a change is what it cares about: it must not find out by its paths that
    /// something changed which it may not see.
    #[must_use]
    pub fn cares_as(&self, told: &ChangeEvent, reader: &Projection) -> bool {
        let seen = |change| reader.change(change).is_some_and(|seen| self.meets_one(&seen));
        self.paths.is_empty() || told.changes.iter().any(seen)
    }

    fn names(&self, key: &ShadowKey) -> bool {
        self.name.as_ref().is_none_or(|name| *name == key.name)
    }

    fn meets_one(&self, change: &Change) -> bool {
        self.paths.iter().any(|path| change.path.is_within(path) || path.is_within(&change.path))
    }
}

impl Follower {
    fn replace(&self, newest: &Arc<Document>) {
        self.queue.lock().newest = Some(newest.clone());
        self.ready.notify_one();
    }

    fn push(&self, told: &Arc<ChangeEvent>, bytes_max: usize) {
        let mut queue = self.queue.lock();
        if queue.cut {
            return;
        }
        if !queue.told.is_empty() && queue.bytes + told.bytes > bytes_max {
            queue.cut = true;
            queue.told.clear();
        } else {
            queue.bytes += told.bytes;
            queue.told.push_back(told.clone());
        }
        drop(queue);
        self.ready.notify_one();
    }

    fn take(&self) -> Option<Next> {
        let mut queue = self.queue.lock();
        if queue.cut {
            return Some(Next::Cut);
        }
        if let Some(document) = queue.newest.take() {
            return Some(Next::Newest(document));
        }
        match queue.told.pop_front() {
            Some(told) => {
                queue.bytes = queue.bytes.saturating_sub(told.bytes);
                Some(Next::Change(told))
            }
            None => queue.closed.then_some(Next::Closed),
        }
    }
}

impl FollowHandle {
    /// Returns the newest change of the feed if nothing up to it waits here: all of them were handed out, or are none
    /// that this follower may care about.
    #[must_use]
    pub fn position(&self) -> Option<Seq> {
        let followers = self.changes.0.lock();
        let queue = self.follower.queue.lock();
        (queue.told.is_empty() && !queue.cut).then_some(followers.told)
    }

    /// The next change, once there is one. May be dropped while it waits.
    pub async fn next(&self) -> Next {
        loop {
            // A permit that is left from before costs one more round.
            if let Some(next) = self.follower.take() {
                return next;
            }
            self.follower.ready.notified().await;
        }
    }
}

impl Drop for FollowHandle {
    fn drop(&mut self) {
        self.changes.leave(&self.follower);
    }
}

impl ChangeEvent {
    fn of(outcome: &Outcome, seq: Seq, applied: &crate::store::Applied) -> Self {
        Self {
            seq,
            key: outcome.key.clone(),
            version: applied.after.version,
            etag: applied.after.etag,
            timestamp: applied.after.timestamp,
            by: outcome.by.clone(),
            client: outcome.client.clone(),
            deleted: applied.after.deleted,
            bytes: bytes(&applied.changes),
            changes: applied.changes.clone(),
            rendered: Mutex::default(),
        }
    }

    /// What it tells.
    #[must_use]
    pub fn entry(&self) -> ChangeEntry<'_> {
        ChangeEntry {
            key: &self.key,
            version: self.version,
            etag: self.etag,
            timestamp: self.timestamp,
            by: &self.by,
            client: &self.client,
            deleted: self.deleted,
            changes: &self.changes,
        }
    }

    /// What `render` makes of it for those who see `projection`, made once for all of them.
    #[must_use]
    pub fn rendered(&self, projection: &Projection, render: impl FnOnce(&Self) -> Bytes) -> Bytes {
        let mut rendered = self.rendered.lock();
        if let Some((_, bytes)) = rendered.iter().find(|(seen, _)| seen == projection) {
            return bytes.clone();
        }
        let bytes = render(self);
        if rendered.len() < RENDERED_MAX {
            rendered.push((projection.clone(), bytes.clone()));
        }
        bytes
    }
}

impl From<JournalEntry> for ChangeEvent {
    fn from(entry: JournalEntry) -> Self {
        Self {
            seq: entry.seq,
            version: entry.version,
            etag: entry.etag,
            timestamp: entry.timestamp,
            deleted: entry.deleted,
            bytes: bytes(&entry.changes),
            rendered: Mutex::default(),
            by: entry.principal.clone(),
            client: entry.client.clone(),
            key: entry.key.clone(),
            changes: entry.changes,
        }
    }
}

/// About the memory that these changes take, twice: what is rendered of them takes as much.
fn bytes(changes: &[Change]) -> usize {
    let of = |change: &Change| {
        let value = match &change.effect {
            Effect::Set(value) => memory(value),
            Effect::Remove | Effect::Touch => 0,
        };
        let keys: usize = change.path.keys.iter().map(|key| key.len() + 16).sum();
        64 + keys + value + change.replaced.as_ref().map_or(0, |replaced| memory(&replaced.value))
    };
    512 + 2 * changes.iter().map(of).sum::<usize>()
}

/// About the memory that it takes.
fn memory(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 16,
        Value::String(text) => 16 + text.len(),
        Value::Array(elements) => 32 + elements.iter().map(memory).sum::<usize>(),
        Value::Object(members) => {
            32 + members.iter().map(|(key, member)| 32 + key.len() + memory(member)).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::AcceptedCommand,
        shadow::{Command, Delete, Disposition, Rejection},
        store::Applied,
        wire::ClientToken,
    };

    struct IgnoringRequester;

    impl Requester for IgnoringRequester {
        fn session(&self) -> Option<u64> {
            None
        }

        fn client_token(&self) -> Option<&ClientToken> {
            None
        }

        fn on_outcome(self: Box<Self>, _: Result<AcceptedCommand<'_>, &Rejection>, _: Timestamp) {}
    }

    /// Each change that waited for a slow reader held the whole document it had made, of which its bytes said nothing.
    #[test]
    fn no_documents_wait_but_the_one_that_is_asked_for() {
        let changes = Arc::new(Changes::new(Seq(0)));
        let all = changes.follow(FeedFilter::default(), QueueContent::All { bytes_max: usize::MAX });
        let newest = changes.follow(FeedFilter::default(), QueueContent::Newest);
        let documents = [(); 3].map(|()| Arc::new(Document::absent()));
        for (seq, after) in (1..).map(Seq).zip(&documents) {
            let applied = Applied {
                seq: Some(seq),
                before: Arc::new(Document::absent()),
                after: after.clone(),
                changes: Vec::new(),
                rebased_from: None,
                manner: Disposition::Applied,
            };
            let outcome = Outcome {
                key: ShadowKey::classic(DeviceId::new("d").expect("a name")),
                command: Command::Delete(Delete::default()),
                by: "p".into(),
                client: "c".into(),
                result: Ok(applied),
            };
            changes.clone().announce(&outcome, &IgnoringRequester);
        }
        assert_eq!((all.position(), newest.position()), (None, Some(Seq(3))), "three wait for the one, none here");
        assert_eq!(documents.each_ref().map(Arc::strong_count), [1, 1, 2]);
        let next = newest.follower.take();
        assert!(matches!(&next, Some(Next::Newest(document)) if Arc::ptr_eq(document, &documents[2])), "{next:?}");
    }
}
