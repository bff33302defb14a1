//! The rows of groups of shared subscriptions, in a cluster only: the number of members at a node that have no rows of their own
//! (4 bytes, big-endian), since their sessions end with their connections.

use bytes::{Buf, Bytes};

use crate::{
    mqtt::protocol::topic::TopicFilter,
    store::{RowEdit, RowKey},
};

/// The first byte of the keys. The node follows (8 bytes, big-endian), which the log adds, and the filter with its group.
pub(in crate::mqtt) const KIND: u8 = b'v';

/// Returns the edit that writes the number of members at this node.
pub(in crate::mqtt) fn put(filter: &TopicFilter, count: usize) -> RowEdit {
    let key = [&[KIND], filter.to_string().as_bytes()].concat().into();
    match u32::try_from(count).unwrap_or(u32::MAX) {
        0 => RowEdit::Remove(key),
        count => RowEdit::Put(key, Bytes::copy_from_slice(&count.to_be_bytes())),
    }
}

/// Returns the edit that removes the row of `node`.
pub(in crate::mqtt) fn remove_of(node: u64, filter: &TopicFilter) -> RowEdit {
    RowEdit::Remove([&[KIND], node.to_be_bytes().as_slice(), filter.to_string().as_bytes()].concat().into())
}

/// Returns the key with the node.
pub(in crate::mqtt) fn key_at(node: u64, key: &[u8]) -> RowKey {
    [&[KIND], node.to_be_bytes().as_slice(), key.get(1..).unwrap_or_default()].concat().into()
}

/// Reads the key of a row with its node; `None` if it is damaged.
pub(in crate::mqtt) fn read_key(key: &[u8]) -> Option<(u64, TopicFilter)> {
    let (node, filter) = key.get(1..)?.split_first_chunk::<8>()?;
    let filter = TopicFilter::new(std::str::from_utf8(filter).ok()?).ok()?;
    Some((u64::from_be_bytes(*node), filter))
}

/// Reads the value of a row; 0 if it is damaged.
pub(in crate::mqtt) fn read_value(mut value: Bytes) -> u32 {
    value.try_get_u32().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn the_members_of_a_node_come_back() {
        let filter = TopicFilter::new("$share/g/a/+").unwrap();
        let RowEdit::Put(key, value) = put(&filter, 3) else { panic!("it is put") };
        let key = key_at(2, &key);
        assert_eq!((read_key(&key), read_value(value)), (Some((2, filter.clone())), 3));
        assert_eq!(remove_of(2, &filter), RowEdit::Remove(key.clone()));
        assert!(matches!(put(&filter, 0), RowEdit::Remove(_)));
        assert!(key.get(..8).and_then(read_key).is_none() && read_value(Bytes::new()) == 0);
    }
}
