//! Reads of committed documents, earlier versions, lists, the journal and the history. They bypass the queue of
//! commands.
//!
//! Reads from disk run on blocking threads, a few per core; the others wait. A read for a session over MQTT, or one that
//! walks the disk, takes a `turn`, such as a permit of [`Principals::reading`]. It is kept until the walk
//! ends, even if the caller stops waiting, because a walk that has begun goes on.
//!
//! [`Principals::reading`]: crate::admission::Principals::reading

use std::{num::NonZeroUsize, sync::Arc};

use crate::{
    admission::{PrincipalQuota, work},
    auth::DeviceRange,
    engine::{Service, UNREADABLE_LINES, rejection, submission::PendingReply},
    observability::{logging::limited, request_id::RequestId},
    shadow::{DeviceId, Document, PreviousVersion, Rejection, ShadowKey, ShadowName, Version},
    store::{
        DeviceChanges, History, HistoryReader, JournalEntry, JournalPage, Listed, Seq, Store, StoreError, StoredShadow,
    },
};

/// The result of looking up a version.
#[derive(Clone, Debug)]
pub enum AtVersion {
    /// The document; a tombstone if that version was a deletion.
    Found(Arc<Document>),
    /// The version does not exist yet. Holds the current one.
    Later(Version),
    /// The version is no longer kept, or too many versions back.
    Gone,
}

/// The newest changes of some devices.
#[derive(Debug, Default)]
pub struct NewestChanges {
    /// The changes, by device.
    pub changes: Vec<NewestChange>,
    /// The number of devices whose shadows were read.
    pub devices: usize,
    /// The number of these shadows.
    pub shadows: usize,
}

/// The newest change of a shadow.
#[derive(Debug)]
pub struct NewestChange {
    /// The shadow.
    pub key: ShadowKey,
    /// The change; `None` if it cannot be read, mostly because retention has removed it.
    pub entry: Option<JournalEntry>,
}

impl Service {
    /// Returns the newest committed document of `key` if it is in memory.
    #[must_use]
    pub fn cached(&self, key: &ShadowKey) -> Option<StoredShadow> {
        self.store.cached(key)
    }

    /// Returns the newest committed document of `key`.
    ///
    /// # Errors
    ///
    /// [`Rejection::Internal`] if it cannot be read; the log has the reason.
    pub async fn read(&self, key: &ShadowKey) -> Result<StoredShadow, Rejection> {
        if let Some(stored) = self.cached(key) {
            return Ok(stored);
        }
        let key = key.clone();
        self.blocking(move |store| store.read(&key)).await
    }

