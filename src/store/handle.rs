//! The store as the rest of the program holds it.

use std::{
    io::Write,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{self, UnboundedSender},
};

use crate::{
    metrics::CommitMetrics,
    shadow::{Document, ShadowKey, Timestamp, Version},
    store::{
        backlog::Backlog,
        batch::{Job, Outcome},
        cache::DocumentCache,
        copy::CopyError,
        database::Database,
        disk::FreeDisk,
        entry::Seq,
        error::StoreError,
        health::{Health, State},
        names::NameCounts,
        options::{COMMAND_OVERHEAD_BYTES, StoreOptions},
        reader::{History, Listed, Page, Past, Shared},
        record::{Held, RecordEncoder},
        recovery,
        retention::Retention,
        writer::{Message, Room, Writer},
    },
};

/// An open store. Clones are handles to the same one; when the last is dropped, or [`Store::close`] is called, it
/// finishes what it has taken and ends.
pub struct Store<C: Send + 'static> {
    inner: Arc<Inner<C>>,
}

struct Inner<C: Send + 'static> {
    shared: Arc<Shared>,
    queue: UnboundedSender<Message<C>>,
    /// Bytes of the queue that are not taken.
    room: Arc<Semaphore>,
    room_max: u32,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Room in the queue for one command.
pub struct Permit<C> {
    queue: UnboundedSender<Message<C>>,
    room: OwnedSemaphorePermit,
}

/// Opens the store of `options`, or makes it if there is no file, and starts its writer.
///
/// `clock` is asked once per batch. `tell` is called on the writer's thread with the outcomes of each batch, in the
/// order the commands were sent, and with the room they take in the queue until that is dropped; while it runs nothing
/// is written, so it only hands them on.
///
/// # Errors
///
/// - [`StoreError::Locked`]: the file is open elsewhere.
/// - [`StoreError::Format`]: the file is of a later program.
/// - [`StoreError::Corrupt`], [`StoreError::Record`]: the file is no sound store; what is in it was left as it is.
/// - [`StoreError::Io`]: the file cannot be opened, read or made.
pub fn open<C: Send + 'static>(
    options: StoreOptions,
    clock: impl Fn() -> Timestamp + Send + 'static,
    tell: impl FnMut(Vec<Outcome<C>>, Room) + Send + 'static,
) -> Result<Store<C>, StoreError> {
    let database = Database::open(&options)?;
    let disk = FreeDisk::of(options.path.clone(), options.free_disk_min);
    let path = options.path.clone();
    let (store, writer) = assemble(database, disk, options, Box::new(clock), Box::new(tell))?;
    *store.inner.writer.lock() = Some(spawn(writer).map_err(|error| StoreError::Io { path, error })?);
    Ok(store)
}

/// Recovers what is in `database`, and makes the store and its writer, which does not run yet.
pub(super) fn assemble<C: Send + 'static>(
    database: Database,
    disk: FreeDisk,
    options: StoreOptions,
    clock: Box<dyn Fn() -> Timestamp + Send>,
    tell: Box<dyn FnMut(Vec<Outcome<C>>, Room) + Send>,
) -> Result<(Store<C>, Writer<C>), StoreError> {
    let progress = database.progress()?;
    let shared = Shared {
        database,
        cache: DocumentCache::new(options.document_cache_bytes),
        fresh: Default::default(),
        head: AtomicU64::new(progress.head.seq.0),
        disk: Mutex::new(disk),
        health: Default::default(),
        commits: CommitMetrics::default(),
        absent: Arc::new(Document::absent()),
    };
    let recovered = recovery::recover(&shared, &progress, options.document.path_tombstones_max)?;
    for (key, held) in &recovered.dirty {
        shared.cache.publish(key, held.clone(), true);
    }
    *shared.fresh.write() = recovered.fresh;
    shared.health.lock().recovered_entries = recovered.entries;

    let (sender, queue) = mpsc::unbounded_channel();
    let room_max = u32::try_from(options.queue_bytes_max).unwrap_or(u32::MAX);
    let room = Arc::new(Semaphore::new(room_max as usize));
    let shared = Arc::new(shared);
    let writer = Writer {
        shared: Arc::clone(&shared),
        queue,
        room: Arc::clone(&room),
        clock,
        tell,
        backlog: Backlog::new(recovered.dirty, &progress, &options),
        progress,
        names: NameCounts::new(options.shadow_names_max),
        retention: Retention::new(&options),
        encoder: RecordEncoder::default(),
        state: State::Writable,
        options,
    };
    writer.report();
    let inner = Inner { shared, queue: sender, room, room_max, writer: Mutex::new(None) };
    Ok((Store { inner: Arc::new(inner) }, writer))
}

fn spawn<C: Send + 'static>(mut writer: Writer<C>) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run())
}

