//! MQTT in WebSocket messages: those of a client lie in them in any way, those of the server one in each.

use serde_json::json;

use crate::{
    certificates::Authority,
    client,
    exchange::{server, server_with},
    harness::{
        client::Client,
        packet::Packet,
        wire::{self, BOTH, Connect, Properties, Publish, V4, V5},
    },
    socket::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Socket, frame, whole},
};

#[test]
fn a_client_of_each_version() {
    let mut server = server("");
    for protocol in BOTH {
        let mut socket = Socket::connect(server.address_of("web"), protocol, "client");
        socket.subscribe("shadow/lamp/update/accepted", 1);
        let id = 7;
        let update = json!({"state": {"reported": {"power": "on"}}}).to_string();
        socket.send(Publish::new("shadow/lamp/update", &update).encode(protocol, 1, id));
        let Packet::Publish(accepted) = socket.recv() else { panic!("no accepted") };
        assert_eq!(accepted.json()["state"]["reported"]["power"], "on");
        assert!(matches!(socket.recv(), Packet::PubAck(ack) if ack.id == id && ack.code == 0));
        // The same shadows and topics as over TCP.
        let mut other = Client::connect(&server, protocol, "other");
        other.subscribe(&[("plain/t", 0)]);
        socket.send(Publish::new("plain/t", "hello").encode(protocol, 0, 0));
        assert_eq!(other.message().text(), "hello");
    }
    server.assert_alive();
}

#[test]
fn packets_may_span_frames() {
    let server = server("");
    let address = server.address_of("web");
    for protocol in BOTH {
        let connect = Connect::new(protocol, "client").encode();
        let publish = Publish::new("t", "x").encode(protocol, 1, 9);
        let all = [&connect[..], &publish, &wire::PINGREQ].concat();
        let one = frame(FIN | BINARY, &all);
        let bytewise = all.iter().flat_map(|byte| frame(FIN | BINARY, &[*byte])).collect::<Vec<_>>();
        // One message in fragments of three bytes, empty ones and a ping between them.
        let mut fragments = frame(BINARY, b"");
        for part in all.chunks(3) {
            fragments.extend(frame(CONTINUATION, part));
            fragments.extend(frame(FIN | PING, b"are you there"));
            fragments.extend(frame(CONTINUATION, b""));
        }
        fragments.extend(frame(FIN | CONTINUATION, b""));
        let empty = [frame(FIN | BINARY, b"").repeat(1000), one.clone()].concat();
        for (what, bytes) in
            [("all in one", one), ("a byte each", bytewise), ("fragments", fragments), ("empty messages", empty)]
        {
            let mut socket = Socket::open(address, protocol);
            socket.send_raw(&bytes);
            let mut packets = Vec::new();
            while packets.len() < 3 {
                match socket.frame() {
                    Some((first, mut payload)) if first == FIN | BINARY => packets.push(whole(protocol, &mut payload)),
                    Some((first, payload)) => {
                        assert_eq!((first, &payload[..]), (FIN | PONG, &b"are you there"[..]), "{what}");
                    }
                    None => panic!("{what}: it ended after {packets:?}"),
                }
            }
            assert!(matches!(packets[0], Packet::ConnAck { code: 0, .. }), "{what}: {packets:?}");
            assert!(matches!(&packets[1], Packet::PubAck(ack) if ack.id == 9), "{what}: {packets:?}");
            assert_eq!(packets[2], Packet::PingResp, "{what}");
        }
    }
}

/// Clients exist that take the first packet of a message and lose the rest: here four packets come of one change, and a
/// hundred of one SUBSCRIBE.
#[test]
fn each_packet_of_the_server_is_a_message() {
    let server = server("");
    for protocol in BOTH {
        let mut writer = Client::connect(&server, protocol, "writer");
        for number in 0..100 {
            writer.publish_message(&Publish::new(&format!("kept/{number}"), "kept").retain(), 1);
        }
        let mut socket = Socket::connect(server.address_of("web"), protocol, "client");
        let filters = [("shadow/lamp/update/+", 1), ("kept/#", 0)];
        socket.send(wire::subscribe(protocol, 1, &filters, &Properties::none()));
        assert_eq!(socket.recv(), Packet::SubAck { id: 1, codes: vec![1, 0] });
        let mut kept: Vec<_> = (0..100)
            .map(|_| match socket.recv() {
                Packet::Publish(message) => message.topic,
                other => panic!("{other:?}"),
            })
            .collect();
        kept.sort();
        kept.dedup();
        assert_eq!(kept.len(), 100);
        let update = json!({"state": {"desired": {"power": format!("{protocol:?}")}}}).to_string();
        socket.send(Publish::new("shadow/lamp/update", &update).encode(protocol, 1, 7));
        for event in ["delta", "documents", "accepted"] {
            let Packet::Publish(message) = socket.recv() else { panic!("no {event}") };
            assert_eq!(message.topic, format!("shadow/lamp/update/{event}"));
        }
        assert!(matches!(socket.recv(), Packet::PubAck(ack) if ack.id == 7));
    }
}

/// A message as large as a packet may be, in both directions.
#[test]
fn the_largest_packet() {
    let server = server_with("", "", "packet_bytes_max = \"64 KiB\"");
    let address = server.address_of("web");
    for protocol in BOTH {
        let mut socket = Socket::connect(address, protocol, "client");
        socket.subscribe("t", 0);
        // The packet is 65,536 bytes: four of them its head, three the topic, and in MQTT 5 one for no properties.
        let payload = vec![b'x'; 65_536 - 4 - 3 - usize::from(protocol == V5)];
        let publish = Publish::new("t", &payload).encode(protocol, 0, 0);
        assert_eq!(publish.len(), 65_536);
        socket.send(&publish);
        assert!(matches!(socket.recv(), Packet::Publish(message) if message.payload == payload));
    }
}

