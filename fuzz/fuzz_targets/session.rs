//! A session with a client that sends what it likes: after every step the session has sent exactly what two naive
//! models of it say, holds as much as they do, and asks for no QoS 2 message twice.
//!
//! The input is the stream of a client, as in the target `codec`. A packet type that no client sends is a step of the
//! world instead: its low four bits say which, the byte after it how.

#![no_main]

use std::{
    collections::HashMap,
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use umbra_fuzz::{
    deliveries::{Client, Deliveries, TOPIC},
    exchanges::{Exchanges, PublishOutcome},
    server_packet::{self, Sent},
};
use umbrad::mqtt::{
    protocol::{
        codec::{FrameLimits, decode, split_frame},
        message::{Delivery, Message},
        packet::{ClientPacket, Connect, PacketId, Properties, Protocol, Publish, QoS, Reason},
        topic::TopicName,
    },
    session::{AckId, AckResult, Action, Delivered, Session, SessionLimits},
};

fuzz_target!(|data: &[u8]| {
    let (mut world, mut stream) = (World::new(), BytesMut::from(data));
    while let Some(&first) = stream.first() {
        if let 0x0 | 0x2 | 0x9 | 0xB | 0xD = first >> 4 {
            let how = stream.get(1).copied().unwrap_or_default();
            stream.advance(stream.len().min(2));
            world.step(first & 0x0F, how);
        } else {
            match split_frame(&mut stream, FrameLimits { packet_bytes_max: 1024, dup_on_control: false }) {
                Ok(Some(frame)) => match world.link.as_ref().map(|link| decode(link.client.protocol, frame)) {
                    Some(Ok(packet)) => world.receive(packet),
                    Some(Err(_)) => world.detach(),
                    None => {}
                },
                Ok(None) => break,
                Err(_) => {
                    world.detach();
                    stream.advance(1);
                }
            }
        }
        world.check();
    }
    world.finish();
});

const LIMITS: SessionLimits = SessionLimits {
    inbound_window: 3,
    outbound_window: 3,
    outbound_bytes: 128,
    topic_alias_max: 3,
    filters_per_subscribe: 2,
};

struct World {
    session: Session,
    now: Instant,
    link: Option<Link>,
    exchanges: Exchanges,
    deliveries: Deliveries,
    /// All there ever were.
    tickets: Vec<AckId>,
    delivered: u8,
}

/// The state that ends with the connection.
struct Link {
    client: Client,
    session_expiry: u32,
    aliases: HashMap<NonZeroU16, TopicName>,
}

impl World {
    fn new() -> Self {
        let (exchanges, deliveries) = (Exchanges::default(), Deliveries::default());
        let (session, now) = (Session::new(LIMITS), Instant::now());
        let mut world = Self { session, now, link: None, exchanges, deliveries, tickets: Vec::new(), delivered: 0 };
        world.attach(Protocol::V5, 0);
        world
    }

    fn step(&mut self, which: u8, how: u8) {
        let ack_id = self.tickets.get(usize::from(how) % self.tickets.len().max(1)).copied();
        let verdict = |reason| AckResult { reason: Reason(reason), ..AckResult::SUCCESS };
        match (which, ack_id) {
            (0, _) => self.attach(Protocol::V4, how),
            (1, _) => self.attach(Protocol::V5, how),
            (2, _) => self.detach(),
            (3 | 4, Some(ack_id)) => self.complete(ack_id, AckResult::SUCCESS),
            (5, Some(ack_id)) => self.complete(ack_id, verdict(0x10)),
            (6, Some(ack_id)) => {
                self.complete(ack_id, AckResult { reason_string: Some("no such luck".into()), ..verdict(0x83) });
            }
            (7, Some(ack_id)) => {
                let waits = self.exchanges.abandon(ack_id);
                assert_eq!(self.session.abandon(ack_id), waits);
                if waits {
                    self.detach();
                }
            }
            (8, _) => self.deliver(QoS::AtMostOnce, how),
            (9 | 10, _) => self.deliver(QoS::AtLeastOnce, how),
            (11 | 12, _) => self.deliver(QoS::ExactlyOnce, how),
            (13, _) => self.now += Duration::from_millis(how.into()),
            (14, _) => {
                let (id, count) = (PacketId::MIN, usize::from(how));
                self.sends(vec![Sent::SubAck(id, count)], |session, out| {
                    session.subscribed(id, vec![Reason::SUCCESS; count], out);
                });
            }
            (15, _) => self.sends(vec![Sent::UnsubAck(PacketId::MIN)], |session, out| {
                session.unsubscribed(PacketId::MIN, vec![Reason::SUCCESS], out);
            }),
            _ => {}
        }
    }

    /// Checks that `act` sends `expected`, and nothing without a connection.
    fn sends<T>(&mut self, expected: Vec<Sent>, act: impl FnOnce(&mut Session, &mut Vec<u8>) -> T) -> T {
        let mut out = Vec::new();
        let result = act(&mut self.session, &mut out);
        match &self.link {
            Some(link) => {
                let sent = server_packet::read(link.client.protocol, &out);
                if self.session.is_stuck() {
                    // What comes after a packet that does not fit is not sent either.
                    assert!(sent.len() < expected.len() && expected.starts_with(&sent), "{sent:?} of {expected:?}");
                    self.detach();
                } else {
                    assert_eq!(sent, expected);
                }
            }
            None => assert!(out.is_empty(), "sent without a connection: {out:02x?}"),
        }
        result
    }

    fn attach(&mut self, protocol: Protocol, how: u8) {
        self.detach();
        let five = protocol == Protocol::V5;
        let receive_maximum = NonZeroU16::new(if five { u16::from(how & 3) + 1 } else { u16::MAX }).expect("not 0");
        let maximum_packet_size = (five && how & 4 != 0).then_some(u32::from(how >> 4) + 6);
        let connect = Connect {
            protocol,
            is_3_1: false,
            bridge: false,
            client_id: String::new(),
            clean_start: false,
            keep_alive: 0,
            session_expiry: u32::from(how & 8),
            receive_maximum,
            maximum_packet_size,
            request_problem_information: how & 16 == 0,
            authentication_method: None,
            will: None,
            username: None,
            password: None,
        };
        let client = Client {
            protocol,
            window: receive_maximum.min(NonZeroU16::new(LIMITS.outbound_window).expect("not 0")).get().into(),
            window_bytes: LIMITS.outbound_bytes,
            bytes_max: maximum_packet_size.map_or(usize::MAX, |bytes| bytes as usize),
        };
        self.link = Some(Link { client, session_expiry: connect.session_expiry, aliases: HashMap::new() });
        let (expected, now) = (self.deliveries.resend(&client), self.now);
        self.sends(expected, |session, out| session.attach(&connect, now, out));
    }

    fn detach(&mut self) {
        self.session.detach();
        if self.link.take().is_some() {
            self.exchanges.detach();
            self.deliveries.detach();
        }
    }

    fn complete(&mut self, ack_id: AckId, verdict: AckResult) {
        self.exchanges.decide(ack_id, verdict.reason);
        let expected = self.acknowledgements();
        self.sends(expected, |session, out| session.complete(ack_id, verdict, out));
    }

    fn acknowledgements(&mut self) -> Vec<Sent> {
        self.link.as_ref().map_or_else(Vec::new, |link| self.exchanges.acknowledge(link.client.protocol))
    }

    fn deliver(&mut self, qos: QoS, how: u8) {
        self.delivered = self.delivered.wrapping_add(1);
        let payload = vec![self.delivered; usize::from(how & 15)];
        let seconds = (how & 16 != 0).then_some(u32::from(how >> 5));
        let properties = seconds.map(|_| Box::new(Properties { message_expiry: seconds, ..Properties::default() }));
        let topic = TopicName::new(TOPIC).expect("valid");
        let message = Message::new(topic, Bytes::from(payload.clone()), qos, false, properties, self.now);
        let (expired, expires) = (message.is_expired(self.now), message.expires_at.is_some());
        let delivery = Delivery::new(Arc::new(message), qos);

        let mut out = Vec::new();
        let delivered = self.session.deliver(delivery, self.now, &mut out);
        let room = |client: &Client| qos == QoS::AtMostOnce || self.deliveries.is_open(client);
        match (delivered, self.link.as_ref().map(|link| link.client)) {
            (Delivered::Expired, _) => assert!(expired && out.is_empty()),
            (Delivered::NotNow(_), client) => assert!(!client.is_some_and(|client| room(&client)) && out.is_empty()),
            (Delivered::TooLarge, Some(client)) => assert!(!client.takes(qos, &payload, expires) && out.is_empty()),
            (Delivered::Sent, Some(client)) => {
                assert!(!expired && room(&client) && client.takes(qos, &payload, expires));
                let sent = server_packet::read(client.protocol, &out);
                let [Sent::Publish { id, .. }] = sent.as_slice() else { panic!("sent {sent:?} for one message") };
                assert_eq!(sent, [Sent::Publish { qos, id: *id, dup: false, payload: payload.clone() }]);
                if let Some(id) = id {
                    self.deliveries.sent(*id, qos, payload, expires);
                }
            }
            (delivered @ Delivered::Unsaved(_), _) => panic!("without a row {delivered:?}"),
            (delivered, None) => panic!("without a connection {delivered:?}"),
        }
    }

    fn receive(&mut self, packet: ClientPacket) {
        let Some(Link { client, session_expiry, .. }) = self.link else { return };
        let mut expected = match &packet {
            ClientPacket::Publish(publish) => return self.publish(publish.clone()),
            ClientPacket::Connect(_) => unreachable!("the codec refuses a second CONNECT"),
            ClientPacket::Subscribe(_) | ClientPacket::Unsubscribe(..) => return self.subscriptions(packet),
            ClientPacket::Disconnect(reason, expiry) => {
                let raised = session_expiry == 0 && expiry.is_some_and(|seconds| seconds > 0);
                let action = Action::Disconnect { with_will: reason.0 != 0, session_expiry: *expiry };
                let result = self.receives(packet, Vec::new());
                assert_eq!(result, if raised { Err(()) } else { Ok(Some(action)) });
                return self.detach();
            }
            ClientPacket::PingReq => vec![Sent::PingResp],
            ClientPacket::PubRel(id) => match self.exchanges.release(*id) {
                Some(complete) => vec![as_sent(&client, complete)],
                None => {
                    assert_eq!(self.receives(packet, Vec::new()), Err(()));
                    return self.detach();
                }
            },
            ClientPacket::PubAck(id, _) => {
                self.deliveries.acknowledge(*id);
                Vec::new()
            }
            ClientPacket::PubRec(id, reason) => {
                self.deliveries.receive(*id, *reason).into_iter().map(|release| as_sent(&client, release)).collect()
            }
            ClientPacket::PubComp(id) => {
                self.deliveries.complete(*id);
                Vec::new()
            }
        };
        expected.extend(self.deliveries.resend(&client));
        assert_eq!(self.receives(packet, expected), Ok(None));
    }

    fn receives(&mut self, packet: ClientPacket, expected: Vec<Sent>) -> Result<Option<Action>, ()> {
        let now = self.now;
        self.sends(expected, |session, out| session.receive(packet, now, out).map_err(drop))
    }

    fn subscriptions(&mut self, packet: ClientPacket) {
        let action = match packet.clone() {
            ClientPacket::Subscribe(mut subscribe) => {
                let beyond = subscribe.filters.iter_mut().skip(LIMITS.filters_per_subscribe);
                beyond.for_each(|filter| *filter = Err(Reason::QUOTA_EXCEEDED));
                Action::Subscribe(subscribe)
            }
            ClientPacket::Unsubscribe(id, filters) => Action::Unsubscribe(id, filters),
            _ => return,
        };
        assert_eq!(self.receives(packet, Vec::new()), Ok(Some(action)));
    }

    fn publish(&mut self, publish: Publish) {
        let Some(link) = &mut self.link else { return };
        let Publish { topic, alias, payload, qos, id, dup, retain, properties } = publish.clone();
        let topic = match alias {
            None => topic,
            Some(alias) if alias.get() > LIMITS.topic_alias_max => None,
            Some(alias) => {
                link.aliases.extend(topic.map(|topic| (alias, topic)));
                link.aliases.get(&alias).cloned()
            }
        };
        let protocol = link.client.protocol;
        let taken = match (&topic, id) {
            (None, _) => PublishOutcome::Violation,
            (Some(_), None) => PublishOutcome::New,
            (Some(_), Some(id)) => {
                let held = qos == QoS::ExactlyOnce && self.exchanges.holds(id);
                let taken = self.exchanges.publish(id, qos, dup, protocol, LIMITS.inbound_window.into());
                assert!(!(held && taken == PublishOutcome::New), "{id} would be asked for twice");
                taken
            }
        };
        let packet = ClientPacket::Publish(publish);
        match (taken, topic) {
            (PublishOutcome::New, Some(topic)) => match self.receives(packet, Vec::new()) {
                Ok(Some(Action::Publish(asked))) => {
                    assert_eq!(asked.ack_id.is_some(), id.is_some());
                    self.tickets.extend(asked.ack_id);
                    if let Some((id, ack_id)) = id.zip(asked.ack_id) {
                        self.exchanges.asked(id, qos, ack_id);
                    }
                    let said = (asked.topic, asked.payload, asked.qos, asked.retain, asked.properties);
                    assert_eq!(said, (topic, payload, qos, retain, properties));
                }
                other => panic!("a new message is {other:?}"),
            },
            (PublishOutcome::Waits, _) => {
                let expected = self.acknowledgements();
                assert_eq!(self.receives(packet, expected), Ok(None));
            }
            (PublishOutcome::Repeat(received), _) => assert_eq!(self.receives(packet, vec![received]), Ok(None)),
            (PublishOutcome::Violation, _) | (PublishOutcome::New, None) => {
                assert_eq!(self.receives(packet, Vec::new()), Err(()));
                self.detach();
            }
        }
    }

    fn check(&self) {
        let client = self.link.as_ref().map(|link| link.client);
        assert_eq!(self.session.protocol(), client.map(|client| client.protocol));
        assert_eq!(self.session.window_open(), client.is_some_and(|client| self.deliveries.is_open(&client)));
        assert_eq!(self.session.inbound_pending(), self.exchanges.pending());
        assert_eq!(self.session.inflight_bytes(), self.deliveries.bytes());
        if client.is_some_and(|client| client.protocol == Protocol::V5) {
            assert!(self.exchanges.pending() <= LIMITS.inbound_window.into());
        }
    }

    /// Once all is decided, all is acknowledged.
    fn finish(mut self) {
        for ack_id in self.tickets.clone() {
            self.complete(ack_id, AckResult::SUCCESS);
        }
        assert_eq!(self.session.inbound_pending(), 0);
    }
}

/// Returns the packet as the client receives it: a client of 3.1.1 receives no reason.
fn as_sent(client: &Client, sent: Sent) -> Sent {
    match (client.protocol, sent) {
        (Protocol::V4, Sent::PubRel(id, _)) => Sent::PubRel(id, Reason::SUCCESS),
        (Protocol::V4, Sent::PubComp(id, _)) => Sent::PubComp(id, Reason::SUCCESS),
        (_, sent) => sent,
    }
}
