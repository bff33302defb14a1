//! Whether the disk has room for writes.
//!
//! A commit that meets a full disk fails, and a failed commit stops the store until a restart. So commands are refused
//! while there is still some room, and taken again once there is enough.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long one look at the disk is good for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Too little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLow {
    /// Free bytes.
    pub free: u64,
    /// Free bytes below which commands are refused.
    pub needed: u64,
}

/// Looks at the disk, at most once a second.
pub(super) struct FreeDisk {
    probe: Box<dyn FnMut() -> io::Result<u64> + Send>,
    needed: u64,
    looked_at: Option<Instant>,
    low: Option<DiskLow>,
    /// What the last look found.
    free: Option<u64>,
}

impl FreeDisk {
    /// Watches the disk that `path` is on.
    pub(super) fn of(path: PathBuf, needed: u64) -> Self {
        let probe = move || {
            let disk = rustix::fs::statvfs(&path)?;
            Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
        };
        Self::with_probe(Box::new(probe), needed)
    }

    /// Asks `probe` for the free bytes.
    pub(super) fn with_probe(probe: Box<dyn FnMut() -> io::Result<u64> + Send>, needed: u64) -> Self {
        Self { probe, needed, looked_at: None, low: None, free: None }
    }

    /// `None` if there is room as of `now`.
    pub(super) fn low(&mut self, now: Instant) -> Option<DiskLow> {
        if self.looked_at.is_none_or(|at| now.duration_since(at) >= LOOK_EVERY) {
            self.looked_at = Some(now);
            self.look();
        }
        self.low
    }

    /// Free bytes, as the last look found them.
    pub(super) fn free(&self) -> Option<u64> {
        self.free
    }

    fn look(&mut self) {
        let former = self.low;
        let probed = (self.probe)();
        self.free = probed.as_ref().ok().copied();
        self.low = match probed {
            Ok(free) => (free < self.needed).then_some(DiskLow { free, needed: self.needed }),
            // A disk that does not tell is no reason to refuse: a commit will show.
            Err(error) => {
                tracing::warn!(%error, "cannot tell how much room the disk of the store has");
                None
            }
        };
        match (former, self.low) {
            (None, Some(DiskLow { free, needed })) => {
                tracing::error!(free, needed, "the disk is nearly full: commands are refused")
            }
            (Some(_), None) => tracing::info!("the disk has room again: commands are taken"),
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
    fn it_is_looked_at_once_a_second_and_recovers() {
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
