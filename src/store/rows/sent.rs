//! The edits on their way to the writer.
//!
//! Callers add edits under a lock; the writer takes all of them before each commit. It is notified only by the first edits
//! after it took them, by the first for which somebody waits, and when many have collected: most edits wake no thread.

use parking_lot::Mutex;

use crate::store::{error::StoreError, rows::edit::RowEdit};

/// A call when edits are on disk.
pub type OnDurable = Box<dyn FnOnce() + Send>;

/// Edits, and the calls when they and all before them are on disk.
#[derive(Default)]
pub(in crate::store) struct RowBatch {
    pub(in crate::store) edits: Vec<RowEdit>,
    pub(in crate::store) calls: Vec<OnDurable>,
    /// True if somebody waits for one of the calls.
    pub(in crate::store) is_awaited: bool,
    /// The approximate bytes of the edits.
    pub(in crate::store) bytes: usize,
}

/// Bytes of edits that are committed at once, although nobody waits for them.
pub(in crate::store) const WAITING_BYTES_MAX: usize = 1 << 20;

/// The edits that the writer has not taken yet; see the module.
#[derive(Default)]
pub(in crate::store) struct SentRows {
    /// `None` after the end of the writer.
    batch: Mutex<Option<RowBatch>>,
}

impl SentRows {
    /// Returns an empty queue.
    pub(in crate::store) fn new() -> Self {
        Self { batch: Mutex::new(Some(RowBatch::default())) }
    }

    /// Adds edits of `bytes` behind those of earlier calls. If `on_durable` `is_awaited`, they are committed at once. Returns true if
    /// the writer has to be notified.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`]: the writer ended.
    pub(in crate::store) fn send(
        &self,
        edits: Vec<RowEdit>,
        bytes: usize,
        on_durable: Option<OnDurable>,
        is_awaited: bool,
    ) -> Result<bool, StoreError> {
        let mut batch = self.batch.lock();
        let batch = batch.as_mut().ok_or(StoreError::Closed)?;
        let is_first = batch.edits.is_empty() && batch.calls.is_empty();
        let is_first_awaited = is_awaited && !batch.is_awaited;
        let are_many = batch.bytes < WAITING_BYTES_MAX && batch.bytes + bytes >= WAITING_BYTES_MAX;
        batch.edits.extend(edits);
        batch.calls.extend(on_durable);
        batch.is_awaited |= is_awaited;
        batch.bytes += bytes;
        Ok(is_first || is_first_awaited || are_many)
    }

    /// Removes and returns everything.
    pub(in crate::store) fn take(&self) -> RowBatch {
        self.batch.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Removes and returns everything, and takes no more edits.
    pub(in crate::store) fn close(&self) -> RowBatch {
        self.batch.lock().take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_writer_is_notified_by_the_first_edits_the_first_call_and_many_edits() {
        let sent = SentRows::new();
        let put = || vec![RowEdit::Put(b"k".as_slice().into(), Bytes::new())];
        let call = || -> Option<OnDurable> { Some(Box::new(|| ())) };
        for (label, bytes, on_durable, notifies) in [
            ("the first", 10, None, true),
            ("the second", 10, None, false),
            ("the first call", 10, call(), true),
            ("the second call", 10, call(), false),
            ("below the limit", WAITING_BYTES_MAX - 41, None, false),
            ("at the limit", 1, None, true),
            ("above the limit", 1, None, false),
        ] {
            let is_awaited = on_durable.is_some();
            assert_eq!(sent.send(put(), bytes, on_durable, is_awaited).unwrap(), notifies, "{label}");
        }
        let batch = sent.take();
        assert_eq!((batch.edits.len(), batch.calls.len(), batch.bytes), (7, 2, WAITING_BYTES_MAX + 1));
        assert!(sent.send(Vec::new(), 0, call(), true).unwrap(), "a call without edits");
        assert_eq!(sent.close().calls.len(), 1);
        assert!(matches!(sent.send(put(), 10, None, false), Err(StoreError::Closed)));
    }

    #[test]
    fn a_call_for_which_nobody_waits_hurries_nothing() {
        let sent = SentRows::new();
        let call = || -> Option<OnDurable> { Some(Box::new(|| ())) };
        assert!(sent.send(Vec::new(), 0, call(), false).unwrap(), "the first");
        assert!(!sent.send(Vec::new(), 0, call(), false).unwrap());
        assert!(!sent.take().is_awaited);
        sent.send(Vec::new(), 0, call(), false).unwrap();
        assert!(sent.send(Vec::new(), 0, call(), true).unwrap(), "the first that is awaited");
        assert!(sent.take().is_awaited);
    }
}
