//! Clients that come, subscribe and leave, for sessions that the server keeps; blocking sockets on a few threads.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};

use super::message;
use crate::bench::frame::{self, Protocol};

/// A connected client.
#[derive(Debug)]
pub(crate) struct Visitor {
    stream: TcpStream,
    /// Bytes read and not handled yet.
    pending: Vec<u8>,
}

/// The sessions to make.
#[derive(Debug, Clone)]
pub(crate) struct Visits {
    pub(crate) broker: SocketAddr,
    pub(crate) sessions: usize,
    /// Set by the caller to end early.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Visits {
    /// Makes the sessions, each with a subscription of its own, and returns their connections.
    pub(crate) fn connect(&self) -> anyhow::Result<Vec<Visitor>> {
        self.in_parallel(|visits, number| Visitor::subscriber(visits.broker, number))
    }

    /// Makes the sessions as [`Visits::connect`], and disconnects each at once.
    pub(crate) fn leave(&self) -> anyhow::Result<()> {
        self.in_parallel(|visits, number| Visitor::subscriber(visits.broker, number)?.leave()).map(drop)
    }

    /// Publishes a message of `bytes` to each session, `rounds` times.
    pub(crate) fn publish(&self, rounds: usize, bytes: usize) -> anyhow::Result<()> {
        let payload = vec![b'x'; bytes];
        let chunks = Self { sessions: self.sessions.div_ceil(CHUNK), ..self.clone() };
        for _ in 0..rounds {
            chunks.in_parallel(|visits, chunk| {
                let mut publisher = Visitor::connect(visits.broker, &format!("from-{chunk}"), false)?;
                publisher.publish((chunk * CHUNK..self.sessions).take(CHUNK), &payload)?;
                publisher.leave()
            })?;
        }
        Ok(())
    }

    fn in_parallel<T: Send>(&self, visit: impl Fn(&Self, usize) -> anyhow::Result<T> + Sync) -> anyhow::Result<Vec<T>> {
        let part = |first: usize| -> anyhow::Result<Vec<T>> {
            let numbers = (first..self.sessions).step_by(THREADS);
            let visited = numbers.map(|number| {
                ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
                visit(self, number)
            });
            visited.collect()
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || part(first))).collect();
            let mut all = Vec::with_capacity(self.sessions);
            for thread in threads {
                all.extend(thread.join().map_err(|_| anyhow!("a thread panicked"))??);
            }
            Ok(all)
        })
    }
}

/// Connects once, and waits until an update of a shadow is accepted.
///
/// # Errors
///
/// The server does not serve.
pub(crate) fn update_once(broker: SocketAddr, shadow: usize) -> anyhow::Result<()> {
    let (mut visitor, mut out) = (Visitor::connect(broker, "probe", false)?, Vec::new());
    let topic = format!("shadow/{}/update", message::device_id(shadow));
    let report = message::full_report(shadow);
    frame::write_publish(&mut out, Protocol::V311, topic.as_bytes(), Some(1), report.as_bytes());
    visitor.stream.write_all(&out)?;
    visitor.answers(frame::PUBACK, 1)?;
    visitor.leave()
}

impl Visitor {
    fn connect(broker: SocketAddr, client_id: &str, persistent: bool) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(broker).with_context(|| format!("connecting to {broker}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        let (mut visitor, mut out) = (Self { stream, pending: Vec::new() }, Vec::new());
        match persistent {
            true => frame::write_persistent_connect(&mut out, client_id),
            false => frame::write_connect(&mut out, Protocol::V311, client_id, None),
        }
        visitor.stream.write_all(&out)?;
        visitor.answers(frame::CONNACK, 1)?;
        Ok(visitor)
    }

    fn subscriber(broker: SocketAddr, number: usize) -> anyhow::Result<Self> {
        let (topic, mut out) = (topic(number), Vec::new());
        let mut visitor = Self::connect(broker, &format!("to-{topic}"), true)?;
        frame::write_subscribe(&mut out, Protocol::V311, &[&topic], 1);
        visitor.stream.write_all(&out)?;
        visitor.answers(frame::SUBACK, 1)?;
        Ok(visitor)
    }

    fn publish(&mut self, sessions: impl Iterator<Item = usize>, payload: &[u8]) -> anyhow::Result<()> {
        let (mut out, mut count) = (Vec::new(), 0);
        for number in sessions {
            count += 1;
            frame::write_publish(&mut out, Protocol::V311, topic(number).as_bytes(), Some(count), payload);
        }
        self.stream.write_all(&out)?;
        self.answers(frame::PUBACK, count)
    }

    fn leave(mut self) -> anyhow::Result<()> {
        frame::write_packet(&mut self.pending, DISCONNECT, |_| {});
        self.stream.write_all(&self.pending)?;
        Ok(())
    }

    /// Waits for `count` packets of a type.
    fn answers(&mut self, kind: u8, count: u16) -> anyhow::Result<()> {
        let (mut buffer, mut left) = ([0; 4096], count);
        loop {
            let mut bytes = &*self.pending;
            while let Some((frame, rest)) = frame::split(bytes)? {
                match frame.kind {
                    frame::CONNACK if kind == frame::CONNACK => frame::connack(frame.body)?,
                    frame::SUBACK if kind == frame::SUBACK => frame::suback(frame.body, 1, Protocol::V311)?,
                    frame::PUBACK if kind == frame::PUBACK => drop(frame::puback(frame.body)?),
                    other => bail!("packet type {other} in the place of {kind}"),
                }
                left = left.saturating_sub(1);
                bytes = rest;
            }
            let done = self.pending.len() - bytes.len();
            self.pending.drain(..done);
            if left == 0 {
                return Ok(());
            }
            match self.stream.read(&mut buffer).context("reading from the broker")? {
                0 => bail!("the server closed the connection"),
                read => self.pending.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            }
        }
    }
}

fn topic(number: usize) -> String {
    format!("bench/{number:06}")
}

/// The first byte of a DISCONNECT.
const DISCONNECT: u8 = 0xe0;
const THREADS: usize = 64;
/// Messages of one publisher.
const CHUNK: usize = 250;
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
