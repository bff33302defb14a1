//! Model test: messages to a client that loses its connection at any moment and returns with another window.
//!
//! Properties under any sequence of steps: the client gets a QoS 2 message exactly once and a QoS 1 message at least
//! once. Messages arrive for the first time in the order of delivery. The client never has more unacknowledged messages
//! than its receive maximum. In the end the session keeps none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{
    collections::{BTreeSet, VecDeque},
    num::NonZeroU16,
    sync::Arc,
};

use super::*;
use crate::mqtt::protocol::message::Message;

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Another message is queued for the client.
    Queue { exactly_once: bool },
    /// The session's packets reach the client.
    Read,
    /// One of the client's answers reaches the session.
    Answer,
    /// The connection ends, packets on the way are lost, and the next one has this receive maximum.
    Lose(u16),
}

struct World {
    session: Session,
    now: Instant,
    window: usize,
    queue: VecDeque<Delivery>,
    queued: u16,
    /// Bytes on the way to the client.
    wire: Vec<u8>,
    /// Packets on the way to the session.
    answers: VecDeque<ClientPacket>,
    /// QoS 2 identifiers that the client has received, until PUBREL.
    unreleased: BTreeSet<PacketId>,
    /// Identifiers published on this connection and not completely acknowledged.
    open: BTreeSet<PacketId>,
    /// Messages in the order in which the client accepted them, with their QoS.
    accepted: Vec<(u16, QoS)>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            session: Session::new(SessionLimits { outbound_window: 3, ..SessionLimits::default() }),
            now: Instant::now(),
            window: 0,
            queue: VecDeque::new(),
            queued: 0,
            wire: Vec::new(),
            answers: VecDeque::new(),
            unreleased: BTreeSet::new(),
            open: BTreeSet::new(),
            accepted: Vec::new(),
        };
        world.connect(3);
        world
    }

    fn connect(&mut self, receive_maximum: u16) {
        self.session.detach();
        self.wire.clear();
        self.answers.clear();
        self.open.clear();
        self.window = usize::from(receive_maximum).min(3);
        let connect = Connect {
            clean_start: false,
            session_expiry: u32::MAX,
            receive_maximum: NonZeroU16::new(receive_maximum).unwrap(),
            ..Connect::minimal(Protocol::V5)
        };
        self.session.attach(&connect, self.now, &mut self.wire);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Queue { exactly_once } => {
                let qos = if *exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
                let payload = Bytes::copy_from_slice(&self.queued.to_be_bytes());
                let message = Message::new(TopicName::new("t").unwrap(), payload, qos, false, None, self.now);
                let message = Arc::new(message);
                self.queue.push_back(Delivery::new(message, qos));
                self.queued += 1;
            }
            Step::Read => self.read(),
            Step::Answer => {
                if let Some(packet) = self.answers.pop_front() {
                    if let ClientPacket::PubAck(id, _) | ClientPacket::PubComp(id) = packet {
                        self.open.remove(&id);
                    }
                    assert_eq!(self.session.receive(packet, self.now, &mut self.wire), Ok(None));
                }
            }
            Step::Lose(receive_maximum) => self.connect(*receive_maximum),
        }
        while self.session.window_open() {
            let Some(delivery) = self.queue.pop_front() else { break };
            assert!(matches!(self.session.deliver(delivery, self.now, &mut self.wire), Delivered::Sent));
        }
    }

    fn read(&mut self) {
        let wire = std::mem::take(&mut self.wire);
        let mut rest = wire.as_slice();
        while let &[first_byte, length, ..] = rest {
            let (packet, after) = rest.split_at(2 + usize::from(length));
            rest = after;
            let id = |at: usize| PacketId::new(u16::from_be_bytes([packet[at], packet[at + 1]])).unwrap();
            if first_byte == 0x62 {
                self.unreleased.remove(&id(2));
                self.answers.push_back(ClientPacket::PubComp(id(2)));
                continue;
            }
            let (id, number) = (id(5), u16::from_be_bytes([packet[8], packet[9]]));
            assert!(self.open.insert(id) && self.open.len() <= self.window, "{:?} of {}", self.open, self.window);
            if first_byte & !8 == 0x32 {
                self.accepted.push((number, QoS::AtLeastOnce));
                self.answers.push_back(ClientPacket::PubAck(id, Reason::SUCCESS));
            } else {
                if self.unreleased.insert(id) {
                    self.accepted.push((number, QoS::ExactlyOnce));
                }
                self.answers.push_back(ClientPacket::PubRec(id, Reason::SUCCESS));
            }
        }
    }

    fn finish(&mut self) {
        for _ in 0..10 * self.queued + 10 {
            self.step(&Step::Read);
            self.step(&Step::Answer);
        }
        assert!(self.queue.is_empty() && self.unreleased.is_empty() && self.open.is_empty());
        assert_eq!(self.session.inflight_bytes(), 0);
        let mut seen = Vec::new();
        for (number, qos) in &self.accepted {
            if !seen.contains(number) {
                seen.push(*number);
            } else {
                assert_eq!(*qos, QoS::AtLeastOnce, "message {number} was accepted twice");
            }
        }
        assert_eq!(seen, (0..self.queued).collect::<Vec<_>>());
    }
}

impl Step {
    /// Returns the step for a random byte.
    pub(super) fn of(die: u8) -> Self {
        match die % 15 {
            kind @ 0..4 => Self::Queue { exactly_once: kind % 2 == 1 },
            4..8 => Self::Read,
            8..14 => Self::Answer,
            _ => Self::Lose(u16::from(die / 15 % 4) + 1),
        }
    }
}

/// Runs all steps, and then further ones until nothing is in flight to the client.
pub(super) fn run(steps: impl Iterator<Item = Step>) {
    let mut world = World::new();
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
    fn every_message_arrives_in_order(dice in proptest::collection::vec(0..=u8::MAX, 1..80)) {
        run(dice.into_iter().map(Step::of));
    }
}
