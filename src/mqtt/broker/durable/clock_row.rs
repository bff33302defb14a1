//! The row with the date, written now and then: a start knows from it when the server stopped without notice.

use std::time::Duration;

use bytes::{Buf, Bytes};

use crate::store::RowEdit;

/// The only byte of the key.
pub(in crate::mqtt) const KIND: u8 = b't';

/// The time between two writes.
pub(in crate::mqtt) const INTERVAL: Duration = Duration::from_secs(10);

/// Returns the edit that writes `date_ms`, in milliseconds since 1970.
pub(in crate::mqtt) fn put(date_ms: u64) -> RowEdit {
    RowEdit::Put([KIND].into(), Bytes::copy_from_slice(&date_ms.to_be_bytes()))
}

/// Reads the row; `None` if it is damaged.
pub(in crate::mqtt) fn read(mut value: Bytes) -> Option<u64> {
    value.try_get_u64().ok()
}
