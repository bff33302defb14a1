//! The handle by which the rest of the program uses the store.

use std::{
    io::Write,
    mem,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc::UnboundedSender, oneshot};

use crate::{
    observability::metrics::CommitMetrics,
    shadow::{DeviceId, Rejection, ShadowKey, ShadowName, Version},
    store::{
        background::BackgroundThread,
        backup::copy::CopyError,
        batch::QueuedCommand,
        error::StoreError,
        health::{Health, Pages, State},
        journal::{
            device_changes::DeviceChanges,
            entry::{JournalEntry, Seq},
            lineage::Lineage,
        },
        options::COMMAND_OVERHEAD_BYTES,
        purging::{PurgeOrder, PurgedTombstones},
        reader::{History, HistoryReader, JournalPage, Listed, Shared},
        replication::{applied_position::AppliedRecord, member::LogEvent, requests::Barrier},
        rows::{edit::RowEdit, pending::BACKLOG_BYTES_MAX, sent::OnDurable, tables},
        state::record::StoredShadow,
        writer::Message,
    },
};

/// An open store. Clones are handles to the same store. It finishes the accepted commands and stops when the last
/// handle is dropped or [`Store::close`] is called.
pub struct Store<C: Send + 'static> {
    pub(super) inner: Arc<Inner<C>>,
}

pub(super) struct Inner<C: Send + 'static> {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: UnboundedSender<Message<C>>,
    /// The free bytes of the queue.
    pub(super) room: Arc<Semaphore>,
    pub(super) room_max: u32,
    /// The free bytes for broadcasts.
    pub(super) broadcast_room: Arc<Semaphore>,
    pub(super) writer: Mutex<Option<JoinHandle<()>>>,
    /// The threads of the start: the check of the pages, and the replay.
    pub(super) background: Mutex<Vec<BackgroundThread>>,
}

/// Memory for a broadcast.
pub struct BroadcastPermit(OwnedSemaphorePermit);

/// The memory of a broadcast besides its bytes.
const BROADCAST_OVERHEAD_BYTES: usize = 128;

/// Returns the memory of a broadcast of `bytes`.
#[must_use]
pub fn broadcast_memory(bytes: usize) -> usize {
    bytes.saturating_add(BROADCAST_OVERHEAD_BYTES)
}

/// Bytes of broadcasts that wait for the log.
pub const BROADCAST_BYTES_MAX: usize = 64 << 20;

/// A reservation in the queue for one command.
pub struct Permit<C> {
    queue: UnboundedSender<Message<C>>,
    room: OwnedSemaphorePermit,
    shared: Arc<Shared>,
}

