//! Per source address, each refused before a byte is read.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    time::Instant,
};

use tempfile::TempDir;

use crate::{
    allowance, assert_met,
    harness::{
        client::Client,
        eventually,
        http::Http,
        server::{Server, Setup},
        wire::{BOTH, Connect, Publish, V4, V5, Value, prop},
    },
    server,
};

/// Sources; loopback is all there is to test with.
const HERE: [u8; 4] = [127, 0, 0, 1];
const THERE: [u8; 4] = [127, 0, 0, 2];

#[test]
fn concurrent_connections_are_limited() {
    let mut server = server("address_limits_on_loopback = true\naddress_connections_max = 5");
    for (protocol, there) in BOTH.into_iter().zip([THERE, [127, 0, 0, 3]]) {
        let mut first: Vec<_> = (0..5).map(|_| Client::open_from(&server, protocol, there)).collect();
        // They count before they have said anything.
        Client::open_from(&server, protocol, there).discard_until_closed();
        assert_eq!(first[4].ask_in("fifth"), Some(0));
        Client::open_from(&server, protocol, there).discard_until_closed();
        assert_eq!(Client::open_from(&server, protocol, HERE).ask_in("elsewhere"), Some(0));
        first.pop().unwrap().disconnect();
        eventually("room for another", || Client::open_from(&server, protocol, there).ask_in("late"));
    }
    assert_met(&mut server, &["address_connections"]);
}

/// A connection that its address may not have is none that was accepted.
#[test]
fn refused_connections_are_not_counted_as_accepted() {
    let mut server = server("address_limits_on_loopback = true\naddress_connections_max = 1");
    let mut first = Client::open_from(&server, V5, THERE);
    assert_eq!(first.ask_in("first"), Some(0));
    for _ in 0..3 {
        Client::open_from(&server, V5, THERE).discard_until_closed();
    }
    let log = server.stop().log;
    assert!(log.contains("connections_accepted=1 "), "{log}");
}

#[test]
fn connection_rate_is_limited() {
    let limits = "address_limits_on_loopback = true\naddress_connects_rate = \"1/s burst 5\"";
    let mut server = server(limits);
    let start = Instant::now();
    let attempts = (0..60).map(|_| Client::open_from(&server, V5, THERE).ask_in("again"));
    let taken = attempts.filter(|answer| *answer == Some(0)).count();
    assert!((5..=allowance(start, 1, 5)).contains(&taken), "{taken} in {:?}", start.elapsed());
    assert_eq!(Client::open_from(&server, V5, HERE).ask_in("elsewhere"), Some(0));
    eventually("the rate to let one in", || Client::open_from(&server, V5, THERE).ask_in("patient"));
    assert_met(&mut server, &["address_connects"]);
}

/// Returns the lines that make a listener one with TLS, as long as the directory lives.
fn tls() -> (TempDir, String) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (certificate, key) = (file("certificate", key.cert.pem()), file("key", key.signing_key.serialize_pem()));
    (directory, format!("tls_certificate = {certificate:?}\ntls_key = {key:?}"))
}

/// Whoever connects for nothing again and again is not even let into the TLS handshake.
#[test]
fn failed_handshakes_are_limited() {
    let (_directory, tls) = tls();
    let tls: &'static str = tls.leak();
    let https: &'static str = format!("kind = \"http\"\n{tls}").leak();
    // Failed handshakes: a twentieth of the connections, so three a minute.
    let limits = "address_limits_on_loopback = true\naddress_connects_rate = \"1/s burst 20000\"";
    // a listener, what is no handshake on it, what is answered on it: by an alert, by CONNACK, by a status
    let request = b"GET / HTTP/1.1\r\n\r\n";
    let connect = Connect::new(V4, "asks").encode();
    let no_request = [&connect[..], b"\r\n\r\n"].concat();
    let no_login = Connect::new(V5, "asks").property(prop::AUTHENTICATION_METHOD, Value::Text("x".to_owned())).encode();
    let garbage: [(&str, &[u8], &[u8]); 5] = [
        (tls, request, request),
        ("", &[0x30, 0, 0, 0], &connect),
        ("", &no_login, &connect),
        (https, request, request),
        ("kind = \"http\"", &no_request, request),
    ];
    for (listener, bytes, answered) in garbage {
        let mut server = Server::with(Setup { listener, limits, ..Setup::default() });
        for _ in 0..4 {
            let mut client = Client::open_from(&server, V4, THERE);
            client.send(bytes);
            client.discard_until_closed();
        }
        // It is counted as the connection ends, which its client may see first.
        eventually("the address to be refused", || {
            let mut client = Client::try_open_from(&server, V4, THERE).ok()?;
            (!client.is_answered(answered)).then_some(())
        });
        // Another address is as welcome as ever.
        assert!(Client::open_from(&server, V4, HERE).is_answered(answered));
        assert_met(&mut server, &["address_failed_handshakes"]);
    }
}

