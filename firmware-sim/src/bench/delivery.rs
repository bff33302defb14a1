//! The load of `bench sessions`: pairs of a publisher and a subscriber with a persistent session, at QoS 1.
//!
//! Each pair has a topic of its own. The publisher keeps a window of messages that are not finished. A message is
//! finished when the subscriber has received it and the publisher has its PUBACK. The subscriber acknowledges at once. A
//! message that is lost, comes twice or out of order fails the measurement.
//!
//! All clients are on one thread and one epoll, like those of [`super::generator`], and speak MQTT 3.1.1, which all
//! compared brokers do.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use mio::{Events, Poll, Registry};
use serde::Serialize;

use super::{
    frame::{self, Frame, Protocol},
    process::cpu_time,
    socket::Socket,
    tally::{Latencies, UpdateStats},
};

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
    /// Time before the measurement.
    pub(crate) warm_up: Duration,
    /// Duration of the measurement.
    pub(crate) measured: Duration,
    /// Set by the caller to end early.
    pub(crate) stop: Arc<AtomicBool>,
}

/// The results of a measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Delivered {
    /// Finished messages a second.
    pub(crate) messages_per_second: f64,
    /// Milliseconds from publish until the message is finished.
    pub(crate) latency_ms: Latencies,
    /// Microseconds of CPU of this process per message.
    pub(crate) generator_cpu_us: f64,
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
    load: DeliveryLoad,
    poll: Poll,
    events: Events,
    pairs: Vec<Pair>,
    shared: Shared,
    buffer: Vec<u8>,
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
        super::limits::raise_open_files(2 * load.pairs)?;
        let shared = Shared {
            window: load.window,
            payload: vec![b'x'; load.payload_bytes.max(NUMBER_BYTES)],
            publishing: false,
            ready: 0,
            tally: UpdateStats::new(),
            out: Default::default(),
        };
        let (poll, events) = (Poll::new()?, Events::with_capacity(1024));
        let mut all = Self { poll, events, pairs: Vec::new(), shared, buffer: vec![0; BUFFER_BYTES], load };
        let deadline = Instant::now() + CONNECT_DEADLINE;
        while all.shared.ready < 2 * all.load.pairs {
            while all.pairs.len() < all.load.pairs && 2 * all.pairs.len() < all.shared.ready + CONNECTING_MAX {
                all.pairs.push(Pair::dial(all.pairs.len(), all.load.broker, all.poll.registry())?);
            }
            all.turn()?;
            let (ready, clients) = (all.shared.ready, 2 * all.load.pairs);
            ensure!(Instant::now() < deadline, "{ready} of {clients} clients connected in {CONNECT_DEADLINE:?}");
        }
        Ok(all)
    }

    /// Runs the measurement; also returns the number of all messages, those of the warm-up included.
    ///
    /// # Errors
    ///
    /// A message was refused, or lost.
    pub(crate) fn run(mut self) -> anyhow::Result<(Delivered, u64)> {
        self.shared.publishing = true;
        for pair in &mut self.pairs {
            pair.flow.publish(&mut self.shared);
            pair.send(&mut self.shared)?;
        }
        self.turn_for(self.load.warm_up)?;
        self.shared.tally.reset();
        let (started, cpu) = (Instant::now(), cpu_time(std::process::id())?);
        self.turn_for(self.load.measured)?;
        let (elapsed, cpu) = (started.elapsed(), cpu_time(std::process::id())? - cpu);
        let messages = self.shared.tally.updates();
        let measured = Delivered {
            messages_per_second: messages as f64 / elapsed.as_secs_f64(),
            latency_ms: self.shared.tally.latencies(),
            generator_cpu_us: cpu.as_secs_f64() * 1e6 / messages.max(1) as f64,
        };
        self.shared.publishing = false;
        while self.pairs.iter().any(|pair| !pair.flow.sent_at.is_empty()) {
            self.turn()?;
            self.find_lost()?;
        }
        Ok((measured, self.pairs.iter().map(|pair| pair.flow.sent).sum()))
    }

    fn turn_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn()?;
        }
        self.find_lost()
    }

    /// Fails if a message has waited too long.
    fn find_lost(&self) -> anyhow::Result<()> {
        let waits = |pair: &&Pair| pair.flow.sent_at.front().is_some_and(|at| at.elapsed() > LOST_AFTER);
        let lost = self.pairs.iter().filter(waits).count();
        ensure!(lost == 0, "a message of each of {lost} publishers was not delivered in {LOST_AFTER:?}");
        Ok(())
    }

    /// Waits for ready sockets and handles them.
    fn turn(&mut self) -> anyhow::Result<()> {
        if self.load.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        match self.poll.poll(&mut self.events, Some(TURN)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error).context("epoll"),
            _ => {}
        }
        for event in &self.events {
            let (number, side) = (event.token().0 / 2, event.token().0 % 2);
            let Some(pair) = self.pairs.get_mut(number) else { continue };
            if event.is_writable() {
                pair.writable(side)?;
            }
            if event.is_readable() {
                pair.readable(side, &mut self.buffer, &mut self.shared)?;
            }
        }
        Ok(())
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
        let read = socket.read(buffer, |frame| flow.take(side, frame, shared));
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
const BUFFER_BYTES: usize = 64 * 1024;
const CONNECTING_MAX: usize = 256;
const CONNECT_DEADLINE: Duration = Duration::from_secs(120);
const LOST_AFTER: Duration = Duration::from_secs(60);
const TURN: Duration = Duration::from_millis(100);
