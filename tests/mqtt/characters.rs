//! Strings with control characters or Unicode non-characters: a client built on libmosquitto that is sent one
//! disconnects, so one retained message kept all of them off a wildcard. A client that sends one is refused.

use crate::harness::{
    client::Client,
    server::Server,
    wire::{BOTH, Connect, Properties, Protocol, Publish, V4, V5, Value, prop},
};

const UNCLEAN: [&str; 8] = ["\u{1}", "\n", "\u{1F}", "\u{7F}", "\u{9F}", "\u{FDD0}", "\u{FFFF}", "\u{10FFFE}"];

/// Returns the reason code of a MQTT 5 PUBLISH, on a connection that stays open.
fn is_refused(client: &mut Client, message: &Publish, code: u8) {
    let protocol = client.protocol;
    client.send(message.encode(protocol, 0, 0));
    for qos in [1, 2] {
        let ack = client.publish_message(message, qos);
        let expected = if protocol == V5 { code } else { 0 };
        assert_eq!(ack.code, expected, "{message:?} over {protocol:?} at QoS {qos}");
    }
}

#[test]
fn a_message_with_an_unclean_string_is_refused_to_its_publisher() {
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("#", 1)]);
    for protocol in BOTH {
        let mut sender = Client::connect(&server, protocol, "sender");
        for bad in UNCLEAN {
            is_refused(&mut sender, &Publish::new(&format!("a/{bad}/b"), "x").retain(), 0x90);
            is_refused(&mut sender, &Publish::new(&format!("shadow/d{bad}/update"), r#"{"state":{}}"#), 0x90);
        }
        sender.publish("end", "the connection stays", 1);
        assert_eq!(watcher.message().text(), "the connection stays");
    }
    let mut sender = Client::connect(&server, V5, "sender");
    for bad in UNCLEAN {
        let pair = |name: &str, value: &str| Value::Pair(name.to_owned(), value.to_owned());
        for (id, value) in [
            (prop::USER, pair(bad, "value")),
            (prop::USER, pair("name", bad)),
            (prop::CONTENT_TYPE, Value::Text(bad.to_owned())),
        ] {
            is_refused(&mut sender, &Publish::new("a/b", "x").property(id, value.clone()).retain(), 0x99);
            let request = Publish::new("shadow/d/update", r#"{"state":{"desired":{"a":1}}}"#);
            is_refused(&mut sender, &request.property(id, value), 0x99);
        }
        // Set as an alias it is refused each time it is used.
        let alias = |topic: &str| Publish::new(topic, "x").property(prop::TOPIC_ALIAS, Value::Two(1));
        is_refused(&mut sender, &alias(&format!("a/{bad}")), 0x90);
        is_refused(&mut sender, &alias(""), 0x90);
    }
    // What a text holds beside them is the application's: a mark of the byte order, and what only looks like a space.
    for good in ["\u{FEFF}", "\u{A0}", "\u{200B}", "\u{1F600}", "\u{E000}"] {
        sender.publish(&format!("good/{good}"), good, 1);
        assert_eq!(watcher.message().text(), good);
    }
    sender.publish("end", "end", 1);
    assert_eq!(watcher.message().text(), "end", "nothing else was delivered");
    let mut late = Client::connect(&server, V4, "late");
    late.subscribe(&[("#", 0)]);
    sender.publish("end", "nothing is retained", 1);
    assert_eq!(late.message().text(), "nothing is retained");
}

#[test]
fn a_response_topic_is_a_topic() {
    let server = Server::start();
    for bad in UNCLEAN {
        let mut sender = Client::connect(&server, V5, "sender");
        let response = Value::Text(format!("r/{bad}"));
        sender.send(Publish::new("a/b", "x").property(prop::RESPONSE_TOPIC, response).encode(V5, 1, 7));
        assert_eq!(sender.closed(), Some(0x90), "{bad:?}");
    }
}

#[test]
fn a_filter_that_no_topic_can_match_is_refused() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        for bad in UNCLEAN {
            let (filter, shared) = (format!("a/{bad}"), format!("$share/g{bad}/a"));
            let codes = client.subscribe_with(&[("a", 1), (&filter, 1), (&shared, 1)], &Properties::none());
            let refused = if protocol == V5 { 0x8F } else { 0x80 };
            assert_eq!(codes, [1, refused, refused], "{bad:?} over {protocol:?}");
        }
        client.publish("a", "arrives", 1);
        assert_eq!(client.message().text(), "arrives");
    }
}

#[test]
fn a_connect_with_an_unclean_string_is_refused() {
    let server = Server::start();
    let pair = |name: &str, value: &str| Value::Pair(name.to_owned(), value.to_owned());
    let connect = |protocol: Protocol| Connect::new(protocol, "client");
    for bad in UNCLEAN {
        let text = || Value::Text(bad.to_owned());
        let will = |protocol: Protocol| connect(protocol).will(Publish::new(&format!("w/{bad}"), "x"), 0);
        let will_with = |id: u8, value: Value| connect(V5).will(Publish::new("w/t", "x").property(id, value), 0);
        for (connect, code) in [
            (Connect::new(V4, bad), 2),
            (Connect::new(V5, bad), 0x85),
            (will(V4), 5),
            (will(V5), 0x90),
            (will_with(prop::RESPONSE_TOPIC, text()), 0x90),
            (will_with(prop::CONTENT_TYPE, text()), 0x81),
            (will_with(prop::USER, pair("name", bad)), 0x81),
            (connect(V5).property(prop::USER, pair(bad, "value")), 0x81),
            (connect(V5).user(bad, "password"), 0x81),
        ] {
            let mut client = Client::open(&server, connect.protocol);
            client.send(connect.encode());
            assert_eq!(client.connack().code, code, "{connect:?}");
            client.discard_until_closed();
        }
    }
}
