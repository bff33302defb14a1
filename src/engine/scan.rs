//! Scans of all documents, in pieces.
//!
//! A piece reads the records of the next shadows in a snapshot on a blocking thread, and passes them to a visitor there. It
//! neither waits for the writer nor keeps documents in memory. Each document is as new as the one that any other read
//! would have returned when the piece began. A shadow that is written meanwhile is not passed over or visited twice, since
//! the keys are read in order.
//!
//! A scan yields to writers: between two pieces it rests in proportion to the rate of changes, and it uses several threads only
//! while nearly nobody writes ([`Courtesy`]).

use std::{
    num::NonZero,
    ops::ControlFlow,
    thread,
    time::{Duration, Instant},
};

use rustix::time::ClockId;

use crate::{
    auth::DeviceRange,
    engine::{Service, reads::during},
    shadow::{
        DeviceId, Rejection, ShadowKey,
        index::{IndexLookup, ValuePath},
    },
    store::{DeviceLookup, DeviceSpan, IndexedDevices, Proposed, ScannedShadows, Seq, ValueGroup},
};

/// The shadows of a piece: those of some devices, or all after a key.
#[derive(Clone, Debug, Default)]
pub struct ScanPiece {
    /// The ranges of devices, disjoint and in order; `None` for all devices.
    pub ranges: Option<Vec<DeviceRange>>,
    /// The key after which the piece begins.
    pub after: Option<ShadowKey>,
    /// Most shadows, including deleted ones; more if one device has more.
    pub limit: usize,
}

/// The result of a piece.
#[derive(Debug)]
pub struct Scanned<T> {
    /// The result of the visitor.
    pub visited: T,
    /// The number of shadows that were read, including deleted ones.
    pub read: usize,
    /// The key after which the next piece begins; `None` at the end.
    pub next: Option<ShadowKey>,
    /// The time that the piece took.
    pub took: Duration,
    /// The processor time of the thread that read it.
    pub worked: Duration,
}

/// The rests of a scan, which leave the processors to writers.
#[derive(Debug)]
pub struct Courtesy {
    since: Instant,
    head: Seq,
    /// The changes a second while the last piece was read.
    rate: f64,
    /// The time by which all shadows have to be read, if they have to.
    deadline: Option<Instant>,
    /// The number of shadows that were read.
    read: usize,
}

/// A search of the index in ranges of devices; see [`DeviceLookup`].
#[derive(Clone, Debug)]
pub struct RangesLookup {
    /// The path and values.
    pub lookup: IndexLookup,
    /// The ranges; `None` for all devices.
    pub ranges: Option<Vec<DeviceRange>>,
    /// True if no entry of another device may be read.
    pub is_confined: bool,
}

/// The changes a second at which a scan rests as long as it works.
const CHANGES_PER_SHARE: f64 = 2_000.0;
/// The longest rest, as a multiple of the work.
const SHARES_MAX: f64 = 6.0;
/// The part of the time up to a deadline that is planned.
const DEADLINE_SHARE: f64 = 0.75;
/// The number of shadows that is assumed before they were counted.
const SHADOWS_UNKNOWN: u64 = 1_000_000;
/// The changes a second up to which a scan uses several threads, and their number.
const QUIET_CHANGES: f64 = 500.0;
const THREADS_MAX: usize = 4;

