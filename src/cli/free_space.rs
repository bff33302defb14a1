//! A writer that leaves free space on the disk.
//!
//! A backup on the disk of the store once took the last of its space, so that commits failed. The space is probed before
//! each [`PROBE_BYTES`] are written.

use std::{
    fs::File,
    io::{self, Write},
};

/// Bytes written between two probes.
const PROBE_BYTES: u64 = 1 << 20;

/// A writer that fails before the disk has less than a number of free bytes.
pub(super) struct LeavesSpace<W, P> {
    out: W,
    /// Returns the free bytes of the disk.
    probe: P,
    keep: u64,
    /// Bytes that may be written before the next probe.
    left: u64,
}

impl<W: Write, P: FnMut() -> io::Result<u64>> LeavesSpace<W, P> {
    /// Returns a writer to `out` that keeps `keep` bytes free; 0 writes without a probe.
    pub(super) fn new(out: W, keep: u64, probe: P) -> Self {
        Self { out, probe, keep, left: 0 }
    }

    /// Returns the inner writer.
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    fn check(&mut self, bytes: u64) -> io::Result<()> {
        if self.keep == 0 || bytes <= self.left {
            return Ok(());
        }
        let (free, keep) = ((self.probe)()?, self.keep);
        let next = bytes.max(PROBE_BYTES);
        if free < keep.saturating_add(next) {
            let text = format!(
                "the disk has {free} free bytes, and {keep} must stay free for the store; write to another disk, or set \
                 --keep-free"
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        self.left = next;
        Ok(())
    }
}

impl<W: Write, P: FnMut() -> io::Result<u64>> Write for LeavesSpace<W, P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check(bytes.len() as u64)?;
        let written = self.out.write(bytes)?;
        self.left = self.left.saturating_sub(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Returns the free bytes of the disk that holds `file`.
pub(super) fn of(file: &File) -> io::Result<u64> {
    let disk = rustix::fs::fstatvfs(file)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn stops_before_the_space_is_used_up() {
        const KEEP: u64 = 10 << 20;
        let chunk = vec![7; 64 << 10];
        let written = std::cell::Cell::new(0);
        let all = 20 << 20;
        let mut out = LeavesSpace::new(io::sink(), KEEP, || Ok(all - written.get()));
        let error = loop {
            match out.write(&chunk) {
                Ok(bytes) => written.set(written.get() + bytes as u64),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("--keep-free"), "{error}");
        let free = all - written.get();
        assert!((KEEP..=KEEP + PROBE_BYTES).contains(&free), "{free} bytes are left");
    }

    #[test]
    fn writes_without_a_probe_if_nothing_must_stay_free() {
        let mut out = LeavesSpace::new(Vec::new(), 0, || Err(io::ErrorKind::Other.into()));
        out.write_all(&[1; 100]).unwrap();
        assert_eq!(out.into_inner().len(), 100);
    }
}
