//! The PROXY protocol: who may say for whom it speaks.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
};

use tokio::net::TcpSocket;

use crate::{
    bystander::Bystander,
    certificates::Authority,
    client,
    exchange::{ended, read_answer, server_with},
    harness::{
        DEADLINE,
        server::{Server, Setup},
        wire::{Connect, V5},
    },
    socket::Socket,
};

const DEBUG: &str = "[log]\nlevel = \"debug\"";
const BALANCER: &str = "127.0.0.9:0";
const STRANGER: &str = "127.0.0.8:0";

/// The header of a connection from 192.0.2.7:4660.
const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x07\x7F\0\0\x01\x12\x34\x07\x5B";
/// As [`HEADER`], of version 1.
const OLD_HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 127.0.0.1 4660 1883\r\n";
/// The balancer's own connection, as for a health check.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Connects from another address of loopback.
fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(source.parse().unwrap()).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(*DEADLINE)).unwrap();
    stream
}

/// The byte of a CONNACK that says whether the client was accepted, if one comes.
fn connack(stream: &mut TcpStream) -> Option<u8> {
    let mut head = [0; 4];
    std::io::Read::read_exact(stream, &mut head).ok().map(|()| head[3])
}

#[test]
fn proxy_headers_are_required_and_refused_by_address() {
    let mut server = Server::with(Setup {
        listener: "proxy_from = [\"127.0.0.9\", \"10.0.0.0/8\"]\nconnect_timeout = \"2s\"",
        limits: DEBUG,
        ..Setup::default()
    });
    let mut bystander = Bystander::new(&server);
    let connect = |id: &str| Connect::new(V5, id).encode();
    let too_long = [&HEADER[..14], &[0x40, 0], &[0; 0x4000]].concat();
    // from where, what comes before CONNECT, where the client then is; `None`: it is not served
    for (number, (from, header, address)) in [
        (BALANCER, HEADER, Some("192.0.2.7")),
        (BALANCER, LOCAL, Some("127.0.0.9")),
        (BALANCER, b"", None),
        (BALANCER, OLD_HEADER, None),
        (BALANCER, &HEADER[..12], None),
        (BALANCER, &too_long, None),
        (BALANCER, &[HEADER, HEADER].concat(), None),
        (STRANGER, b"", Some("127.0.0.8")),
        (STRANGER, HEADER, None),
        (STRANGER, OLD_HEADER, None),
        (STRANGER, LOCAL, None),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = connect_from(from, server.address);
        let id = format!("client-{number}");
        let _ = stream.write_all(&[header, &connect(&id)].concat());
        assert_eq!(connack(&mut stream), address.map(|_| 0), "row {number}");
        if let Some(address) = address {
            let line = format!(" address={address} ");
            let log = server.log();
            assert!(
                log.lines().any(|said| said.contains(": connected ") && said.contains(&line) && said.contains(&id)),
                "row {number}: {log}"
            );
        }
        bystander.check_connection(&mut server);
    }
    bystander.check(&mut server);
}

/// A balancer that says nothing, or not all of it, has the time of any other client.
#[test]
fn a_missing_proxy_header_times_out() {
    let listener = "proxy_from = [\"127.0.0.0/8\"]\nconnect_timeout = \"1s\"";
    let mut server = Server::with(Setup { listener, ..Setup::default() });
    for bytes in [&b""[..], &HEADER[..1], &HEADER[..16], &HEADER[..27]] {
        let mut stream = connect_from(BALANCER, server.address);
        stream.write_all(bytes).unwrap();
        assert_eq!(ended(&mut stream), 0, "{bytes:02x?}");
    }
    server.assert_alive();
}

/// The header comes before whatever the listener speaks: TLS, HTTP, both.
#[test]
fn proxy_headers_precede_tls_and_http() {
    let authority = Authority::new("authority");
    let from = "proxy_from = [\"127.0.0.9/32\"]";
    let tls = authority.admins(&authority.server(), from);
    let mut server = server_with(tls, tls, DEBUG);
    let lamp = authority.client("lamp-1");
    let config = std::sync::Arc::new(client::config(&authority.file, Some(&lamp), &[]));
    let unlock = |address| {
        let mut stream = connect_from(BALANCER, address);
        stream.write_all(HEADER).unwrap();
        client::over(stream, config.clone())
    };
    let mut mqtt = unlock(server.address);
    mqtt.write_all(&Connect::new(V5, "over-tls").encode()).unwrap();
    let mut head = [0; 4];
    std::io::Read::read_exact(&mut mqtt, &mut head).unwrap();
    assert_eq!((head[0], head[3]), (0x20, 0));

    let web = server.address_of("web");
    let mut stream = unlock(web);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 200);
    let mut socket = Socket::over(unlock(web), V5);
    socket.send(Connect::new(V5, "over-websocket").encode());
    assert_eq!(socket.connack(), 0);
    let log = server.log();
    for id in ["over-tls", "over-websocket"] {
        let connected =
            |line: &str| line.contains(": connected ") && line.contains(" address=192.0.2.7 ") && line.contains(id);
        assert!(log.lines().any(connected), "{id}: {log}");
    }
    server.assert_alive();
}
