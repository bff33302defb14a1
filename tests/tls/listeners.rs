//! Accepted clients and their principals; a failed handshake disturbs no other client.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    process::Output,
};

use serde_json::{Value, json};

use crate::{
    certificates::Authority,
    client::TlsClient,
    harness::{
        DEADLINE,
        client::Client,
        packet::Packet,
        program::umbrad,
        server::{Server, Setup},
        wire::{self, BOTH, Connect, Properties, Publish, V4, V5},
    },
};

#[test]
fn certificates_decide_the_principal() {
    let authority = Authority::new("authority");
    let stranger = Authority::new("stranger");
    let issued = authority.server();
    let [lamp, unusable, forged] =
        [authority.client("lamp-1"), authority.client("anonymous/admin"), stranger.client("lamp-1")];
    // Anonymous clients are taken, certificate, the code of CONNACK in 3.1.1 and 5, the principal
    let table = [
        (true, None, [Some(0), Some(0)], json!("anonymous/client")),
        (true, Some(&lamp), [Some(0), Some(0)], json!("lamp-1")),
        (false, Some(&lamp), [Some(0), Some(0)], json!("lamp-1")),
        (false, None, [None, None], Value::Null),
        (true, Some(&unusable), [Some(5), Some(0x87)], Value::Null),
        (false, Some(&unusable), [Some(5), Some(0x87)], Value::Null),
        (true, Some(&forged), [None, None], Value::Null),
        (false, Some(&forged), [None, None], Value::Null),
    ];
    let servers = [true, false].map(|anonymous| {
        let listener = authority.listener(&issued, &format!("anonymous = {anonymous}\ncertificate_role = \"admin\""));
        Server::with(Setup { listener, ..Setup::default() })
    });
    for (row, (anonymous, shown, codes, principal)) in table.into_iter().enumerate() {
        for (protocol, code) in BOTH.into_iter().zip(codes) {
            let server = &servers[usize::from(!anonymous)];
            let mut client = TlsClient::open(server, &authority.file, shown, &[], protocol);
            assert_eq!(client.connect("client"), code, "row {row} {protocol:?}");
            if code == Some(0) {
                assert_eq!(client.principal(), principal, "row {row} {protocol:?}");
            }
        }
    }
    for mut server in servers {
        server.assert_alive();
    }
}

/// On a listener without TLS nobody can prove anything.
#[test]
fn a_plain_listener_without_anonymous_access_refuses_all() {
    let server = Server::with(Setup { listener: "anonymous = false", ..Setup::default() });
    for (protocol, code) in BOTH.into_iter().zip([5, 0x87]) {
        let mut client = Client::open(&server, protocol);
        client.send(Connect::new(protocol, "client").encode());
        assert_eq!(client.connack().code, code);
        client.closed();
    }
}

