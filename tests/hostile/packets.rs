//! Packets that have brought brokers down.

use crate::{
    bystander::Bystander,
    harness::{
        client::{Client, disconnect_with},
        eventually,
        server::{Server, Setup},
        wire::{self, BOTH, Connect, Properties, Publish, V4, V5, Value, prop},
    },
};

/// A client id with a slash, connected twice, killed a listener for everybody.
#[test]
fn a_client_id_with_a_slash_twice() {
    let mut server = Server::start();
    let mut bystander = Bystander::new(&server);
    for protocol in BOTH {
        for id in ["a/b", "#", "+/+", "$share/x", "../..", "é", "%s%n", "\u{10FFFD}"] {
            let mut first = Client::connect(&server, protocol, id);
            let mut second = Client::connect(&server, protocol, id);
            assert_eq!(first.closed(), (protocol == V5).then_some(0x8E), "{id}");
            second.ping();
        }
        bystander.check(&mut server);
    }
}

/// A topic that begins with a character of two bytes killed a router.
#[test]
fn a_topic_that_begins_beyond_ascii() {
    let mut server = Server::start();
    let mut bystander = Bystander::new(&server);
    let topics = ["é", "état/1", "ü/ö", "日本/温度", "\u{10FFFD}/x", "/", "//", "a//b", " ", "$", "$/x", "$é/x"];
    for protocol in BOTH {
        let mut watcher = Client::connect(&server, V5, "watcher");
        let filters: Vec<_> = topics.iter().map(|topic| (*topic, 1)).collect();
        watcher.subscribe(&filters);
        let mut client = Client::connect(&server, protocol, "client");
        for topic in topics.iter().filter(|topic| !topic.starts_with('$')) {
            client.publish(topic, "x", 1);
            assert_eq!(watcher.message().topic, *topic);
        }
        for topic in ["$", "$/x", "$é/x"] {
            client.publish(topic, "x", 1);
        }
        bystander.check(&mut server);
    }
}

/// Packets that only a server sends panicked a codec.
#[test]
fn packets_that_only_a_server_sends() {
    let mut server = Server::start();
    let mut bystander = Bystander::new(&server);
    let connack = wire::frame(0x20, &[0, 0, 0]);
    let unsuback = wire::frame(0xB0, &[0, 1, 0, 0]);
    for packet in [connack, unsuback, wire::frame(0x20, &[0, 0]), wire::frame(0x90, &[0, 1, 0]), wire::frame(0xD0, &[])]
    {
        for protocol in BOTH {
            let mut client = Client::connect(&server, protocol, "client");
            client.send(&packet);
            let reason = client.closed();
            assert!(matches!(reason, None | Some(0x81 | 0x82)), "{packet:02x?}: {reason:02x?}");
            assert_eq!(reason.is_some(), protocol == V5, "{packet:02x?}");
            let mut first = Client::open(&server, protocol);
            first.send(&packet);
            first.discard_until_closed();
        }
    }
    bystander.check(&mut server);
}

