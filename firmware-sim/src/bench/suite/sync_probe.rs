//! The time of a small append and a sync on the disk of the stores, next to which a durable latency is to be read.

use std::{
    fs::OpenOptions,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::bench::{
    load::tally::{Latencies, UpdateStats},
    process::Scratch,
};

/// Appends and syncs in a new file below `directory` for `time`, and at least 100 times.
///
/// # Errors
///
/// The file cannot be written.
pub(super) fn probe(directory: &Path, time: Duration) -> anyhow::Result<Latencies> {
    let scratch = Scratch::new(directory, "bench-disk")?;
    let file = scratch.path().join("appended");
    let mut file = OpenOptions::new().create(true).append(true).open(&file).context("creating a file to sync")?;
    let (mut stats, started) = (UpdateStats::new(), Instant::now());
    while started.elapsed() < time || stats.updates() < 100 {
        let begun = Instant::now();
        file.write_all(&[b'x'; APPENDED_BYTES])?;
        file.sync_data()?;
        stats.accepted(begun.elapsed(), APPENDED_BYTES);
    }
    Ok(stats.latencies())
}

const APPENDED_BYTES: usize = 4096;
