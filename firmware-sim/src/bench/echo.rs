//! The echo engine: a client of an ordinary broker that answers every update like a shadow service, without shadows and
//! storage.
//!
//! It subscribes to `shadow/+/update` and answers on `shadow/<id>/update/accepted` with the next version and a payload as
//! large as the service's: one read and one write for all updates that the broker has ready. It subscribes at QoS 0 and
//! answers at the QoS of the measured subscriptions, so that the broker does no needless work.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, bail};

use super::{
    frame::{self, Message, Protocol},
    message::quick_version,
};

/// The engine's connection.
pub(crate) struct Echo {
    stream: TcpStream,
    /// Bytes read and not handled yet.
    pending: Vec<u8>,
    out: Vec<u8>,
    topic: Vec<u8>,
    payload: Vec<u8>,
    /// The position of the version in `payload`.
    version_at: usize,
    /// The packet id of the last answer, if answers are QoS 1.
    packet_id: Option<u16>,
}

impl Echo {
    /// Connects and subscribes; answers have payloads of `accepted_bytes` and QoS `qos`, 0 or 1.
    ///
    /// # Errors
    ///
    /// The broker cannot be reached, or refuses.
    pub(crate) fn connect(broker: SocketAddr, accepted_bytes: usize, qos: u8) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(broker).with_context(|| format!("connecting to {broker}"))?;
        stream.set_nodelay(true)?;
        let (payload, version_at) = answer(accepted_bytes)?;
        let mut echo = Self {
            stream,
            pending: Vec::new(),
            out: Vec::new(),
            topic: Vec::new(),
            payload,
            version_at,
            packet_id: (qos > 0).then_some(0),
        };
        frame::write_connect(&mut echo.out, Protocol::V311, "echo-engine", None);
        echo.flush()?;
        echo.expect(frame::CONNACK)?;
        frame::write_subscribe(&mut echo.out, Protocol::V311, &["shadow/+/update"], 0);
        echo.flush()?;
        echo.expect(frame::SUBACK)?;
        Ok(echo)
    }

    /// Answers until the broker closes the connection.
    ///
    /// # Errors
    ///
    /// The broker sent something else than an update.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = self.stream.read(&mut buffer).context("reading from the broker")?;
            if read == 0 {
                return Ok(());
            }
            self.pending.extend_from_slice(buffer.get(..read).unwrap_or_default());
            self.answer_all()?;
            self.flush()?;
        }
    }

    fn answer_all(&mut self) -> anyhow::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let mut bytes = &*pending;
        while let Some((frame, rest)) = frame::split(bytes)? {
            match frame.kind {
                frame::PUBLISH => self.answer(&Message::parse(frame, Protocol::V311)?),
                frame::PUBACK => {}
                kind => bail!("packet type {kind} from the broker"),
            }
            bytes = rest;
        }
        let done = pending.len() - bytes.len();
        self.pending = pending;
        self.pending.drain(..done);
        Ok(())
    }

    fn answer(&mut self, update: &Message<'_>) {
        // The first update of a device has no version: any version will do.
        let version = quick_version(update.payload).unwrap_or(0) + 1;
        self.topic.clear();
        self.topic.extend_from_slice(update.topic);
        self.topic.extend_from_slice(b"/accepted");
        for (at, byte) in self.payload.iter_mut().skip(self.version_at).take(VERSION_WIDTH).rev().enumerate() {
            let digit = version.checked_div(10_u64.pow(at as u32)).unwrap_or(0);
            *byte = if digit == 0 { b' ' } else { b'0' + (digit % 10) as u8 };
        }
        self.packet_id = self.packet_id.map(|id| id % u16::MAX + 1);
        frame::write_publish(&mut self.out, Protocol::V311, &self.topic, self.packet_id, &self.payload);
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

/// Returns an answer of `bytes` with a blank version, and the position of the version.
fn answer(bytes: usize) -> anyhow::Result<(Vec<u8>, usize)> {
    let (head, tail) = (r#"{"changed":true,"pad":""#, r#"","version":"#);
    let fixed = head.len() + tail.len() + VERSION_WIDTH + 1;
    let pad = bytes.checked_sub(fixed).with_context(|| format!("an answer has at least {fixed} bytes"))?;
    let text = format!("{head}{}{tail}{}}}", "x".repeat(pad), " ".repeat(VERSION_WIDTH));
    Ok((text.into_bytes(), bytes - VERSION_WIDTH - 1))
}

const VERSION_WIDTH: usize = 11;

/// The line that the echo engine prints once it is subscribed.
pub(crate) const ECHO_READY: &str = "echo engine: subscribed";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_size_asked_for_and_room_for_the_version() {
        let (payload, at) = answer(500).expect("large enough");
        assert_eq!(payload.len(), 500);
        assert_eq!(payload.get(at..), Some(&b"           }"[..]));
        assert!(payload.get(..at).is_some_and(|head| head.ends_with(b"\"version\":")));
        assert!(answer(10).is_err());
    }
}
