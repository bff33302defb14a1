//! The rows of subscriptions: QoS and options (1 byte), then the subscription identifier (4 bytes, big-endian) if there
//! is one.

use bytes::{Buf, BufMut, Bytes};

use crate::{
    mqtt::{
        broker::outbox::SessionId,
        protocol::{
            packet::{QoS, RetainHandling, Subscription},
            topic::TopicFilter,
        },
    },
    store::{RowEdit, RowKey},
};

/// The first byte of the keys. The session's id follows (8 bytes, big-endian), then the filter.
pub(in crate::mqtt) const KIND: u8 = b'f';

const NO_LOCAL: u8 = 1 << 2;
const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
/// Not all retained messages were sent that the SUBSCRIBE asked for.
const RETAINED_DUE: u8 = 1 << 4;

/// Returns the edit that adds or replaces a subscription, for which retained messages are due if its retain handling says so.
pub(in crate::mqtt) fn put(session: SessionId, subscription: &Subscription, id: Option<u32>) -> RowEdit {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let options = subscription.qos as u8
        | flag(subscription.no_local, NO_LOCAL)
        | flag(subscription.retain_as_published, RETAIN_AS_PUBLISHED)
        | flag(subscription.retain_handling == RetainHandling::Send, RETAINED_DUE);
    let mut value = vec![options];
    if let Some(id) = id {
        value.put_u32(id);
    }
    RowEdit::Put(key(session, &subscription.filter), value.into())
}

/// Returns the edit that removes a subscription.
pub(in crate::mqtt) fn remove(session: SessionId, filter: &TopicFilter) -> RowEdit {
    RowEdit::Remove(key(session, filter))
}

/// Reads a row: the session, the subscription and its identifier. `None` if it is damaged.
pub(in crate::mqtt) fn read(key: &[u8], mut value: Bytes) -> Option<(SessionId, Subscription, Option<u32>)> {
    let (session, filter) = key.get(1..)?.split_first_chunk::<8>()?;
    let options = value.try_get_u8().ok()?;
    let subscription = Subscription {
        filter: TopicFilter::new(std::str::from_utf8(filter).ok()?).ok()?,
        qos: QoS::from_bits(options & 3)?,
        no_local: options & NO_LOCAL != 0,
        retain_as_published: options & RETAIN_AS_PUBLISHED != 0,
        retain_handling: match options & RETAINED_DUE {
            0 => RetainHandling::DoNotSend,
            _ => RetainHandling::Send,
        },
    };
    Some((SessionId(u64::from_be_bytes(*session)), subscription, value.try_get_u32().ok()))
}

fn key(session: SessionId, filter: &TopicFilter) -> RowKey {
    [&[KIND], session.0.to_be_bytes().as_slice(), filter.to_string().as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn subscriptions_come_back() {
        for (filter, qos, id) in [
            ("a/+/#", QoS::AtMostOnce, None),
            ("$share/g/x", QoS::AtLeastOnce, Some(268_435_455)),
            ("é", QoS::ExactlyOnce, Some(1)),
        ] {
            for flag in [false, true] {
                let subscription = Subscription {
                    filter: TopicFilter::new(filter).unwrap(),
                    qos,
                    no_local: flag,
                    retain_as_published: !flag,
                    retain_handling: if flag { RetainHandling::Send } else { RetainHandling::DoNotSend },
                };
                let RowEdit::Put(key, value) = put(SessionId(7), &subscription, id) else { panic!("it is put") };
                assert_eq!(read(&key, value), Some((SessionId(7), subscription, id)));
            }
        }
    }
}
