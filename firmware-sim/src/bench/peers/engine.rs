//! A client of an ordinary broker that answers updates: the part that all engines share.
//!
//! It subscribes to `shadow/+/update` and answers on `shadow/<id>/update/accepted` with the next version and a payload as
//! large as the service's: one read, one decision and one write for all updates that the broker has ready. It subscribes
//! at QoS 0 and answers at the QoS of the measured subscriptions, so that the broker does no needless work.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, bail};

use super::ENGINE_READY;
use crate::bench::frame::{self, Message, Protocol};

/// The decision about one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Accepted under this version.
    Accepted(u64),
    /// Rejected: the expected version is not the current one.
    Rejected,
}

/// Decides about updates.
pub(super) trait Decide {
    /// Appends an outcome for each update of a batch.
    fn decide(&mut self, updates: &[Message<'_>], outcomes: &mut Vec<Outcome>) -> anyhow::Result<()>;
}

/// The engine's connection.
pub(super) struct Engine {
    stream: TcpStream,
    /// Bytes read and not handled yet.
    pending: Vec<u8>,
    out: Vec<u8>,
    topic: Vec<u8>,
    answer: Answer,
    /// The packet id of the last answer, if answers are QoS 1.
    packet_id: Option<u16>,
}

impl Engine {
    /// Connects and subscribes; answers have payloads of `accepted_bytes` and QoS `qos`, 0 or 1.
    ///
    /// # Errors
    ///
    /// The broker cannot be reached, or refuses.
    pub(super) fn connect(broker: SocketAddr, accepted_bytes: usize, qos: u8) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(broker).with_context(|| format!("connecting to {broker}"))?;
        stream.set_nodelay(true)?;
        let mut engine = Self {
            stream,
            pending: Vec::new(),
            out: Vec::new(),
            topic: Vec::new(),
            answer: Answer::new(accepted_bytes)?,
            packet_id: (qos > 0).then_some(0),
        };
        frame::write_connect(&mut engine.out, Protocol::V311, "engine", None);
        engine.flush()?;
        engine.expect(frame::CONNACK)?;
        frame::write_subscribe(&mut engine.out, Protocol::V311, &["shadow/+/update"], 0);
        engine.flush()?;
        engine.expect(frame::SUBACK)?;
        println!("{ENGINE_READY}");
        Ok(engine)
    }

    /// Answers until the broker closes the connection.
    ///
    /// # Errors
    ///
    /// The broker sent something else than an update, or a decision failed.
    pub(super) fn run(mut self, decide: &mut impl Decide) -> anyhow::Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = self.stream.read(&mut buffer).context("reading from the broker")?;
            if read == 0 {
                return Ok(());
            }
            self.pending.extend_from_slice(buffer.get(..read).unwrap_or_default());
            self.answer_all(decide)?;
            self.flush()?;
        }
    }

    fn answer_all(&mut self, decide: &mut impl Decide) -> anyhow::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let (mut bytes, mut updates, mut outcomes) = (&*pending, Vec::new(), Vec::new());
        while let Some((frame, rest)) = frame::split(bytes)? {
            match frame.kind {
                frame::PUBLISH => updates.push(Message::parse(frame, Protocol::V311)?),
                frame::PUBACK => {}
                kind => bail!("packet type {kind} from the broker"),
            }
            bytes = rest;
        }
        decide.decide(&updates, &mut outcomes)?;
        for (update, outcome) in updates.iter().zip(outcomes) {
            self.answer(update.topic, outcome);
        }
        let done = pending.len() - bytes.len();
        self.pending = pending;
        self.pending.drain(..done);
        Ok(())
    }

    fn answer(&mut self, topic: &[u8], outcome: Outcome) {
        self.packet_id = self.packet_id.map(|id| id % u16::MAX + 1);
        self.topic.clear();
        self.topic.extend_from_slice(topic);
        let payload: &[u8] = match outcome {
            Outcome::Accepted(version) => {
                self.topic.extend_from_slice(b"/accepted");
                self.answer.with_version(version)
            }
            Outcome::Rejected => {
                self.topic.extend_from_slice(b"/rejected");
                br#"{"code":409,"error":"version-conflict"}"#
            }
        };
        frame::write_publish(&mut self.out, Protocol::V311, &self.topic, self.packet_id, payload);
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.out).context("writing to the broker")?;
        self.out.clear();
        Ok(())
    }

    fn expect(&mut self, kind: u8) -> anyhow::Result<()> {
        let mut buffer = [0; 64];
        let read = self.stream.read(&mut buffer).context("reading from the broker")?;
        let bytes = buffer.get(..read).unwrap_or_default();
        match frame::split(bytes)? {
            Some((frame, _)) if frame.kind == kind && kind == frame::CONNACK => frame::connack(frame.body),
            Some((frame, _)) if frame.kind == kind => frame::suback(frame.body, 1, Protocol::V311),
            other => bail!("expected packet type {kind}, got {other:?}"),
        }
    }
}

/// The payload of an answer, of a fixed size.
#[derive(Debug)]
pub(super) struct Answer {
    payload: Vec<u8>,
    /// The position of the version in `payload`.
    version_at: usize,
}

impl Answer {
    /// Returns an answer of `bytes`.
    ///
    /// # Errors
    ///
    /// So few bytes have no room for the version.
    pub(super) fn new(bytes: usize) -> anyhow::Result<Self> {
        let (head, tail) = (r#"{"changed":true,"pad":""#, r#"","version":"#);
        let fixed = head.len() + tail.len() + VERSION_WIDTH + 1;
        let pad = bytes.checked_sub(fixed).with_context(|| format!("an answer has at least {fixed} bytes"))?;
        let text = format!("{head}{}{tail}{}}}", "x".repeat(pad), " ".repeat(VERSION_WIDTH));
        Ok(Self { payload: text.into_bytes(), version_at: bytes - VERSION_WIDTH - 1 })
    }

    /// Returns the payload with a version.
    pub(super) fn with_version(&mut self, version: u64) -> &[u8] {
        for (at, byte) in self.payload.iter_mut().skip(self.version_at).take(VERSION_WIDTH).rev().enumerate() {
            let digit = version.checked_div(10_u64.pow(at as u32)).unwrap_or(0);
            *byte = if digit == 0 { b' ' } else { b'0' + (digit % 10) as u8 };
        }
        &self.payload
    }
}

const VERSION_WIDTH: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::message::quick_version;

    #[test]
    fn an_answer_has_the_size_asked_for_and_the_version() {
        let mut answer = Answer::new(500).expect("large enough");
        for version in [1, 10, 20_305] {
            let payload = answer.with_version(version);
            assert_eq!((payload.len(), quick_version(payload)), (500, Some(version)));
            assert!(serde_json::from_slice::<serde_json::Value>(payload).is_ok());
        }
        assert!(Answer::new(10).is_err());
    }
}
