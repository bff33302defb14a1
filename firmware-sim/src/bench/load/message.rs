//! The updates of a measured device, and the version in their replies.
//!
//! Updates differ in a few digits only, so each is a copy of a template with the digits overwritten. Every field has a
//! fixed width: numbers need no padding, the version is padded with spaces.

use anyhow::{Context, ensure};

use crate::bench::frame::{Protocol, write_publish_with, write_text};

/// Bytes of a device id, all of the form `bench-0000042`.
pub(crate) const ID_BYTES: usize = 13;

/// Returns the id of a device, the number of which has at most seven digits.
pub(crate) fn device_id(number: usize) -> String {
    format!("bench-{number:07}")
}

/// Returns the number of a device from its [`device_id`].
pub(crate) fn device_number(id: &[u8]) -> usize {
    id.iter().filter(|byte| byte.is_ascii_digit()).fold(0, |number, digit| 10 * number + usize::from(digit - b'0'))
}

/// Returns the bytes of [`device_id`], without allocation.
pub(crate) fn device_id_bytes(number: usize) -> [u8; ID_BYTES] {
    let mut id = *b"bench-0000000";
    digits(&mut id, "bench-".len(), 7, number as u64);
    id
}

/// The place of a reply to one request in flight, for MQTT 5: a Response Topic of the connection and the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    /// The number of the connection, at most 99,999.
    pub(crate) connection: usize,
    /// The request's place among those in flight, at most 99.
    pub(crate) slot: usize,
}

impl ReplyTo {
    /// Returns the filter of the replies to a connection.
    pub(crate) fn filter(connection: usize) -> String {
        format!("reply/{connection:05}/+")
    }

    /// Returns the slot of a reply.
    pub(crate) fn slot_of(topic: &[u8]) -> Option<usize> {
        let (connection, slot) = topic.strip_prefix(b"reply/")?.split_at_checked(5)?;
        let all_digits = connection.iter().all(u8::is_ascii_digit);
        str::from_utf8(slot.strip_prefix(b"/")?).ok()?.parse().ok().filter(|_| all_digits)
    }

    /// Returns the properties of a request: the Response Topic, of a fixed width.
    fn properties(self) -> Vec<u8> {
        let topic = format!("reply/{:05}/{:02}", self.connection, self.slot);
        let mut properties = vec![RESPONSE_TOPIC];
        write_text(&mut properties, topic.as_bytes());
        properties
    }
}

/// The identifier of the property.
const RESPONSE_TOPIC: u8 = 0x08;

/// Returns the first update of device `shadow`: the whole document, without a precondition, since the shadow may exist from
/// an earlier run. `desired` and `reported` agree, so no delta follows. As in a fleet, the devices have the same members and
/// differ in their identity, their place and their readings.
pub(crate) fn full_report(shadow: usize) -> String {
    // Digits that look random and are the same in each run.
    let unique = (shadow as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let below = |bits: u32, end: u64| (unique >> bits) % end;
    let firmware = match below(9, 4) {
        0 => "1.3.9",
        1 => "1.4.1",
        _ => "1.4.2",
    };
    let target = format!("{}.{}", 18 + below(3, 5), below(3, 10));
    format!(
        concat!(
            r#"{{"state":{{"desired":{{"target":{target},"mode":"heat"}},"reported":{{"target":{target},"mode":"heat","#,
            r#""model":"umbra-thermostat-2","serial":"UT2-{serial:06}-{suffix:04x}","firmware":"{firmware}","temperature":{temperature}.25,"#,
            r#""humidity":{humidity}.5,"valve":{valve},"rssi":-{rssi},"uptime":{uptime},"battery":{{"percent":{percent}.5,"volts":3.{volts}}},"#,
            r#""network":{{"ssid":"building-{building}","channel":{channel},"address":"10.{a}.{b}.{c}","gateway":"10.{a}.0.1"}},"#,
            r#""limits":{{"min":5,"max":35}},"modes":["heat","eco","off"],"#,
            r#""features":["window-open","child-lock","frost-guard","valve-exercise","summer-mode","boost"],"#,
            r#""schedule":["06:30 21.5","08:30 18.0","16:00 21.0","22:30 17.0"],"calibration":[0.{zero:02},-0.0{low},1.0]}}}}}}"#
        ),
        target = target,
        firmware = firmware,
        serial = shadow,
        suffix = below(20, 0x1_0000),
        temperature = 15 + below(5, 12),
        humidity = 30 + below(7, 40),
        valve = below(11, 100),
        rssi = 40 + below(13, 50),
        uptime = below(15, 9_000_000),
        percent = below(17, 100),
        volts = below(19, 6),
        building = below(21, 400),
        channel = 1 + below(23, 13),
        a = below(25, 250),
        b = below(27, 250),
        c = below(29, 250),
        zero = below(31, 30),
        low = below(33, 9),
    )
}

/// The kind of the updates after the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UpdateKind {
    /// Without a version: the last write wins.
    Unconditional,
    /// With the known version.
    Conditional,
    /// With the version before, to be rebased: two sets of fields alternate, so that it always can be.
    Rebase,
    /// With the known version, and a new idempotency key.
    Keyed,
}

