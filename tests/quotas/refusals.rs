//! A client that takes no notice of being refused is sent away.

use crate::{
    assert_met,
    harness::{
        client::Client,
        http::Http,
        packet::Packet,
        server::{Server, Setup},
        wire::{self, BOTH, Properties, Publish, V5, prop},
    },
    server,
};

/// Refusals of one connection: a tenth of its messages, so 12 a minute.
const LIMITS: &str = "requests_rate = \"1/s burst 1\"\npublishes_rate = \"2/s burst 1000\"\n\
     [[role]]\nrole = \"admin\"\nfilters = 1";

/// Requests, and filters, that are refused again and again; each in one piece, so that they take no time.
#[test]
fn a_client_with_too_many_refusals_is_disconnected() {
    let update = Publish::new("shadow/hasty/update", r#"{"state":{"reported":{"n":1}}}"#);
    for protocol in BOTH {
        let subscribe = |id: u16| {
            let filter = format!("filter/{id}");
            wire::subscribe(protocol, id, &[(&filter, 0)], &Properties::none())
        };
        let floods: [Vec<u8>; 2] =
            [(1..=40).flat_map(|id| update.encode(protocol, 1, id)).collect(), (1..=40).flat_map(subscribe).collect()];
        for (flood, quota) in floods.into_iter().zip(["requests", "principal_filters"]) {
            let mut server = server(LIMITS);
            let mut client = Client::connect(&server, protocol, "hasty");
            // The server may have closed before it has all of it.
            let _ = client.try_send(flood);
            let (mut said, mut answered) = (None, 0);
            while let Some(packet) = client.try_recv() {
                match packet {
                    Packet::Disconnect { code, properties } => said = Some((code, properties)),
                    _ => answered += 1,
                }
            }
            assert!(answered <= 15, "{answered} were answered");
            assert_eq!(said.is_some(), protocol == V5);
            if let Some((code, properties)) = said {
                assert_eq!(code, 0x97);
                assert_eq!(properties.text(prop::REASON_STRING), Some("too many refusals a minute on one connection"));
            }
            // It may come again, and do better.
            Client::connect(&server, protocol, "hasty").ping();
            assert_met(&mut server, &[quota, "refusals"]);
        }
    }
}

/// A connection of HTTP could ask on for ever. It is ended as one of MQTT.
#[test]
fn an_http_client_with_too_many_refusals_is_disconnected() {
    let listener = "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\nconnect_timeout = \"5m\"";
    let mut server = Server::with(Setup { listener, limits: LIMITS, ..Setup::default() });
    let mut http = Http::connect(server.address_of("web"));
    let mut refused = 0;
    let last = loop {
        let reply = http.send("GET /v1/devices/hasty/shadow HTTP/1.1\nUmbra-Client: hasty", b"");
        refused += usize::from(reply.status == 429);
        if reply.header("connection").is_some() {
            break reply;
        }
        assert!(refused <= 15, "{refused} were answered");
    };
    assert_eq!((last.status, last.header("connection")), (429, Some("close")));
    assert!(http.ended());
    assert_met(&mut server, &["requests", "refusals"]);
}

/// As many refusals as there may be, and those that have another reason, end nothing.
#[test]
fn a_client_with_few_refusals_stays_connected() {
    let mut server = server(LIMITS);
    for (protocol, id) in BOTH.into_iter().zip(["calm-4", "calm-5"]) {
        let mut client = Client::connect(&server, protocol, id);
        for _ in 0..10 {
            client.publish("shadow/calm/update", r#"{"state":{"reported":{"n":1}}}"#, 1);
        }
        for number in 0..60 {
            client.publish(&format!("shadow/calm-{number}/update"), "no JSON", 1);
            client.publish("$SYS/reserved", "x", 1);
        }
        client.ping();
    }
    assert_met(&mut server, &["requests"]);
}
