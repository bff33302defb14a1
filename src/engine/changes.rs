//! The feed of accepted changes inside the process. A change wakes the followers of its shadow and no others.
//!
//! The notifier thread publishes each change here after its MQTT messages, in the order of the journal. Followers are
//! indexed by the devices that they follow or may see, so each change costs one lookup, whatever the number of followers
//! of other devices. Only followers of all or many devices are compared with each change. The first
//! reader of a change renders it, and all readers with the same projection share the result.
//!
//! A follower that reads the journal up to [`FollowHandle::since`] and then calls [`FollowHandle::next`] misses no change
//! and sees none twice. A queue that exceeds its bytes is cut. Its follower receives [`Next::Cut`] and starts again from
//! the journal, which has the missing changes.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    auth::DeviceRange,
    engine::{Notifier, Outcome, Requester},
    shadow::{
        Change, DeviceId, Document, Etag, Pointer, Projection, ShadowKey, ShadowName, Timestamp, Version,
        document::change::Effect, pointer::SectionName,
    },
    store::{Applied, Envelope, JournalEntry, Seq},
    wire::ChangeEntry,
};

/// One accepted change, shared by all followers that receive it.
#[derive(Debug)]
pub struct ChangeEvent {
    /// Its journal entry.
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
    /// The approximate memory of the change and its renderings.
    bytes: usize,
    /// The renderings by projection.
    rendered: Mutex<Vec<(Projection, Bytes)>>,
}

/// The changes that a follower receives.
#[derive(Clone, Debug, Default)]
pub struct FeedFilter {
    /// The device; `None` for all.
    pub device: Option<DeviceId>,
    /// The shadow name, `Some(None)` for the classic shadow; `None` for all.
    pub name: Option<Option<ShadowName>>,
    /// Paths at, above or below which a change lies; empty for all changes.
    pub paths: Vec<Pointer>,
}

/// The content of a follower's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueContent {
    /// Every change, up to a limit of bytes.
    All {
        /// The most approximate memory of the queued changes.
        bytes_max: usize,
    },
    /// Each shadow that changed, once, whatever the number of its changes.
    Shadows {
        /// The most shadows that are queued.
        max: usize,
    },
    /// The document after the newest change.
    Newest,
}

/// The next item for a follower.
#[derive(Clone, Debug)]
pub enum Next {
    /// A change, with [`QueueContent::All`].
    Change(Arc<ChangeEvent>),
    /// A shadow that changed, with [`QueueContent::Shadows`]; true if it began or ceased to exist.
    Shadow(ShadowKey, bool),
    /// The shadow after its newest change, with [`QueueContent::Newest`].
    Newest(Arc<Document>),
    /// The follower was too slow; changes are missing from here on.
    Cut,
    /// The service is ending.
    Closed,
}

/// The feed.
#[derive(Debug)]
pub struct Changes(Mutex<Followers>);

/// A subscription to the feed, which ends when dropped.
#[derive(Debug)]
pub struct FollowHandle {
    changes: Arc<Changes>,
    follower: Arc<Follower>,
    /// The last change before the subscription.
    pub since: Seq,
}

#[derive(Debug)]
struct Followers {
    /// The last published change.
    published: Seq,
    of_device: HashMap<DeviceId, Vec<Arc<Follower>>>,
    of_all: Vec<Arc<Follower>>,
    closed: bool,
}

#[derive(Debug)]
struct Follower {
    filter: FeedFilter,
    /// The devices that the follower may see; `None` for all.
    visible: Option<Vec<DeviceRange>>,
    content: QueueContent,
    queue: Mutex<Queue>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<Arc<ChangeEvent>>,
    /// The approximate memory of `changes`. They hold no documents, which are larger.
    bytes: usize,
    /// The shadows that changed; true for those that began or ceased to exist.
    shadows: BTreeMap<ShadowKey, bool>,
    newest: Option<Arc<Document>>,
    cut: bool,
    closed: bool,
}

