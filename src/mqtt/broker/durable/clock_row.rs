//! The row with the date and the progress of connected sessions, written now and then: a start knows from it when the
//! server stopped without notice, and what the clients had by then.
//!
//! The value has numbers of 8 bytes, big-endian: the date in milliseconds, the journal sequence up to which the clients
//! have all messages of shadows, and for each session that has less its id and sequence.

use std::{collections::HashMap, time::Duration};

use bytes::{Buf, BufMut, Bytes};

use crate::{mqtt::broker::outbox::SessionId, store::RowEdit};

/// The only byte of the key.
pub(in crate::mqtt) const KIND: u8 = b't';

/// The time between two writes.
pub(in crate::mqtt) const INTERVAL: Duration = Duration::from_secs(10);

/// The last moment of which the disk knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::mqtt) struct Stop {
    /// Milliseconds since 1970.
    pub(in crate::mqtt) date_ms: u64,
    /// The journal sequence up to which the clients of connected sessions had everything.
    pub(in crate::mqtt) delivered: u64,
    /// The connected sessions whose clients had less.
    pub(in crate::mqtt) behind: HashMap<SessionId, u64>,
}

impl Stop {
    /// Returns the journal sequence up to which the client of a connected session had everything.
    pub(in crate::mqtt) fn delivered_to(&self, session: SessionId) -> u64 {
        self.behind.get(&session).copied().unwrap_or(self.delivered)
    }
}

/// Returns the edit that writes `stop`.
pub(in crate::mqtt) fn put(stop: &Stop) -> RowEdit {
    RowEdit::Put([KIND].into(), value_of(stop))
}

fn value_of(stop: &Stop) -> Bytes {
    let mut value = Vec::with_capacity(16 + 16 * stop.behind.len());
    value.put_u64(stop.date_ms);
    value.put_u64(stop.delivered);
    for (session, seq) in &stop.behind {
        value.put_u64(session.0);
        value.put_u64(*seq);
    }
    value.into()
}

/// Returns a value of at most `bytes_max`: if there are too many sessions that have less, all have only what each of them has.
pub(in crate::mqtt) fn within(value: Bytes, bytes_max: usize) -> Bytes {
    if value.len() <= bytes_max {
        return value;
    }
    let stop = read(value).unwrap_or_default();
    let delivered = stop.behind.values().copied().fold(stop.delivered, u64::min);
    value_of(&Stop { delivered, behind: HashMap::new(), ..stop })
}

/// Reads the row; `None` if it is damaged.
pub(in crate::mqtt) fn read(mut value: Bytes) -> Option<Stop> {
    let date_ms = value.try_get_u64().ok()?;
    let delivered = value.try_get_u64().unwrap_or_default();
    let mut behind = HashMap::with_capacity(value.len() / 16);
    while value.has_remaining() {
        behind.insert(SessionId(value.try_get_u64().ok()?), value.try_get_u64().ok()?);
    }
    Some(Stop { date_ms, delivered, behind })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn the_progress_of_sessions_comes_back() {
        let stop = Stop { date_ms: 5, delivered: 90, behind: [(SessionId(7), 3), (SessionId(8), 0)].into() };
        let RowEdit::Put(_, value) = put(&stop) else { panic!("it is put") };
        let read_back = read(value.clone());
        assert_eq!(read_back.as_ref(), Some(&stop));
        assert_eq!([7, 8, 9].map(|id| stop.delivered_to(SessionId(id))), [3, 0, 90]);
        assert_eq!(read(value.slice(..8)), Some(Stop { date_ms: 5, ..Stop::default() }), "without progress");
        assert_eq!(read(value.slice(..value.len() - 1)), None);
        assert_eq!(within(value.clone(), value.len()), value);
        assert_eq!(read(within(value, 40)), Some(Stop { date_ms: 5, delivered: 0, behind: HashMap::new() }));
    }
}
