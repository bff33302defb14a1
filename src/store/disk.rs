//! A check for free disk space.
//!
//! A commit on a full disk fails, with an unknown outcome for its commands. So commands are refused while there is still
//! some space, and accepted again once there is enough.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

/// The time between probes of the disk.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A shortage of disk space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLow {
    /// Free bytes.
    pub free: u64,
    /// The number of free bytes below which commands are refused.
    pub needed: u64,
}

/// A monitor of the disk that probes at most once a second.
pub(super) struct FreeDisk {
    probe: Box<dyn FnMut() -> io::Result<u64> + Send>,
    needed: u64,
    probed_at: Option<Instant>,
    low: Option<DiskLow>,
    /// The result of the last probe.
    free: Option<u64>,
}

impl FreeDisk {
    /// Returns a monitor of the disk that holds `path`.
    pub(super) fn of(path: PathBuf, needed: u64) -> Self {
        let probe = move || {
            let disk = rustix::fs::statvfs(&path)?;
            Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
        };
        Self::with_probe(Box::new(probe), needed)
    }

    /// Returns a monitor that calls `probe` for the free bytes.
    pub(super) fn with_probe(probe: Box<dyn FnMut() -> io::Result<u64> + Send>, needed: u64) -> Self {
        Self { probe, needed, probed_at: None, low: None, free: None }
    }

    /// Returns the shortage as of `now`; `None` if there is enough space.
    pub(super) fn low(&mut self, now: Instant) -> Option<DiskLow> {
        if self.probed_at.is_none_or(|at| now.duration_since(at) >= PROBE_INTERVAL) {
            self.probed_at = Some(now);
            self.probe_disk();
        }
        self.low
    }

    /// Returns the free bytes as of the last probe.
    pub(super) fn free(&self) -> Option<u64> {
        self.free
    }

    fn probe_disk(&mut self) {
        let former = self.low;
        let probed = (self.probe)();
        self.free = probed.as_ref().ok().copied();
        self.low = match probed {
            Ok(free) => (free < self.needed).then_some(DiskLow { free, needed: self.needed }),
            // A failed probe is no reason to refuse commands: a commit will show the state of the disk.
            Err(error) => {
                tracing::warn!(%error, "cannot determine the free space on the disk of the store");
                None
            }
        };
        match (former, self.low) {
            (None, Some(DiskLow { free, needed })) => {
                tracing::error!(free, needed, "the disk is nearly full: commands are refused")
            }
            (Some(_), None) => tracing::info!("the disk has space again: commands are accepted"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;

    #[test]
    fn the_disk_is_probed_once_a_second_and_recovers() {
        let free = Arc::new(AtomicU64::new(100));
        let probed = Arc::clone(&free);
        let mut disk = FreeDisk::with_probe(Box::new(move || Ok(probed.load(Ordering::SeqCst))), 50);
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        for (milliseconds, free_now, low) in
            [(0, 100, false), (999, 49, false), (1000, 49, true), (1999, 50, true), (2000, 50, false), (3000, 0, true)]
        {
            free.store(free_now, Ordering::SeqCst);
            assert_eq!(disk.low(at(milliseconds)).is_some(), low, "after {milliseconds} ms");
        }
    }
}
