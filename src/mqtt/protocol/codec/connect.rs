//! The decoder of CONNECT: version detection, validation, and the CONNACK for a refusal.
//!
//! MQTT 3.1 (`MQIsdp`, level 3) is handled as 3.1.1; for a server they differ in CONNECT only. Client ids above the 23
//! characters of 3.1 are accepted. Bridges of mosquitto set the highest bit of the level in 3.1 and 3.1.1.
//!
//! User name and password are read here and not by rumqttd, which decodes a password as text and an empty user name as
//! none.

use std::num::NonZeroU16;

use bytes::{BufMut, Bytes, BytesMut};
use rumqttd::protocol::{self as rumqtt, Protocol as _};

use crate::mqtt::protocol::{
    codec::{
        decode::{optional, will_properties},
        encode,
        frame::{Frame, Kind},
        guard,
        property::{self, Section},
        put,
        reader::Reader,
    },
    packet::{ConnAck, Connect, Protocol, Reason, ServerPacket, Will},
    topic::{TopicName, is_clean},
    violation::Violation,
};

/// The largest client id, in UTF-8 bytes.
const CLIENT_ID_BYTES_MAX: usize = 256;

/// The refusal of a first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRefusal {
    /// The violation in the packet.
    pub violation: Violation,
    /// The version of the answer; `None` if the peer does not seem to use MQTT.
    pub protocol: Option<Protocol>,
    /// The client's Maximum Packet Size, if it was read.
    pub maximum_packet_size: Option<u32>,
}

impl ConnectRefusal {
    /// Appends the CONNACK for the refusal, if the protocol version has one for it.
    pub fn answer(&self, out: &mut Vec<u8>) {
        let Some(protocol) = self.protocol else { return };
        let connack = ServerPacket::ConnAck(Box::new(ConnAck::refused(self.violation.reason())));
        let _ = encode(protocol, &connack, bytes_max(self.maximum_packet_size), out); // the connection ends anyway
    }
}

/// Returns the largest packet for a client with this Maximum Packet Size, in bytes.
#[must_use]
pub fn bytes_max(maximum_packet_size: Option<u32>) -> usize {
    maximum_packet_size.and_then(|bytes| bytes.try_into().ok()).unwrap_or(usize::MAX)
}

impl ConnAck {
    /// Returns a refusal with `reason` and without reason string.
    #[must_use]
    pub fn refused(reason: Reason) -> Self {
        Self { session_present: false, reason, reason_string: None, assigned_client_id: None, limits: None }
    }
}

/// Decodes the first packet of a connection, which must be a CONNECT.
///
/// # Errors
///
/// A refusal, which has the CONNACK to send. The connection has to end.
pub fn decode_connect(frame: Frame) -> Result<Connect, ConnectRefusal> {
    let silent = |violation| ConnectRefusal { violation, protocol: None, maximum_packet_size: None };
    match frame.kind() {
        Ok(Kind::Connect) => {}
        Ok(_) => return Err(silent(Violation::NotConnected)), // [MQTT-3.1.0-1]
        Err(violation) => return Err(silent(violation)),
    }
    let version = detect_version(&frame)?;
    let mut maximum_packet_size = None;
    let connect = as_3_1_1(frame, version).and_then(|frame| {
        let login = check(version, &frame, &mut maximum_packet_size)?;
        build(version.protocol, &frame, login)
    });
    match connect {
        Ok(connect) => Ok(Connect { is_3_1: version.old, bridge: version.bridge, ..connect }),
        Err(violation) => Err(ConnectRefusal { violation, protocol: Some(version.protocol), maximum_packet_size }),
    }
}

/// The version of a CONNECT.
#[derive(Clone, Copy)]
struct Version {
    protocol: Protocol,
    /// True for MQTT 3.1, which is handled as 3.1.1.
    old: bool,
    bridge: bool,
}

