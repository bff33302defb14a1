//! Clients that take their time: at the socket, in TLS, in HTTP, in WebSocket, in CONNECT.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio_rustls::rustls::ClientConfig;

use crate::{
    bystander::Bystander,
    certificates::Authority,
    client,
    exchange::{connect, ended, server_with},
    harness::{
        DEADLINE, eventually,
        wire::{Connect, V4, V5},
    },
    socket::{BINARY, CONTINUATION, FIN, PING, SUBPROTOCOL, Socket, UPGRADE, frame},
};

const SOON: &str = "connect_timeout = \"1s\"";

/// Sends `once`, then `again` byte by byte, every few milliseconds, until the server ends the connection: that it ends
/// is what is shown. How many bytes it sent before.
fn drip(stream: TcpStream, once: &[u8], again: &[u8]) -> usize {
    let mut writer = stream.try_clone().unwrap();
    writer.write_all(once).unwrap();
    let again = again.to_vec();
    let dripping = thread::spawn(move || {
        let started = Instant::now();
        let rest = again.iter().cycle();
        for byte in rest {
            if started.elapsed() > *DEADLINE || writer.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let mut reader = stream;
    let came = ended(&mut reader);
    let _ = reader.shutdown(Shutdown::Both);
    dripping.join().unwrap();
    came
}

/// A byte now and then does not make a deadline longer.
#[test]
fn a_slow_byte_stream_times_out() {
    let authority = Authority::new("authority");
    let tls = authority.admins(&authority.server(), SOON);
    let plain = server_with(SOON, SOON, "");
    let locked = server_with(tls, tls, "");
    let mut servers = [plain, locked];
    let mut bystander = Bystander::new(&servers[0]);
    // So long that it never gets whole: what would follow it is no packet, which would end the connection too.
    let connect_packet = Connect::new(V5, &"x".repeat(60_000)).encode();
    let (start, rest) = connect_packet.split_at(8);
    let upgrade = format!("{UPGRADE}{SUBPROTOCOL}\r\n").into_bytes();
    // A client hello that announces 16 KB.
    let hello = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3F, 0xFC, 3, 3];
    let [plain, locked] = &servers;
    let (mqtt, web) = (plain.address, plain.address_of("web"));
    let (mqtts, https) = (locked.address, locked.address_of("web"));
    let fragment = frame(BINARY, start);
    let websocket = [&upgrade[..], &fragment].concat();
    let (again, ping) = (frame(CONTINUATION, b"x"), frame(FIN | PING, b""));
    thread::scope(|scope| {
        // where, what is sent, whether any of it is answered
        for (address, once, again, answered) in [
            (mqtt, start, rest, false),
            (web, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"x", false),
            (web, b"\r\n", b"\r\n", false),
            // A CONNECT in ever more fragments; pings and never a CONNECT.
            (web, &websocket, &again, true),
            (web, &upgrade, &ping, true),
            (mqtts, &hello, b"x", false),
            (https, &hello, b"x", false),
        ] {
            scope.spawn(move || {
                let came = drip(connect(address), once, again);
                assert_eq!(came > 0, answered, "{} on {address}", once.escape_ascii());
            });
        }
    });
    bystander.check(&mut servers[0]);
    servers[1].assert_alive();
}

/// Nothing at all, at each stage that a client can stop at.
#[test]
fn a_silent_connection_times_out() {
    let authority = Authority::new("authority");
    let tls = authority.admins(&authority.server(), SOON);
    let plain = server_with(SOON, SOON, "");
    let mut locked = server_with(tls, tls, "");
    let config = Arc::new(client::config(&authority.file, None, &[]));
    let mut streams: Vec<Box<dyn Read>> = Vec::new();
    for address in [plain.address, plain.address_of("web"), locked.address, locked.address_of("web")] {
        streams.push(Box::new(connect(address)));
    }
    streams.push(Box::new(Socket::open(plain.address_of("web"), V4).stream));
    streams.push(Box::new(unlocked(locked.address, &config)));
    streams.push(Box::new(unlocked(locked.address_of("web"), &config)));
    streams.push(Box::new(Socket::over(unlocked(locked.address_of("web"), &config), V4).stream));
    // Between two requests.
    let mut idle = connect(plain.address_of("web"));
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(crate::exchange::read_answer(&mut idle).unwrap().status, 200);
    streams.push(Box::new(idle));
    for stream in &mut streams {
        ended(stream);
    }
    locked.assert_alive();
}

/// A stream whose handshake is done.
fn unlocked(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> tokio_rustls::rustls::StreamOwned<tokio_rustls::rustls::ClientConnection, TcpStream> {
    let mut stream = client::handshake(address, config.clone());
    stream.flush().unwrap();
    stream
}

/// Very many at once, of each kind: WebSockets without a CONNECT, half a request, half a TLS hello.
#[test]
fn many_slow_connections_time_out() {
    const EACH: usize = 1_000;
    let authority = Authority::new("authority");
    let tls = authority.admins(&authority.server(), "connect_timeout = \"20s\"\nname = \"tls\"");
    let tls = format!("connect_timeout = \"20s\"\n[[listener]]\nkind = \"http\"\nbind = \"127.0.0.1:0\"\n{tls}");
    let mut server = server_with("", &tls, "");
    let (web, locked) = (server.address_of("web"), server.address_of("tls"));
    let mut bystander = Bystander::new(&server);
    let (files, memory) = (server.open_files(), server.resident_bytes());
    let mut crowd = Vec::new();
    for number in 0..EACH {
        crowd.push(Socket::open(web, V5).stream);
        let mut half = connect(web);
        half.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").unwrap();
        let mut hello = connect(locked);
        hello.write_all(&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3F, 0xFC, 3, 3]).unwrap();
        crowd.extend([half, hello]);
        if number % 100 == 0 {
            bystander.check_connection(&mut server);
        }
    }
    let most = server.open_files() - files;
    let grown = server.resident_bytes().saturating_sub(memory);
    bystander.check(&mut server);
    eventually("all of them to be closed", || (server.open_files() <= files + 8).then_some(()));
    bystander.check(&mut server);
    assert!(grown < 128 << 20, "grew by {} MiB", grown >> 20);
    println!("{} connections, {most} at once, {} KiB more memory; all closed", crowd.len(), grown / 1024);
}

/// A body that is incomplete after the timeout is answered with an error, and ends the connection.
#[test]
fn an_incomplete_body_times_out() {
    let server = server_with(SOON, SOON, "");
    let mut client = connect(server.address_of("web"));
    let head = "PUT /v1/devices/lamp-1/shadow HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: *\r\n\
                Content-Type: application/json\r\nContent-Length: 30\r\n\r\n{\"desired\":";
    client.write_all(head.as_bytes()).unwrap();
    assert_eq!(crate::exchange::read_answer(&mut client).unwrap().status, 408);
    ended(&mut client);
}
