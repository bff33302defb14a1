//! The clients of the test as they know themselves: what they sent, and what they were promised.

use std::collections::{BTreeMap, BTreeSet};

/// The length of a topic. All have two letters, so that a packet is read without a parser; an update's has more.
pub(super) const TOPIC: usize = 2;
pub(super) const UPDATE: &str = "shadow/d/update";

const PUBREL: u8 = 0x62;

/// A message, by its number.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) topic: &'static str,
    pub(super) qos: u8,
    /// True for a retained message that removes the one of before.
    pub(super) clears: bool,
    /// True once the server has promised to keep it.
    pub(super) is_acknowledged: bool,
    /// True if the server did not know whether it has had an effect.
    pub(super) has_failed: bool,
    /// True if a session may miss it, whose subscription ended or began meanwhile.
    pub(super) is_optional: bool,
    /// The sessions that match it, and the QoS at which they get it.
    pub(super) receivers: Vec<(usize, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscribed {
    Requested,
    Granted,
    Leaving,
}

/// A message on the way to the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) id: u16,
    pub(super) number: u16,
    pub(super) has_pubrec: bool,
}

/// The state of one client, which a power cut of the server leaves as it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    pub(super) is_connected: bool,
    pub(super) subscriptions: BTreeMap<&'static str, (u8, Subscribed)>,
    /// QoS 2 identifiers that it has received, until PUBREL.
    pub(super) unreleased: BTreeSet<u16>,
    /// The numbers of the messages that it has accepted, with their QoS.
    pub(super) accepted: Vec<(u16, u8)>,
    /// In the order in which they were sent.
    pub(super) sending: Vec<Sending>,
}

/// All clients and messages.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) clients: Vec<Client>,
    pub(super) messages: Vec<Sent>,
    /// True once the disk may stop.
    pub(super) may_fail: bool,
}

impl World {
    /// Adds a message, with the sessions that match it now.
    pub(super) fn message(&mut self, topic: &'static str, qos: u8, clears: bool) -> u16 {
        let mut is_optional = false;
        let matching = self.clients.iter().enumerate().filter_map(|(index, client)| {
            let (granted, state) = client.subscriptions.get(topic)?;
            is_optional |= *state != Subscribed::Granted;
            Some((index, qos.min(*granted)))
        });
        let receivers = matching.collect();
        self.messages.push(Sent {
            topic,
            qos,
            clears,
            is_acknowledged: false,
            has_failed: false,
            is_optional,
            receivers,
        });
        u16::try_from(self.messages.len() - 1).unwrap()
    }

    /// Returns the numbers of the messages of a topic of which one is the state of it: the last one that was
    /// acknowledged, and later ones.
    pub(super) fn possible(&self, topic: &str) -> Vec<Option<u16>> {
        let numbered = || (0..).zip(&self.messages).filter(|(_, sent)| sent.topic == topic);
        let last = numbered().filter(|(_, sent)| sent.is_acknowledged).map(|(number, _)| number).last();
        let later = numbered().filter(|(number, _)| last.is_none_or(|last| *number >= last));
        let before = last.is_none().then_some(None);
        before.into_iter().chain(later.map(|(number, sent)| (!sent.clears).then_some(number))).collect()
    }