#[test]
fn application_protocols() {
    let authority = Authority::new("authority");
    let listener = authority.listener(&authority.server(), "");
    let server = Server::with(Setup { listener, ..Setup::default() });
    // offered, chosen; `None`: the handshake fails
    for (offered, chosen) in [
        (&[][..], Some(None)),
        (&["x-amzn-mqtt-ca"], Some(Some("x-amzn-mqtt-ca"))),
        (&["mqtt"], Some(Some("mqtt"))),
        (&["h2", "mqtt"], Some(Some("mqtt"))),
        (&["h2"], None),
    ] {
        let mut client = TlsClient::open(&server, &authority.file, None, offered, V5);
        assert_eq!(client.connect("client"), chosen.map(|_| 0), "{offered:?}");
        if let Some(chosen) = chosen {
            assert_eq!(client.stream.conn.alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
        }
    }
}

/// Bytes that the TLS layer holds back while the client does not read come when it does.
#[test]
fn a_slow_reader_receives_everything() {
    const MESSAGES: usize = 100;
    let authority = Authority::new("authority");
    let listener = authority.listener(&authority.server(), "");
    let limits = "outbox_bytes_max = \"16 MiB\"\npublishes_rate = \"1000000/s burst 5000\"";
    let server = Server::with(Setup { listener, limits, ..Setup::default() });
    let open = || TlsClient::open(&server, &authority.file, None, &["mqtt"], V4);
    let (mut reader, mut writer) = (open(), open());
    assert_eq!((reader.connect("reader"), writer.connect("writer")), (Some(0), Some(0)));
    reader.send(wire::subscribe(V4, 1, &[("bulk", 0)], &Properties::none()));
    assert!(matches!(reader.recv(), Some(Packet::SubAck { .. })));
    for number in 0..MESSAGES {
        let payload = format!("{number:0>60000}");
        writer.send(Publish::new("bulk", payload).encode(V4, 0, 0));
    }
    // Answered, so all of it has been taken, and more is queued than socket buffers hold.
    writer.send(wire::PINGREQ);
    assert_eq!(writer.recv(), Some(Packet::PingResp));
    for number in 0..MESSAGES {
        let Some(Packet::Publish(message)) = reader.recv() else { panic!("closed before message {number}") };
        assert_eq!(
            message.text().trim_start_matches('0'),
            if number == 0 { String::new() } else { number.to_string() }
        );
    }
}

#[test]
fn a_peer_without_tls_is_disconnected() {
    let authority = Authority::new("authority");
    let listener = authority.listener(&authority.server(), "connect_timeout = \"1s\"");
    let mut server = Server::with(Setup { listener, ..Setup::default() });
    let mut bystander = TlsClient::open(&server, &authority.file, None, &[], V5);
    assert_eq!(bystander.connect("bystander"), Some(0));
    let connect = Connect::new(V4, "plain").encode();
    // A client hello of 16 KB that never ends; nothing at all.
    let endless = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3F, 0xFC, 3, 3][..], &[0; 100]].concat();
    for bytes in [&connect[..], &[0xFF; 4096], b"GET / HTTP/1.1\r\n\r\n", &endless, b""] {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(*DEADLINE)).unwrap();
        socket.write_all(bytes).unwrap();
        let mut message = Vec::new();
        match socket.read_to_end(&mut message) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert!(message.len() < 16, "at most an alert: {message:02x?}");
    }
    // A TLS client that never says CONNECT.
    let mut silent = TlsClient::open(&server, &authority.file, None, &[], V5);
    silent.stream.flush().unwrap();
    assert_eq!(silent.recv(), None);
    bystander.send(wire::PINGREQ);
    assert_eq!(bystander.recv(), Some(Packet::PingResp));
    server.assert_alive();
}

#[test]
fn invalid_files_are_refused() {
    let authority = Authority::new("authority");
    let (server, client) = (authority.server(), authority.client("lamp"));
    let missing = Path::new("missing.pem");
    let (certificate, key, ca) = (&*server.certificate, &*server.key, &*authority.file);
    // certificate, key, authority, which file is named, what of it
    for (certificate, key, ca, file, message) in [
        (missing, key, ca, missing, "No such file"),
        (certificate, missing, ca, missing, "No such file"),
        (certificate, key, missing, missing, "No such file"),
        (key, key, ca, key, "contains no certificate"),
        (certificate, certificate, ca, certificate, "no items found"),
        (certificate, key, key, key, "contains no certificate"),
        (certificate, &client.key, ca, certificate, "keys may not be consistent"),
    ] {
        let lines = format!("tls_certificate = {certificate:?}\ntls_key = {key:?}\ntls_client_ca = {ca:?}");
        let setup = Setup { listener: Box::leak(lines.into_boxed_str()), ..Setup::default() };
        let Err((exit, directory)) = Server::within(tempfile::tempdir().unwrap(), setup) else {
            panic!("it started: {setup:?}")
        };
        assert_eq!(exit.status.code(), Some(2), "{exit:?}");
        let expected = format!("{}: ", file.display());
        assert!(
            exit.log.contains(&expected) && exit.log.contains(message),
            "{message:?} of {expected:?} in {}",
            exit.log
        );
        let checked = check_config(directory.path());
        let said = String::from_utf8_lossy(&checked.stderr);
        assert_eq!(
            (checked.status.code(), said.contains(&expected), said.contains(message)),
            (Some(2), true, true),
            "{said}"
        );
    }
}

