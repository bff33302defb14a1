//! The check of MQTT 5 property sections.
//!
//! Each property must exist, be allowed in its packet, occur once, have a valid value, and end within the section. The
//! number of user properties, which may be repeated, is limited.
//!
//! Strings with control characters or non-characters make a packet malformed. In a PUBLISH they are accepted here, and
//! the acknowledgement refuses the message.
//!
//! The decoder of rumqttd makes only the first two checks, and reads past the end of a section.

use crate::mqtt::protocol::{
    codec::reader::Reader,
    topic::{TopicName, is_clean},
    violation::Violation::{self, Character, DuplicateProperty, PropertyValue, TooManyUserProperties, UnknownProperty},
};

/// The place of a property section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Connect,
    Will,
    Publish,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Ack,
    Subscribe,
    Unsubscribe,
    Disconnect,
}

/// Reads and checks a property section, which begins with its length. Returns the Maximum Packet Size in it, which
/// limits the answer to a CONNECT that is refused for a later field.
pub(crate) fn check(section: Section, reader: &mut Reader<'_>) -> Result<Option<u32>, Violation> {
    let length = reader.varint()?;
    let mut properties = Reader::new(reader.take(length)?);
    let (mut seen, mut user, mut maximum_packet_size) = (0_u64, 0, None);
    while !properties.is_empty() {
        // Identifiers are variable byte integers, but all that exist are below 0x80.
        let id = properties.one()?;
        if !belongs(id, section) {
            return Err(UnknownProperty(id)); // [MQTT-4.13.1-1], section 2.2.2.2
        }
        let mut value = properties;
        check_value(section, id, &mut properties)?;
        if id == MAXIMUM_PACKET_SIZE {
            maximum_packet_size = Some(value.four()?);
        }
        let bit = 1_u64 << id;
        if id == USER_PROPERTY {
            user += 1;
            if user > USER_PROPERTIES_MAX {
                return Err(TooManyUserProperties);
            }
        } else if seen & bit != 0 {
            return Err(DuplicateProperty(id));
        }
        seen |= bit;
    }
    if seen & (1 << AUTHENTICATION_DATA) != 0 && seen & (1 << AUTHENTICATION_METHOD) == 0 {
        return Err(PropertyValue(AUTHENTICATION_DATA)); // section 3.1.2.11.10
    }
    Ok(maximum_packet_size)
}

/// Returns true if clients may send property `id` in this section, by OASIS MQTT 5.0 table 2-4. This excludes a
/// subscription identifier in PUBLISH, and the server reference.
fn belongs(id: u8, section: Section) -> bool {
    match id {
        0x01 | 0x02 | 0x03 | 0x08 | 0x09 => matches!(section, Section::Publish | Section::Will),
        0x0B => section == Section::Subscribe,
        0x11 => matches!(section, Section::Connect | Section::Disconnect),
        AUTHENTICATION_METHOD | AUTHENTICATION_DATA | 0x17 | 0x19 | 0x21 | 0x22 | MAXIMUM_PACKET_SIZE => {
            section == Section::Connect
        }
        0x18 => section == Section::Will,
        0x1F => matches!(section, Section::Ack | Section::Disconnect),
        0x23 => section == Section::Publish,
        USER_PROPERTY => true,
        _ => false,
    }
}

fn check_value(section: Section, id: u8, reader: &mut Reader<'_>) -> Result<(), Violation> {
    let string = |reader: &mut Reader<'_>| match reader.string()? {
        text if section == Section::Publish || is_clean(text) => Ok(true),
        _ => Err(Character), // section 1.5.4
    };
    let possible = match id {
        0x01 | 0x17 | 0x19 => reader.one()? <= 1,
        0x02 | 0x11 | 0x18 => reader.four().map(|_| true)?,
        0x03 | AUTHENTICATION_METHOD | 0x1F => string(reader)?,
        RESPONSE_TOPIC => return TopicName::new(reader.string()?).map(drop).map_err(Violation::TopicName), // [MQTT-3.3.2-14]
        0x09 | AUTHENTICATION_DATA => reader.binary().map(|_| true)?,
        0x0B => reader.varint()? > 0, // section 3.8.2.1.2
        0x21 => reader.two()? > 0,    // section 3.1.2.11.3
        // Zero has its own meaning (topic alias maximum) or its own reason code (topic alias).
        0x22 | 0x23 => reader.two().map(|_| true)?,
        USER_PROPERTY => string(reader)? && string(reader)?,
        MAXIMUM_PACKET_SIZE => reader.four()? > 0, // section 3.1.2.11.4
        other => return Err(UnknownProperty(other)),
    };
    if possible { Ok(()) } else { Err(PropertyValue(id)) }
}

const RESPONSE_TOPIC: u8 = 0x08;
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;
const USER_PROPERTY: u8 = 0x26;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// User properties of one packet. Each is decoded to two strings, many times larger than its minimum of five bytes.
pub const USER_PROPERTIES_MAX: usize = 256;