impl UpdateKind {
    /// Returns its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unconditional => "unconditional",
            Self::Conditional => "conditional",
            Self::Rebase => "rebase",
            Self::Keyed => "keyed",
        }
    }

    /// Returns the payload of an update; `other` is the second set of fields.
    fn payload(self, other: bool) -> String {
        let fields = match other {
            false => r#"{"temperature":00.00,"humidity":00.0,"rssi":-00,"uptime":0000000}"#,
            true => r#"{"surrounding":00.00,"moisture":00.0,"link":-00,"cycles":0000000}"#,
        };
        let guard = match self {
            Self::Unconditional => "",
            Self::Conditional => r#","version":          0"#,
            Self::Rebase => r#","onConflict":"rebase","version":          0"#,
            Self::Keyed => r#","idempotencyKey":"update-0000000000","version":          0"#,
        };
        format!(r#"{{"state":{{"reported":{fields}}}{guard}}}"#)
    }
}

/// Appends a request without a template: the first update of a shadow, or a get; MQTT 5, with its reply to `reply`.
pub(crate) fn write_request(out: &mut Vec<u8>, shadow: usize, operation: &str, reply: ReplyTo, payload: &[u8]) {
    let topic = format!("shadow/{}/{operation}", device_id(shadow));
    let packet_id = Some(reply.slot as u16 + 1);
    write_publish_with(out, Protocol::V5, topic.as_bytes(), packet_id, &reply.properties(), payload);
}

/// The templates of the updates of one kind.
#[derive(Debug)]
pub(crate) struct Templates {
    kind: UpdateKind,
    first: Template,
    second: Template,
}

impl Templates {
    /// Returns the templates for one MQTT version.
    pub(crate) fn new(protocol: Protocol, kind: UpdateKind) -> anyhow::Result<Self> {
        let template = |other| Template::new(protocol, &kind.payload(other), &[]);
        Ok(Self { kind, first: template(false)?, second: template(true)? })
    }

    /// Returns the templates of requests of MQTT 5 whose replies have a Response Topic.
    pub(crate) fn with_reply(kind: UpdateKind) -> anyhow::Result<Self> {
        let properties = ReplyTo { connection: 0, slot: 0 }.properties();
        let template = |other| Template::new(Protocol::V5, &kind.payload(other), &properties);
        Ok(Self { kind, first: template(false)?, second: template(true)? })
    }

    /// Appends an update like [`Self::write`], with its reply to `reply`.
    pub(crate) fn write_with_reply(&self, out: &mut Vec<u8>, shadow: usize, reply: ReplyTo, version: u64) {
        let start = out.len();
        let packet_id = reply.slot as u16 + 1;
        self.write(out, &device_id_bytes(shadow), packet_id, version.max(1), version);
        if let (Some(packet), Some(at)) = (out.get_mut(start..), self.first.reply) {
            digits(packet, at, 5, reply.connection as u64);
            digits(packet, at + 6, 2, reply.slot as u64);
        }
    }

    /// Appends the update number `count`, from 1, of a device whose shadow is at `version`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, id: &[u8; ID_BYTES], packet_id: u16, count: u64, version: u64) {
        let (template, version) = match self.kind {
            // No version is older than that of the first report, which set every field.
            UpdateKind::Rebase if count > 1 => {
                (if count.is_multiple_of(2) { &self.second } else { &self.first }, version - 1)
            }
            _ => (&self.first, version),
        };
        template.write(out, id, packet_id, count, version);
    }

    /// Returns the bytes of one packet.
    pub(crate) fn len(&self) -> usize {
        self.first.packet.len()
    }
}

/// The template of one PUBLISH.
#[derive(Debug)]
struct Template {
    packet: Vec<u8>,
    id: usize,
    packet_id: usize,
    temperature: usize,
    humidity: usize,
    rssi: usize,
    uptime: usize,
    version: Option<usize>,
    key: Option<usize>,
    reply: Option<usize>,
}

