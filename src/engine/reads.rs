//! Reads of committed documents, lists, the journal and the history. They bypass the queue of commands.

use crate::{
    engine::{AtVersion, Service, former, rejection, submission::PendingReply},
    observability::request_id::RequestId,
    shadow::{DeviceId, Rejection, ShadowKey, ShadowName, Version},
    store::{History, JournalEntry, JournalPage, Listed, Seq, Store, StoreError, StoredShadow},
};

impl Service {
    /// The newest committed document of `key` if it is in memory.
    #[must_use]
    pub fn cached(&self, key: &ShadowKey) -> Option<StoredShadow> {
        self.store.cached(key)
    }

    /// The newest committed document of `key`.
    ///
    /// # Errors
    ///
    /// [`Rejection::Internal`] if it cannot be read; the log says why.
    pub async fn read(&self, key: &ShadowKey) -> Result<StoredShadow, Rejection> {
        if let Some(held) = self.cached(key) {
            return Ok(held);
        }
        let key = key.clone();
        self.blocking(move |store| store.read(&key)).await
    }

    /// As [`Service::read`], but `None` if the record is damaged: reading it again is of no use.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn read_if_sound(&self, key: &ShadowKey) -> Result<Option<StoredShadow>, Rejection> {
        if let Some(held) = self.cached(key) {
            return Ok(Some(held));
        }
        let key = key.clone();
        self.blocking(move |store| unless_damaged(store.read(&key))).await
    }

    /// The shadows after `after` in the order of their keys, deleted ones among them; none: there are no more.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn list(&self, after: Option<ShadowKey>, limit: usize) -> Result<Vec<Listed>, Rejection> {
        self.blocking(move |store| store.list(after.as_ref(), limit)).await
    }

    /// The journal after `after`.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn journal(&self, after: Seq, limit: usize) -> Result<JournalPage, Rejection> {
        self.blocking(move |store| store.journal(after, limit)).await
    }

    /// As [`Service::journal`], but `None` if an entry is damaged.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn journal_if_sound(&self, after: Seq, limit: usize) -> Result<Option<JournalPage>, Rejection> {
        self.blocking(move |store| unless_damaged(store.journal(after, limit))).await
    }

    /// The change of `key` that made the newest version below `before`; `None` if it is not kept, or an entry on the
    /// way there is damaged.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn former_if_sound(&self, key: &ShadowKey, before: Version) -> Result<Option<JournalEntry>, Rejection> {
        let key = key.clone();
        let history = self.blocking(move |store| unless_damaged(store.history(&key, None, Some(before), 1)));
        Ok(history.await?.flatten().and_then(|mut history| history.entries.pop()))
    }

    /// The changes of `key` that made versions below `before`, newest first, from the newest or the entry `from` of it;
    /// `None` if `from` is none of its entries. `turn` is held until they are found, even if nobody waits for them any
    /// more: a walk that has begun goes on.
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

    /// The place of the journal from which a reader of the shadows of `device` that has everything up to `after` can go
    /// on without missing anything; `None` if there is none. `turn` is held as in [`Service::history`].
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

    /// `key` as it was at `version`, which is at least 1; `turn` is held as in [`Service::history`].
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
        self.blocking(move |store| during(turn, || former::at(&store.past(), &key, &store.read(&key)?, version))).await
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

/// Holds `turn` for as long as `walk` takes.
fn during<T>(turn: impl Send, walk: impl FnOnce() -> T) -> T {
    let walked = walk();
    drop(turn);
    walked
}

/// `None` for what is damaged; the log says what that is.
fn unless_damaged<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error @ StoreError::Record { .. }) => {
            tracing::error!(request = %RequestId::current(), %error, "what is damaged is passed over");
            Ok(None)
        }
        read => read.map(Some),
    }
}