/// A ping is answered while the client says nothing else, and does not keep a silent one connected.
#[test]
fn pings_are_answered() {
    let server = server("");
    let mut socket = Socket::open(server.address_of("web"), V5);
    for payload in [&b""[..], b"x", &[0xFF; 125]] {
        socket.send_raw(frame(FIN | PING, payload));
        assert_eq!(socket.frame(), Some((FIN | PONG, payload.to_vec())));
    }
    socket.send(Connect::new(V5, "silent").keep_alive(1).encode());
    assert_eq!(socket.connack(), 0);
    let reason = loop {
        socket.send_raw(frame(FIN | PING, b""));
        match socket.frame() {
            Some((first, _)) if first == FIN | PONG => std::thread::sleep(std::time::Duration::from_millis(20)),
            Some((_, payload)) => break payload,
            None => panic!("it ended without a word"),
        }
    };
    assert_eq!((reason[0], reason[2]), (0xE0, 0x8D), "keep alive timeout: {reason:02x?}");
}

/// How either side ends it, and what becomes of the will.
#[test]
fn both_sides_can_close_the_websocket() {
    let server = server("");
    let address = server.address_of("web");
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("will/#", 0)]);
    let open = |will: &str| {
        let mut socket = Socket::open(address, V5);
        socket.send(Connect::new(V5, "client").will(Publish::new(&format!("will/{will}"), ""), 0).encode());
        assert_eq!(socket.connack(), 0);
        socket
    };

    let mut socket = open("disconnect");
    socket.send(wire::DISCONNECT);
    assert_eq!(socket.closed(), 1000, "it said goodbye, and so does the server");

    let mut socket = open("close");
    socket.send_raw(frame(FIN | CLOSE, &1001u16.to_be_bytes()));
    assert_eq!(socket.closed(), 1001, "the server repeats the code");
    assert_eq!(watcher.message().topic, "will/close", "and nothing of the one before");

    let mut socket = open("violation");
    socket.send([0xF0, 0]);
    let Packet::Disconnect { code, .. } = socket.recv() else { panic!("no DISCONNECT") };
    assert!(code >= 0x80, "{code:#04x}");
    assert_eq!(socket.closed(), 1000, "what was wrong is MQTT's business");
    assert_eq!(watcher.message().topic, "will/violation");

    drop(open("lost"));
    assert_eq!(watcher.message().topic, "will/lost");
}

/// A stop of the server is announced in MQTT and in WebSocket, and waits for neither.
#[test]
fn a_stop_closes_websockets() {
    let mut server = server("connect_timeout = \"5m\"");
    let address = server.address_of("web");
    let connected = BOTH.map(|protocol| Socket::connect(address, protocol, &format!("client-{protocol:?}")));
    let mut silent = Socket::open(address, V4);
    let mut half = crate::exchange::connect(address);
    std::io::Write::write_all(&mut half, b"GET /healthz HTT").unwrap();
    let idle = crate::exchange::connect(address);
    server.stop();
    for mut socket in connected {
        if socket.protocol == V5 {
            assert!(matches!(socket.recv(), Packet::Disconnect { code: 0x8B, .. }));
        }
        assert_eq!(socket.closed(), 1000);
    }
    assert!(matches!(silent.frame(), None | Some((0x88, _))));
    for mut stream in [half, idle] {
        crate::exchange::ended(&mut stream);
    }
}

/// WebSocket over TLS, the client known by its certificate as over TCP.
#[test]
fn over_tls() {
    let authority = Authority::new("authority");
    let listener = authority.admins(&authority.server(), "anonymous = false");
    let mut server = server(listener);
    let address = server.address_of("web");
    let lamp = authority.client("lamp-1");
    let config = std::sync::Arc::new(client::config(&authority.file, Some(&lamp), &["h2", "http/1.1"]));
    for protocol in BOTH {
        let stream = client::handshake(address, config.clone());
        let mut socket = Socket::over(stream, protocol);
        assert_eq!(socket.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        socket.send(Connect::new(protocol, "client").encode());
        assert_eq!(socket.connack(), 0);
        socket.subscribe("shadow/lamp/update/accepted", 0);
        let update = json!({"state": {"reported": {"n": format!("{protocol:?}")}}}).to_string();
        socket.send(Publish::new("shadow/lamp/update", update).encode(protocol, 0, 0));
        let Packet::Publish(accepted) = socket.recv() else { panic!("no accepted") };
        assert_eq!(accepted.json()["metadata"]["reported"]["n"]["by"], "lamp-1");
    }
    server.assert_alive();
}

/// A WebSocket ends with the certificate it came by.
#[test]
fn revoking_a_certificate_closes_its_websocket() {
    let authority = Authority::new("authority");
    let [good, stolen] = ["lamp-1", "lamp-2"].map(|name| authority.client(name));
    let list = authority.revoke(&[]);
    let listener = authority.admins(&authority.server(), &format!("tls_client_crl = {list:?}"));
    let server = server(listener);
    let [mut stays, mut ends] = [&good, &stolen].map(|shown| {
        let config = std::sync::Arc::new(client::config(&authority.file, Some(shown), &[]));
        let mut socket = Socket::over(client::handshake(server.address_of("web"), config), V5);
        socket.send(Connect::new(V5, "client").encode());
        assert_eq!(socket.connack(), 0);
        socket
    });
    authority.revoke(&[&stolen]);
    server.hangup(1, "TLS files reloaded");
    assert_eq!(ends.frame(), None);
    stays.ping();
}
