//! The decoder for packets of a connected client: the guard, then rumqttd, then the server's own types.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use rumqttd::protocol::{self as rumqtt, Protocol as _};

use crate::mqtt::protocol::{
    codec::{
        frame::{Frame, Kind},
        guard::{self, Checked},
    },
    packet::{ClientPacket, Properties, Protocol, Publish, Reason, RetainHandling, Subscribe, Subscription},
    topic::{TopicError, TopicFilter, TopicName},
    violation::Violation,
};

/// Decodes a packet of a connected client.
///
/// # Errors
///
/// A connected client may not send the packet, or it is malformed.
pub fn decode(protocol: Protocol, frame: Frame) -> Result<ClientPacket, Violation> {
    let kind = frame.kind()?;
    let first_byte = frame.first_byte();
    let checked = guard::check(protocol, kind, &frame)?;
    let mut bytes = accepted_by_rumqttd(kind, frame);
    let packet = match protocol {
        Protocol::V4 => rumqtt::v4::V4.read_mut(&mut bytes, usize::MAX),
        Protocol::V5 => rumqtt::v5::V5.read_mut(&mut bytes, usize::MAX),
    };
    build(packet.map_err(|_| Violation::Malformed)?, checked, first_byte)
}

/// Adds a property length to a DISCONNECT with a reason code, which rumqttd requires and the standard does not (section
/// 3.14.2.2.1).
fn accepted_by_rumqttd(kind: Kind, frame: Frame) -> BytesMut {
    match (kind, frame.body()) {
        (Kind::Disconnect, &[reason]) => BytesMut::from([frame.first_byte(), 2, reason, 0].as_slice()),
        _ => frame.bytes,
    }
}

fn build(packet: rumqtt::Packet, checked: Checked, first_byte: u8) -> Result<ClientPacket, Violation> {
    let Checked { id, reason, topic } = checked;
    let with_id = id.ok_or(Violation::Malformed);
    Ok(match packet {
        rumqtt::Packet::Publish(publish, properties) => {
            let alias = properties.as_ref().and_then(|properties| properties.topic_alias).map(alias).transpose()?;
            if topic.is_none() && alias.is_none() {
                return Err(Violation::NoTopic); // section 3.3.2.1
            }
            ClientPacket::Publish(Publish {
                topic,
                alias,
                payload: publish.payload,
                qos: guard::qos(first_byte >> 1)?,
                id,
                dup: first_byte & 0b1000 != 0,
                retain: publish.retain,
                properties: properties.map(publish_properties).transpose()?.and_then(optional),
            })
        }
        rumqtt::Packet::PubAck(..) => ClientPacket::PubAck(with_id?, reason),
        rumqtt::Packet::PubRec(..) => ClientPacket::PubRec(with_id?, reason),
        rumqtt::Packet::PubRel(..) => ClientPacket::PubRel(with_id?),
        rumqtt::Packet::PubComp(..) => ClientPacket::PubComp(with_id?),
        rumqtt::Packet::Subscribe(subscribe, properties) => ClientPacket::Subscribe(Subscribe {
            id: with_id?,
            subscription_id: properties.and_then(|properties| u32::try_from(properties.id?).ok()),
            filters: subscribe.filters.into_iter().map(subscription).collect::<Result<_, _>>()?,
        }),
        rumqtt::Packet::Unsubscribe(unsubscribe, _) => ClientPacket::Unsubscribe(
            with_id?,
            unsubscribe.filters.iter().map(|text| TopicFilter::new(text).map_err(filter_reason)).collect(),
        ),
        rumqtt::Packet::PingReq(_) => ClientPacket::PingReq,
        rumqtt::Packet::Disconnect(_, properties) => {
            ClientPacket::Disconnect(reason, properties.and_then(|properties| properties.session_expiry_interval))
        }
        rumqtt::Packet::Connect(..)
        | rumqtt::Packet::ConnAck(..)
        | rumqtt::Packet::SubAck(..)
        | rumqtt::Packet::UnsubAck(..)
        | rumqtt::Packet::PingResp(_) => return Err(Violation::Malformed),
    })
}

fn alias(alias: u16) -> Result<NonZeroU16, Violation> {
    NonZeroU16::new(alias).ok_or(Violation::TopicAliasRange(alias)) // [MQTT-3.3.2-8]
}

fn subscription(filter: rumqtt::Filter) -> Result<Result<Subscription, Reason>, Violation> {
    let qos = guard::qos(filter.qos as u8)?;
    Ok(TopicFilter::new(&filter.path).map_err(filter_reason).map(|parsed| Subscription {
        filter: parsed,
        qos,
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retain_handling: match filter.retain_forward_rule {
            rumqtt::RetainForwardRule::OnEverySubscribe => RetainHandling::Send,
            rumqtt::RetainForwardRule::OnNewSubscribe => RetainHandling::SendIfNew,
            rumqtt::RetainForwardRule::Never => RetainHandling::DoNotSend,
        },
    }))
}

fn filter_reason(_: TopicError) -> Reason {
    Reason::TOPIC_FILTER_INVALID
}

fn publish_properties(properties: rumqtt::PublishProperties) -> Result<Properties, Violation> {
    Ok(Properties {
        payload_format_indicator: properties.payload_format_indicator,
        message_expiry: properties.message_expiry_interval,
        content_type: properties.content_type,
        response_topic: response_topic(properties.response_topic)?,
        // A copy, since it may outlive the read buffer in a retained message or a reply.
        correlation_data: properties.correlation_data.map(|data| Bytes::copy_from_slice(&data)),
        user: properties.user_properties,
    })
}

/// Returns the properties of a will that are forwarded with its message.
pub(crate) fn will_properties(properties: rumqtt::LastWillProperties) -> Result<Properties, Violation> {
    Ok(Properties {
        payload_format_indicator: properties.payload_format_indicator,
        message_expiry: properties.message_expiry_interval,
        content_type: properties.content_type,
        response_topic: response_topic(properties.response_topic)?,
        correlation_data: properties.correlation_data.map(|data| Bytes::copy_from_slice(&data)),
        user: properties.user_properties,
    })
}

/// Boxes the properties, unless all of them are absent.
pub(crate) fn optional(properties: Properties) -> Option<Box<Properties>> {
    (properties != Properties::default()).then(|| Box::new(properties))
}

fn response_topic(text: Option<String>) -> Result<Option<TopicName>, Violation> {
    text.map(|text| TopicName::new(&text).map_err(Violation::TopicName)).transpose()
}