fn detect_version(frame: &Frame) -> Result<Version, ConnectRefusal> {
    let mut reader = Reader::new(frame.body());
    let refuse = |violation, protocol| Err(ConnectRefusal { violation, protocol, maximum_packet_size: None });
    let (name, level) = match reader.binary().and_then(|name| Ok((name, reader.one()?))) {
        Ok(read) => read,
        Err(violation) => return refuse(violation, None),
    };
    match (name, level) {
        (b"MQTT", 4 | 0x84) => Ok(Version { protocol: Protocol::V4, old: false, bridge: level == 0x84 }),
        (b"MQIsdp", 3 | 0x83) => Ok(Version { protocol: Protocol::V4, old: true, bridge: level == 0x83 }),
        (b"MQTT", 5) => Ok(Version { protocol: Protocol::V5, old: false, bridge: false }),
        // Later versions get the MQTT 5 answer, others the 3.1.1 one [MQTT-3.1.2-2].
        (b"MQTT", 6..0x80) => refuse(Violation::ProtocolVersion, Some(Protocol::V5)),
        (b"MQTT" | b"MQIsdp", _) => refuse(Violation::ProtocolVersion, Some(Protocol::V4)),
        _ => refuse(Violation::ProtocolVersion, None), // [MQTT-3.1.2-1]
    }
}

/// Returns a CONNECT of 3.1, or of a bridge, with the name and level of 3.1.1.
fn as_3_1_1(frame: Frame, version: Version) -> Result<Frame, Violation> {
    if !version.old && !version.bridge {
        return Ok(frame);
    }
    let name = if version.old { OLD_NAME_BYTES } else { NAME.len() };
    let rest = frame.body().get(name + 1..).ok_or(Violation::Malformed)?;
    Ok(frame.with_body(&[NAME, &[4], rest]))
}

/// User name and password, which the guard reads instead of rumqttd.
struct Login {
    /// Position in the body where user name and password begin.
    at: usize,
    username: Option<String>,
    password: Option<Bytes>,
}

fn check(version: Version, frame: &Frame, maximum_packet_size: &mut Option<u32>) -> Result<Login, Violation> {
    let protocol = version.protocol;
    if protocol == Protocol::V5 && !frame.length_is_shortest() {
        return Err(Violation::VariableInteger);
    }
    let mut reader = Reader::new(frame.body());
    reader.take(FLAGS_AT)?;
    let flags = reader.one()?;
    check_flags(protocol, flags)?;
    reader.two()?; // Keep alive.
    if protocol == Protocol::V5 {
        *maximum_packet_size = property::check(Section::Connect, &mut reader)?;
    }
    let client_id = reader.string()?;
    // [MQTT-3.1.3-8] of 3.1.1: a session that is not clean needs an id. In 3.1 every client needs one.
    let anonymous = protocol == Protocol::V4 && client_id.is_empty() && (flags & CLEAN_START == 0 || version.old);
    if client_id.len() > CLIENT_ID_BYTES_MAX || anonymous || !is_clean(client_id) {
        return Err(Violation::ClientId);
    }
    if flags & WILL != 0 {
        if protocol == Protocol::V5 {
            property::check(Section::Will, &mut reader)?;
        }
        TopicName::new(reader.string()?).map_err(Violation::TopicName)?;
        reader.binary()?;
    }
    let at = frame.body().len() - reader.len();
    // In 3.1 the remaining length overrides the flags.
    let there = |reader: &Reader<'_>, flag| flags & flag != 0 && !(version.old && reader.is_empty());
    let username = if there(&reader, USERNAME) { Some(reader.string()?) } else { None };
    if protocol == Protocol::V5 && !username.is_none_or(is_clean) {
        return Err(Violation::Character); // for a 3.1.1 client the login fails, since no such user exists
    }
    let password = if there(&reader, PASSWORD) { Some(Bytes::copy_from_slice(reader.binary()?)) } else { None };
    reader.end()?;
    Ok(Login { at, username: username.map(str::to_owned), password })
}