    /// Has `client` process a packet. Returns its answer.
    pub(super) fn receive(&mut self, client: usize, packet: &[u8]) -> Option<Vec<u8>> {
        let (kind, id) = (packet[0] >> 4, || u16::from_be_bytes([packet[2], packet[3]]));
        let reason = |at: usize| packet.get(at).copied().unwrap_or_default();
        let (messages, client) = (&mut self.messages, &mut self.clients[client]);
        match kind {
            2 => {
                assert_eq!(packet[3], 0, "CONNACK");
                let is_kept = client.subscriptions.values().any(|(_, state)| *state == Subscribed::Granted);
                assert!(packet[2] == 1 || !is_kept, "the session is gone");
                client.is_connected = true;
                None
            }
            3 => client.publish(packet),
            4 => {
                assert!(reason(4) < 0x80, "PUBACK: {packet:?}");
                let at = client.sending.iter().position(|sending| sending.id == id()).expect("a message is sent");
                let number = client.sending.remove(at).number;
                messages[usize::from(number)].is_acknowledged = true;
                None
            }
            5 => {
                let sending = client.sending.iter_mut().find(|sending| sending.id == id()).expect("a message is sent");
                let sent = &mut messages[usize::from(sending.number)];
                if reason(4) >= 0x80 {
                    assert!(self.may_fail && sent.topic == UPDATE, "PUBREC: {packet:?}");
                    sent.has_failed = true;
                    client.sending.retain(|sending| sending.id != id());
                    return None;
                }
                sending.has_pubrec = true;
                sent.is_acknowledged = true;
                Some(ack(PUBREL, id()))
            }
            6 => {
                client.unreleased.remove(&id());
                Some(ack(0x70, id()))
            }
            7 => {
                client.sending.retain(|sending| sending.id != id());
                None
            }
            9 => {
                assert!(packet[5..].iter().all(|code| *code < 0x80), "SUBACK: {packet:?}");
                client.subscriptions.values_mut().for_each(|(_, state)| *state = Subscribed::Granted);
                None
            }
            11 => {
                client.subscriptions.retain(|_, (_, state)| *state != Subscribed::Leaving);
                None
            }
            _ => panic!("{packet:?}"),
        }
    }
}

impl Client {
    fn publish(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let qos = packet[0] >> 1 & 3;
        let at = 2 + 2 + TOPIC;
        let id = u16::from_be_bytes([packet[at], packet[at + 1]]);
        let payload = at + 3 + usize::from(packet[at + 2]);
        let number = u16::from_be_bytes([packet[payload], packet[payload + 1]]);
        if qos == 1 {
            self.accepted.push((number, qos));
            return Some(ack(0x40, id));
        }
        if self.unreleased.insert(id) {
            self.accepted.push((number, qos));
        }
        Some(ack(0x50, id))
    }

    /// Returns what it sends after it has connected again.
    pub(super) fn resumed(&self, messages: &[Sent]) -> Vec<u8> {
        let again = self.sending.iter().flat_map(|sending| match sending.has_pubrec {
            true => ack(PUBREL, sending.id),
            false => publish(&messages[usize::from(sending.number)], sending.number, sending.id, true),
        });
        again.collect()
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(body.len()).unwrap()], body].concat()
}

pub(super) fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// Returns a CONNECT of MQTT 5 with a session that does not expire; a will is retained nowhere, at QoS 1.
pub(super) fn connect(name: u8, will: Option<u16>) -> Vec<u8> {
    let flags = if will.is_some() { 0x0c } else { 0 };
    let head = [b"\0\x04MQTT\x05".as_slice(), &[flags], b"\0\0\x05\x11\xff\xff\xff\xff\0\x01", &[name]].concat();
    let will = will.map(|number| [b"\0\0\x02w0\0\x02".as_slice(), &number.to_be_bytes()].concat());
    packet(0x10, &[head, will.unwrap_or_default()].concat())
}

pub(super) fn subscribe(filters: &[(&str, u8)]) -> Vec<u8> {
    let filters = filters.iter().flat_map(|(filter, qos)| [b"\0\x02", filter.as_bytes(), &[*qos]].concat());
    packet(0x82, &[b"\x70\x01\0".to_vec(), filters.collect()].concat())
}

pub(super) fn unsubscribe(filter: &str) -> Vec<u8> {
    packet(0xa2, &[b"\x70\x02\0\0\x02", filter.as_bytes()].concat())
}

pub(super) fn publish(sent: &Sent, number: u16, id: u16, dup: bool) -> Vec<u8> {
    let first = 0x30 | u8::from(dup) << 3 | sent.qos << 1 | u8::from(sent.topic.starts_with('r'));
    let payload = match sent.topic {
        UPDATE => format!("{{\"state\":{{\"reported\":{{\"n\":{number}}}}}}}").into_bytes(),
        _ if sent.clears => Vec::new(),
        _ => number.to_be_bytes().to_vec(),
    };
    let length = u16::try_from(sent.topic.len()).unwrap().to_be_bytes();
    packet(first, &[&length, sent.topic.as_bytes(), &id.to_be_bytes(), &[0], &payload].concat())
}