impl<C: Send + 'static> Store<C> {
    /// Waits until the queue has room for a command of about `bytes` of memory. Waiting callers are served in order.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`].
    pub async fn reserve(&self, bytes: usize) -> Result<Permit<C>, StoreError> {
        let room = Arc::clone(&self.inner.room).acquire_many_owned(self.inner.share(bytes)).await;
        Ok(self.inner.permit(room.map_err(|_| StoreError::Closed)?))
    }

    /// Reserves room for a command of about `bytes` of memory; `None` if there is too little now.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Permit<C>> {
        let room = Arc::clone(&self.inner.room).try_acquire_many_owned(self.inner.share(bytes)).ok()?;
        Some(self.inner.permit(room))
    }

    /// Returns the newest committed document of `key` if it is in memory. Never reads the disk.
    #[must_use]
    pub fn cached(&self, key: &ShadowKey) -> Option<StoredShadow> {
        self.inner.shared.cache.get(key).ok()
    }

    /// Returns the newest committed document of `key`, or [`Document::absent_at`] the floor of its device if it has no
    /// record. May read the disk, so it must not be called in an async task. Never waits for the writer. The versions
    /// that one caller reads never decrease.
    ///
    /// # Errors
    ///
    /// [`StoreError::Record`] if the document is damaged; [`StoreError::Io`], [`StoreError::Corrupt`],
    /// [`StoreError::Reopening`] if the file cannot be read.
    pub fn read(&self, key: &ShadowKey) -> Result<StoredShadow, StoreError> {
        self.inner.shared.newest(key)
    }

    /// Returns the shadows after `after` in key order, including deleted ones; at most `limit` and at most 1,000, fewer before
    /// a damaged page, and none at the end. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`]; [`StoreError::Record`] if a damaged page comes next.
    pub fn list(&self, after: Option<&ShadowKey>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.inner.shared.list(after, limit, false)
    }

    /// Returns the same as [`Store::list`], without the shadows in damaged pages, and fewer than `limit` only at the end.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn list_sound(&self, after: Option<&ShadowKey>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.inner.shared.list(after, limit, true)
    }

    /// Returns the state shared by writer and readers.
    pub(super) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Returns the entries after `after`; at most `limit`, at most 1,000 and about 512 KiB. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn journal(&self, after: Seq, limit: usize) -> Result<JournalPage, StoreError> {
        self.inner.shared.journal(after, limit)
    }

    /// Returns the changes of `key` that made versions below `before` (all if `None`), newest first, from the newest or the
    /// entry `from` of it; at most `limit`, at most 1,000. `None`: `from` is no entry of `key`. Reads the disk, one
    /// place per entry, at most 10,000 and about 512 KiB of them: the rest is on the next page.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn history(
        &self,
        key: &ShadowKey,
        from: Option<Seq>,
        before: Option<Version>,
        limit: usize,
    ) -> Result<Option<History>, StoreError> {
        self.inner.shared.history(key, from, before, limit)
    }

    /// Returns the shadows of `device`, deleted ones among them. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn shadows_of(&self, device: &DeviceId) -> Result<Vec<ShadowKey>, StoreError> {
        self.inner.shared.keys_of(device)
    }

    /// Returns the newest committed entry of `key`; 0 if it has no record. Decodes no document. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn last_entry(&self, key: &ShadowKey) -> Result<Seq, StoreError> {
        self.inner.shared.last_entry(key)
    }

    /// Returns the positions of all changes of the shadows of `devices` (of that `name`, if one is given) after `after`, unless
    /// one was removed, they or the shadows are more than [`CHANGES_MAX`](crate::store::CHANGES_MAX), or `after` is beyond the
    /// head. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn positions_of(
        &self,
        devices: &[DeviceId],
        name: Option<&Option<ShadowName>>,
        after: Seq,
    ) -> Result<DeviceChanges, StoreError> {
        self.inner.shared.positions_of(devices, name, after)
    }

    /// Returns the entries at `positions` of the journal, in that order; `None` if one was removed. Returns fewer, but at least
    /// one, if they have many bytes.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn entries_at(&self, positions: &[Seq]) -> Result<Option<Vec<JournalEntry>>, StoreError> {
        self.inner.shared.entries_at(positions)
    }

    /// Removes those of `keys` that are tombstones on which nothing else depends, in one commit after the commands that were
    /// sent before; only counts them if `dry_run` is set. The next version of such a shadow is above all purged ones of its
    /// device.
    ///
    /// # Errors
    ///
    /// [`Rejection::Unavailable`]: the store is not writable, or not all of its pages are known to be sound.
    /// [`Rejection::OutcomeUnknown`], [`Rejection::Internal`]: the commit failed. [`Rejection::OutcomeUnknown`]: the cluster did not answer
    /// in time.
    pub async fn purge(&self, keys: Vec<ShadowKey>, dry_run: bool) -> Result<PurgedTombstones, Rejection> {
        let closed = || Rejection::Unavailable("the store is being closed".to_owned());
        let bytes = keys.len().saturating_mul(size_of::<ShadowKey>());
        let room = Arc::clone(&self.inner.room).acquire_many_owned(self.inner.share(bytes)).await;
        let is_member = self.inner.shared.health.lock().member.is_some();
        let (answer, purged) = oneshot::channel();
        let order = PurgeOrder { keys, dry_run, answer };
        let sent = self.inner.queue.send(Message::Purge(order, room.map_err(|_| closed())?));
        sent.map_err(|_| closed())?;
        // The order is not answered if the writer ends before. A cluster may have decided it nevertheless.
        purged.await.unwrap_or_else(|_| Err(if is_member { Rejection::OutcomeUnknown } else { closed() }))
    }

    /// Returns a reader of the past of documents, which does not keep the store open.
    #[must_use]
    pub fn past(&self) -> HistoryReader {
        HistoryReader(Arc::clone(&self.inner.shared))
    }

    /// Writes `edits` of the broker's rows after all edits sent before. `on_durable` is called among the results of the
    /// commit that has them, which is made at once then; otherwise they are committed with the next edits or commands that
    /// are, or within half a second. After a failed commit they are written again. Never waits.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`]; nothing is written then, nor `on_durable` called.
    pub fn write_rows(&self, edits: Vec<RowEdit>, on_durable: Option<OnDurable>) -> Result<(), StoreError> {
        let is_awaited = on_durable.is_some();
        self.send_rows(edits, on_durable, is_awaited)
    }

    /// Writes `edits` as [`Store::write_rows`] does if nobody waits, and calls `on_durable` among the results of their commit.
    ///
    /// # Errors
    ///
    /// As [`Store::write_rows`].
    pub fn write_rows_unhurried(&self, edits: Vec<RowEdit>, on_durable: OnDurable) -> Result<(), StoreError> {
        self.send_rows(edits, Some(on_durable), false)
    }

    fn send_rows(
        &self,
        edits: Vec<RowEdit>,
        on_durable: Option<OnDurable>,
        is_awaited: bool,
    ) -> Result<(), StoreError> {
        let shared = &self.inner.shared;
        let bytes = edits.iter().map(RowEdit::bytes).sum();
        shared.row_backlog.fetch_add(bytes, Ordering::Relaxed);
        let notify = shared.sent_rows.send(edits, bytes, on_durable, is_awaited)?;
        if notify {
            // A closed queue needs no notice: the writer takes the edits before it ends.
            let _ = self.inner.queue.send(Message::Rows);
        }
        Ok(())
    }

    /// Returns true if rows should be added now: few edits wait for the disk, and enough of it is free. Edits are taken in any
    /// case, since those that remove rows make room.
    #[must_use]
    pub fn may_add_rows(&self) -> bool {
        let shared = &self.inner.shared;
        shared.row_backlog.load(Ordering::Relaxed) <= BACKLOG_BYTES_MAX
            && shared.disk.lock().low(Instant::now()).is_none()
    }

    /// Calls `each` with the key and value of the broker's rows as they were when the store was opened, in the order of their
    /// keys. Reads all of them from the disk. To be called before the first [`Store::write_rows`]. Of a copy of
    /// another node of a cluster, removes those that are not `is_shared` by all nodes.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn each_row(
        &self,
        is_shared: impl Fn(&[u8]) -> bool,
        mut each: impl FnMut(&[u8], Bytes),
    ) -> Result<(), StoreError> {
        let database = self.inner.shared.database.get()?;
        let rows = database.progress()?.rows;
        let dirty = tables::recover(&database, &rows, 0)?;
        if !self.inner.shared.has_foreign_rows.swap(false, Ordering::Relaxed) {
            return tables::each(&database, &dirty, each);
        }
        let mut removals = Vec::new();
        tables::each(&database, &dirty, |key, value| match is_shared(key) {
            true => each(key, value),
            false => removals.push(RowEdit::Remove(key.into())),
        })?;
        tracing::info!(rows = removals.len(), "the sessions and messages of the node that was copied are removed");
        drop(database);
        self.write_rows(removals, None)
    }

    /// Returns the newest entry. Documents read from now on are at least as new.
    #[must_use]
    pub fn head(&self) -> Seq {
        Seq(self.inner.shared.head.load(Ordering::Acquire))
    }

    /// Returns the lineage of the entry at `seq`, which is not above the head; `None` if a program made it that knew none.
    #[must_use]
    pub fn lineage_at(&self, seq: Seq) -> Option<Lineage> {
        self.inner.shared.lineages.read().at(seq)
    }

    /// Returns true if the entry at `seq`, which is not above the head, is known to be the one with this `lineage`.
    #[must_use]
    pub fn has_lineage_at(&self, seq: Seq, lineage: Option<Lineage>) -> bool {
        self.inner.shared.lineages.read().has(seq, lineage)
    }

    /// Writes a backup to `out`, as of one commit. It contains everything reported before this call. Reads the whole
    /// disk file. Pages replaced in the meantime stay in the file until the backup ends; the writer does not wait.
    ///
    /// # Errors
    ///
    /// [`CopyError::Store`]: the store cannot be read. [`CopyError::Write`]: `out` fails.
    pub fn back_up(&self, out: impl Write) -> Result<(), CopyError> {
        self.inner.shared.database.back_up(out)
    }

    /// Returns the last record of its cluster's log that the file has applied: a backup that begins now has this one or a later one.
    /// The writer writes the position again with the next record. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn applied_in_file(&self) -> Result<Option<AppliedRecord>, StoreError> {
        // A writer that has ended applies no more records.
        let _ = self.inner.queue.send(Message::PositionWanted);
        let position = self.inner.shared.database.get()?.applied_position()?;
        Ok(position.map(|position| position.record()))
    }

    /// Returns memory for broadcasts of about `bytes`; `None` if too many wait for the log.
    #[must_use]
    pub fn reserve_broadcast(&self, bytes: usize) -> Option<BroadcastPermit> {
        let bytes = u32::try_from(broadcast_memory(bytes)).unwrap_or(u32::MAX);
        Arc::clone(&self.inner.broadcast_room).try_acquire_many_owned(bytes).ok().map(BroadcastPermit)
    }

    /// Sends `bytes` to all nodes of the cluster, in one order for all. `on_applied` is called when this node has applied them,
    /// and not at all if that cannot be known.
    pub fn broadcast(&self, bytes: Bytes, on_applied: Option<OnDurable>, permit: BroadcastPermit) {
        self.send_broadcast(bytes, on_applied, false, permit);
    }

    /// Sends `bytes` as [`Store::broadcast`] does. They are withdrawn, and `on_applied` is dropped, if they wait for the log as long as a
    /// command may. Those that were sent to the node that decides may be applied nevertheless.
    pub fn broadcast_in_time(&self, bytes: Bytes, on_applied: Option<OnDurable>, permit: BroadcastPermit) {
        self.send_broadcast(bytes, on_applied, true, permit);
    }

    fn send_broadcast(&self, bytes: Bytes, on_applied: Option<OnDurable>, may_expire: bool, permit: BroadcastPermit) {
        // The writer has ended: nobody is answered any more.
        let _ = self.inner.queue.send(Message::Broadcast { bytes, on_applied, may_expire, permit: permit.0 });
    }

    /// Returns a function that passes events to a member of a cluster. It returns false once the store is closed.
    pub fn log_events(&self) -> impl Fn(LogEvent) -> bool + Clone + Send + Sync + 'static {
        let queue = self.inner.queue.clone();
        move |event| queue.send(Message::Log(Box::new(event))).is_ok()
    }

    /// Sends a request without content to the log of the cluster. `on_applied` is called when this node has applied it: reads from then on
    /// see all that any node had answered before this call. It is dropped if this node cannot write, or the log is away for long.
    pub fn send_barrier(&self, on_applied: OnDurable, permit: BroadcastPermit) {
        let barrier = Barrier { on_applied, _permit: permit.0 };
        // The writer has ended: nobody is answered any more.
        let _ = self.inner.queue.send(Message::Barrier(barrier));
    }

    /// Returns the metrics of the commits.
    #[must_use]
    pub fn commits(&self) -> &CommitMetrics {
        &self.inner.shared.commits
    }

    /// Returns the queue bytes in use and the size of the queue.
    #[must_use]
    pub fn queue_bytes(&self) -> (usize, usize) {
        let (free, all) = (self.inner.room.available_permits(), self.inner.room_max as usize);
        (all.saturating_sub(free), all)
    }

    /// Returns the health of the store: the disk as of the last probe, the rest as of the last commit.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut health = self.inner.shared.health.lock().clone();
        // If no commands arrive, the writer does not notice free disk space; so probe here.
        if let State::Writable | State::DiskLow(_) = health.state {
            let mut disk = self.inner.shared.disk.lock();
            let low = disk.low(Instant::now());
            health.state = low.map_or(State::Writable, State::DiskLow);
            health.free_disk = disk.free();
        }
        health.pages = self.inner.shared.database.pages().map_or(Pages::Sound, |pages| pages.health());
        health.index = self.inner.shared.index.health();
        health.shadows = self.inner.shared.counter.lock().counts();
        health.file_bytes = self.inner.shared.database.file_bytes();
        health
    }

    /// Stops accepting commands, finishes and reports those already sent, flushes the dirty set and waits for the
    /// writer to end. Blocks, so it must not be called in an async task. Reads remain possible.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl<C: Send + 'static> Clone for Store<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<C: Send + 'static> Inner<C> {
    /// Returns the queue bytes for a command of `bytes`; a command larger than the queue takes all of it.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.saturating_add(COMMAND_OVERHEAD_BYTES)).unwrap_or(u32::MAX).min(self.room_max)
    }

    fn permit(&self, room: OwnedSemaphorePermit) -> Permit<C> {
        Permit { queue: self.queue.clone(), room, shared: Arc::clone(&self.shared) }
    }

    fn close(&self) {
        mem::take(&mut *self.background.lock()).into_iter().for_each(BackgroundThread::stop);
        self.room.close();
        // An error means that the writer has ended already.
        let _ = self.queue.send(Message::Close);
        let writer = self.writer.lock().take();
        if let Some(writer) = writer
            && writer.thread().id() != thread::current().id()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the store panicked");
        }
    }
}

