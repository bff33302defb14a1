//! The numbers of sessions and messages in a cluster: unique in all of it, since each has the node that made it.
//!
//! A number has the node (8 bits below the highest bit), the time when the node started (41 bits, in milliseconds), and then
//! counts. A message that was published in the log has the highest bit, and the number of its broadcast. A node that was alone
//! before has sessions and messages with small numbers, of no node.

use crate::mqtt::broker::outbox::SessionId;

const NODE_SHIFT: u32 = 55;
const DATE_SHIFT: u32 = 14;
const DATE_MASK: u64 = (1 << (NODE_SHIFT - DATE_SHIFT)) - 1;
/// The beginning of 2025, in milliseconds since 1970: the times are enough for 69 years.
const EPOCH: u64 = 1_735_689_600_000;
const IN_LOG: u64 = 1 << 63;

/// Returns the first number that `node` makes when it starts at `date_ms`.
pub(in crate::mqtt::broker) fn first(node: u64, date_ms: u64) -> u64 {
    node << NODE_SHIFT | (date_ms.saturating_sub(EPOCH) & DATE_MASK) << DATE_SHIFT
}

/// Returns the node that made a session; 0 if it has none.
pub(in crate::mqtt::broker) fn node_of(session: SessionId) -> u64 {
    session.0 >> NODE_SHIFT & 0xff
}

/// Returns the number of the message in this broadcast.
pub(in crate::mqtt::broker) fn of_broadcast(broadcast: u64) -> u64 {
    IN_LOG | broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_of_their_node_and_rise_with_its_starts() {
        let (earlier, later) = (first(255, 1_790_000_000_000), first(255, 1_790_000_000_001));
        assert!(earlier + (1 << DATE_SHIFT) <= later);
        assert_eq!([earlier, later, first(1, 0)].map(|number| node_of(SessionId(number))), [255, 255, 1]);
        assert_eq!(node_of(SessionId(17)), 0, "of a node that was alone");
        assert!(of_broadcast(1 << 16) > later);
    }
}
