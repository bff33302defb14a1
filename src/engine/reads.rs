//! Reads of committed documents, earlier versions, lists, the journal and the history. They bypass the queue of
//! commands.
//!
//! A read that walks the disk takes a `turn`, such as a permit of [`Principals::reading`]. It is kept until the walk
//! ends, even if the caller stops waiting, because a walk that has begun goes on.
//!
//! [`Principals::reading`]: crate::admission::Principals::reading

use std::sync::Arc;

use crate::{
    engine::{Service, rejection, submission::PendingReply},
    observability::request_id::RequestId,
    shadow::{DeviceId, Document, PreviousVersion, Rejection, ShadowKey, ShadowName, Version},
    store::{History, HistoryReader, JournalEntry, JournalPage, Listed, Seq, Store, StoreError, StoredShadow},
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

    /// Returns the same as [`Service::read`], but `None` for a damaged record, which no retry can read.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn read_if_sound(&self, key: &ShadowKey) -> Result<Option<StoredShadow>, Rejection> {
        if let Some(stored) = self.cached(key) {
            return Ok(Some(stored));
        }
        let key = key.clone();
        self.blocking(move |store| unless_damaged(store.read(&key))).await
    }

    /// Returns the shadows after `after` in key order, including deleted ones; none if there are no more.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn list(&self, after: Option<ShadowKey>, limit: usize) -> Result<Vec<Listed>, Rejection> {
        self.blocking(move |store| store.list(after.as_ref(), limit)).await
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
    pub async fn journal_if_sound(&self, after: Seq, limit: usize) -> Result<Option<JournalPage>, Rejection> {
        self.blocking(move |store| unless_damaged(store.journal(after, limit))).await
    }

    /// Returns the change of `key` that made the newest version below `before`; `None` if it is not kept, or an entry on
    /// the way there is damaged.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn former_if_sound(&self, key: &ShadowKey, before: Version) -> Result<Option<JournalEntry>, Rejection> {
        let key = key.clone();
        let history = self.blocking(move |store| unless_damaged(store.history(&key, None, Some(before), 1)));
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

    /// Returns the position in the journal from which a reader of the shadows of `device` that has everything up to
    /// `after` can continue without a gap; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn resume(
        &self,
        device: DeviceId,
        name: Option<Option<ShadowName>>,
        after: Seq,
        turn: impl Send + 'static,
    ) -> Result<Option<Seq>, Rejection> {
        self.blocking(move |store| during(turn, || store.resume(device, name, after))).await
    }

    /// Returns `key` at `version`, which is at least 1.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn at_version(
        &self,
        key: &ShadowKey,
        version: Version,
        turn: impl Send + 'static,
    ) -> Result<AtVersion, Rejection> {
        let key = key.clone();
        self.blocking(move |store| during(turn, || at(&store.past(), &key, &store.read(&key)?, version))).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store<PendingReply>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Rejection> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || read(&store)).await {
            Ok(result) => result.map_err(rejection),
            Err(error) => {
                tracing::error!(request = %RequestId::current(), %error, "a read of the store failed");
                Err(Rejection::Internal)
            }
        }
    }
}

/// Walks back from `stored` to `version`, which is at least 1.
pub(super) fn at(
    past: &HistoryReader,
    key: &ShadowKey,
    stored: &StoredShadow,
    version: Version,
) -> Result<AtVersion, StoreError> {
    let current = &stored.document;
    match version {
        _ if version > current.version => return Ok(AtVersion::Later(current.version)),
        _ if version == current.version => return Ok(AtVersion::Found(current.clone())),
        _ => {}
    }
    let (mut undoing, mut former) = (current.undoing(), None);
    // The entry of the version itself has its timestamp.
    let above = Version(version.0.saturating_sub(1));
    let arrived = past.walk(key, stored, above, STEPS_MAX, |entry| match entry {
        JournalEntry { version: newer, changes, .. } if *newer > version => undoing.undo(changes),
        JournalEntry { version, timestamp, deleted, .. } => {
            former = Some(PreviousVersion { version: *version, timestamp: *timestamp, deleted: *deleted });
        }
    })?;
    match former.filter(|former| arrived && former.version == version) {
        Some(former) => Ok(AtVersion::Found(Arc::new(undoing.arrive(former)))),
        None => Ok(AtVersion::Gone),
    }
}

/// Runs `walk` and drops `turn` after it.
fn during<T>(turn: impl Send, walk: impl FnOnce() -> T) -> T {
    let walked = walk();
    drop(turn);
    walked
}

/// Returns `None` for a damaged record, which is logged.
fn unless_damaged<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error @ StoreError::Record { .. }) => {
            tracing::error!(request = %RequestId::current(), %error, "a damaged record is skipped");
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Most versions that are walked back.
const STEPS_MAX: usize = 10_000;