/// One address has a part of what strangers may occupy, whichever way; it took all of it, and everybody else waited.
#[test]
fn unauthenticated_memory_is_limited() {
    let (_directory, tls) = tls();
    let another = |name: &str, timeout: &str, rest: &str| {
        format!("\n[[listener]]\nname = {name:?}\nbind = \"127.0.0.1:0\"\nconnect_timeout = {timeout:?}\n{rest}")
    };
    let http = "kind = \"http\"";
    let others = another("tls", "5m", &tls) + &another("socket", "5m", http) + &another("web", "1s", http);
    let listener: &'static str = format!("connect_timeout = \"5m\"{others}").leak();
    let limits = "address_limits_on_loopback = true\naddress_connects_rate = \"1000000/s burst 100000\"";
    let server = Server::with(Setup { listener, limits, ..Setup::default() });
    let will = Some((Publish::new("will", vec![b'w'; 65_000]), 0));
    let large = Connect { will, ..Connect::new(V5, "large") }.encode();
    let unfinished = &large[..large.len() - 1];
    let sign_in = || Http::connect(server.address_of("web")).send("POST /session HTTP/1.1", &[b' '; 10_000]).status;
    let of_mqtt = || {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(unfinished).unwrap();
        stream
    };
    let of_websocket = || {
        let mut stream = TcpStream::connect(server.address_of("socket")).unwrap();
        let head = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        assert!(stream.read(&mut [0; 1_000]).unwrap() > 0);
        let message = [&[0x82, 0xff], &(large.len() as u64).to_be_bytes()[..], &[0; 4], unfinished].concat();
        stream.write_all(&message).unwrap();
        stream
    };
    let of_tls = || {
        let mut stream = TcpStream::connect(server.address_of("tls")).unwrap();
        // A ClientHello of 60,004 bytes, of which 60,000 are sent, in records.
        let hello = [&[1, 0, 0xea, 0x60], &[0; 59_996][..]].concat();
        let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
        stream.write_all(&hello.chunks(15_000).map(record).collect::<Vec<_>>().concat()).unwrap();
        stream
    };
    for open in [&of_mqtt as &dyn Fn() -> TcpStream, &of_websocket, &of_tls] {
        assert_eq!(sign_in(), 400, "not JSON");
        let crowd: Vec<_> = (0..150).map(|_| open()).collect();
        eventually("no room to be left", || (sign_in() == 503).then_some(()));
        let mut other = Client::open_from(&server, V5, THERE);
        other.send(large.clone());
        assert_eq!(other.connack().code, 0);
        drop(crowd);
        eventually("room again", || (sign_in() == 400).then_some(()));
    }
}

/// A fleet's proxy on the same machine, or a benchmark: as shipped, loopback has none of these limits.
#[test]
fn loopback_is_exempt_unless_configured() {
    let limits = "address_connections_max = 2\naddress_connects_rate = \"1/m burst 2\"";
    let mut server = server(limits);
    let mut clients: Vec<_> = (0..20).map(|_| Client::open_from(&server, V4, THERE)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask_in(&format!("behind-{number}")), Some(0));
    }
    assert_met(&mut server, &[]);
}
