//! The way of edits to the store.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    admission::QuotaKind,
    engine::Service,
    mqtt::{
        broker::{
            durable::{
                message_row::Now,
                queue_row::{self, MessageRows},
                removals::{PendingRemovals, Removal},
                row_log::RowLog,
            },
            outbox::SessionId,
            sessions::SessionKey,
        },
        protocol::message::{Delivery, DeliveryRow, Message},
    },
    store::{OnDurable, RowEdit},
};

/// A handle that sends edits of rows to the store. The default sends nothing: for tests of parts that need no store.
#[derive(Clone, Default)]
pub struct Recorder(Option<Arc<Inner>>);

struct Inner {
    service: Arc<Service>,
    /// The number of the next message.
    messages_made: AtomicU64,
    /// The log of a cluster, to which the rows of sessions go.
    log: OnceLock<Arc<RowLog>>,
    removals: Arc<PendingRemovals>,
}

impl Recorder {
    /// Returns the handle to the store of `service`.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        let (messages_made, log, removals) = (AtomicU64::new(0), OnceLock::new(), Arc::default());
        Self(Some(Arc::new(Inner { service, messages_made, log, removals })))
    }

    /// Sends the rows of sessions to `log` from now on, and numbers messages from `first`.
    pub(in crate::mqtt::broker) fn join(&self, log: Arc<RowLog>, first: u64) {
        let Some(inner) = &self.0 else { return };
        inner.messages_made.fetch_max(first, Ordering::Relaxed);
        let _is_the_first = inner.log.set(log);
    }

    /// Gives a message that was published in the log of a cluster its rows, as [`queue_row::open_logged`] does.
    pub(in crate::mqtt::broker) fn open_logged(
        &self,
        message: &Message,
        number: u64,
        logged: Vec<SessionId>,
    ) -> Arc<MessageRows> {
        queue_row::open_logged(message, self, number, logged)
    }

    /// Returns true if the rows of sessions go to the log of a cluster.
    pub(in crate::mqtt::broker) fn is_of_cluster(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.log.get().is_some())
    }

    /// Adds rows for `delivery` to `session`, and for its message if it has none. `None` without a store.
    pub(in crate::mqtt::broker) fn insert(
        &self,
        delivery: &Delivery,
        session: SessionId,
    ) -> Option<Arc<dyn DeliveryRow>> {
        let made = &self.0.as_ref()?.messages_made;
        Some(queue_row::insert(delivery, session, self, || made.fetch_add(1, Ordering::Relaxed)))
    }

    /// Begins to collect the edits of a QoS 2 message, which is about to be published. `None` without a store.
    #[must_use]
    pub(in crate::mqtt) fn open(&self, message: &Message) -> Option<Arc<MessageRows>> {
        Some(queue_row::open(message, self, self.0.as_ref()?.messages_made.fetch_add(1, Ordering::Relaxed)))
    }

    /// Makes the next message have a number above `number`.
    pub(in crate::mqtt::broker) fn skip_message(&self, number: u64) {
        if let Some(inner) = &self.0 {
            // In a cluster, the messages of other nodes are among them.
            if inner.log.get().is_none() {
                inner.messages_made.fetch_max(number + 1, Ordering::Relaxed);
            }
        }
    }

    /// Sends `edits`, to be on disk within half a second (of a node of a cluster, a second later), or with the next
    /// [`Recorder::after_commit`].
    pub fn write(&self, edits: Vec<RowEdit>) {
        if !edits.is_empty() {
            self.send(edits, None, false);
        }
    }

    /// Notes that the session of `key` ends, whose rows are to be removed. `None` without a store.
    pub(in crate::mqtt::broker) fn begin_removal(&self, key: &SessionKey) -> Option<Removal> {
        Some(self.0.as_ref()?.removals.begin(key))
    }

    /// Sends the `edits` that remove a session, as [`Recorder::write`] does. When they are on disk, `removal` is done.
    pub(in crate::mqtt::broker) fn remove(&self, edits: Vec<RowEdit>, removal: Removal) {
        self.send(edits, Some(Box::new(move || removal.done())), false);
    }

    /// Waits until the end of every former session of `key` is on disk; while many others are not, until these are. Returns false
    /// if that takes too long, or the server ends.
    pub(in crate::mqtt) async fn removed(&self, key: &SessionKey) -> bool {
        let Some(inner) = &self.0 else { return true };
        let pending = inner.removals.find(key);
        if pending.is_none() && !inner.removals.are_many() {
            return true;
        }
        // It hurries the commit, for which they would wait.
        self.durable().await
            && match pending {
                Some(pending) => matches!(tokio::time::timeout(DURABLE_TIMEOUT, pending).await, Ok(Ok(()))),
                None => true,
            }
    }

    /// Calls `then` when all edits sent before are on disk; without a store at once.
    pub fn after_commit(&self, then: impl FnOnce() + Send + 'static) {
        match &self.0 {
            None => then(),
            Some(_) => self.send(Vec::new(), Some(Box::new(then)), true),
        }
    }

    /// Drops the edit of a row that waits for the log of a cluster.
    pub(in crate::mqtt::broker) fn forget(&self, key: &[u8]) {
        if let Some(log) = self.0.as_ref().and_then(|inner| inner.log.get()) {
            log.forget(key);
        }
    }

    /// Sends the edits that wait for the log of a cluster, as far as there is room for them.
    pub(in crate::mqtt::broker) fn flush(&self) {
        let log = self.0.as_ref().and_then(|inner| inner.log.get());
        let _is_all = log.is_none_or(RowLog::flush);
    }

    /// Waits until all edits sent before are on disk. Returns false if that takes too long, or the server ends.
    #[must_use]
    pub async fn durable(&self) -> bool {
        let (durable, wait) = oneshot::channel();
        self.after_commit(move || {
            let _ = durable.send(());
        });
        matches!(tokio::time::timeout(DURABLE_TIMEOUT, wait).await, Ok(Ok(())))
    }

    /// Checks that a message may be kept now.
    ///
    /// # Errors
    ///
    /// [`QuotaKind::Disk`]: the disk is nearly full, or too much waits for it.
    pub fn check(&self) -> Result<(), QuotaKind> {
        match &self.0 {
            Some(inner) if !inner.service.may_add_rows() => Err(QuotaKind::Disk),
            Some(inner) if inner.log.get().is_some_and(|log| !log.has_room()) => Err(QuotaKind::Disk),
            _ => Ok(()),
        }
    }

    /// Returns the present time; the date is 0 without a store.
    #[must_use]
    pub(in crate::mqtt) fn now(&self) -> Now {
        Now { date_ms: self.0.as_ref().map_or(0, |inner| inner.service.now_milliseconds()), instant: Instant::now() }
    }

    /// Sends `edits`, and calls `on_durable` when they are on disk, for which the commit is hurried if somebody waits.
    fn send(&self, edits: Vec<RowEdit>, on_durable: Option<OnDurable>, is_awaited: bool) {
        let Some(inner) = &self.0 else { return };
        let Some(log) = inner.log.get() else {
            return match on_durable {
                Some(then) if !is_awaited => inner.service.write_rows_unhurried(edits, then),
                on_durable => inner.service.write_rows(edits, on_durable),
            };
        };
        let own = log.write(edits);
        if !own.is_empty() {
            inner.service.write_rows(own, None);
        }
        on_durable.into_iter().for_each(|then| log.after_applied(then));
    }
}

/// The longest time that a client waits for the disk before its connection ends.
pub(in crate::mqtt) const DURABLE_TIMEOUT: Duration = Duration::from_secs(10);

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recorder").field(&self.0.is_some()).finish()
    }
}
