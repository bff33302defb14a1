//! Readers and writers over HTTP, one request in flight per connection.
//!
//! Each connection owns a shadow: it creates it, and its later writes have the entity tag that it knows, so none
//! conflicts. Reads are of its own shadow too; a conditional read has its entity tag and is answered by 304.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    event_loop::{CONNECT_DEADLINE, Clients, DRAIN_DEADLINE, EventLoop, Measured, Phases},
    http::{self, Http, Response},
    message,
    socket::Socket,
    tally::UpdateStats,
};

/// The requests of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum WebMix {
    /// Reads with a body.
    Reads,
    /// Reads that are answered by 304.
    Unchanged,
    /// Reads with a body, this share of all, and writes.
    Mixed(f64),
}

/// The load of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct WebLoad {
    /// The HTTP listener.
    pub(crate) server: SocketAddr,
    /// Connections, each with a shadow of its own.
    pub(crate) connections: usize,
    /// The number of the first shadow.
    pub(crate) first_shadow: usize,
    /// The requests.
    pub(crate) mix: WebMix,
    /// The times of the measurement.
    pub(crate) phases: Phases,
    /// Set by the caller to end early.
    pub(crate) stop: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Read,
    Unchanged,
    Write,
}

struct Connection {
    socket: Socket,
    dialling: bool,
    state: State,
}

/// The state of one connection and its shadow.
struct State {
    shadow: usize,
    path: String,
    /// The entity tag of the shadow; empty before it exists.
    etag: Vec<u8>,
    request: Option<Request>,
    writes: u64,
    since: Instant,
}

/// Connections over HTTP.
pub(crate) struct WebClients {
    polled: EventLoop,
    all: All,
}

/// The connections, without the loop that polls them.
struct All {
    load: WebLoad,
    connections: Vec<Connection>,
    running: bool,
    tally: UpdateStats,
    random: SmallRng,
    out: Vec<u8>,
}

impl WebClients {
    /// Connects all, and creates their shadows.
    ///
    /// # Errors
    ///
    /// One of them could not be connected, or not in time.
    pub(crate) fn connect(load: WebLoad) -> anyhow::Result<Self> {
        let mut polled = EventLoop::new(&load.stop)?;
        let dial = |number| -> anyhow::Result<Connection> {
            Ok(Connection {
                socket: Socket::dial(number, load.server, polled.registry())?,
                dialling: true,
                state: State {
                    shadow: load.first_shadow + number,
                    path: format!("/v1/devices/{}/shadow", message::device_id(load.first_shadow + number)),
                    etag: Vec::new(),
                    request: None,
                    writes: 0,
                    since: Instant::now(),
                },
            })
        };
        let connections = (0..load.connections).map(dial).collect::<anyhow::Result<Vec<_>>>()?;
        let (tally, random) = (UpdateStats::new(), SmallRng::seed_from_u64(2));
        let mut all = All { load, connections, running: false, tally, random, out: Vec::new() };
        let unborn = |all: &mut All| all.connections.iter().filter(|one| one.state.etag.is_empty()).count();
        polled.turn_until(&mut all, CONNECT_DEADLINE, "HTTP clients not ready", |all, _| Ok(unborn(all)))?;
        Ok(Self { polled, all })
    }

    /// Warms up, measures, and waits for the requests in flight.
    pub(crate) fn run(mut self) -> anyhow::Result<Measured> {
        let Self { polled, all } = &mut self;
        all.running = true;
        (0..all.connections.len()).try_for_each(|number| all.next(number))?;
        let measured = polled.measure(all, all.load.phases)?;
        all.running = false;
        polled.turn_until(all, DRAIN_DEADLINE, "requests not answered", |all, _| {
            Ok(all.connections.iter().filter(|one| one.state.request.is_some()).count())
        })?;
        Ok(measured)
    }
}

impl All {
    fn next(&mut self, number: usize) -> anyhow::Result<()> {
        let request = match self.load.mix {
            WebMix::Reads => Request::Read,
            WebMix::Unchanged => Request::Unchanged,
            WebMix::Mixed(reads) if self.random.random_bool(reads) => Request::Read,
            WebMix::Mixed(_) => Request::Write,
        };
        let Some(connection) = self.connections.get_mut(number) else { return Ok(()) };
        connection.send(request, &mut self.out)
    }
}

impl Connection {
    fn send(&mut self, request: Request, out: &mut Vec<u8>) -> anyhow::Result<()> {
        self.state.write(request, out)?;
        self.socket.send(out)
    }
}

impl State {
    fn write(&mut self, request: Request, out: &mut Vec<u8>) -> anyhow::Result<()> {
        out.clear();
        match request {
            Request::Read => http::write_request(out, "GET", &self.path, b"", b""),
            Request::Unchanged => {
                let condition = [b"If-None-Match: ", &*self.etag].concat();
                http::write_request(out, "GET", &self.path, &condition, b"");
            }
            Request::Write if self.etag.is_empty() => {
                let report: serde_json::Value = serde_json::from_str(&message::full_report(self.shadow))?;
                let state = report.get("state").context("a report has a state")?.to_string();
                http::write_request(out, "PUT", &self.path, b"If-None-Match: *", state.as_bytes());
            }
            Request::Write => {
                let count = self.writes % 1_000_000;
                let body = format!(
                    r#"{{"reported":{{"temperature":{}.5,"humidity":{}.5,"rssi":-{},"uptime":{count}}}}}"#,
                    10 + count % 90,
                    10 + count * 7 % 90,
                    10 + count * 11 % 90,
                );
                let condition = [b"If-Match: ", &*self.etag].concat();
                http::write_request(out, "PATCH", &self.path, &condition, body.as_bytes());
            }
        }
        self.request = Some(request);
        self.since = Instant::now();
        Ok(())
    }

    fn take(&mut self, response: &Response<'_>, tally: &mut UpdateStats) -> anyhow::Result<()> {
        let request = self.request.take().context("a response without a request")?;
        let expected: &[u16] = match request {
            Request::Read => &[200],
            Request::Unchanged => &[304],
            Request::Write => &[200, 201],
        };
        let text =
            || format!("{request:?} was answered by {}: {}", response.status, String::from_utf8_lossy(response.body));
        ensure!(expected.contains(&response.status), text());
        self.etag = response.etag.context("a response without an entity tag")?.to_vec();
        self.writes += u64::from(request == Request::Write);
        tally.accepted(self.since.elapsed(), response.body.len());
        Ok(())
    }
}

impl Clients for All {
    fn writable(&mut self, token: usize) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(token) else { return Ok(()) };
        if !connection.dialling {
            return connection.socket.flush();
        }
        connection.socket.dialled()?;
        connection.dialling = false;
        connection.send(Request::Write, &mut self.out)
    }

    fn readable(&mut self, token: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(token) else { return Ok(()) };
        let Connection { socket, state, .. } = connection;
        socket.read::<Http>(buffer, |response| state.take(&response, &mut self.tally))?;
        if self.running && state.request.is_none() { self.next(token) } else { Ok(()) }
    }

    fn stats(&mut self) -> &mut UpdateStats {
        &mut self.tally
    }

    fn waiting_longer_than(&self, limit: Duration) -> usize {
        self.connections
            .iter()
            .map(|one| &one.state)
            .filter(|state| state.request.is_some() && state.since.elapsed() > limit)
            .count()
    }
}
