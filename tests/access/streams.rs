//! Byte streams of any transport, and MQTT over them.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ring::{digest, hmac};

use crate::harness::{
    DEADLINE,
    packet::{Packet, take},
    wire::V5,
};

/// A stream of bytes in both directions.
pub(crate) trait Link: Read + Write + Send {}

impl<T: Read + Write + Send> Link for T {}

pub(crate) type Stream = Box<dyn Link>;

/// An MQTT 5 connection.
pub(crate) struct Mqtt {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Mqtt {
    pub(crate) fn over(stream: Stream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Sends a packet; whether the server still reads is seen by what it answers.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush());
    }

    /// The next packet; `None` once the server has ended the connection.
    pub(crate) fn recv(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = take(V5, &mut self.buffer) {
                return Some(packet);
            }
            self.buffer.extend(chunk(&mut *self.stream)?);
        }
    }

    /// Reads until the server has ended the connection; the reason of its DISCONNECT, if it sent one.
    pub(crate) fn closed(&mut self) -> Option<u8> {
        let mut reason = None;
        while let Some(packet) = self.recv() {
            if let Packet::Disconnect { code, .. } = packet {
                reason = Some(code);
            }
        }
        reason
    }
}

/// The next bytes; `None` at the end.
fn chunk(stream: &mut dyn Link) -> Option<Vec<u8>> {
    let mut bytes = [0; 16 * 1024];
    match stream.read(&mut bytes) {
        Ok(0) => None,
        Ok(count) => Some(bytes[..count].to_vec()),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => panic!("nothing came"),
        Err(_) => None,
    }
}

/// Reads until `text` came; false if the stream ended before.
pub(crate) fn read_until(stream: &mut dyn Link, text: &str) -> bool {
    let (mut all, deadline) = (Vec::new(), Instant::now() + *DEADLINE);
    while !String::from_utf8_lossy(&all).contains(text) {
        let Some(bytes) = chunk(stream) else { return false };
        assert!(Instant::now() < deadline, "{text:?} did not come");
        all.extend(bytes);
    }
    true
}

/// A TCP connection.
pub(crate) fn plain(address: SocketAddr) -> Stream {
    Box::new(tcp(address))
}

fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(*DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A WebSocket at `target`; `None` if the server refuses it.
pub(crate) fn web_socket(address: SocketAddr, target: &str) -> Option<Stream> {
    let mut stream = tcp(address);
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    head.starts_with(b"HTTP/1.1 101").then(|| Box::new(WebSocket { stream, left: 0 }) as Stream)
}

/// The payload of the frames of a WebSocket, by RFC 6455.
struct WebSocket {
    stream: TcpStream,
    /// Bytes of the frame that are not read yet.
    left: usize,
}

impl Read for WebSocket {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            self.left = usize::from(head[1]);
            if self.left == 126 {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length)?;
                self.left = usize::from(u16::from_be_bytes(length));
            }
            if head[0] & 0x0F == 0x8 {
                return Ok(0); // a close
            }
        }
        let most = self.left.min(bytes.len());
        let count = self.stream.read(&mut bytes[..most])?;
        self.left -= count;
        Ok(count)
    }
}

impl Write for WebSocket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        assert!(bytes.len() < 0xFFFF);
        let mut frame = vec![0x82, 0x80 | 126];
        frame.extend((bytes.len() as u16).to_be_bytes());
        frame.extend([0; 4]); // a mask that changes nothing
        frame.extend(bytes);
        self.stream.write_all(&frame).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// The target of a WebSocket whose URL is signed with an access key. AWS Signature Version 4.
pub(crate) fn presigned(address: SocketAddr, id: &str, secret: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let date = date(now);
    let scope = format!("{}/us-east-1/iotdevicegateway/aws4_request", &date[..8]);
    let query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={date}&X-Amz-Expires=3600&X-Amz-SignedHeaders=host",
        format!("{id}/{scope}").replace('/', "%2F")
    );
    let sha256 = |text: &str| hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    let canonical = format!("GET\n/mqtt\n{query}\nhost:{address}\n\nhost\n{}", sha256(""));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(&canonical));
    let mac =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
    format!("/mqtt?{query}&X-Amz-Signature={}", hex(&mac(&key, &to_sign)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970 as `20260921T141320Z`.
fn date(seconds: u64) -> String {
    let (mut days, clock) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hours, minutes) = (clock / 3_600, clock / 60 % 60);
    format!("{year}{:02}{:02}T{hours:02}{minutes:02}{:02}Z", month + 1, days + 1, clock % 60)
}