impl Service {
    /// Reads the shadows of a piece in key order and passes them to `visit`: all shadows of each of their devices. Passes
    /// over damaged pages. Holds `turn` meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn scan<T: Send + 'static>(
        &self,
        piece: ScanPiece,
        turn: impl Send + 'static,
        visit: impl FnOnce(&ScannedShadows) -> T + Send + 'static,
    ) -> Result<Scanned<T>, Rejection> {
        let ScanPiece { ranges, after, limit } = piece;
        self.blocking(move |store| {
            during(turn, || {
                let (started, before) = (Instant::now(), thread_time());
                let shadows = store.scan(&spans(ranges), after.as_ref(), limit)?;
                let (read, next) = (shadows.len(), shadows.next().cloned());
                let visited = visit(&shadows);
                Ok(Scanned {
                    visited,
                    read,
                    next,
                    took: started.elapsed(),
                    worked: thread_time().saturating_sub(before),
                })
            })
        })
        .await
    }

    /// Returns devices of `ranges` after `after`, in order, among which are all that match one of `lookups`; see
    /// [`Store::propose`](crate::store::Store::propose). Holds `turn` meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn propose(
        &self,
        lookups: Vec<RangesLookup>,
        ranges: Option<Vec<DeviceRange>>,
        after: Option<DeviceId>,
        limit: Option<usize>,
        turn: impl Send + 'static,
    ) -> Result<(Option<Proposed>, usize), Rejection> {
        self.blocking(move |store| {
            during(turn, || {
                let lookups = lookups.into_iter().map(|RangesLookup { lookup, ranges, is_confined }| DeviceLookup {
                    lookup,
                    spans: spans(ranges),
                    is_confined,
                });
                store.propose(&lookups.collect::<Vec<_>>(), &spans(ranges), after.as_ref(), limit)
            })
        })
        .await
    }

    /// Passes the values at `path` in all devices to `collect`, by the index; see
    /// [`Store::indexed_values`](crate::store::Store::indexed_values). Holds `turn` meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn indexed_values<T: Send + 'static>(
        &self,
        path: Option<ValuePath>,
        mut collected: T,
        turn: impl Send + 'static,
        collect: impl Fn(&mut T, ValueGroup<'_>) -> ControlFlow<()> + Send + 'static,
    ) -> Result<(Option<(T, IndexedDevices)>, usize), Rejection> {
        self.blocking(move |store| {
            during(turn, || {
                let (found, read) = store.indexed_values(path.as_ref(), &mut |group| collect(&mut collected, group))?;
                Ok((found.map(|found| (collected, found)), read))
            })
        })
        .await
    }

    /// Begins a scan, which has to read all shadows by the `deadline`, if there is one.
    #[must_use]
    pub fn courtesy(&self, deadline: Option<Instant>) -> Courtesy {
        Courtesy { since: Instant::now(), head: self.store.head(), rate: f64::INFINITY, deadline, read: 0 }
    }

    /// Returns the rest after a piece of `read` shadows that took `took`: none while nobody writes, and up to [`SHARES_MAX`]
    /// times as long as the piece while others write as fast as they can; less if the deadline would be missed.
    pub fn rest_after(&self, read: usize, took: Duration, courtesy: &mut Courtesy) -> Duration {
        let (now, head) = (Instant::now(), self.store.head());
        let changes = head.0.saturating_sub(courtesy.head.0) as f64;
        let seconds = now.duration_since(courtesy.since).as_secs_f64().max(1e-3);
        (courtesy.since, courtesy.head, courtesy.rate) = (now, head, changes / seconds);
        courtesy.read += read;
        let rest = took.mul_f64((courtesy.rate / CHANGES_PER_SHARE).min(SHARES_MAX));
        match courtesy.deadline {
            Some(deadline) if !rest.is_zero() => {
                rest.min(self.time_per_piece(deadline, read, courtesy).saturating_sub(took))
            }
            _ => rest,
        }
    }

    /// Returns the time that each further piece of `read` shadows may take, its rest included.
    fn time_per_piece(&self, deadline: Instant, read: usize, courtesy: &Courtesy) -> Duration {
        let all = self.health().shadows.map_or(SHADOWS_UNKNOWN, |counts| counts.live + counts.deleted);
        let left = all.saturating_sub(courtesy.read as u64);
        let pieces = u32::try_from(left / (read as u64).max(1)).unwrap_or(u32::MAX).saturating_add(1);
        deadline.saturating_duration_since(courtesy.since).mul_f64(DEADLINE_SHARE) / pieces
    }
}

impl Courtesy {
    /// Returns the number of threads that may work for a scan: all while nearly nobody writes, otherwise one.
    #[must_use]
    pub fn threads(&self) -> usize {
        if self.rate > QUIET_CHANGES {
            1
        } else {
            thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX)
        }
    }
}

/// Returns the processor time that this thread has used.
fn thread_time() -> Duration {
    let used = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or_default())
}

fn spans(ranges: Option<Vec<DeviceRange>>) -> Vec<DeviceSpan> {
    let span = |range| match range {
        DeviceRange::One(device) => DeviceSpan::One(device),
        DeviceRange::Prefix(device) => DeviceSpan::Prefix(device),
    };
    ranges.map_or_else(|| vec![DeviceSpan::All], |ranges| ranges.into_iter().map(span).collect())
}