/// Most devices by which one follower is indexed.
const DEVICES_MAX: usize = 64;

/// Most renderings kept of one change.
const RENDERED_MAX: usize = 8;

impl Changes {
    /// Returns a feed that continues after `head`, the last change in the journal.
    #[must_use]
    pub fn new(head: Seq) -> Self {
        Self(Mutex::new(Followers { published: head, of_device: HashMap::new(), of_all: Vec::new(), closed: false }))
    }

    /// Subscribes to the changes after the last published one. Changes of devices outside `visible` are left out; all
    /// devices are visible if it is `None`.
    #[must_use]
    pub fn follow(
        self: &Arc<Self>,
        filter: FeedFilter,
        visible: Option<Vec<DeviceRange>>,
        content: QueueContent,
    ) -> FollowHandle {
        let mut followers = self.0.lock();
        let queue = Mutex::new(Queue { closed: followers.closed, ..Queue::default() });
        let follower = Arc::new(Follower { filter, visible, content, queue, ready: Notify::new() });
        match follower.devices() {
            Some(devices) => {
                for device in devices {
                    followers.of_device.entry(device.clone()).or_default().push(follower.clone());
                }
            }
            None => followers.of_all.push(follower.clone()),
        }
        FollowHandle { changes: self.clone(), follower, since: followers.published }
    }

