//! Scans of all documents, in pieces.
//!
//! A piece reads the next shadows in a snapshot on a blocking thread, and passes their documents to a visitor there. It
//! neither waits for the writer nor keeps the documents in memory. Each document is as new as the one that any other read
//! would have returned when the piece began. A shadow that is written meanwhile is not passed over or visited twice, since
//! the keys are read in order.

use std::sync::Arc;

use crate::{
    auth::DeviceRange,
    engine::{
        Service,
        reads::{during, within},
    },
    shadow::{Document, Rejection, ShadowKey},
};

/// The shadows of a piece: those of some devices, or all after a key.
#[derive(Clone, Debug, Default)]
pub struct ScanPiece {
    /// The ranges of devices, disjoint and in order; `None` for all devices.
    pub ranges: Option<Vec<DeviceRange>>,
    /// The key after which the piece begins.
    pub after: Option<ShadowKey>,
    /// Most shadows, including deleted ones.
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
}

impl Service {
    /// Reads the documents of a piece in key order and passes those that exist to `visit`. Passes over damaged records and
    /// pages. Holds `turn` meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn scan<T: Send + 'static>(
        &self,
        piece: ScanPiece,
        turn: impl Send + 'static,
        visit: impl FnOnce(Vec<(ShadowKey, Arc<Document>)>) -> T + Send + 'static,
    ) -> Result<Scanned<T>, Rejection> {
        let ScanPiece { ranges, after, limit } = piece;
        self.blocking(move |store| {
            during(turn, || {
                let (listed, next) = match ranges {
                    Some(ranges) => within(store, &ranges, after, limit)?,
                    None => {
                        let listed = store.list_sound(after.as_ref(), limit)?;
                        let next = listed.last().map(|listed| listed.key.clone());
                        (listed, next)
                    }
                };
                let read = listed.len();
                let keys: Vec<_> =
                    listed.into_iter().filter(|listed| !listed.deleted).map(|listed| listed.key).collect();
                let documents = store.documents(&keys)?;
                let found = keys.into_iter().zip(documents).filter_map(|(key, document)| Some((key, document?)));
                Ok(Scanned { visited: visit(found.collect()), read, next })
            })
        })
        .await
    }
}
