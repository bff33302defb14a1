//! The rows of devices that are or were connected: flags (1 byte), the last-seen time in seconds (8 bytes, big-endian),
//! the client address (4 or 16 bytes).
//!
//! A row is written when a device connects and when it disconnects, not in between. The row of a device that was
//! connected when the server stopped without notice says so; its last-seen time is then that of the clock row.

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

/// Returns the edit that writes the presence of `device`.
pub(in crate::mqtt) fn put(device: &DeviceId, presence: Presence) -> RowEdit {
    let Presence { connected, last_seen, address, protocol } = presence;
    let mut value = Vec::with_capacity(25);
    value.put_u8(if connected { CONNECTED } else { 0 } | if protocol == Protocol::V5 { V5 } else { 0 });
    value.put_u64(last_seen.0);
    match address {
        IpAddr::V4(address) => value.put_slice(&address.octets()),
        IpAddr::V6(address) => value.put_slice(&address.octets()),
    }
    RowEdit::Put(key(device), value.into())
}

/// Returns the edit that removes the row of `device`.
pub(in crate::mqtt) fn remove(device: &DeviceId) -> RowEdit {
    RowEdit::Remove(key(device))
}

/// Reads a row; `None` if it is damaged.
pub(in crate::mqtt) fn read(key: &[u8], mut value: Bytes) -> Option<(DeviceId, Presence)> {
    let device = DeviceId::new(std::str::from_utf8(key.get(1..)?).ok()?).ok()?;
    let flags = value.try_get_u8().ok()?;
    let last_seen = Timestamp(value.try_get_u64().ok()?);
    let address = match value.len() {
        4 => IpAddr::V4(<[u8; 4]>::try_from(value.as_ref()).ok()?.into()),
        _ => IpAddr::V6(<[u8; 16]>::try_from(value.as_ref()).ok()?.into()),
    };
    let protocol = if flags & V5 == 0 { Protocol::V4 } else { Protocol::V5 };
    Some((device, Presence { connected: flags & CONNECTED != 0, last_seen, address, protocol }))
}

fn key(device: &DeviceId) -> RowKey {
    [&[KIND], device.as_str().as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn presence_comes_back_and_damage_is_noticed() {
        let device = DeviceId::new("lamp:1").unwrap();
        for (connected, address, protocol) in
            [(true, "127.0.0.1", Protocol::V4), (false, "::1", Protocol::V5), (true, "::ffff:10.0.0.1", Protocol::V5)]
        {
            let address = address.parse().unwrap();
            let presence = Presence { connected, last_seen: Timestamp(1_790_000_000), address, protocol };
            let RowEdit::Put(key, value) = put(&device, presence) else { panic!("it is put") };
            assert_eq!(read(&key, value.clone()), Some((device.clone(), presence)));
            for length in (0..value.len()).filter(|length| *length != 13) {
                assert_eq!(read(&key, value.slice(..length)), None, "{length} bytes");
            }
        }
    }
}
