//! The echo engine: stands behind an ordinary broker and answers every update as a shadow service would, with no
//! shadow and no storage.
//!
//! It takes `shadow/+/update`, answers on `shadow/<id>/update/accepted` with the next version and a payload as large
//! as the service's own: one read and one write for as many updates as the broker has at hand. It takes updates at
//! QoS 0 and answers at the QoS of the measured subscriptions, so that the broker has nothing to do that is not needed.

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
    /// Bytes read and not yet worked off, from the front.
    pending: Vec<u8>,
    out: Vec<u8>,
    topic: Vec<u8>,
    payload: Vec<u8>,
    /// Where in `payload` the version begins.
    version_at: usize,
    /// The packet id of the last answer, if answers are QoS 1.
    packet_id: Option<u16>,
}

impl Echo {
    /// Connects and subscribes; answers will have payloads of `accepted_bytes` and go out at `qos` 0 or 1.
    ///
    /// # Errors
    ///
    /// The broker is not there or refuses.
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

    /// Answers until the broker goes away, which is how it ends.
    ///
    /// # Errors
    ///
    /// The broker sent something that is no update.
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
        // The first update of a device names no version; whatever it is told is where it goes on from.
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

/// An answer of `bytes`, its version blank, and where that is.
fn answer(bytes: usize) -> anyhow::Result<(Vec<u8>, usize)> {
    let (head, tail) = (r#"{"changed":true,"pad":""#, r#"","version":"#);
    let fixed = head.len() + tail.len() + VERSION_WIDTH + 1;
    let pad = bytes.checked_sub(fixed).with_context(|| format!("an answer has at least {fixed} bytes"))?;
    let text = format!("{head}{}{tail}{}}}", "x".repeat(pad), " ".repeat(VERSION_WIDTH));
    Ok((text.into_bytes(), bytes - VERSION_WIDTH - 1))
}

const VERSION_WIDTH: usize = 11;

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
