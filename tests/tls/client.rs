//! A client over TLS, as bare as can be.

#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
};

use serde_json::Value;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    certificates::Issued,
    harness::{
        DEADLINE,
        packet::{Packet, take},
        server::Server,
        wire::{self, Connect, Properties, Protocol, Publish},
    },
};

/// A connection.
pub(crate) struct TlsClient {
    pub(crate) stream: StreamOwned<ClientConnection, TcpStream>,
    protocol: Protocol,
    buffer: Vec<u8>,
}

impl TlsClient {
    /// A connection on which nothing was sent yet, not even the handshake.
    pub(crate) fn open(
        server: &Server,
        authority: &Path,
        shown: Option<&Issued>,
        alpn: &[&str],
        protocol: Protocol,
    ) -> Self {
        Self::with(server.address, Arc::new(config(authority, shown, alpn)), protocol)
    }

    /// As [`Self::open`], with a configuration that may have a session to resume.
    pub(crate) fn with(address: SocketAddr, config: Arc<ClientConfig>, protocol: Protocol) -> Self {
        Self { stream: handshake(address, config), protocol, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The next packet; `None` once the server has ended the connection, in whichever way.
    pub(crate) fn recv(&mut self) -> Option<Packet> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(packet) = take(self.protocol, &mut self.buffer) {
                return Some(packet);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("nothing came: {error}")
                }
                Err(_) => return None,
            }
        }
    }

    /// Sends CONNECT; the code of the CONNACK, or `None` if the server ends the connection without one.
    pub(crate) fn connect(&mut self, client_id: &str) -> Option<u8> {
        let _ = self.stream.write_all(&Connect::new(self.protocol, client_id).encode());
        self.recv().map(|packet| match packet {
            Packet::ConnAck { code, .. } => code,
            other => panic!("{other:?} in the place of CONNACK"),
        })
    }

    /// Under which name an update is recorded.
    pub(crate) fn principal(&mut self) -> Value {
        self.send(wire::subscribe(self.protocol, 1, &[("shadow/tls/update/accepted", 0)], &Properties::none()));
        let update = r#"{"state":{"reported":{"a":{"b":1}}},"replace":true}"#;
        self.send(Publish::new("shadow/tls/delete", "").encode(self.protocol, 0, 0));
        self.send(Publish::new("shadow/tls/update", update).encode(self.protocol, 0, 0));
        loop {
            if let Packet::Publish(message) = self.recv().expect("an answer") {
                return message.json()["metadata"]["reported"]["a"]["b"]["by"].clone();
            }
        }
    }
}

/// The settings of a client that trusts `authority` and shows a certificate if it has one.
pub(crate) fn config(authority: &Path, shown: Option<&Issued>, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(Issued { certificate, key, .. }) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(certificate).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// A stream over TLS on which nothing was sent yet, not even the handshake.
pub(crate) fn handshake(address: SocketAddr, config: Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    over(TcpStream::connect(address).unwrap(), config)
}

/// As [`handshake`], over a connection that is there.
pub(crate) fn over(socket: TcpStream, config: Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    socket.set_read_timeout(Some(*DEADLINE)).unwrap();
    socket.set_write_timeout(Some(*DEADLINE)).unwrap();
    let connection = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(connection, socket)
}
