//! Model test: messages from a client that loses its connection at any moment, with results in any order.
//!
//! Properties under any sequence of steps: a QoS 2 message becomes exactly one request, a QoS 1 message at least one.
//! No message is acknowledged before it has a result. PUBACKs, and PUBRECs, arrive in the order of the PUBLISHes. In
//! the end every message is acknowledged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use super::*;

const WINDOW: usize = 4;

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The client publishes its next message, if its window allows it.
    Publish { exactly_once: bool },
    /// One of the pending requests gets its result.
    Decide(usize),
    /// The session's packets reach the client, which answers.
    Read,
    /// The connection ends; the session's last packets are lost.
    Lose,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Published,
    Released,
}

#[derive(Debug)]
struct Sent {
    id: PacketId,
    qos: QoS,
    number: usize,
    stage: Stage,
}

struct World {
    session: Session,
    connect: Connect,
    now: Instant,
    /// Bytes on the way to the client.
    wire: Vec<u8>,
    /// The client's unacknowledged messages, oldest first.
    unfinished: Vec<Sent>,
    /// Requests without a result: message and ack id.
    undecided: Vec<(usize, AckId)>,
    /// Per message: QoS, number of requests, and true if it has a result.
    messages: Vec<(QoS, usize, bool)>,
    /// Identifiers published on this connection, per QoS, that wait for PUBACK or PUBREC.
    order: [Vec<PacketId>; 2],
}

impl World {
    fn new(protocol: Protocol) -> Self {
        let connect = Connect { clean_start: false, session_expiry: u32::MAX, ..Connect::minimal(protocol) };
        let limits = SessionLimits { inbound_window: WINDOW as u16, ..SessionLimits::default() };
        let mut world = Self {
            session: Session::new(limits),
            connect,
            now: Instant::now(),
            wire: Vec::new(),
            unfinished: Vec::new(),
            undecided: Vec::new(),
            messages: Vec::new(),
            order: Default::default(),
        };
        world.session.attach(&world.connect, world.now, &mut world.wire);
        world
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish { exactly_once } if self.unfinished.len() < WINDOW => {
                let qos = if *exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
                let free = |id: &PacketId| self.unfinished.iter().all(|sent| sent.id != *id);
                let id = (1..).filter_map(PacketId::new).find(free).unwrap();
                let number = self.messages.len();
                self.messages.push((qos, 0, false));
                self.unfinished.push(Sent { id, qos, number, stage: Stage::Published });
                self.publish(id, qos, number, false);
            }
            Step::Publish { .. } => {}
            Step::Decide(which) => {
                if !self.undecided.is_empty() {
                    let (number, ack_id) = self.undecided.swap_remove(which % self.undecided.len());
                    self.messages[number].2 = true;
                    self.session.complete(ack_id, AckResult::SUCCESS, &mut self.wire);
                }
            }
            Step::Read => self.read(),
            Step::Lose => self.lose(),
        }
    }

    fn publish(&mut self, id: PacketId, qos: QoS, number: usize, dup: bool) {
        self.order[qos as usize - 1].push(id);
        let packet = ClientPacket::Publish(Publish {
            topic: TopicName::new("t").ok(),
            alias: None,
            payload: number.to_string().into(),
            qos,
            id: Some(id),
            dup,
            retain: false,
            properties: None,
        });
        if let Some(Action::Publish(inbound)) = self.session.receive(packet, self.now, &mut self.wire).unwrap() {
            assert_eq!(inbound.payload, number.to_string());
            self.messages[number].1 += 1;
            self.undecided.push((number, inbound.ack_id.unwrap()));
        }
    }

    fn read(&mut self) {
        let wire = std::mem::take(&mut self.wire);
        let mut rest = wire.as_slice();
        while let &[kind, length, high, low, ..] = rest {
            rest = &rest[2 + usize::from(length)..];
            let id = PacketId::new(u16::from_be_bytes([high, low])).unwrap();
            let at = self.unfinished.iter().position(|sent| sent.id == id).unwrap();
            let number = self.unfinished[at].number;
            match kind {
                0x40 | 0x50 => {
                    let order = &mut self.order[if kind == 0x40 { 0 } else { 1 }];
                    assert_eq!(order.remove(0), id, "in the order of the PUBLISHes");
                    assert!(self.messages[number].2, "acknowledged only with a result");
                }
                0x70 => assert_eq!(self.unfinished[at].stage, Stage::Released),
                other => panic!("{other:02x}"),
            }
            if kind == 0x50 {
                self.unfinished[at].stage = Stage::Released;
                self.release(id);
            } else {
                self.unfinished.remove(at);
            }
        }
    }

    fn release(&mut self, id: PacketId) {
        assert_eq!(self.session.receive(ClientPacket::PubRel(id), self.now, &mut self.wire), Ok(None));
    }

    fn lose(&mut self) {
        self.session.detach();
        self.wire.clear();
        self.order = Default::default();
        self.session.attach(&self.connect, self.now, &mut self.wire);
        for sent in std::mem::take(&mut self.unfinished) {
            match sent.stage {
                Stage::Published => self.publish(sent.id, sent.qos, sent.number, true),
                Stage::Released => self.release(sent.id),
            }
            self.unfinished.push(sent);
        }
    }

    fn finish(&mut self) {
        for _ in 0..2 * WINDOW {
            self.read();
            while !self.undecided.is_empty() {
                self.step(&Step::Decide(0));
            }
        }
        self.read();
        assert!(self.unfinished.is_empty(), "{:?}", self.unfinished);
        assert_eq!(self.session.inbound_pending(), 0);
        for (number, (qos, requests, _)) in self.messages.iter().enumerate() {
            let fits = if *qos == QoS::ExactlyOnce { *requests == 1 } else { *requests >= 1 };
            assert!(fits, "message {number} at {qos:?} became {requests} requests");
        }
    }
}

impl Step {
    /// Returns the step for a random byte.
    pub(super) fn of(die: u8) -> Self {
        match die % 12 {
            kind @ 0..4 => Self::Publish { exactly_once: kind % 2 == 1 },
            4..8 => Self::Decide((die / 12).into()),
            8..11 => Self::Read,
            _ => Self::Lose,
        }
    }
}

/// Runs all steps, and then further ones until the client waits for nothing.
pub(super) fn run(protocol: Protocol, steps: impl Iterator<Item = Step>) {
    let mut world = World::new(protocol);
    steps.for_each(|step| world.step(&step));
    world.finish();
}

#[cfg(test)]
proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        failure_persistence: None,
        ..proptest::test_runner::Config::with_cases(400)
    })]

    #[test]
    fn no_message_is_lost_or_requested_twice(five: bool, dice in proptest::collection::vec(0..=u8::MAX, 1..80)) {
        let protocol = if five { Protocol::V5 } else { Protocol::V4 };
        run(protocol, dice.into_iter().map(Step::of));
    }
}
