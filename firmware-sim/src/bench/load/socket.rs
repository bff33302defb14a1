//! A non-blocking socket of a measured client: it splits the bytes it reads into packets, and keeps the bytes that it
//! could not write yet.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, bail};
use mio::{Interest, Registry, Token, net::TcpStream};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
};

use crate::bench::frame::{self, Frame};

/// A protocol that splits bytes into packets.
pub(crate) trait Split {
    /// One packet.
    type Packet<'a>;

    /// Splits off the first packet; `None` if it is incomplete.
    fn split(bytes: &[u8]) -> anyhow::Result<Option<(Self::Packet<'_>, &[u8])>>;
}

/// MQTT.
pub(crate) enum Mqtt {}

impl Split for Mqtt {
    type Packet<'a> = Frame<'a>;

    fn split(bytes: &[u8]) -> anyhow::Result<Option<(Frame<'_>, &[u8])>> {
        frame::split(bytes)
    }
}

/// A connection, from dialling on.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    /// An incomplete frame.
    partial: Vec<u8>,
    /// Bytes that the socket did not accept yet.
    unsent: Vec<u8>,
}

impl Socket {
    /// Starts to connect to `broker`; events have the token `token`.
    pub(crate) fn dial(token: usize, broker: SocketAddr, registry: &Registry) -> anyhow::Result<Self> {
        let mut stream = connect(broker).with_context(|| format!("connecting to {broker}"))?;
        // Registered once for both: with edge triggering no further calls are needed.
        registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, partial: Vec::new(), unsent: Vec::new() })
    }

    /// Finishes dialling, when the socket is writable for the first time.
    pub(crate) fn dialled(&self) -> anyhow::Result<()> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error).context("connecting");
        }
        Ok(self.stream.set_nodelay(true)?)
    }

    /// Ends the connection; the socket stays.
    pub(crate) fn shut_down(&self) {
        // It may have ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Makes closing the socket reset the connection, as a lost network does, and leave no port in TIME-WAIT.
    pub(crate) fn reset_on_close(&self) -> anyhow::Result<()> {
        Ok(rustix::net::sockopt::set_socket_linger(&self.stream, Some(std::time::Duration::ZERO))?)
    }

    /// Writes the bytes that were kept, when the socket is writable.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let unsent = std::mem::take(&mut self.unsent);
        self.send(&unsent)
    }

    /// Writes the bytes that the socket accepts and keeps the rest.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut sent = 0;
        while self.unsent.is_empty() && sent < bytes.len() {
            match self.stream.write(bytes.get(sent..).unwrap_or_default()) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero)).context("writing"),
                Ok(written) => sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing"),
            }
        }
        self.unsent.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        Ok(())
    }

    /// Reads all bytes through `buffer`, and calls `take` with each packet.
    pub(crate) fn read<P: Split>(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(P::Packet<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            let held = self.partial.len();
            let (head, tail) = buffer.split_at_mut_checked(held).context("a packet larger than the buffer")?;
            head.copy_from_slice(&self.partial);
            let room = tail.len();
            let read = match self.stream.read(tail) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading"),
            };
            let mut bytes = buffer.get(..held + read).unwrap_or_default();
            while let Some((packet, rest)) = P::split(bytes)? {
                take(packet)?;
                bytes = rest;
            }
            self.partial.clear();
            self.partial.extend_from_slice(bytes);
            // A read that did not fill the buffer has emptied the socket; later bytes cause a new event.
            if read < room {
                return Ok(());
            }
        }
    }
}

/// Starts to connect; on loopback from another address for each [`PORTS`] connections of this process. With half of its ports
/// to one address in use, Linux takes milliseconds to find the next, and a port is in use for a minute after its connection.
fn connect(broker: SocketAddr) -> io::Result<TcpStream> {
    if !broker.ip().is_loopback() || broker.is_ipv6() {
        return TcpStream::connect(broker);
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(source_address(DIALED.fetch_add(1, Ordering::Relaxed)), 0))?;
    match rustix::net::connect(&socket, &broker) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from_std(socket.into())),
        Err(error) => Err(error.into()),
    }
}

/// Returns the address of the connection after `dialed` others.
fn source_address(dialed: usize) -> Ipv4Addr {
    let [.., third, fourth] = (1 + dialed / PORTS).to_be_bytes();
    Ipv4Addr::new(127, 0, third, fourth)
}

/// The connections that this process has begun.
static DIALED: AtomicUsize = AtomicUsize::new(0);

/// Connections from one address.
const PORTS: usize = 10_000;