impl Template {
    fn new(protocol: Protocol, payload: &str, properties: &[u8]) -> anyhow::Result<Self> {
        let topic = format!("shadow/{}/update", device_id(0));
        let mut packet = Vec::new();
        write_publish_with(&mut packet, protocol, topic.as_bytes(), Some(1), properties, payload.as_bytes());
        let start = packet.len() - payload.len();
        let id = find(&packet, b"bench-").context("the template names a device")?;
        let after = |needle: &str| payload.find(needle).map(|at| start + at + needle.len());
        let field = |first: &str, second: &str| {
            let at = after(&format!("\"{first}\":")).or_else(|| after(&format!("\"{second}\":")));
            at.with_context(|| format!("the template has no {first}"))
        };
        Ok(Self {
            id,
            packet_id: id + ID_BYTES + "/update".len(),
            temperature: field("temperature", "surrounding")?,
            humidity: field("humidity", "moisture")?,
            rssi: field("rssi", "link")? + 1,
            uptime: field("uptime", "cycles")?,
            version: after("\"version\":"),
            key: after("\"update-"),
            reply: find(&packet, b"reply/").map(|at| at + b"reply/".len()),
            packet,
        })
    }

    fn write(&self, out: &mut Vec<u8>, id: &[u8; ID_BYTES], packet_id: u16, count: u64, version: u64) {
        let start = out.len();
        out.extend_from_slice(&self.packet);
        let Some(packet) = out.get_mut(start..) else { return };
        overwrite(packet, self.id, id);
        overwrite(packet, self.packet_id, &packet_id.to_be_bytes());
        // Each value changes with every update, without leading zeros, which JSON forbids.
        digits(packet, self.temperature, 2, 10 + count * 7 % 90);
        digits(packet, self.temperature + 3, 2, count * 13 % 100);
        digits(packet, self.humidity, 2, 10 + count * 11 % 90);
        digits(packet, self.humidity + 3, 1, count * 3 % 10);
        digits(packet, self.rssi, 2, 10 + count * 17 % 90);
        digits(packet, self.uptime, 7, 1_000_001 + count % 8_999_999);
        if let Some(at) = self.version {
            padded(packet, at, VERSION_WIDTH, version);
        }
        if let Some(at) = self.key {
            // Rises from run to run on one store, unlike a count of this run.
            digits(packet, at, 10, version);
        }
    }
}