/// Asks whether the configuration that a server was started with would be accepted.
fn check_config(directory: &Path) -> Output {
    umbrad(&["check-config", "--config"]).arg(directory.join("broker.toml")).output().unwrap()
}

/// Bytes of the content of each TLS record that `server` sends, in both versions, while `talk` goes on.
fn records_of(server: &Server, authority: &Authority, talk: impl Fn(&mut TlsClient)) -> Vec<usize> {
    let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, upstream) = (relay.local_addr().unwrap(), server.address);
    let relaying = std::thread::spawn(move || {
        let (client, _) = relay.accept().unwrap();
        let mut server = TcpStream::connect(upstream).unwrap();
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let requests = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(std::net::Shutdown::Write);
        });
        let (mut records, mut to_client) = (Vec::new(), client);
        let mut head = [0; 5];
        while server.read_exact(&mut head).is_ok() {
            let mut content = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            server.read_exact(&mut content).unwrap();
            records.push(content.len());
            let _ = to_client.write_all(&[&head[..], &content].concat());
        }
        let _ = to_client.shutdown(std::net::Shutdown::Write);
        requests.join().unwrap();
        records
    });
    let config = std::sync::Arc::new(crate::client::config(&authority.file, None, &[]));
    let mut client = TlsClient::with(address, config, V5);
    talk(&mut client);
    drop(client);
    relaying.join().unwrap()
}

/// A device's TLS library may have room for small records only, and cannot say so.
#[test]
fn records_no_larger_than_configured() {
    let authority = Authority::new("authority");
    for (line, least, most) in [("", 16_000, 16_384 + 256), ("tls_record_bytes_max = 512", 400, 512 + 32)] {
        let listener = authority.listener(&authority.server(), line);
        let server = Server::with(Setup { listener, ..Setup::default() });
        let records = records_of(&server, &authority, |client| {
            assert_eq!(client.connect("client"), Some(0));
            client.send(wire::subscribe(V5, 1, &[("t", 0)], &Properties::none()));
            client.recv().expect("SUBACK");
            client.send(Publish::new("t", vec![b'x'; 100_000]).encode(V5, 0, 0));
            let Some(Packet::Publish(message)) = client.recv() else { panic!("no message") };
            assert_eq!(message.payload.len(), 100_000);
        });
        let largest = records.iter().max().unwrap();
        assert!((least..=most).contains(largest), "{line}: {largest}");
    }
}

/// A client that ends its TLS session is answered with the end of ours, as RFC 5246 demands and RFC 8446 allows, before
/// it ends the connection under it; one that waits for that would otherwise take it for an attack.
#[test]
fn a_close_notify_is_answered() {
    let authority = Authority::new("authority");
    let mqtt = authority.listener(&authority.server(), "");
    let web = "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"";
    let tls: String = mqtt.lines().filter(|line| line.starts_with("tls_")).map(|line| format!("{line}\n")).collect();
    let listener = Box::leak(format!("{mqtt}\n{web}\n{tls}").into_boxed_str());
    let server = Server::with(Setup { listener, ..Setup::default() });
    let config = std::sync::Arc::new(crate::client::config(&authority.file, None, &[]));
    let connect = Connect::new(V5, "client").encode();
    for (what, address, first) in [
        ("nothing was said", server.address, &b""[..]),
        ("MQTT", server.address, &connect),
        ("nothing over HTTP", server.address_of("web"), b""),
        ("HTTP", server.address_of("web"), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ] {
        let mut stream = crate::client::handshake(address, config.clone());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        stream.write_all(first).unwrap();
        if !first.is_empty() {
            stream.read_exact(&mut [0; 1]).unwrap();
        }
        stream.conn.send_close_notify();
        stream.conn.complete_io(&mut stream.sock).unwrap();
        // Without one, the end of the connection under TLS is an error here.
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(ended.is_ok(), "{what}: {ended:?}");
    }
}
