//! Ordinary messages: pairs of a publisher and a subscriber with a persistent session, at QoS 1.
//!
//! Each pair has a topic of its own. The publisher keeps a window of messages that are not finished. A message is
//! finished when the subscriber has received it and the publisher has its PUBACK. The subscriber acknowledges at once. A
//! message that is lost, comes twice or out of order fails the measurement.
//!
//! All clients speak MQTT 3.1.1, which all compared brokers do.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use mio::Registry;

use super::{
    event_loop::{CONNECT_DEADLINE, CONNECTING_MAX, Clients, DRAIN_DEADLINE, EventLoop, Measured, Phases},
    socket::{Mqtt, Socket},
    tally::UpdateStats,
};
use crate::bench::frame::{self, Frame, Protocol};

/// The load of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryLoad {
    /// The broker.
    pub(crate) broker: SocketAddr,
    /// Publishers, each with a subscriber.
    pub(crate) pairs: usize,
    /// Messages of each publisher that are not finished, at most.
    pub(crate) window: u64,
    /// Bytes of a payload.
    pub(crate) payload_bytes: usize,
    /// The times of the measurement.
    pub(crate) phases: Phases,
    /// Set by the caller to end early.
    pub(crate) stop: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    Greeting,
    Subscribing,
    Ready,
}

/// One publisher and its subscriber. The publisher has the token 2 × `number`, the subscriber the one above.
struct Pair {
    sockets: [Socket; 2],
    flow: Flow,
}

/// The state of one pair.
struct Flow {
    topic: String,
    stages: [Stage; 2],
    sent: u64,
    acknowledged: u64,
    received: u64,
    /// The times at which the messages that are not finished were sent.
    sent_at: VecDeque<Instant>,
}

/// The state shared by all pairs.
struct Shared {
    window: u64,
    payload: Vec<u8>,
    /// True if a finished message is followed by the next.
    publishing: bool,
    ready: usize,
    tally: UpdateStats,
    /// The packets that the clients of one pair have to send.
    out: [Vec<u8>; 2],
}

/// Connected pairs.
pub(crate) struct Deliveries {
    polled: EventLoop,
    pairs: Pairs,
}

/// The pairs, without the loop that polls them.
struct Pairs {
    load: DeliveryLoad,
    pairs: Vec<Pair>,
    shared: Shared,
}

const PUBLISHER: usize = 0;
const SUBSCRIBER: usize = 1;

impl Deliveries {
    /// Connects all clients, and subscribes the subscribers.
    ///
    /// # Errors
    ///
    /// One of them could not be connected, or not in time.
    pub(crate) fn connect(load: DeliveryLoad) -> anyhow::Result<Self> {
        crate::bench::limits::raise_open_files(2 * load.pairs)?;
        let shared = Shared {
            window: load.window,
            payload: vec![b'x'; load.payload_bytes.max(NUMBER_BYTES)],
            publishing: false,
            ready: 0,
            tally: UpdateStats::new(),
            out: Default::default(),
        };
        let mut polled = EventLoop::new(&load.stop)?;
        let mut pairs = Pairs { pairs: Vec::new(), shared, load };
        polled.turn_until(&mut pairs, CONNECT_DEADLINE, "clients not connected", |all, registry| {
            while all.pairs.len() < all.load.pairs && 2 * all.pairs.len() < all.shared.ready + CONNECTING_MAX {
                all.pairs.push(Pair::dial(all.pairs.len(), all.load.broker, registry)?);
            }
            Ok(2 * all.load.pairs - all.shared.ready)
        })?;
        Ok(Self { polled, pairs })
    }

    /// Runs the measurement; also returns the number of all messages, those of the warm-up included.
    ///
    /// # Errors
    ///
    /// A message was refused, or lost.
    pub(crate) fn run(mut self) -> anyhow::Result<(Measured, u64)> {
        let Self { polled, pairs } = &mut self;
        pairs.shared.publishing = true;
        for pair in &mut pairs.pairs {
            pair.flow.publish(&mut pairs.shared);
            pair.send(&mut pairs.shared)?;
        }
        let measured = polled.measure(pairs, pairs.load.phases)?;
        pairs.shared.publishing = false;
        polled.turn_until(pairs, DRAIN_DEADLINE, "publishers with messages under way", |all, _| {
            Ok(all.pairs.iter().filter(|pair| !pair.flow.sent_at.is_empty()).count())
        })?;
        Ok((measured, pairs.pairs.iter().map(|pair| pair.flow.sent).sum()))
    }
}

impl Clients for Pairs {
    fn writable(&mut self, token: usize) -> anyhow::Result<()> {
        self.pairs.get_mut(token / 2).map_or(Ok(()), |pair| pair.writable(token % 2))
    }

    fn readable(&mut self, token: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
        let Some(pair) = self.pairs.get_mut(token / 2) else { return Ok(()) };
        pair.readable(token % 2, buffer, &mut self.shared)
    }

    fn stats(&mut self) -> &mut UpdateStats {
        &mut self.shared.tally
    }

    fn waiting_longer_than(&self, limit: Duration) -> usize {
        let waits = |pair: &&Pair| pair.flow.sent_at.front().is_some_and(|at| at.elapsed() > limit);
        self.pairs.iter().filter(waits).count()
    }
}

