//! A WebSocket client that hides nothing: frames in bytes, written from RFC 6455 and not from the server.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::{
    exchange::{Answer, connect, read_answer},
    harness::{
        packet::{Packet, take},
        wire::{self, Connect, Properties, Protocol},
    },
};

/// The first byte of a frame: the end of its message, and what it is.
pub(crate) const FIN: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// The beginning and end of every request for a WebSocket here; RFC 6455 section 1.3 has this key and its answer.
pub(crate) const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
pub(crate) const SUBPROTOCOL: &str = "Sec-WebSocket-Protocol: mqtt\r\n";

/// One side of a WebSocket.
pub(crate) struct Socket<S> {
    pub(crate) stream: S,
    pub(crate) protocol: Protocol,
}

/// A frame of a client with its payload masked.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let mut bytes = head(first, 0x80, payload.len());
    bytes.extend(MASK);
    bytes.extend(masked);
    bytes
}

/// A frame that is not masked, as no client may send it.
pub(crate) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&head(first, 0, payload.len()), payload].concat()
}

fn head(first: u8, mask: u8, length: usize) -> Vec<u8> {
    match length {
        0..=125 => vec![first, mask | length as u8],
        126..=0xFFFF => [&[first, mask | 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, mask | 127][..], &(length as u64).to_be_bytes()].concat(),
    }
}

/// The packet that a message holds: one, and nothing besides.
pub(crate) fn whole(protocol: Protocol, message: &mut Vec<u8>) -> Packet {
    let packet = take(protocol, message).expect("a whole packet");
    assert!(message.is_empty(), "after {packet:?} in its message: {message:02x?}");
    packet
}

impl Socket<TcpStream> {
    /// A WebSocket on which no packet was sent yet.
    pub(crate) fn open(address: SocketAddr, protocol: Protocol) -> Self {
        Self::over(connect(address), protocol)
    }

    /// Connects a clean session; it must be accepted.
    pub(crate) fn connect(address: SocketAddr, protocol: Protocol, client_id: &str) -> Self {
        let mut socket = Self::open(address, protocol);
        socket.send(Connect::new(protocol, client_id).encode());
        assert_eq!(socket.connack(), 0);
        socket
    }
}

impl<S: Read + Write> Socket<S> {
    /// Asks for a WebSocket on a stream on which nothing was sent yet; it must be accepted.
    pub(crate) fn over(mut stream: S, protocol: Protocol) -> Self {
        let answer = Self::ask(&mut stream, &format!("{UPGRADE}{SUBPROTOCOL}")).expect("an answer");
        assert_eq!(answer.status, 101, "{answer:?}");
        Self { stream, protocol }
    }

    /// Sends a request, its last line end left out.
    pub(crate) fn ask(stream: &mut S, request: &str) -> Option<Answer> {
        stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        read_answer(stream)
    }

    /// Writes bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Sends a message in one frame.
    pub(crate) fn send(&mut self, message: impl AsRef<[u8]>) {
        self.send_raw(frame(FIN | BINARY, message.as_ref()));
    }

    /// The next frame: its first byte and its payload, not masked. `None` at the end of the stream.
    pub(crate) fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, length] = self.read()?;
        assert_eq!(length & 0x80, 0, "a server does not mask");
        let length = match length {
            126 => u64::from(u16::from_be_bytes(self.read()?)),
            127 => u64::from_be_bytes(self.read()?),
            short => u64::from(short),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).unwrap();
        Some((first, payload))
    }

    fn read<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
            Err(error) => panic!("no frame: {error}"),
        }
    }

    /// The next packet, which must be all of a binary message of one frame.
    pub(crate) fn recv(&mut self) -> Packet {
        let Some((first, mut payload)) = self.frame() else { panic!("a packet, but the connection ended") };
        assert_eq!(first, FIN | BINARY, "{payload:02x?}");
        whole(self.protocol, &mut payload)
    }

    /// The code of the CONNACK, which must be the next packet.
    pub(crate) fn connack(&mut self) -> u8 {
        match self.recv() {
            Packet::ConnAck { code, .. } => code,
            other => panic!("{other:?} in the place of CONNACK"),
        }
    }

    /// Asks for a PINGRESP and waits for it.
    pub(crate) fn ping(&mut self) {
        self.send(wire::PINGREQ);
        assert_eq!(self.recv(), Packet::PingResp);
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) {
        self.send(wire::subscribe(self.protocol, 1, &[(filter, qos)], &Properties::none()));
        assert_eq!(self.recv(), Packet::SubAck { id: 1, codes: vec![qos] });
    }

    /// The code of the server's close, which must be the next frame except for data and pongs; then the stream must end,
    /// which closes this side as well.
    pub(crate) fn closed(mut self) -> u16 {
        loop {
            match self.frame() {
                Some((first, payload)) if first == FIN | CLOSE => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    assert_eq!(self.frame(), None, "nothing comes after a close");
                    return code;
                }
                Some((first, _)) => assert!([FIN | BINARY, FIN | PONG].contains(&first), "{first:#04x}"),
                None => panic!("it ended without a close"),
            }
        }
    }
}
