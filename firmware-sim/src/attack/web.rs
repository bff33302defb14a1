//! HTTP/1.1 and WebSocket of an attacker.

use std::{fmt::Write, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{client::dial, packet::Credentials, stage::Stage};

/// An HTTP connection.
pub(super) struct Web {
    /// The socket.
    pub(super) stream: TcpStream,
    stage: Arc<Stage>,
    received: Vec<u8>,
}

/// A response.
pub(super) struct Response {
    /// The status code.
    pub(super) status: u16,
    /// The body; empty for an endless one.
    pub(super) body: Vec<u8>,
    /// The body is chunked, and follows.
    pub(super) endless: bool,
}

/// Returns the bytes of a request.
pub(super) fn request(login: &Credentials, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let basic = base64(format!("{}:{}", login.name, login.password).as_bytes());
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {basic}\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    let mut out = head.into_bytes();
    out.extend(body);
    out
}

impl Web {
    /// Connects.
    ///
    /// # Errors
    ///
    /// The server has no HTTP address, or does not accept.
    pub(super) async fn open(stage: &Arc<Stage>) -> anyhow::Result<Self> {
        let address = stage.orders.http.context("this attack needs --http")?;
        let stream = dial(stage, address, None).await?;
        stage.count(|counts| counts.connected += 1);
        Ok(Self { stream, stage: stage.clone(), received: Vec::new() })
    }

    /// Sends a request with the attacker's credential, and returns the response.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Response> {
        self.send(method, path, headers, body).await?;
        self.response().await
    }

    /// Sends a request with the attacker's credential.
    pub(super) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<()> {
        let bytes = request(&self.stage.orders.device, method, path, headers, body);
        Ok(self.stream.write_all(&bytes).await?)
    }

    /// Asks and counts the outcome: `expected` is the status that the attack intends.
    pub(super) async fn attempt(
        &mut self,
        expected: &[u16],
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<()> {
        let response = self.ask(method, path, headers, body).await?;
        let (status, text) = (response.status, response.body);
        self.stage.outcome(expected.contains(&status), || {
            let text = String::from_utf8_lossy(text.get(..200).unwrap_or(&text)).into_owned();
            format!("{method} {path}: status {status} {text}")
        });
        Ok(())
    }

    /// Reads a response; of an endless one the head.
    pub(super) async fn response(&mut self) -> anyhow::Result<Response> {
        loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(self.received.get(..end).unwrap_or_default()).into_owned();
                self.received.drain(..end + 4);
                return self.body(&head).await;
            }
            self.fill().await?;
        }
    }

    async fn body(&mut self, head: &str) -> anyhow::Result<Response> {
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("a status line")?;
        let header = |name: &str| {
            head.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)))
        };
        let length = header("content-length").and_then(|(_, value)| value.trim().parse::<usize>().ok());
        if length.is_none() && header("transfer-encoding").is_some() {
            return Ok(Response { status, body: Vec::new(), endless: true });
        }
        let length = length.unwrap_or_default();
        while self.received.len() < length {
            self.fill().await?;
        }
        Ok(Response { status, body: self.received.drain(..length).collect(), endless: false })
    }

    /// Waits until an endless body contains `text`, and returns all before its line ends.
    pub(super) async fn until(&mut self, text: &[u8]) -> anyhow::Result<String> {
        loop {
            if let Some(at) = find(&self.received, text)
                && let Some(end) = self.received.get(at..).and_then(|rest| find(rest, b"\n"))
            {
                let line = self.received.get(at..at + end).unwrap_or_default();
                return Ok(String::from_utf8_lossy(line).trim().to_owned());
            }
            self.fill().await?;
        }
    }

    /// Counts what comes of an endless body until the connection ends.
    pub(super) async fn receive(mut self) -> anyhow::Result<()> {
        loop {
            self.fill().await?;
            self.stage.count(|counts| counts.deliveries += 1);
            self.received.clear();
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.received).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }

    /// Becomes a WebSocket for MQTT.
    ///
    /// # Errors
    ///
    /// The server refuses it.
    pub(super) async fn upgrade(stage: &Arc<Stage>) -> anyhow::Result<Self> {
        let mut web = Self::open(stage).await?;
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", "mqtt"),
        ];
        let response = tokio::time::timeout(UPGRADE, web.ask("GET", "/mqtt", &headers, b"")).await??;
        if response.status != 101 {
            bail!("the WebSocket was refused: {}", response.status);
        }
        Ok(web)
    }
}

/// Returns a WebSocket frame from a client, with a mask of zeros.
pub(super) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(length @ ..=125) => out.push(0x80 | length),
        _ => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}

/// Encodes in base64.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 0x3f;
            let char = DIGITS.get(value).filter(|_| digit <= chunk.len()).map_or('=', |byte| char::from(*byte));
            out.push(char);
        }
    }
    out
}

fn find(within: &[u8], needle: &[u8]) -> Option<usize> {
    within.windows(needle.len()).position(|window| window == needle)
}

const UPGRADE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        let rows =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (text, encoded) in rows {
            assert_eq!(base64(text.as_bytes()), encoded, "{text}");
        }
    }

    #[test]
    fn frames_are_masked() {
        assert_eq!(frame(9, b"x"), b"\x89\x81\0\0\0\0x");
        assert_eq!(frame(2, &[0; 300]).get(..4), Some(&b"\x82\xfe\x01\x2c"[..]));
    }
}