impl<C: Send + 'static> Store<C> {
    /// Waits until the queue has room for a command that takes about `bytes` of memory. Who waits is served in turn.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`].
    pub async fn reserve(&self, bytes: usize) -> Result<Permit<C>, StoreError> {
        let room = Arc::clone(&self.inner.room).acquire_many_owned(self.inner.share(bytes)).await;
        Ok(self.inner.permit(room.map_err(|_| StoreError::Closed)?))
    }

    /// Room for a command that takes about `bytes` of memory if there is some now.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Permit<C>> {
        let room = Arc::clone(&self.inner.room).try_acquire_many_owned(self.inner.share(bytes)).ok()?;
        Some(self.inner.permit(room))
    }

    /// The newest committed document of `key` if it is in memory. Never reads the disk.
    #[must_use]
    pub fn cached(&self, key: &ShadowKey) -> Option<Held> {
        self.inner.shared.cache.get(key).ok()
    }

    /// The newest committed document of `key`; [`Document::absent`] if there never was one. May read the disk, so not
    /// for an async task; never waits for the writer. Versions that one caller reads never go back.
    ///
    /// # Errors
    ///
    /// [`StoreError::Record`] if it is damaged; [`StoreError::Io`], [`StoreError::Corrupt`], [`StoreError::Latched`]
    /// if the file cannot be read.
    pub fn read(&self, key: &ShadowKey) -> Result<Held, StoreError> {
        self.inner.shared.held(key)
    }

    /// The shadows after `after` in the order of their keys, deleted ones among them; at most `limit`, at most 1,000.
    /// Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn list(&self, after: Option<&ShadowKey>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.inner.shared.list(after, limit)
    }

    /// The entries after `after`; at most `limit`, at most 1,000 and about 4 MiB. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn journal(&self, after: Seq, limit: usize) -> Result<Page, StoreError> {
        self.inner.shared.journal(after, limit)
    }

    /// The changes of `key` that made versions below `before` (all if `None`), newest first; at most `limit`, at most
    /// 1,000. Reads the disk, one place per entry.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn history(&self, key: &ShadowKey, before: Option<Version>, limit: usize) -> Result<History, StoreError> {
        self.inner.shared.history(key, before, limit)
    }

    /// A way to look back from documents, which does not keep the store open.
    #[must_use]
    pub fn past(&self) -> Past {
        Past(Arc::clone(&self.inner.shared))
    }

    /// The newest entry. Documents read from now on are at least as new.
    #[must_use]
    pub fn head(&self) -> Seq {
        Seq(self.inner.shared.head.load(Ordering::Acquire))
    }

    /// Writes a backup to `out`: all that was told before this was called, as of one commit. Reads the disk, all of it,
    /// and keeps pages that are replaced meanwhile in the file until it ends; the writer does not wait.
    ///
    /// # Errors
    ///
    /// [`CopyError::Store`]: it cannot be read. [`CopyError::Write`]: `out` fails.
    pub fn back_up(&self, out: impl Write) -> Result<(), CopyError> {
        self.inner.shared.database.back_up(out)
    }

    /// How its commits went.
    #[must_use]
    pub fn commits(&self) -> &CommitMetrics {
        &self.inner.shared.commits
    }

    /// Bytes of the queue of commands that are taken, and how many there are.
    #[must_use]
    pub fn queue_bytes(&self) -> (usize, usize) {
        let (free, all) = (self.inner.room.available_permits(), self.inner.room_max as usize);
        (all.saturating_sub(free), all)
    }

    /// How the store is doing: whether the disk has room as of the last second, the rest as of the last commit.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut health = self.inner.shared.health.lock().clone();
        // Nobody may be sending commands any more by which the writer would see that there is room again.
        if let State::Writable | State::DiskLow(_) = health.state {
            let mut disk = self.inner.shared.disk.lock();
            let low = disk.low(Instant::now());
            health.state = low.map_or(State::Writable, State::DiskLow);
            health.free_disk = disk.free();
        }
        health.file_bytes = self.inner.shared.database.file_bytes();
        health
    }

    /// Takes no more commands, decides, commits and tells those that were sent, carries everything, and returns when
    /// the writer has ended. Blocks, so not for an async task. Reads go on.
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
    /// What a command of `bytes` takes of the queue; one that is larger than the queue takes all of it.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.saturating_add(COMMAND_OVERHEAD_BYTES)).unwrap_or(u32::MAX).min(self.room_max)
    }

    fn permit(&self, room: OwnedSemaphorePermit) -> Permit<C> {
        Permit { queue: self.queue.clone(), room }
    }

    fn close(&self) {
        self.room.close();
        // An error: the writer has ended already.
        let _ = self.queue.send(Message::Close);
        let writer = self.writer.lock().take();
        if let Some(writer) = writer
            && writer.thread().id() != thread::current().id()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer stopped by a panic");
        }
    }
}

impl<C: Send + 'static> Drop for Inner<C> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<C> Permit<C> {
    /// Sends `job` to be decided after all that were sent before.
    ///
    /// # Errors
    ///
    /// The job itself, untouched, if the store was closed meanwhile.
    pub fn send(self, job: Job<C>) -> Result<(), Box<Job<C>>> {
        self.queue.send(Message::Job(Box::new(job), self.room)).map_err(|unsent| match unsent.0 {
            Message::Job(job, _) => job,
            Message::Close => unreachable!("a job was sent"),
        })
    }
}