    /// Returns the same as [`Service::read`] for a client with this quota. Its reads from disk take turns, so that they
    /// leave room for those of others.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn read_for(&self, key: &ShadowKey, quota: &Arc<PrincipalQuota>) -> Result<StoredShadow, Rejection> {
        if let Some(stored) = self.cached(key) {
            return Ok(stored);
        }
        let turn = self.quotas().principals.reading(quota).await;
        let key = key.clone();
        self.blocking(move |store| during(turn, || store.read(&key))).await
    }

    /// Returns the same as [`Service::read`], but `None` for a damaged record, which no retry can read.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn read_if_sound(
        &self,
        key: &ShadowKey,
        turn: impl Send + 'static,
    ) -> Result<Option<StoredShadow>, Rejection> {
        if let Some(stored) = self.cached(key) {
            return Ok(Some(stored));
        }
        let key = key.clone();
        self.blocking(move |store| during(turn, || unless_damaged(store.read(&key)))).await
    }

    /// Returns the shadows after `after` in key order, including deleted ones; none only if there are no more.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn list(&self, after: Option<ShadowKey>, limit: usize) -> Result<Vec<Listed>, Rejection> {
        self.blocking(move |store| store.list(after.as_ref(), limit)).await
    }

    /// Returns the shadows of the devices in `ranges`, which are disjoint and in order, after `after` in key order,
    /// including deleted ones, and the key to continue after if there may be more. Reads no shadow of another device,
    /// apart from a few that follow a range. Passes over damaged pages.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn list_within(
        &self,
        ranges: Vec<DeviceRange>,
        after: Option<ShadowKey>,
        limit: usize,
        turn: impl Send + 'static,
    ) -> Result<(Vec<Listed>, Option<ShadowKey>), Rejection> {
        self.blocking(move |store| during(turn, || within(store, &ranges, after, limit))).await
    }

    /// Returns the same as [`Service::list`], with a turn. Passes over damaged pages.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn list_in_turn(
        &self,
        after: Option<ShadowKey>,
        limit: usize,
        turn: impl Send + 'static,
    ) -> Result<Vec<Listed>, Rejection> {
        self.blocking(move |store| during(turn, || store.list_sound(after.as_ref(), limit))).await
    }

    /// Returns the journal entries after `after`.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn journal(&self, after: Seq, limit: usize) -> Result<JournalPage, Rejection> {
        self.blocking(move |store| store.journal(after, limit)).await
    }

    /// Returns the same as [`Service::journal`], but `None` if an entry is damaged.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn journal_if_sound(
        &self,
        after: Seq,
        limit: usize,
        turn: impl Send + 'static,
    ) -> Result<Option<JournalPage>, Rejection> {
        self.blocking(move |store| during(turn, || unless_damaged(store.journal(after, limit)))).await
    }

    /// Returns the newest changes of the shadows of the first of `devices`, which are after `after` and at most `through`.
    /// Returns `None` if one of these devices is damaged or has more than [`SHADOWS_MAX`] shadows.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn newest_changes(
        &self,
        devices: Vec<DeviceId>,
        after: Seq,
        through: Seq,
        turn: impl Send + 'static,
    ) -> Result<Option<NewestChanges>, Rejection> {
        self.blocking(move |store| during(turn, || newest_changes(store, &devices, after, through))).await
    }

    /// Returns the change of `key` that made the newest version below `before`; `None` if it is not kept, or an entry on
    /// the way there is damaged.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn former_if_sound(
        &self,
        key: &ShadowKey,
        before: Version,
        turn: impl Send + 'static,
    ) -> Result<Option<JournalEntry>, Rejection> {
        let key = key.clone();
        let history =
            self.blocking(move |store| during(turn, || unless_damaged(store.history(&key, None, Some(before), 1))));
        Ok(history.await?.flatten().and_then(|mut history| history.entries.pop()))
    }

    /// Returns the changes of `key` that made versions below `before`, newest first, starting at the newest or at its
    /// entry `from`; `None` if `from` is no entry of `key`.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn history(
        &self,
        key: &ShadowKey,
        from: Option<Seq>,
        before: Version,
        limit: usize,
        turn: impl Send + 'static,
    ) -> Result<Option<History>, Rejection> {
        let key = key.clone();
        self.blocking(move |store| during(turn, || store.history(&key, from, Some(before), limit))).await
    }

    /// See [`Store::positions_of`].
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn positions_of(
        &self,
        devices: Vec<DeviceId>,
        name: Option<Option<ShadowName>>,
        after: Seq,
        turn: impl Send + 'static,
    ) -> Result<DeviceChanges, Rejection> {
        self.blocking(move |store| during(turn, || store.positions_of(&devices, name.as_ref(), after))).await
    }

    /// See [`Store::entries_at`].
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn entries_at(&self, positions: Vec<Seq>) -> Result<Option<Vec<JournalEntry>>, Rejection> {
        self.blocking(move |store| store.entries_at(&positions)).await
    }

    /// Returns `key` at `version`, which is at least 1, and the work of looking it up.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn at_version(
        &self,
        key: &ShadowKey,
        version: Version,
        turn: impl Send + 'static,
    ) -> Result<(AtVersion, u64), Rejection> {
        let key = key.clone();
        self.blocking(move |store| during(turn, || at(&store.past(), &key, &store.read(&key)?, version))).await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store<PendingReply>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Rejection> {
        let store = self.store.clone();
        let permit = self.reads.clone().acquire_owned().await.expect("this semaphore is never closed");
        match tokio::task::spawn_blocking(move || during(permit, || read(&store))).await {
            Ok(result) => result.map_err(rejection),
            Err(error) => {
                tracing::error!(request = %RequestId::current(), %error, "a read of the store failed");
                Err(Rejection::Internal)
            }
        }
    }
}

