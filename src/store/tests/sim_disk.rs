//! A disk in memory that can stop at any operation, work again, and lose power.
//!
//! Written data is *pending* until a sync makes it durable. A power cut keeps all synced data and any part of the
//! pending data: each sector of each write may or may not be there.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::Random;

const SECTOR: usize = 512;

/// The operation at which the disk stops; all later ones fail too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Never,
    /// The sync fails without making anything durable.
    AtSync(u64),
    /// The sync fails after making everything durable.
    AfterSync(u64),
    AtWrite(u64),
    AtRead(u64),
}

/// The content of a disk that works again after a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repaired {
    /// Pending data stays pending.
    Pending,
    /// Pending data is read as written, but is never made durable unless it is written again: the page cache of an
    /// operating system after a failed sync.
    Forgotten,
    /// Pending data is lost.
    Lost,
    /// A part of the pending data is lost.
    Torn(u64),
}

#[derive(Clone)]
pub(crate) struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    platters: Mutex<Platters>,
    stop: Mutex<Stop>,
    syncs: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    stopped: AtomicU64,
    observer: Mutex<Option<Observer>>,
}

/// A function that is called before an operation.
type Observer = Box<dyn FnMut(&SimDisk, Operation) + Send>;

/// An operation that may be the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write,
    Sync,
}

#[derive(Clone, Default)]
struct Platters {
    /// The data that a read returns.
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl SimDisk {
    pub(crate) fn new(image: Vec<u8>, stop: Stop) -> Self {
        let platters = Platters { current: image.clone(), durable: image, pending: Vec::new() };
        Self {
            shared: Arc::new(Shared {
                platters: Mutex::new(platters),
                stop: Mutex::new(stop),
                syncs: AtomicU64::new(0),
                writes: AtomicU64::new(0),
                reads: AtomicU64::new(0),
                stopped: AtomicU64::new(0),
                observer: Mutex::new(None),
            }),
        }
    }

    /// Returns the number of syncs and writes so far.
    pub(crate) fn operations(&self) -> (u64, u64) {
        (self.shared.syncs.load(Ordering::SeqCst), self.shared.writes.load(Ordering::SeqCst))
    }

    /// Returns the number of reads so far.
    pub(crate) fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::SeqCst)
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::SeqCst) != 0
    }

    /// Returns the image after a power cut that loses all data not synced.
    pub(crate) fn durable(&self) -> Vec<u8> {
        self.shared.platters.lock().durable.clone()
    }

    /// Returns the image after a power cut that keeps a random part of the data not synced.
    pub(crate) fn torn(&self, random: &mut Random) -> Vec<u8> {
        let platters = self.shared.platters.lock().clone();
        let mut image = platters.durable;
        for pending in &platters.pending {
            match pending {
                Pending::Length(length) if random.chance(2) => image.resize(*length, 0),
                Pending::Length(_) => {}
                Pending::Write(offset, bytes) => {
                    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                        if random.chance(2) {
                            put(&mut image, offset + index * SECTOR, sector);
                        }
                    }
                }
            }
        }
        image
    }

    /// Calls `observer` before each write and sync from now on.
    pub(crate) fn observe(&self, observer: impl FnMut(&Self, Operation) + Send + 'static) {
        *self.shared.observer.lock() = Some(Box::new(observer));
    }

    fn observed(&self, operation: Operation) {
        if let Some(observer) = &mut *self.shared.observer.lock() {
            observer(self, operation);
        }
    }

    /// Makes the disk work again, until `stop`.
    pub(crate) fn repair(&self, content: Repaired, stop: Stop) {
        let image = match content {
            Repaired::Pending => None,
            Repaired::Forgotten => Some(self.shared.platters.lock().current.clone()),
            Repaired::Lost => Some(self.durable()),
            Repaired::Torn(seed) => Some(self.torn(&mut Random::new(seed))),
        };
        let mut platters = self.shared.platters.lock();
        if let Some(image) = image {
            platters.pending.clear();
            if content != Repaired::Forgotten {
                platters.durable.clone_from(&image);
            }
            platters.current = image;
        }
        *self.shared.stop.lock() = stop;
        self.shared.stopped.store(0, Ordering::SeqCst);
    }

    fn fail(&self) -> io::Error {
        self.shared.stopped.store(1, Ordering::SeqCst);
        io::Error::other("the simulated disk has stopped")
    }

    fn check(&self) -> io::Result<()> {
        if self.has_stopped() { Err(self.fail()) } else { Ok(()) }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn apply(image: &mut Vec<u8>, pending: &Pending) {
    match pending {
        Pending::Length(length) => image.resize(*length, 0),
        Pending::Write(offset, bytes) => put(image, *offset, bytes),
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

impl redb::StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        self.check()?;
        Ok(self.shared.platters.lock().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check()?;
        let read = self.shared.reads.fetch_add(1, Ordering::SeqCst) + 1;
        if *self.shared.stop.lock() == Stop::AtRead(read) {
            return Err(self.fail());
        }
        let platters = self.shared.platters.lock();
        let start = usize::try_from(offset).unwrap();
        let bytes = platters.current.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.check()?;
        let mut platters = self.shared.platters.lock();
        let pending = Pending::Length(usize::try_from(length).unwrap());
        apply(&mut platters.current, &pending);
        platters.pending.push(pending);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.observed(Operation::Sync);
        let sync = self.shared.syncs.fetch_add(1, Ordering::SeqCst) + 1;
        if *self.shared.stop.lock() == Stop::AtSync(sync) {
            return Err(self.fail());
        }
        let mut platters = self.shared.platters.lock();
        let Platters { durable, pending, .. } = &mut *platters;
        pending.drain(..).for_each(|pending| apply(durable, &pending));
        if *self.shared.stop.lock() == Stop::AfterSync(sync) { Err(self.fail()) } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.observed(Operation::Write);
        let write = self.shared.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if *self.shared.stop.lock() == Stop::AtWrite(write) {
            return Err(self.fail());
        }
        let mut platters = self.shared.platters.lock();
        let pending = Pending::Write(usize::try_from(offset).unwrap(), data.to_vec());
        apply(&mut platters.current, &pending);
        platters.pending.push(pending);
        Ok(())
    }
}