    /// Ends every subscription once its queue is empty.
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
        match follower.devices() {
            None => left(&mut followers.of_all),
            Some(devices) => {
                for device in devices {
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
}

impl Notifier for Arc<Changes> {
    fn notify(&mut self, Outcome { envelope, result }: Outcome<'_>, _: &dyn Requester) -> usize {
        let Ok(applied) = result else { return 0 };
        let Some(seq) = applied.seq else { return 0 };
        let mut followers = self.0.lock();
        followers.published = seq;
        let of_device = followers.of_device.get(&envelope.key.device);
        let mut followers = of_device.into_iter().flatten().chain(&followers.of_all).peekable();
        if followers.peek().is_none() {
            return 0;
        }
        let touched = |name| applied.changes.iter().any(|change| change.path.section == name);
        let sections = SectionName::ALL.map(|name| touched(name).then_some(name));
        let mut event = None;
        for follower in followers.filter(|follower| follower.may_match(&envelope.key, &sections)) {
            match follower.content {
                QueueContent::Newest => follower.replace(&applied.after),
                QueueContent::Shadows { max } => {
                    follower.mark(&envelope.key, applied.after.deleted || !applied.before.exists(), max);
                }
                QueueContent::All { bytes_max } => {
                    let event = event.get_or_insert_with(|| Arc::new(ChangeEvent::new(envelope, seq, applied)));
                    follower.push(event, bytes_max);
                }
            }
        }
        0 // each follower renders it for itself
    }
}

impl FeedFilter {
    /// Returns true if `event` matches.
    #[must_use]
    pub fn selects(&self, event: &ChangeEvent) -> bool {
        self.device.as_ref().is_none_or(|device| *device == event.key.device)
            && self.names(&event.key)
            && (self.paths.is_empty() || event.changes.iter().any(|change| self.meets_one(change)))
    }

    /// Returns false if no change in `sections` of `key` matches. The notifier thread asks this for every follower of a
    /// device; the follower compares the paths itself.
    fn may_match(&self, key: &ShadowKey, sections: &[Option<SectionName>]) -> bool {
        let met = |path: &Pointer| sections.contains(&Some(path.section));
        self.names(key) && (self.paths.is_empty() || self.paths.iter().any(met))
    }

    /// Returns true if the part of `event` that `reader` may read matches. So the paths of a filter do not reveal
    /// changes that the reader may not read.
    #[must_use]
    pub fn selects_for(&self, event: &ChangeEvent, reader: &Projection) -> bool {
        let visible = |change| reader.change(change).is_some_and(|visible| self.meets_one(&visible));
        self.paths.is_empty() || event.changes.iter().any(visible)
    }

    fn names(&self, key: &ShadowKey) -> bool {
        self.name.as_ref().is_none_or(|name| *name == key.name)
    }

    fn meets_one(&self, change: &Change) -> bool {
        self.paths.iter().any(|path| change.path.is_within(path) || path.is_within(&change.path))
    }
}

impl Follower {
    /// Returns the devices of which the follower receives changes; `None` if they are not known one by one.
    fn devices(&self) -> Option<Vec<&DeviceId>> {
        if let Some(device) = &self.filter.device {
            return Some(vec![device]);
        }
        let visible = self.visible.as_ref().filter(|visible| visible.len() <= DEVICES_MAX)?;
        visible.iter().map(DeviceRange::device).collect()
    }

    /// Returns false if no change in `sections` of `key` is for the follower.
    fn may_match(&self, key: &ShadowKey, sections: &[Option<SectionName>]) -> bool {
        let is_visible = |ranges: &Vec<DeviceRange>| ranges.iter().any(|range| range.has(&key.device));
        self.visible.as_ref().is_none_or(is_visible) && self.filter.may_match(key, sections)
    }

    fn replace(&self, newest: &Arc<Document>) {
        self.queue.lock().newest = Some(newest.clone());
        self.ready.notify_one();
    }

    fn mark(&self, key: &ShadowKey, concerns_existence: bool, max: usize) {
        let mut queue = self.queue.lock();
        if queue.cut {
            return;
        }
        if let Some(known) = queue.shadows.get_mut(key) {
            *known |= concerns_existence;
        } else if queue.shadows.len() < max {
            queue.shadows.insert(key.clone(), concerns_existence);
        } else {
            queue.cut = true;
            queue.shadows.clear();
        }
        drop(queue);
        self.ready.notify_one();
    }

    fn push(&self, event: &Arc<ChangeEvent>, bytes_max: usize) {
        let mut queue = self.queue.lock();
        if queue.cut {
            return;
        }
        if !queue.changes.is_empty() && queue.bytes + event.bytes > bytes_max {
            queue.cut = true;
            queue.changes.clear();
        } else {
            queue.bytes += event.bytes;
            queue.changes.push_back(event.clone());
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
        if let Some((key, concerns_existence)) = queue.shadows.pop_first() {
            return Some(Next::Shadow(key, concerns_existence));
        }
        match queue.changes.pop_front() {
            Some(event) => {
                queue.bytes = queue.bytes.saturating_sub(event.bytes);
                Some(Next::Change(event))
            }
            None => queue.closed.then_some(Next::Closed),
        }
    }
}

impl FollowHandle {
    /// Returns the newest change of the feed if none up to it is queued here: each was taken, or does not match this
    /// follower.
    #[must_use]
    pub fn position(&self) -> Option<Seq> {
        let followers = self.changes.0.lock();
        let queue = self.follower.queue.lock();
        (queue.changes.is_empty() && queue.shadows.is_empty() && !queue.cut).then_some(followers.published)
    }

    /// Waits for the next item. Cancel-safe.
    pub async fn next(&self) -> Next {
        loop {
            // A permit left over from before costs one more round.
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
    fn new(envelope: &Envelope, seq: Seq, applied: &Applied) -> Self {
        Self {
            seq,
            key: envelope.key.clone(),
            version: applied.after.version,
            etag: applied.after.etag,
            timestamp: applied.after.timestamp,
            by: envelope.author.by.clone(),
            client: envelope.client.clone(),
            deleted: applied.after.deleted,
            bytes: bytes(&applied.changes),
            changes: applied.changes.clone(),
            rendered: Mutex::default(),
        }
    }

    /// Returns the approximate memory of the change and of its rendering.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the change for rendering.
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

    /// Returns the rendering for readers with `projection`, which `render` makes once for all of them.
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

/// Returns twice the approximate memory of `changes`, since their rendering takes as much again.
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

/// Returns the approximate memory of `value`.
pub(crate) fn memory(value: &Value) -> usize {
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
mod tests;