/// See [`Service::list_within`].
pub(super) fn within(
    store: &Store<PendingReply>,
    ranges: &[DeviceRange],
    after: Option<ShadowKey>,
    limit: usize,
) -> Result<(Vec<Listed>, Option<ShadowKey>), StoreError> {
    let mut found: Vec<Listed> = Vec::new();
    let begun = |range: &DeviceRange| after.as_ref().filter(|after| range.has(&after.device));
    let is_done = |range: &&DeviceRange| after.as_ref().is_some_and(|after| *range.first() < after.device);
    for range in ranges.iter().skip_while(|range| is_done(range) && begun(range).is_none()) {
        let mut from = match begun(range) {
            Some(after) => after.clone(),
            None => {
                // The store lists only keys after a given one.
                let key = ShadowKey::classic(range.first().clone());
                if unless_damaged(store.read(&key))?.is_none_or(|stored| stored.document.exists()) {
                    found.push(Listed { key: key.clone(), deleted: false });
                }
                key
            }
        };
        loop {
            let left = limit.saturating_sub(found.len());
            if left == 0 {
                return Ok((found, Some(from)));
            }
            let count = if let DeviceRange::One(_) = range { left.min(FEW) } else { left };
            let listed = store.list_sound(Some(&from), count)?;
            let complete = listed.len() < count;
            let known = found.len();
            found.extend(listed.into_iter().take_while(|listed| range.has(&listed.key.device)));
            if complete || found.len() < known + count {
                break;
            }
            from = found.last().map_or(from, |last| last.key.clone());
        }
    }
    Ok((found, None))
}

/// See [`Service::newest_changes`].
fn newest_changes(
    store: &Store<PendingReply>,
    devices: &[DeviceId],
    after: Seq,
    through: Seq,
) -> Result<Option<NewestChanges>, StoreError> {
    let mut found = NewestChanges::default();
    for device in devices {
        let Some(keys) = unless_damaged(store.shadows_of(device))?.filter(|keys| keys.len() <= SHADOWS_MAX) else {
            return Ok(None);
        };
        found.devices += 1;
        found.shadows += keys.len();
        for key in keys {
            let Some(last) = unless_damaged(store.last_entry(&key))? else { return Ok(None) };
            if last > after && last <= through {
                let entry = unless_damaged(store.entries_at(&[last]))?.flatten().and_then(|mut entries| entries.pop());
                found.changes.push(NewestChange { key, entry });
            }
        }
        if found.shadows >= SHADOWS_MAX {
            break;
        }
    }
    Ok(Some(found))
}

/// Entries of the journal that are read in the time in which the changes of one device are looked up.
pub const ENTRIES_PER_LOOKUP: u64 = 4;

/// Most shadows of a device whose changes are looked up. Once so many were read, no further device is.
const SHADOWS_MAX: usize = 128;

/// Walks back from `stored` to `version`, which is at least 1. Returns also the work of the walk.
pub(super) fn at(
    past: &HistoryReader,
    key: &ShadowKey,
    stored: &StoredShadow,
    version: Version,
) -> Result<(AtVersion, u64), StoreError> {
    let current = &stored.document;
    match version {
        _ if version > current.version => return Ok((AtVersion::Later(current.version), 0)),
        _ if version == current.version => return Ok((AtVersion::Found(current.clone()), 0)),
        _ => {}
    }
    let (mut undoing, mut former) = (current.undoing(), None);
    // The entry of the version itself has its timestamp.
    let above = Version(version.0.saturating_sub(1));
    let (mut steps, mut bytes) = (0, 0);
    let arrived = past.walk(key, stored, above, STEPS_MAX, |entry| {
        (steps, bytes) = (steps + 1, bytes + entry.bytes);
        match entry {
            JournalEntry { version: newer, changes, .. } if *newer > version => undoing.undo(changes),
            JournalEntry { version, timestamp, deleted, .. } => {
                former = Some(PreviousVersion { version: *version, timestamp: *timestamp, deleted: *deleted });
            }
        }
    })?;
    let found = match former.filter(|former| arrived && former.version == version) {
        Some(former) => AtVersion::Found(Arc::new(undoing.arrive(former))),
        None => AtVersion::Gone,
    };
    Ok((found, work::times(steps, work::VERSION_BACK) + work::journal_read(bytes)))
}

/// Runs `walk` and drops `turn` after it.
pub(super) fn during<T>(turn: impl Send, walk: impl FnOnce() -> T) -> T {
    let walked = walk();
    drop(turn);
    walked
}

/// Returns `None` for a damaged record, which is logged.
fn unless_damaged<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error @ StoreError::Record { .. }) => {
            limited!(error, UNREADABLE_LINES, request = %RequestId::current(), %error, "a damaged record is skipped");
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Returns the number of reads that run at once.
pub(super) fn at_once() -> usize {
    READS_PER_CORE * std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Reads that run at once per core. They wait for the disk more than they compute.
const READS_PER_CORE: usize = 4;

/// Shadows of one device that are read at once: most devices have fewer, and those read beyond are of other devices.
const FEW: usize = 8;

/// Most versions that are walked back.
const STEPS_MAX: usize = 10_000;
