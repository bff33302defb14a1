//! Protocols older than TLS 1.2, and weak ciphers, written out byte by byte: no library offers them any more.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
};

use crate::{
    certificates::Authority,
    harness::{
        DEADLINE,
        server::{Server, Setup},
        wire::V5,
    },
};

const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

/// TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256.
const SOUND: [u16; 1] = [0xC02B];
/// The same with CBC and SHA-1, and RSA without forward secrecy; RC4, 3DES and export keys; none at all.
const WEAK: [u16; 6] = [0xC009, 0xC013, 0x002F, 0x0005, 0x000A, 0x0003];
const NULL: [u16; 2] = [0x0000, 0x0001];

/// A client hello for at most `version`.
fn hello(version: u16, suites: &[u16], more: &[u8]) -> Vec<u8> {
    let counted = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let suites = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect::<Vec<_>>();
    // Groups secp256r1 and x25519, points uncompressed, signatures ecdsa_secp256r1_sha256, extended master secret.
    let extensions = [
        &[0x00, 0x0A, 0, 6, 0, 4, 0x00, 0x17, 0x00, 0x1D][..],
        &[0x00, 0x0B, 0, 2, 1, 0],
        &[0x00, 0x0D, 0, 4, 0, 2, 0x04, 0x03],
        &[0x00, 0x17, 0, 0],
        more,
    ]
    .concat();
    let body = [
        &version.to_be_bytes()[..],
        &[0x5A; 32], // random
        &[0],        // no session
        &counted(&suites),
        &[1, 0], // no compression
        &counted(&extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &counted(&body)].concat();
    [&[HANDSHAKE, 3, 1][..], &counted(&message)].concat()
}

/// The first record that the server answers with; `None`: it ends the connection without one.
fn answer(server: &Server, bytes: &[u8]) -> Option<(u8, Vec<u8>)> {
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.set_read_timeout(Some(*DEADLINE)).unwrap();
    socket.write_all(bytes).unwrap();
    let mut head = [0; 5];
    let record = socket.read_exact(&mut head).and_then(|()| {
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        socket.read_exact(&mut body).map(|()| (head[0], body))
    });
    match record {
        Ok(record) => Some(record),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
            None
        }
    }
}

#[test]
fn versions_and_suites_that_are_too_old() {
    let authority = Authority::new("authority");
    let mut server = Server::with(Setup { listener: authority.listener(&authority.server(), ""), ..Setup::default() });
    // TLS 1.1 in the extension that TLS 1.3 has for it.
    let versions = [0x00, 0x2B, 0, 3, 2, 0x03, 0x02];
    for (what, bytes, alert) in [
        ("SSL 3.0", hello(0x0300, &WEAK, &[]), PROTOCOL_VERSION),
        ("TLS 1.0", hello(0x0301, &WEAK, &[]), PROTOCOL_VERSION),
        ("TLS 1.1", hello(0x0302, &WEAK, &[]), PROTOCOL_VERSION),
        ("TLS 1.1 with a suite of 1.2", hello(0x0302, &SOUND, &[]), PROTOCOL_VERSION),
        ("TLS 1.1 in supported_versions", hello(0x0303, &SOUND, &versions), PROTOCOL_VERSION),
        ("TLS 1.2 with weak suites", hello(0x0303, &WEAK, &[]), HANDSHAKE_FAILURE),
        ("TLS 1.2 with no encryption", hello(0x0303, &NULL, &[]), HANDSHAKE_FAILURE),
    ] {
        assert_eq!(answer(&server, &bytes), Some((ALERT, vec![2, alert])), "{what}");
    }
    // The hello of SSL 2.0, which TLS once could begin with.
    let old = [&[0x80, 0x1F, 1, 3, 1, 0, 6, 0, 0, 0, 16, 0, 0, 0x2F, 0, 0, 0x0A][..], &[0x5A; 16]].concat();
    let answered = answer(&server, &old);
    assert!(!matches!(answered, Some((HANDSHAKE, _))), "{answered:02x?}");
    server.assert_alive();
}

/// RFC 8446 section 4.1.3: who has 1.3 taken out of a hello on its way is given away by the server's random, which the
/// handshake signs.
#[test]
fn tls_1_2_says_that_the_server_has_1_3() {
    let authority = Authority::new("authority");
    let server = Server::with(Setup { listener: authority.listener(&authority.server(), ""), ..Setup::default() });
    let Some((HANDSHAKE, message)) = answer(&server, &hello(0x0303, &SOUND, &[])) else { panic!("no server hello") };
    // Type and length, version, random.
    assert_eq!((message[0], &message[4..6]), (2, &[3, 3][..]), "{message:02x?}");
    assert_eq!(&message[30..38], b"DOWNGRD\x01", "{message:02x?}");
    // A client that has both gets 1.3.
    let mut client = crate::client::TlsClient::open(&server, &authority.file, None, &[], V5);
    assert_eq!(client.connect("client"), Some(0));
    assert_eq!(client.stream.conn.protocol_version(), Some(tokio_rustls::rustls::ProtocolVersion::TLSv1_3));
}
