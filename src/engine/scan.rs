//! Scans of all documents, in pieces.
//!
//! A piece reads the records of the next shadows in a snapshot on a blocking thread, and passes them to a visitor there. It
//! neither waits for the writer nor keeps documents in memory. Each document is as new as the one that any other read
//! would have returned when the piece began. A shadow that is written meanwhile is not passed over or visited twice, since
//! the keys are read in order.
//!
//! A scan yields to writers: between two pieces it rests in proportion to the rate of changes ([`Courtesy`]).

use std::time::{Duration, Instant};

use crate::{
    auth::DeviceRange,
    engine::{Service, reads::during},
    shadow::{Rejection, ShadowKey},
    store::{DeviceSpan, ScannedShadows, Seq},
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
}

/// The rests of a scan, which leave the processors to writers.
#[derive(Debug)]
pub struct Courtesy {
    since: Instant,
    head: Seq,
}

/// The changes a second at which a scan rests as long as it works.
const CHANGES_PER_SHARE: f64 = 2_000.0;
/// The longest rest, as a multiple of the work.
const SHARES_MAX: f64 = 6.0;

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
                let started = Instant::now();
                let spans: Vec<_> = match ranges {
                    None => vec![DeviceSpan::All],
                    Some(ranges) => ranges.into_iter().map(span).collect(),
                };
                let shadows = store.scan(&spans, after.as_ref(), limit)?;
                let (read, next) = (shadows.len(), shadows.next().cloned());
                Ok(Scanned { visited: visit(&shadows), read, next, took: started.elapsed() })
            })
        })
        .await
    }

    /// Begins a scan.
    #[must_use]
    pub fn courtesy(&self) -> Courtesy {
        Courtesy { since: Instant::now(), head: self.store.head() }
    }

    /// Returns the rest after a piece that took `took`: none while nobody writes, and up to [`SHARES_MAX`] times as long as
    /// the piece while others write as fast as they can.
    pub fn rest_after(&self, took: Duration, courtesy: &mut Courtesy) -> Duration {
        let (now, head) = (Instant::now(), self.store.head());
        let changes = head.0.saturating_sub(courtesy.head.0) as f64;
        let seconds = now.duration_since(courtesy.since).as_secs_f64().max(1e-3);
        *courtesy = Courtesy { since: now, head };
        took.mul_f64((changes / seconds / CHANGES_PER_SHARE).min(SHARES_MAX))
    }
}

fn span(range: DeviceRange) -> DeviceSpan {
    match range {
        DeviceRange::One(device) => DeviceSpan::One(device),
        DeviceRange::Prefix(device) => DeviceSpan::Prefix(device),
    }
}
