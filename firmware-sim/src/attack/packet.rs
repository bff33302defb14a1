//! The MQTT 5 packets of an attack, with the properties that the load generator of `bench` does not need.

use serde::{Deserialize, Serialize};

use crate::bench::frame::{write_packet, write_text};

/// A name and its password.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Credentials {
    /// The user, which is the principal and for a device its id.
    pub(super) name: String,
    /// The password.
    pub(super) password: String,
}

/// The fields of a CONNECT.
#[derive(Debug, Clone, Default)]
pub(super) struct Connect<'a> {
    /// The client id.
    pub(super) client_id: &'a str,
    /// Resumes a session if there is one.
    pub(super) resume: bool,
    /// Session expiry in seconds; 0 ends the session with its connection.
    pub(super) expiry: u32,
    /// The will.
    pub(super) will: Option<Will<'a>>,
}

/// The will of a CONNECT.
#[derive(Debug, Clone)]
pub(super) struct Will<'a> {
    /// The topic.
    pub(super) topic: &'a str,
    /// The payload.
    pub(super) payload: &'a [u8],
    /// Seconds from the end of the connection to its publication.
    pub(super) delay: u32,
}

/// The fields of a PUBLISH.
#[derive(Debug, Clone, Default)]
pub(super) struct Publish<'a> {
    /// The topic; empty for the one of an alias.
    pub(super) topic: &'a str,
    /// The payload.
    pub(super) payload: &'a [u8],
    /// QoS 0, 1 or 2.
    pub(super) qos: u8,
    /// The packet id, at QoS 1 and 2.
    pub(super) id: u16,
    /// The message is retained.
    pub(super) retain: bool,
    /// The encoded properties, without their length.
    pub(super) properties: &'a [u8],
}

/// Returns a CONNECT without a keep-alive.
pub(super) fn connect(login: &Credentials, connect: &Connect<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_packet(&mut out, 0x10, |body| {
        write_text(body, b"MQTT");
        let will = if connect.will.is_some() { 0b0000_0100 } else { 0 };
        let clean = if connect.resume { 0 } else { 0b0000_0010 };
        body.extend([5, 0b1100_0000 | will | clean, 0, 0]);
        match connect.expiry {
            0 => body.push(0),
            expiry => {
                body.extend([5, 0x11]);
                body.extend(expiry.to_be_bytes());
            }
        }
        write_text(body, connect.client_id.as_bytes());
        if let Some(will) = &connect.will {
            body.extend([5, 0x18]);
            body.extend(will.delay.to_be_bytes());
            write_text(body, will.topic.as_bytes());
            write_text(body, will.payload);
        }
        write_text(body, login.name.as_bytes());
        write_text(body, login.password.as_bytes());
    });
    out
}

/// Returns a SUBSCRIBE for all `filters` at one QoS.
pub(super) fn subscribe<T: AsRef<str>>(id: u16, filters: &[T], qos: u8) -> Vec<u8> {
    let mut out = Vec::new();
    write_packet(&mut out, 0x82, |body| {
        body.extend(id.to_be_bytes());
        body.push(0);
        for filter in filters {
            write_text(body, filter.as_ref().as_bytes());
            body.push(qos);
        }
    });
    out
}

/// Returns an UNSUBSCRIBE of all `filters`.
pub(super) fn unsubscribe<T: AsRef<str>>(id: u16, filters: &[T]) -> Vec<u8> {
    let mut out = Vec::new();
    write_packet(&mut out, 0xa2, |body| {
        body.extend(id.to_be_bytes());
        body.push(0);
        filters.iter().for_each(|filter| write_text(body, filter.as_ref().as_bytes()));
    });
    out
}

/// Returns a PUBLISH.
pub(super) fn publish(publish: &Publish<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_packet(&mut out, 0x30 | publish.qos << 1 | u8::from(publish.retain), |body| {
        write_text(body, publish.topic.as_bytes());
        if publish.qos > 0 {
            body.extend(publish.id.to_be_bytes());
        }
        write_length(body, publish.properties.len());
        body.extend(publish.properties);
        body.extend(publish.payload);
    });
    out
}

/// Returns the property Topic Alias.
pub(super) fn topic_alias(alias: u16) -> Vec<u8> {
    let [high, low] = alias.to_be_bytes();
    vec![0x23, high, low]
}

/// Returns the property Response Topic.
pub(super) fn response_topic(topic: &str) -> Vec<u8> {
    let mut out = vec![0x08];
    write_text(&mut out, topic.as_bytes());
    out
}

/// Returns a User Property.
pub(super) fn user_property(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0x26];
    write_text(&mut out, name.as_bytes());
    write_text(&mut out, value.as_bytes());
    out
}

fn write_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let more = length > 0x7f;
        out.push((length & 0x7f) as u8 | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            return;
        }
    }
}

/// PINGREQ.
pub(super) const PINGREQ: [u8; 2] = [0xc0, 0];
/// DISCONNECT: an orderly end.
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_bytes() {
        let login = Credentials { name: "d".to_owned(), password: "p".to_owned() };
        let will = Will { topic: "w", payload: b"!", delay: 2 };
        let bytes = connect(&login, &Connect { client_id: "c", resume: true, expiry: 1, will: Some(will) });
        let expected =
            b"\x10\x25\x00\x04MQTT\x05\xc4\0\0\x05\x11\0\0\0\x01\0\x01c\x05\x18\0\0\0\x02\0\x01w\0\x01!\0\x01d\0\x01p";
        assert_eq!(bytes, expected);
        let alias = topic_alias(3);
        let message = Publish { topic: "t", payload: b"x", qos: 1, id: 7, retain: true, properties: &alias };
        assert_eq!(publish(&message), b"\x33\x0a\0\x01t\0\x07\x03\x23\0\x03x");
        assert_eq!(subscribe(5, &["a"], 1), b"\x82\x07\0\x05\0\0\x01a\x01");
        assert_eq!(unsubscribe(5, &["a"]), b"\xa2\x06\0\x05\0\0\x01a");
    }
}