/// Property sections that end too early or too late, in every packet that has one.
#[test]
fn truncated_properties() {
    let mut server = Server::start();
    let mut bystander = Bystander::new(&server);
    let broken: [&[u8]; 10] = [
        &[5],
        &[0x80],
        &[0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        &[0xFF, 0xFF, 0xFF, 0x7F],
        &[1, 0x26],
        &[2, 0x26, 0],
        &[3, 0x1F, 0, 9],
        &[4, 0x11, 0, 0, 0],
        &[1, 0xFF],
        &[3, 0x09, 0xFF, 0xFF],
    ];
    let around = |properties: &[u8]| {
        let id = [0, 1];
        [
            wire::frame(0x30, &[&wire::string("t"), properties].concat()),
            wire::frame(0x32, &[&wire::string("t"), &id[..], properties].concat()),
            wire::frame(0x40, &[&id[..], &[0], properties].concat()),
            wire::frame(0x62, &[&id[..], &[0], properties].concat()),
            wire::frame(0x82, &[&id[..], properties].concat()),
            wire::frame(0xA2, &[&id[..], properties].concat()),
            wire::frame(0xE0, &[&[0], properties].concat()),
        ]
    };
    let mut tried = 0;
    for properties in broken {
        for packet in around(properties) {
            let mut client = Client::connect(&server, V5, "client");
            client.send(&packet);
            let reason = client.closed();
            assert!(matches!(reason, Some(0x81 | 0x82)), "{packet:02x?}: {reason:02x?}");
            tried += 1;
        }
        let mut client = Client::open(&server, V5);
        client.send(wire::frame(0x10, &[&wire::string("MQTT"), &[5, 2, 0, 0][..], properties].concat()));
        client.discard_until_closed();
    }
    bystander.check(&mut server);
    println!("{tried} packets with broken properties");
}

/// Each user property, five bytes of a packet, became fifteen times as much.
#[test]
fn thousands_of_user_properties() {
    let mut server = Server::start();
    let mut bystander = Bystander::new(&server);
    let user = |count| vec![(prop::USER, Value::Pair(String::new(), String::new())); count];
    let publish = |count| {
        let mut message = Publish::new("kept", "x").retain();
        message.properties = Properties(user(count));
        message
    };
    let mut client = Client::connect(&server, V5, "client");
    client.subscribe(&[("kept", 1)]);
    assert_eq!(client.publish_message(&publish(256), 1).code, 0);
    assert_eq!(client.message().properties.all(prop::USER).len(), 256);
    for packet in [
        publish(257).encode(V5, 1, 9),
        publish(20_000).encode(V5, 0, 0),
        wire::subscribe(V5, 9, &[("t", 0)], &Properties(user(257))),
        disconnect_with(0, &Properties(user(257))),
    ] {
        let mut client = Client::connect(&server, V5, "client");
        client.send(packet);
        assert_eq!(client.closed(), Some(0x97));
    }
    let with_will = |count| Connect::new(V5, "dies").will(publish(count), 0).encode();
    let with_properties = |count| Connect { properties: Properties(user(count)), ..Connect::new(V5, "comes") }.encode();
    for (packet, code) in [(with_will(256), 0), (with_will(257), 0x97), (with_properties(257), 0x97)] {
        let mut client = Client::open(&server, V5);
        client.send(packet);
        assert_eq!(client.connack().code, code);
    }
    bystander.check(&mut server);
}

/// 256 MB are announced: the connection ends at the header, and nothing is set aside for the rest.
#[test]
fn a_remaining_length_of_256_mb() {
    let mut server = Server::start();
    let mut bystander = Bystander::new(&server);
    let before = server.resident_bytes();
    for protocol in BOTH {
        for first in [0x30, 0x82, 0x40, 0xE0] {
            let mut clients: Vec<_> =
                (0..20).map(|number| Client::connect(&server, protocol, &format!("huge-{number}"))).collect();
            for client in &mut clients {
                client.send([first, 0xFF, 0xFF, 0xFF, 0x7F]);
            }
            for client in &mut clients {
                let reason = client.closed();
                assert!(
                    matches!((protocol, reason), (V4, None) | (V5, Some(0x81 | 0x95))),
                    "{first:#x}: {reason:02x?}"
                );
            }
        }
        let mut client = Client::open(&server, protocol);
        client.send([0x10, 0xFF, 0xFF, 0xFF, 0x7F]);
        client.discard_until_closed();
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "grew by {grown} bytes");
    bystander.check(&mut server);
    println!("grew by {} KiB", grown / 1024);
}

/// Aliases, identifiers and filters, as many as there can be.
#[test]
fn the_maximum_of_every_repeated_property() {
    let mut server = Server::with(crate::harness::server::UNLIMITED);
    let mut bystander = Bystander::new(&server);
    // Every QoS 2 identifier, never released: the receive maximum ends it.
    let mut client = Client::connect(&server, V5, "identifiers");
    for id in 1..=u16::MAX {
        if client.try_send(Publish::new("held", "x").encode(V5, 2, id)).is_err() {
            break;
        }
    }
    assert!(matches!(client.closed(), None | Some(0x93)));
    // 3.1.1 has no maximum to notify; the server may choose its own.
    let mut client = Client::connect(&server, V4, "identifiers");
    for id in 1..=2_000 {
        if client.try_send(Publish::new("held", "x").encode(V4, 2, id)).is_err() {
            break;
        }
    }
    let _ = client.try_send(wire::DISCONNECT);
    client.discard_until_closed();
    // Filters of many levels, and more of them than a session may have.
    let mut client = Client::connect(&server, V5, "filters");
    let deep = "+/".repeat(255) + "#";
    let mut granted = 0;
    for number in 0..5_000 {
        let filter = format!("f/{number}");
        let codes = client.subscribe_with(&[(&filter, 1)], &Properties::none());
        granted += usize::from(codes[0] < 0x80);
    }
    assert!(granted <= 4_096, "{granted} filters in a session");
    let mut client = Client::connect(&server, V5, "deep");
    client.subscribe_with(&[(&deep, 0)], &Properties::none());
    client.publish(&"a/".repeat(255), "x", 1);
    client.ping();
    bystander.check(&mut server);
    println!("{granted} of 5,000 filters granted");
}

/// Sessions nobody comes back for, each with a large will: those away for longest make place for others.
#[test]
fn abandoned_sessions() {
    // The rows of the sessions pass through the page cache, which has a third of the store's memory.
    let (limits, store) = ("memory = \"16 MiB\"", "memory = \"64 MiB\"");
    let mut server = Server::with(Setup { limits, store, ..Setup::default() });
    let mut bystander = Bystander::new(&server);
    let before = server.resident_bytes();
    let will = Publish::new("will/of-many", vec![b'x'; 60_000]).property(prop::WILL_DELAY, Value::Four(3_600));
    for number in 0..2_000 {
        let connect = Connect::persistent(V5, &format!("abandoned-{number}")).will(will.clone(), 0);
        Client::connect_as(&server, &connect).0.abandon();
    }
    // 120 MB of wills; what is beyond the memory is freed, and newcomers find place.
    let bound = before + (100 << 20);
    eventually("the wills to be freed", || {
        // Threads return what they have freed to the system when they have something to do.
        Client::connect_as(&server, &Connect::persistent(V5, "newcomer")).0.abandon();
        (server.resident_bytes() < bound).then_some(())
    });
    assert!(server.log().contains("a disconnected session ended before its expiry"), "{}", server.log());
    bystander.check_connection(&mut server);
}
