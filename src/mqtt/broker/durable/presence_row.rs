//! The rows of devices that are or were connected: flags (1 byte), the last-seen time in seconds (8 bytes, big-endian),
//! the client address (4 or 16 bytes).
//!
//! A row is written when a device connects and when it disconnects, not in between. The row of a device that was
//! connected when the server stopped without notice says so; its last-seen time is then that of the clock row.
//!
//! In a cluster, a device has a row for each node that it is connected to, or one for the node where it was last. The key has
//! the node then, after a byte 0, which no device id has.

use std::net::IpAddr;

use bytes::{Buf, BufMut, Bytes};

use crate::{
    mqtt::{broker::presence::Presence, protocol::packet::Protocol},
    shadow::{DeviceId, Timestamp},
    store::{RowEdit, RowKey},
};

/// The first byte of the keys. The device id follows.
pub(in crate::mqtt) const KIND: u8 = b'p';

const CONNECTED: u8 = 1;
const V5: u8 = 1 << 1;

/// Returns the edit that writes the presence of `device`, at `node` of a cluster or at a node alone.
pub(in crate::mqtt) fn put(device: &DeviceId, node: Option<u64>, presence: Presence) -> RowEdit {
    RowEdit::Put(key(device, node), value(presence).into())
}

/// Returns the edit that removes the row of `device`.
pub(in crate::mqtt) fn remove(device: &DeviceId, node: Option<u64>) -> RowEdit {
    RowEdit::Remove(key(device, node))
}

/// Reads a row, with its node in a cluster; `None` if it is damaged.
pub(in crate::mqtt) fn read(key: &[u8], value: Bytes) -> Option<(DeviceId, Option<u64>, Presence)> {
    let (device, node) = read_key(key)?;
    Some((device, node, read_value(value)?))
}

/// Reads the key of a row; `None` if it is damaged.
pub(in crate::mqtt) fn read_key(key: &[u8]) -> Option<(DeviceId, Option<u64>)> {
    let name = key.get(1..)?;
    let (device, node) = match name.iter().position(|byte| *byte == 0) {
        None => (name, None),
        Some(end) => {
            let (device, node) = name.split_at_checked(end)?;
            (device, Some(u64::from_be_bytes(node.get(1..)?.try_into().ok()?)))
        }
    };
    Some((DeviceId::new(std::str::from_utf8(device).ok()?).ok()?, node))
}

/// Returns the value of the row of `presence`.
pub(in crate::mqtt) fn value(presence: Presence) -> Vec<u8> {
    let Presence { connected, last_seen, address, protocol } = presence;
    let mut value = Vec::with_capacity(25);
    value.put_u8(if connected { CONNECTED } else { 0 } | if protocol == Protocol::V5 { V5 } else { 0 });
    value.put_u64(last_seen.0);
    match address {
        IpAddr::V4(address) => value.put_slice(&address.octets()),
        IpAddr::V6(address) => value.put_slice(&address.octets()),
    }
    value
}

/// Reads the value of a row; `None` if it is damaged.
pub(in crate::mqtt) fn read_value(mut value: Bytes) -> Option<Presence> {
    let flags = value.try_get_u8().ok()?;
    let last_seen = Timestamp(value.try_get_u64().ok()?);
    let address = match value.len() {
        4 => IpAddr::V4(<[u8; 4]>::try_from(value.as_ref()).ok()?.into()),
        _ => IpAddr::V6(<[u8; 16]>::try_from(value.as_ref()).ok()?.into()),
    };
    let protocol = if flags & V5 == 0 { Protocol::V4 } else { Protocol::V5 };
    Some(Presence { connected: flags & CONNECTED != 0, last_seen, address, protocol })
}

/// Returns the key of the row of `device`.
pub(in crate::mqtt) fn key(device: &DeviceId, node: Option<u64>) -> RowKey {
    let node = node.map(|node| [[0].as_slice(), &node.to_be_bytes()].concat()).unwrap_or_default();
    [&[KIND], device.as_str().as_bytes(), &node].concat().into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn presence_comes_back_and_damage_is_noticed() {
        let device = DeviceId::new("lamp:1").unwrap();
        for (connected, node, address, protocol) in [
            (true, None, "127.0.0.1", Protocol::V4),
            (false, Some(3), "::1", Protocol::V5),
            (true, Some(u64::MAX), "::ffff:10.0.0.1", Protocol::V5),
        ] {
            let address = address.parse().unwrap();
            let presence = Presence { connected, last_seen: Timestamp(1_790_000_000), address, protocol };
            let RowEdit::Put(key, value) = put(&device, node, presence) else { panic!("it is put") };
            assert_eq!(read(&key, value.clone()), Some((device.clone(), node, presence)));
            for length in (0..value.len()).filter(|length| *length != 13) {
                assert_eq!(read(&key, value.slice(..length)), None, "{length} bytes");
            }
            let is_read = |length: usize| key.get(..length).and_then(read_key).is_some();
            for length in 1..=key.len() {
                // Without the byte 0 it is the key of another device.
                let is_whole = (2..=7).contains(&length) || length == key.len();
                assert_eq!(is_read(length), is_whole, "{length} bytes of a key");
            }
        }
    }
}
