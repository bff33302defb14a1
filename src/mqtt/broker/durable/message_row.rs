//! The encoding of a message in a row: the date in milliseconds (8 bytes, big-endian), then an MQTT 5 PUBLISH packet,
//! whose message expiry interval counts from that date.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::mqtt::protocol::{
    codec::{FrameLimits, decode, split_frame},
    message::{Delivery, Message},
    packet::{ClientPacket, PacketId, Protocol, Publish, QoS},
};

/// The present time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::mqtt) struct Now {
    pub(in crate::mqtt) date_ms: u64,
    pub(in crate::mqtt) instant: Instant,
}

/// A message from a row.
#[derive(Debug)]
pub(in crate::mqtt) struct RestoredMessage {
    pub(in crate::mqtt) message: Message,
    /// The date when the row was written, in milliseconds.
    pub(in crate::mqtt) date_ms: u64,
    /// True if its message expiry interval has passed.
    pub(in crate::mqtt) is_expired: bool,
}

/// Appends `message` to a row written at `now`.
pub(in crate::mqtt) fn put(message: &Arc<Message>, now: Now, out: &mut Vec<u8>) {
    out.put_u64(now.date_ms);
    let delivery = Delivery { retain: message.retain, ..Delivery::new(message.clone(), message.qos) };
    let id = if message.qos == QoS::AtMostOnce { None } else { PacketId::new(1) };
    let is_written = delivery.write(Protocol::V5, id, false, now.instant, usize::MAX, out);
    debug_assert!(is_written, "a message from a packet fits into one");
}

/// Returns the message at the end of a row; `None` if it is damaged.
pub(in crate::mqtt) fn read(mut row: Bytes, now: Now) -> Option<RestoredMessage> {
    let date_ms = row.try_get_u64().ok()?;
    let limits = FrameLimits { packet_bytes_max: usize::MAX, dup_on_control: false };
    let frame = split_frame(&mut BytesMut::from(row), limits).ok()??;
    let ClientPacket::Publish(publish) = decode(Protocol::V5, frame).ok()? else { return None };
    let Publish { topic, payload, qos, retain, mut properties, .. } = publish;
    let passed = Duration::from_millis(now.date_ms.saturating_sub(date_ms)).as_secs();
    let mut is_expired = false;
    if let Some(expiry) = properties.as_mut().and_then(|properties| properties.message_expiry.as_mut()) {
        is_expired = u64::from(*expiry) <= passed;
        *expiry = expiry.saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX));
    }
    let message = Message::new(topic?, payload, qos, retain, properties, now.instant);
    Some(RestoredMessage { message, date_ms, is_expired })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::mqtt::protocol::{packet::Properties, topic::TopicName};

    fn now(date_ms: u64) -> Now {
        Now { date_ms, instant: Instant::now() }
    }

    fn message(qos: QoS, retain: bool, expiry: Option<u32>) -> Arc<Message> {
        let properties = Properties {
            message_expiry: expiry,
            content_type: Some("text/plain".into()),
            correlation_data: Some(Bytes::from_static(b"\0\x01")),
            user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            ..Properties::default()
        };
        let (topic, payload) = (TopicName::new("plant/1").unwrap(), Bytes::from_static(b"on"));
        Arc::new(Message::new(topic, payload, qos, retain, Some(Box::new(properties)), Instant::now()))
    }

    #[test]
    fn a_message_comes_back_with_all_its_properties() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for (retain, expiry) in [(false, None), (true, Some(100))] {
                let (message, mut row) = (message(qos, retain, expiry), Vec::new());
                put(&message, now(5_000), &mut row);
                let read = read(row.into(), now(5_400)).unwrap();
                assert_eq!(read.date_ms, 5_000);
                let same = read.message;
                assert_eq!((&same.topic, &same.payload), (&message.topic, &message.payload));
                assert_eq!((same.qos, same.retain), (qos, retain));
                assert_eq!(same.properties, message.properties);
            }
        }
    }

    #[test]
    fn the_expiry_counts_while_the_server_is_down() {
        let mut row = Vec::new();
        put(&message(QoS::AtLeastOnce, false, Some(100)), now(5_000), &mut row);
        let expiry = |date| {
            let read = read(row.clone().into(), now(date)).unwrap();
            let left = read.message.expires_at.unwrap() - Instant::now();
            assert!(left.as_secs() < 100);
            (read.message.properties.unwrap().message_expiry, read.is_expired)
        };
        assert_eq!(expiry(5_000 + 60_000), (Some(40), false));
        assert_eq!(expiry(5_000 + 100_000), (Some(0), true));
        assert_eq!(expiry(0), (Some(100), false), "a date that jumped back");
    }

    #[test]
    fn a_damaged_row_gives_nothing() {
        let mut row = Vec::new();
        put(&message(QoS::AtLeastOnce, true, None), now(1), &mut row);
        for length in 0..row.len() {
            assert!(read(Bytes::copy_from_slice(row.get(..length).unwrap()), now(1)).is_none(), "{length} bytes");
        }
    }
}
