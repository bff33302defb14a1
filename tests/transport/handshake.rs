//! From HTTP to WebSocket.

use std::io::Write;

use crate::{
    exchange::{ask, connect, read_answer, server},
    harness::wire::{BOTH, Connect, V5},
    socket::{ACCEPT, SUBPROTOCOL, Socket, UPGRADE, frame},
};

/// Each row: the request, and whether the subprotocol is agreed on.
#[test]
fn valid_upgrade_requests_are_accepted() {
    let server = server("");
    let address = server.address_of("web");
    let without = |text: &str| UPGRADE.replace(text, "");
    let instead = |text: &str, other: &str| UPGRADE.replace(text, other);
    for (request, status) in [
        (format!("{UPGRADE}{SUBPROTOCOL}"), 101),
        (format!("{UPGRADE}Sec-WebSocket-Protocol: chat\r\n{SUBPROTOCOL}"), 101),
        (format!("{UPGRADE}{SUBPROTOCOL}Sec-WebSocket-Extensions: permessage-deflate\r\n"), 101),
        (format!("{}{SUBPROTOCOL}", instead("Connection: Upgrade", "Connection: keep-alive, upgrade")), 101),
        (format!("{UPGRADE}Sec-WebSocket-Protocol: MQTT\r\n"), 400),
        (format!("{UPGRADE}Sec-WebSocket-Protocol:\r\n"), 400),
        (format!("{}{SUBPROTOCOL}", without("Upgrade: websocket\r\n")), 400),
        (format!("{}{SUBPROTOCOL}", without("Connection: Upgrade\r\n")), 400),
        (format!("{}{SUBPROTOCOL}", without("Sec-WebSocket-Version: 13\r\n")), 400),
        (format!("{}{SUBPROTOCOL}", instead("Version: 13", "Version: 8")), 400),
        (format!("{}{SUBPROTOCOL}", instead("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=")), 400),
        (format!("{}{SUBPROTOCOL}", instead("websocket", "h2c")), 400),
        (format!("{}{SUBPROTOCOL}", instead("HTTP/1.1", "HTTP/1.0")), 400),
        (format!("{}{SUBPROTOCOL}", instead("GET", "POST")), 405),
        (format!("{}{SUBPROTOCOL}", instead("/mqtt", "/other")), 404),
        (format!("{}{SUBPROTOCOL}", instead("/mqtt", "/")), 404),
        (instead("/mqtt", "/v1/devices"), 404),
    ] {
        let answer = ask(address, format!("{request}\r\n")).expect("an answer");
        assert_eq!(answer.status, status, "{request}{answer:?}");
        if status == 101 {
            assert_eq!(answer.field("sec-websocket-accept"), Some(ACCEPT));
            assert_eq!(answer.field("sec-websocket-protocol"), Some("mqtt"), "{request}");
            assert_eq!(answer.field("sec-websocket-extensions"), None, "none is spoken");
        } else {
            assert_eq!(answer.field("upgrade"), None, "{request}");
            assert_eq!(answer.body.contains("MQTT over WebSocket is at /mqtt"), status == 404, "{answer:?}");
        }
    }
}

/// Each row: the offered subprotocols, and the chosen one. Some clients offer only `mqttv3.1`, AWS's among them, or nothing.
#[test]
fn subprotocols() {
    let server = server("");
    let address = server.address_of("web");
    for path in ["/mqtt", "/mqtt/", "/mqtt?X-Amz-Algorithm=none"] {
        for (offered, chosen) in [
            ("Sec-WebSocket-Protocol: mqtt\r\n", Some("mqtt")),
            ("Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", Some("mqtt")),
            ("Sec-WebSocket-Protocol: mqttv3.1\r\n", Some("mqttv3.1")),
            ("Sec-WebSocket-Protocol: chat,mqttv3.1\r\n", Some("mqttv3.1")),
            ("", None),
        ] {
            let mut stream = connect(address);
            let request = UPGRADE.replace("/mqtt", path);
            let answer = Socket::ask(&mut stream, &format!("{request}{offered}")).expect("an answer");
            assert_eq!((answer.status, answer.field("sec-websocket-protocol")), (101, chosen), "{path} {offered}");
            stream.write_all(&frame(0x82, &Connect::new(V5, "client").encode())).unwrap();
            let packet = read_frame(&mut stream);
            assert_eq!((packet[0], packet[3]), (0x20, 0), "CONNACK: {packet:02x?}");
        }
    }
}

/// A client need not wait for the answer before its first packet.
#[test]
fn a_packet_directly_after_the_request_is_read() {
    let server = server("");
    for protocol in BOTH {
        let mut stream = connect(server.address_of("web"));
        let connect = frame(0x82, &Connect::new(protocol, "hasty").encode());
        stream.write_all(&[format!("{UPGRADE}{SUBPROTOCOL}\r\n").as_bytes(), &connect].concat()).unwrap();
        let answer = read_answer(&mut stream).unwrap();
        assert_eq!(answer.status, 101);
        let packet = read_frame(&mut stream);
        assert_eq!((packet[0], packet[3]), (0x20, 0), "CONNACK: {packet:02x?}");
    }
}

/// A short frame of the server.
fn read_frame(stream: &mut impl std::io::Read) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert!(head[0] == 0x82 && head[1] < 126, "{head:02x?}");
    let mut payload = vec![0; usize::from(head[1])];
    stream.read_exact(&mut payload).unwrap();
    payload
}

/// A request before it on the same connection is no hindrance.
#[test]
fn a_websocket_after_another_request() {
    let server = server("");
    let mut stream = connect(server.address_of("web"));
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 200);
    let mut socket = Socket::over(stream, V5);
    socket.send(Connect::new(V5, "later").encode());
    assert_eq!(socket.connack(), 0);
}

/// Places are those of all listeners together, and a WebSocket keeps its one.
#[test]
fn only_the_mqtt_path_upgrades() {
    let mut server = crate::exchange::server_with("", "", "connections_max = 3");
    let address = server.address_of("web");
    let mut sockets: Vec<_> = (0..3).map(|number| Socket::connect(address, V5, &format!("member-{number}"))).collect();
    assert!(ask(address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").is_none(), "there is no fourth");
    sockets.iter_mut().for_each(Socket::ping);
    drop(sockets.pop());
    crate::harness::eventually("a place", || ask(address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    server.assert_alive();
}