impl Pair {
    fn dial(number: usize, broker: SocketAddr, registry: &Registry) -> anyhow::Result<Self> {
        let dial = |side| Socket::dial(2 * number + side, broker, registry);
        Ok(Self {
            sockets: [dial(PUBLISHER)?, dial(SUBSCRIBER)?],
            flow: Flow {
                topic: format!("bench/{number:05}"),
                stages: [Stage::Dialling; 2],
                sent: 0,
                acknowledged: 0,
                received: 0,
                sent_at: VecDeque::new(),
            },
        })
    }

    fn writable(&mut self, side: usize) -> anyhow::Result<()> {
        let (Some(socket), Some(stage)) = (self.sockets.get_mut(side), self.flow.stages.get_mut(side)) else {
            return Ok(());
        };
        if *stage != Stage::Dialling {
            return socket.flush();
        }
        socket.dialled()?;
        *stage = Stage::Greeting;
        let mut out = Vec::new();
        match side {
            PUBLISHER => frame::write_connect(&mut out, Protocol::V311, &format!("from-{}", self.flow.topic), None),
            _ => frame::write_persistent_connect(&mut out, &format!("to-{}", self.flow.topic)),
        }
        socket.send(&out)
    }

    fn readable(&mut self, side: usize, buffer: &mut [u8], shared: &mut Shared) -> anyhow::Result<()> {
        let Self { sockets, flow } = self;
        let Some(socket) = sockets.get_mut(side) else { return Ok(()) };
        let read = socket.read::<Mqtt>(buffer, |frame| flow.take(side, frame, shared));
        let name = if side == PUBLISHER { "publisher" } else { "subscriber" };
        read.with_context(|| format!("{name} of {}", flow.topic))?;
        flow.publish(shared);
        self.send(shared)
    }

    /// Sends the collected packets of both clients.
    fn send(&mut self, shared: &mut Shared) -> anyhow::Result<()> {
        for (socket, out) in self.sockets.iter_mut().zip(&mut shared.out) {
            if !out.is_empty() {
                socket.send(out)?;
                out.clear();
            }
        }
        Ok(())
    }
}

impl Flow {
    fn take(&mut self, side: usize, frame: Frame<'_>, shared: &mut Shared) -> anyhow::Result<()> {
        let stage = self.stages.get(side).copied().context("a pair has two clients")?;
        let next = match (frame.kind, side, stage) {
            (frame::PUBACK, PUBLISHER, Stage::Ready) => return self.acknowledged(frame::puback(frame.body)?, shared),
            (frame::PUBLISH, SUBSCRIBER, Stage::Ready) => return self.received(frame, shared),
            (frame::CONNACK, _, Stage::Greeting) => {
                frame::connack(frame.body)?;
                if side == PUBLISHER {
                    Stage::Ready
                } else {
                    let out = &mut shared.out[SUBSCRIBER];
                    frame::write_subscribe(out, Protocol::V311, &[&self.topic], 1);
                    Stage::Subscribing
                }
            }
            (frame::SUBACK, SUBSCRIBER, Stage::Subscribing) => {
                frame::suback(frame.body, 1, Protocol::V311)?;
                Stage::Ready
            }
            (kind, ..) => bail!("packet type {kind} while {stage:?}"),
        };
        shared.ready += usize::from(next == Stage::Ready);
        self.stages.iter_mut().skip(side).take(1).for_each(|stage| *stage = next);
        Ok(())
    }

    fn acknowledged(&mut self, id: u16, shared: &mut Shared) -> anyhow::Result<()> {
        // [MQTT-4.6.0-2]: in the order of the messages.
        ensure!(id == packet_id(self.acknowledged), "PUBACK {id} is not the next one");
        self.acknowledged += 1;
        self.finish(shared);
        Ok(())
    }

    fn received(&mut self, frame: Frame<'_>, shared: &mut Shared) -> anyhow::Result<()> {
        let message = frame::Message::parse(frame, Protocol::V311)?;
        ensure!(message.topic == self.topic.as_bytes(), "a message that is not its own");
        let number = message.payload.get(..NUMBER_BYTES).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        ensure!(number == Some(self.received), "message {number:?} in the place of {}", self.received);
        self.received += 1;
        frame::write_puback(&mut shared.out[SUBSCRIBER], message.packet_id.context("a message at QoS 0")?);
        self.finish(shared);
        Ok(())
    }

    /// Counts the messages that are received and acknowledged now.
    fn finish(&mut self, shared: &mut Shared) {
        let left = (self.sent - self.acknowledged.min(self.received)) as usize;
        while self.sent_at.len() > left {
            let latency = self.sent_at.pop_front().map(|at| at.elapsed());
            shared.tally.accepted(latency.unwrap_or_default(), shared.payload.len());
        }
    }

    /// Writes messages until the window is full.
    fn publish(&mut self, shared: &mut Shared) {
        while shared.publishing && (self.sent_at.len() as u64) < shared.window {
            let number = format!("{:0NUMBER_BYTES$}", self.sent);
            shared.payload.iter_mut().zip(number.bytes()).for_each(|(byte, digit)| *byte = digit);
            let out = &mut shared.out[PUBLISHER];
            let id = Some(packet_id(self.sent));
            frame::write_publish(out, Protocol::V311, self.topic.as_bytes(), id, &shared.payload);
            self.sent += 1;
            self.sent_at.push_back(Instant::now());
        }
    }
}

/// Returns the packet identifier of the message `number`.
fn packet_id(number: u64) -> u16 {
    (number % u64::from(u16::MAX)) as u16 + 1
}

/// Digits at the beginning of a payload.
const NUMBER_BYTES: usize = 10;
