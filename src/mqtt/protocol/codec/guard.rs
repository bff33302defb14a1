//! The guard: checks a packet of a connected client before rumqttd decodes it, for everything that rumqttd does not
//! check.
//!
//! Not here: the guard of CONNECT ([`super::connect`]).

use crate::mqtt::protocol::{
    codec::{
        frame::{Frame, Kind},
        property::{self, Section},
        reader::Reader,
    },
    packet::{PacketId, Protocol, QoS, Reason},
    topic::TopicName,
    violation::Violation,
};

/// The fields that the guard read and the decoder does not expose.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The packet identifier, if the packet has one.
    pub(crate) id: Option<PacketId>,
    /// The reason code; success if the packet has none.
    pub(crate) reason: Reason,
    /// The topic of a PUBLISH; `None` if an alias determines it.
    pub(crate) topic: Option<TopicName>,
}

/// Checks a packet other than CONNECT.
pub(crate) fn check(protocol: Protocol, kind: Kind, frame: &Frame) -> Result<Checked, Violation> {
    if protocol == Protocol::V5 && !frame.length_is_shortest() {
        return Err(Violation::VariableInteger);
    }
    let mut reader = Reader::new(frame.body());
    let mut checked = Checked { id: None, reason: Reason::SUCCESS, topic: None };
    match kind {
        Kind::Connect => return Err(Violation::SecondConnect), // [MQTT-3.1.0-2]
        Kind::Auth if protocol == Protocol::V4 => return Err(Violation::UnknownPacketType(15)),
        Kind::Auth => return Err(Violation::Auth), // section 4.12
        Kind::Publish => {
            // The rest is the payload, which is not checked.
            (checked.topic, checked.id) = publish(protocol, frame.first_byte(), &mut reader)?;
            return Ok(checked);
        }
        Kind::PubAck | Kind::PubRec | Kind::PubRel | Kind::PubComp => {
            checked.id = Some(packet_id(&mut reader)?);
            checked.reason = reason(protocol, Section::Ack, &mut reader)?;
        }
        Kind::Subscribe => {
            checked.id = Some(packet_id(&mut reader)?);
            filters(protocol, Section::Subscribe, &mut reader)?;
        }
        Kind::Unsubscribe => {
            checked.id = Some(packet_id(&mut reader)?);
            filters(protocol, Section::Unsubscribe, &mut reader)?;
        }
        Kind::PingReq => {}
        Kind::Disconnect => checked.reason = reason(protocol, Section::Disconnect, &mut reader)?,
    }
    reader.end()?;
    Ok(checked)
}

/// Returns the QoS in the flags of a PUBLISH, or of a will in the flags of CONNECT.
pub(crate) fn qos(bits: u8) -> Result<QoS, Violation> {
    match bits & 3 {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        _ => Err(Violation::BadQoS), // [MQTT-3.3.1-4], [MQTT-3.1.2-12]
    }
}

fn publish(
    protocol: Protocol,
    first_byte: u8,
    reader: &mut Reader<'_>,
) -> Result<(Option<TopicName>, Option<PacketId>), Violation> {
    let qos = qos(first_byte >> 1)?;
    if qos == QoS::AtMostOnce && first_byte & DUP != 0 {
        return Err(Violation::DupAtQoS0); // [MQTT-3.3.1-2]
    }
    // An empty topic needs an alias, which only MQTT 5 has.
    let topic = match reader.string()? {
        "" if protocol == Protocol::V5 => None,
        text => Some(TopicName::lenient(text).map_err(Violation::TopicName)?),
    };
    let id = if qos == QoS::AtMostOnce { None } else { Some(packet_id(reader)?) };
    if protocol == Protocol::V5 {
        property::check(Section::Publish, reader)?;
    }
    Ok((topic, id))
}

fn packet_id(reader: &mut Reader<'_>) -> Result<PacketId, Violation> {
    PacketId::new(reader.two()?).ok_or(Violation::PacketIdZero) // [MQTT-2.2.1-3]
}

/// Reads the reason code and checks the properties. An MQTT 5 packet may omit both at its end.
fn reason(protocol: Protocol, section: Section, reader: &mut Reader<'_>) -> Result<Reason, Violation> {
    if protocol == Protocol::V4 || reader.is_empty() {
        return Ok(Reason::SUCCESS);
    }
    let reason = Reason(reader.one()?);
    if !reader.is_empty() {
        property::check(section, reader)?;
    }
    Ok(reason)
}

fn filters(protocol: Protocol, section: Section, reader: &mut Reader<'_>) -> Result<(), Violation> {
    if protocol == Protocol::V5 {
        property::check(section, reader)?;
    }
    if reader.is_empty() {
        return Err(Violation::NoFilter); // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
    }
    while !reader.is_empty() {
        let filter = reader.string()?;
        if section == Section::Subscribe {
            options(protocol, filter, reader.one()?)?;
        }
    }
    Ok(())
}

fn options(protocol: Protocol, filter: &str, options: u8) -> Result<(), Violation> {
    qos(options)?;
    let reserved = if protocol == Protocol::V4 { 0b1111_1100 } else { 0b1100_0000 };
    if options & reserved != 0 {
        return Err(Violation::ReservedBits("subscription options")); // [MQTT-3.8.3-5]
    }
    let retain_handling = options >> 4;
    // [MQTT-3.8.3-4]
    if retain_handling == 3 || (options & NO_LOCAL != 0 && filter.starts_with("$share/")) {
        return Err(Violation::SubscriptionOptions);
    }
    Ok(())
}

const DUP: u8 = 0b1000;
const NO_LOCAL: u8 = 0b100;