/// Finds the version in an `update/accepted` from the end, where both servers have it.
///
/// The first answer of each connection is also parsed in full and compared ([`parse_version`]), which detects a server with
/// another order of fields.
pub(crate) fn quick_version(payload: &[u8]) -> Option<u64> {
    let at = payload.windows(VERSION_KEY.len()).rposition(|window| window == VERSION_KEY)?;
    let digits = payload.get(at + VERSION_KEY.len()..)?.iter().skip_while(|byte| **byte == b' ');
    let mut digits = digits.take_while(|byte| byte.is_ascii_digit()).peekable();
    digits.peek()?;
    digits.try_fold(0_u64, |version, digit| version.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// Parses the version from JSON; [`quick_version`] must agree.
pub(crate) fn parse_version(payload: &[u8]) -> anyhow::Result<u64> {
    let accepted: umbra_client::Accepted = serde_json::from_slice(payload).context("update/accepted cannot be read")?;
    ensure!(
        quick_version(payload) == Some(accepted.version.0),
        "the last \"version\" in update/accepted is not the shadow's: {}",
        String::from_utf8_lossy(payload)
    );
    Ok(accepted.version.0)
}

fn find(within: &[u8], needle: &[u8]) -> Option<usize> {
    within.windows(needle.len()).position(|window| window == needle)
}

fn overwrite(packet: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = packet.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn digits(packet: &mut [u8], at: usize, width: usize, mut value: u64) {
    for byte in packet.iter_mut().skip(at).take(width).rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn padded(packet: &mut [u8], at: usize, width: usize, mut value: u64) {
    for (place, byte) in packet.iter_mut().skip(at).take(width).rev().enumerate() {
        *byte = if value == 0 && place > 0 { b' ' } else { b'0' + (value % 10) as u8 };
        value /= 10;
    }
}

const VERSION_KEY: &[u8] = b"\"version\":";
const VERSION_WIDTH: usize = 11;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::bench::frame::{Message, split};

    fn update(protocol: Protocol, kind: UpdateKind, count: u64, version: u64) -> Value {
        let mut out = b"before".to_vec();
        let templates = Templates::new(protocol, kind).expect("the templates");
        templates.write(&mut out, &device_id_bytes(42), 513, count, version);
        let (frame, rest) = split(out.get(6..).unwrap_or_default()).expect("well formed").expect("complete");
        let message = Message::parse(frame, protocol).expect("a PUBLISH");
        assert_eq!((message.topic, message.packet_id), (&b"shadow/bench-0000042/update"[..], Some(513)));
        assert!(rest.is_empty());
        serde_json::from_slice(message.payload).expect("JSON")
    }

    #[test]
    fn every_update_is_json_names_its_version_and_differs_from_the_last_in_every_field() {
        for protocol in [Protocol::V311, Protocol::V5] {
            let mut last = update(protocol, UpdateKind::Conditional, 0, 0);
            for count in 1..1_000 {
                let next = update(protocol, UpdateKind::Conditional, count, count * 1_000_003);
                assert_eq!(next.get("version").and_then(Value::as_u64), Some(count * 1_000_003));
                for field in ["temperature", "humidity", "rssi", "uptime"] {
                    let at = format!("/state/reported/{field}");
                    assert_ne!(next.pointer(&at), last.pointer(&at), "{count} {field}");
                }
                last = next;
            }
        }
    }

    #[test]
    fn each_kind_has_its_precondition() {
        let field = |update: &Value, name: &str| update.get(name).cloned().unwrap_or_default();
        let fields = |update: &Value| update.pointer("/state/reported").and_then(Value::as_object).cloned();
        let guards = |kind, count| {
            let update = update(Protocol::V311, kind, count, 7);
            let first = fields(&update).is_some_and(|fields| fields.contains_key("temperature"));
            (first, ["version", "onConflict", "idempotencyKey"].map(|name| field(&update, name)))
        };
        let none = Value::Null;
        for count in [1, 2, 3] {
            let key = "update-0000000007";
            assert_eq!(guards(UpdateKind::Unconditional, count), (true, [none.clone(), none.clone(), none.clone()]));
            assert_eq!(guards(UpdateKind::Conditional, count), (true, [7.into(), none.clone(), none.clone()]));
            assert_eq!(guards(UpdateKind::Keyed, count), (true, [7.into(), none.clone(), key.into()]));
        }
        for (count, first, version) in [(1, true, 7), (2, false, 6), (3, true, 6)] {
            assert_eq!(guards(UpdateKind::Rebase, count), (first, [version.into(), "rebase".into(), none.clone()]));
        }
    }

    #[test]
    fn a_reply_comes_back_to_the_slot_of_its_request() {
        let reply = ReplyTo { connection: 73, slot: 12 };
        let templates = Templates::with_reply(UpdateKind::Conditional).expect("the templates");
        let (mut update, mut get) = (Vec::new(), Vec::new());
        templates.write_with_reply(&mut update, 9_999_999, reply, 8);
        write_request(&mut get, 9_999_999, "get", reply, b"");
        for (packet, topic) in [(update, "shadow/bench-9999999/update"), (get, "shadow/bench-9999999/get")] {
            let (frame, _) = split(&packet).expect("well formed").expect("complete");
            let message = Message::parse(frame, Protocol::V5).expect("a PUBLISH");
            assert_eq!((message.topic, message.packet_id), (topic.as_bytes(), Some(13)));
            assert!(find(&packet, b"\x08\0\x0ereply/00073/12").is_some(), "{packet:?}");
        }
        for (topic, slot) in [("reply/00073/12", Some(12)), ("reply/x0073/12", None), ("reply/00073", None)] {
            assert_eq!(ReplyTo::slot_of(topic.as_bytes()), slot, "{topic}");
        }
    }

    #[test]
    fn the_document_is_about_600_bytes() {
        let report: Value = serde_json::from_str(&full_report(42)).expect("JSON");
        let state = report.get("state").map(Value::to_string).unwrap_or_default();
        assert!((550..800).contains(&state.len()), "{} bytes", state.len());
    }

    #[test]
    fn the_version_is_the_last_one() {
        let rows = [
            (r#"{"state":{"version":9},"metadata":{"a":{"version":8}},"version":12,"timestamp":5}"#, Some(12)),
            (r#"{"pad":"x","version":         7}"#, Some(7)),
            (r#"{"version":}"#, None),
            (r#"{"version":99999999999999999999999}"#, None),
            (r"{}", None),
        ];
        for (payload, expected) in rows {
            assert_eq!(quick_version(payload.as_bytes()), expected, "{payload}");
        }
        assert!(
            parse_version(br#"{"version":3,"metadata":{"a":{"version":2}}}"#).is_err(),
            "another order is found out"
        );
    }
}