impl<C: Send + 'static> Drop for Inner<C> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<C> Permit<C> {
    /// Returns true if the document of `key` is in memory, ready for the writer.
    #[must_use]
    pub fn is_loaded(&self, key: &ShadowKey) -> bool {
        self.shared.cache.is_decoded(key)
    }

    /// Reads the document of `key` from the disk into memory, so that the writer, for which all commands wait, finds it there.
    /// The command is decided against the newest document in any case, and the writer reports an error in its turn.
    pub fn load(&self, key: &ShadowKey) {
        let started = Instant::now();
        let _found_again_by_the_writer = self.shared.newest(key);
        self.shared.load_time.add(started.elapsed());
    }

    /// Returns true if [`Permit::load`] has taken long lately: the disk, and not the memory of the system, had the documents.
    #[must_use]
    pub fn is_load_slow(&self) -> bool {
        self.shared.load_time.is_long()
    }

    /// Sends `queued`, to be decided after all earlier ones.
    ///
    /// # Errors
    ///
    /// The unchanged command, if the store was closed in the meantime.
    pub fn send(self, queued: QueuedCommand<C>) -> Result<(), Box<QueuedCommand<C>>> {
        self.queue.send(Message::QueuedCommand(Box::new(queued), self.room)).map_err(|unsent| match unsent.0 {
            Message::QueuedCommand(queued, _) => queued,
            Message::Purge(..)
            | Message::Rows
            | Message::ReadFailed
            | Message::Log(_)
            | Message::PositionWanted
            | Message::Broadcast { .. }
            | Message::Barrier(_)
            | Message::Close => unreachable!("a command was sent"),
        })
    }
}
