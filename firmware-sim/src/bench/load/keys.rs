//! Writers of the keys of a NATS key-value bucket, by compare-and-set: one connection, one key and one put in flight each.
//!
//! A put has the whole document, of the size of a shadow, since a bucket merges nothing.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use mio::Registry;

use super::{
    event_loop::{CONNECT_DEADLINE, CONNECTING_MAX, Clients, DRAIN_DEADLINE, EventLoop, Measured, Phases},
    message,
    nats::{self, FromServer, Nats},
    socket::Socket,
    tally::UpdateStats,
};

/// The load of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct KeyLoad {
    /// The server.
    pub(crate) server: SocketAddr,
    /// Writers, each with a key.
    pub(crate) writers: usize,
    /// The times of the measurement.
    pub(crate) phases: Phases,
    /// Set by the caller to end early.
    pub(crate) stop: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    Greeting,
    /// The first writer, while it creates the bucket.
    Creating,
    Idle,
    Putting,
}

struct Writer {
    socket: Socket,
    state: State,
}

struct State {
    stage: Stage,
    subject: String,
    inbox: String,
    /// The sequence of the key's value.
    sequence: u64,
    since: Instant,
}

struct Shared {
    document: Vec<u8>,
    running: bool,
    puts: u64,
    ready: usize,
    tally: UpdateStats,
    out: Vec<u8>,
}

/// Connected writers.
pub(crate) struct KeyWriters {
    polled: EventLoop,
    all: All,
}

struct All {
    load: KeyLoad,
    writers: Vec<Writer>,
    shared: Shared,
}

impl KeyWriters {
    /// Connects all, and creates the bucket.
    ///
    /// # Errors
    ///
    /// One of them could not be connected, or not in time.
    pub(crate) fn connect(load: KeyLoad) -> anyhow::Result<Self> {
        crate::bench::limits::raise_open_files(load.writers)?;
        let mut polled = EventLoop::new(&load.stop)?;
        let document = message::full_report(0).into_bytes();
        let shared = Shared { document, running: false, puts: 0, ready: 0, tally: UpdateStats::new(), out: Vec::new() };
        let mut all = All { load, writers: Vec::new(), shared };
        polled.turn_until(&mut all, CONNECT_DEADLINE, "writers not connected", |all, registry| {
            all.dial_more(registry)?;
            Ok(all.load.writers - all.shared.ready)
        })?;
        Ok(Self { polled, all })
    }

    /// Warms up, measures, and waits for the puts in flight; also returns the number of all puts.
    ///
    /// # Errors
    ///
    /// A put was rejected, or lost.
    pub(crate) fn run(mut self) -> anyhow::Result<(Measured, u64)> {
        let Self { polled, all } = &mut self;
        all.shared.running = true;
        for writer in &mut all.writers {
            all.shared.out.clear();
            writer.state.put(&mut all.shared);
            writer.socket.send(&all.shared.out)?;
        }
        let measured = polled.measure(all, all.load.phases)?;
        all.shared.running = false;
        polled.turn_until(all, DRAIN_DEADLINE, "puts not answered", |all, _| {
            Ok(all.writers.iter().filter(|writer| writer.state.stage == Stage::Putting).count())
        })?;
        Ok((measured, all.shared.puts))
    }
}

impl All {
    fn dial_more(&mut self, registry: &Registry) -> anyhow::Result<()> {
        while self.writers.len() < self.load.writers && self.writers.len() < self.shared.ready + CONNECTING_MAX {
            let number = self.writers.len();
            let state = State {
                stage: Stage::Dialling,
                subject: format!("$KV.bench.{}", message::device_id(number)),
                inbox: format!("_INBOX.bench.{number}"),
                sequence: 0,
                since: Instant::now(),
            };
            self.writers.push(Writer { socket: Socket::dial(number, self.load.server, registry)?, state });
        }
        Ok(())
    }
}

impl Clients for All {
    fn writable(&mut self, token: usize) -> anyhow::Result<()> {
        let Some(Writer { socket, state }) = self.writers.get_mut(token) else { return Ok(()) };
        if state.stage != Stage::Dialling {
            return socket.flush();
        }
        socket.dialled()?;
        state.stage = Stage::Greeting;
        let mut out = Vec::new();
        nats::write_connect(&mut out, &state.inbox);
        socket.send(&out)
    }

    fn readable(&mut self, token: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
        let Some(Writer { socket, state }) = self.writers.get_mut(token) else { return Ok(()) };
        self.shared.out.clear();
        let read = socket.read::<Nats>(buffer, |message| state.take(token, &message, &mut self.shared));
        read.with_context(|| format!("writer {token}"))?;
        if self.shared.out.is_empty() { Ok(()) } else { socket.send(&self.shared.out) }
    }

    fn stats(&mut self) -> &mut UpdateStats {
        &mut self.shared.tally
    }

    fn waiting_longer_than(&self, limit: Duration) -> usize {
        let waits = |writer: &&Writer| writer.state.stage == Stage::Putting && writer.state.since.elapsed() > limit;
        self.writers.iter().filter(waits).count()
    }
}

impl State {
    fn take(&mut self, token: usize, message: &FromServer<'_>, shared: &mut Shared) -> anyhow::Result<()> {
        match (message, self.stage) {
            (FromServer::Info, _) => {}
            (FromServer::Ping, _) => shared.out.extend_from_slice(b"PONG\r\n"),
            (FromServer::Pong, Stage::Greeting) if token == 0 => {
                self.stage = Stage::Creating;
                let (subject, request) = nats::CREATE_BUCKET;
                nats::write_request(&mut shared.out, subject, &self.inbox, request.as_bytes());
            }
            (FromServer::Pong, Stage::Greeting) => {
                self.stage = Stage::Idle;
                shared.ready += 1;
            }
            (FromServer::Message(payload), Stage::Creating) => {
                nats::api_answer(payload)?;
                self.stage = Stage::Idle;
                shared.ready += 1;
            }
            (FromServer::Message(payload), Stage::Putting) => {
                self.sequence = nats::put_sequence(payload)?;
                shared.puts += 1;
                shared.tally.accepted(self.since.elapsed(), payload.len());
                self.stage = Stage::Idle;
                if shared.running {
                    self.put(shared);
                }
            }
            (message, stage) => bail!("{message:?} while {stage:?}"),
        }
        Ok(())
    }

    fn put(&mut self, shared: &mut Shared) {
        nats::write_put(&mut shared.out, &self.subject, &self.inbox, self.sequence, &shared.document);
        self.stage = Stage::Putting;
        self.since = Instant::now();
    }
}