fn check_flags(protocol: Protocol, flags: u8) -> Result<(), Violation> {
    if flags & 1 != 0 {
        return Err(Violation::ReservedBits("CONNECT flags")); // [MQTT-3.1.2-3]
    }
    guard::qos(flags >> 3)?;
    let no_will = flags & WILL == 0;
    // [MQTT-3.1.2-11], [MQTT-3.1.2-13]; and [MQTT-3.1.2-22] of 3.1.1 alone.
    let contradict = (no_will && flags & (WILL_QOS | WILL_RETAIN) != 0)
        || (protocol == Protocol::V4 && flags & USERNAME == 0 && flags & PASSWORD != 0);
    if contradict { Err(Violation::ConnectFlags) } else { Ok(()) }
}

fn build(protocol: Protocol, frame: &Frame, login: Login) -> Result<Connect, Violation> {
    let mut bytes = without_login(frame, login.at);
    let packet = match protocol {
        Protocol::V4 => rumqtt::v4::V4.read_mut(&mut bytes, usize::MAX),
        Protocol::V5 => rumqtt::v5::V5.read_mut(&mut bytes, usize::MAX),
    };
    let Ok(rumqtt::Packet::Connect(connect, properties, will, will_properties, _)) = packet else {
        return Err(Violation::Malformed);
    };
    let properties = properties.as_ref();
    let session_expiry = match protocol {
        Protocol::V4 if connect.clean_session => 0,
        Protocol::V4 => u32::MAX,
        Protocol::V5 => properties.and_then(|properties| properties.session_expiry_interval).unwrap_or(0),
    };
    Ok(Connect {
        protocol,
        is_3_1: false,
        bridge: false,
        client_id: connect.client_id,
        clean_start: connect.clean_session,
        keep_alive: connect.keep_alive,
        session_expiry,
        receive_maximum: properties
            .and_then(|properties| NonZeroU16::new(properties.receive_maximum?))
            .unwrap_or(NonZeroU16::MAX),
        maximum_packet_size: properties.and_then(|properties| properties.max_packet_size),
        request_problem_information: properties.and_then(|properties| properties.request_problem_info) != Some(0),
        authentication_method: properties.and_then(|properties| properties.authentication_method.clone()),
        will: will.map(|will| build_will(will, will_properties)).transpose()?,
        username: login.username,
        password: login.password,
    })
}

fn build_will(will: rumqtt::LastWill, properties: Option<rumqtt::LastWillProperties>) -> Result<Will, Violation> {
    let topic = std::str::from_utf8(&will.topic).map_err(|_| Violation::BadString)?;
    let delay = properties.as_ref().and_then(|properties| properties.delay_interval).unwrap_or(0);
    Ok(Will {
        topic: TopicName::new(topic).map_err(Violation::TopicName)?,
        // A copy, since it outlives the read buffer by the whole connection.
        payload: Bytes::copy_from_slice(&will.message),
        qos: guard::qos(will.qos as u8)?,
        retain: will.retain,
        delay,
        properties: properties.map(will_properties).transpose()?.and_then(optional),
    })
}

/// Returns the CONNECT without user name, password and their flags.
fn without_login(frame: &Frame, login_at: usize) -> BytesMut {
    let body = frame.body().get(..login_at).unwrap_or_default();
    let mut header = vec![frame.first_byte()];
    put::varint(body.len(), &mut header);
    let mut bytes = BytesMut::with_capacity(header.len() + body.len());
    bytes.put_slice(&header);
    bytes.put_slice(body);
    if let Some(flags) = bytes.get_mut(header.len() + FLAGS_AT) {
        *flags &= !(USERNAME | PASSWORD);
    }
    bytes
}

/// The encoded protocol name.
const NAME: &[u8] = b"\0\x04MQTT";
/// Bytes of the encoded protocol name of MQTT 3.1.
const OLD_NAME_BYTES: usize = 8;

/// Position of the CONNECT flags in the body: after the protocol name `MQTT` and level.
const FLAGS_AT: usize = 7;

const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS: u8 = 0b0001_1000;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USERNAME: u8 = 0b1000_0000;
