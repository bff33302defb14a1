//! The thread that verifies the pages of a large file while the store is in use, and the report in the log.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::store::{
    background::BackgroundThread,
    pages::{
        check::{CheckedTable, PageCheck},
        tree::KeyRange,
    },
    slot::DatabaseSlot,
};

/// The pause before the next look at a store that is being reopened.
const REOPENING_PAUSE: Duration = Duration::from_millis(50);

/// Most damaged ranges listed in the log.
const LOGGED_MAX: usize = 20;

/// Begins to verify the file in `slot`; `None` if that was done when it was opened.
pub(in crate::store) fn start(slot: Arc<DatabaseSlot>) -> io::Result<Option<BackgroundThread>> {
    match slot.pages() {
        None => Ok(None),
        Some(pages) if pages.is_finished() => {
            report(&pages, Duration::ZERO);
            Ok(None)
        }
        Some(pages) => {
            tracing::info!(bytes = pages.length(), "verifying the pages of the store in the background");
            BackgroundThread::start("store-verifier", move |is_stopped| run(&slot, is_stopped)).map(Some)
        }
    }
}

fn run(slot: &DatabaseSlot, is_stopped: &AtomicBool) {
    let is_stopped = || is_stopped.load(Ordering::Acquire);
    let started = Instant::now();
    while !is_stopped() {
        // Reopened in between, the store has a new check.
        let (Ok(database), Some(pages)) = (slot.get(), slot.pages()) else {
            thread::park_timeout(REOPENING_PAUSE);
            continue;
        };
        pages.walk(|busy| {
            // Half of the time is left to others.
            thread::park_timeout(busy);
            is_stopped() || database.is_retired()
        });
        if pages.is_finished() {
            return report(&pages, started.elapsed());
        }
        drop(database);
        thread::park_timeout(REOPENING_PAUSE);
    }
}

fn report(pages: &PageCheck, elapsed: Duration) {
    let damaged = pages.damaged().count();
    if damaged == 0 {
        tracing::info!(?elapsed, "all pages of the store are sound");
        return;
    }
    for (table, range) in pages.damaged().take(LOGGED_MAX) {
        let (above, up_to) = text(table, range);
        tracing::error!(table = table.name(), above, up_to, "a page of the store is damaged");
    }
    tracing::error!(
        damaged,
        "shadows and changes in damaged pages are out of service: they can neither be read nor written, the others can. \
         Check the disk, and restore a backup; umbrad check shows more"
    );
}

/// Returns the bounds of a damaged range as text.
pub(in crate::store) fn text(table: CheckedTable, range: &KeyRange) -> (String, String) {
    let text = |key: &Option<Vec<u8>>, end: &str| match (key, table) {
        (None, _) => end.to_owned(),
        (Some(key), CheckedTable::Journal) => {
            key.first_chunk().map_or_else(String::new, |seq| u64::from_le_bytes(*seq).to_string())
        }
        (Some(key), _) => key.escape_ascii().to_string(),
    };
    (text(&range.above, "the first"), text(&range.up_to, "the last"))
}
