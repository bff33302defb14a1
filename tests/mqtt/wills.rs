//! Wills: when they are sent, and when not.

use crate::harness::{
    client::{Client, disconnect_with},
    server::Server,
    wire::{BOTH, Connect, Properties, Publish, V4, V5, Value, prop},
};

fn delayed(client_id: &str, delay: u32, expiry: u32) -> Connect {
    let will = Publish::new("will/t", client_id).property(prop::WILL_DELAY, Value::Four(delay));
    Connect::new(V5, client_id).property(prop::SESSION_EXPIRY, Value::Four(expiry)).will(will, 1)
}

#[test]
fn a_will_is_sent_unless_the_client_disconnects() {
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("will/#", 2)]);
    for protocol in BOTH {
        for qos in 0..3 {
            let connect = Connect::new(protocol, "mortal").will(Publish::new("will/t", "died"), qos);
            Client::connect_as(&server, &connect).0.disconnect();
            let connect = Connect::new(protocol, "mortal").will(Publish::new("will/t", "died too"), qos);
            Client::connect_as(&server, &connect).0.abandon();
            let message = watcher.message();
            assert_eq!((message.text(), message.qos, message.retain), ("died too", qos, false), "{protocol:?}");
        }
    }
}

#[test]
fn every_end_without_disconnect_sends_the_will() {
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("will/#", 1)]);
    let mortal = |cause: &str| Connect::new(V5, "mortal").will(Publish::new("will/t", cause), 1);

    let (mut client, _) = Client::connect_as(&server, &mortal("a protocol error"));
    client.send([0x00, 0x00]);
    client.closed();
    assert_eq!(watcher.message().text(), "a protocol error");

    let (mut client, _) = Client::connect_as(&server, &mortal("DISCONNECT with will"));
    client.send(disconnect_with(0x04, &Properties::none()));
    client.closed();
    assert_eq!(watcher.message().text(), "DISCONNECT with will");

    let (mut client, _) = Client::connect_as(&server, &mortal("silence").keep_alive(1));
    client.closed();
    assert_eq!(watcher.message().text(), "silence");

    let (mut client, _) = Client::connect_as(&server, &mortal("taken over"));
    let (second, _) = Client::connect_as(&server, &Connect::new(V5, "mortal"));
    client.closed();
    assert_eq!(watcher.message().text(), "taken over");
    second.disconnect();
}

#[test]
fn a_retained_will_is_retained() {
    let server = Server::start();
    let connect = Connect::new(V4, "mortal").will(Publish::new("will/kept", "offline").retain(), 1);
    let mut watcher = Client::connect(&server, V4, "watcher");
    watcher.subscribe(&[("will/kept", 1)]);
    Client::connect_as(&server, &connect).0.abandon();
    assert_eq!(watcher.message().text(), "offline");
    let mut late = Client::connect(&server, V5, "late");
    late.subscribe(&[("will/kept", 1)]);
    let message = late.message();
    assert_eq!((message.text(), message.retain), ("offline", true));
}

/// The delay runs only as long as the session lives, and a client that comes back in time takes the will away.
#[test]
fn a_delayed_will() {
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("will/#", 1)]);

    // An hour, but the session ends with the connection.
    Client::connect_as(&server, &delayed("sessionless", 3_600, 0)).0.abandon();
    assert_eq!(watcher.message().text(), "sessionless");

    // An hour, and the client comes back; then its will is that of the new connection.
    Client::connect_as(&server, &delayed("returns", 3_600, 7_200)).0.abandon();
    let again = Connect::persistent(V5, "returns").will(Publish::new("will/t", "the second will"), 1);
    let (client, answer) = Client::connect_as(&server, &again);
    assert!(answer.session_present);
    client.abandon();
    assert_eq!(watcher.message().text(), "the second will");

    // An hour, but a clean start ends the session it belonged to.
    Client::connect_as(&server, &delayed("restarts", 3_600, 7_200)).0.abandon();
    Client::connect(&server, V5, "restarts").disconnect();
    assert_eq!(watcher.message().text(), "restarts");

    // One second.
    Client::connect_as(&server, &delayed("waits", 1, 7_200)).0.abandon();
    assert_eq!(watcher.message().text(), "waits");
}

#[test]
fn the_properties_of_a_will_are_those_of_its_message() {
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("will/#", 1)]);
    let pair = Value::Pair("reason".to_owned(), "unknown".to_owned());
    let will = Publish::new("will/t", "{}")
        .property(prop::CONTENT_TYPE, Value::Text("application/json".to_owned()))
        .property(prop::MESSAGE_EXPIRY, Value::Four(600))
        .property(prop::CORRELATION_DATA, Value::Binary(vec![7]))
        .property(prop::USER, pair.clone());
    Client::connect_as(&server, &Connect::new(V5, "mortal").will(will, 1)).0.abandon();
    let message = watcher.message();
    assert_eq!(message.properties.text(prop::CONTENT_TYPE), Some("application/json"));
    assert_eq!(message.properties.get(prop::USER), Some(&pair));
    assert_eq!(message.properties.get(prop::CORRELATION_DATA), Some(&Value::Binary(vec![7])));
    assert_eq!(message.properties.number(prop::WILL_DELAY), None);
}

/// A client was accepted whose will would never be published, and nobody could know.
#[test]
fn an_invalid_will_is_refused() {
    let server = Server::start();
    for topic in [
        "$SYS/t",
        "$SYS/broker/connection",
        "$aws/things/d1/shadow/update/accepted",
        "$aws/rules/r",
        "$share/g/t",
        "shadow/d1/document",
        "shadow/d1/updat",
        "shadow/d.1/update",
        "shadow/d1/name/a.b/update",
        "$aws/things//shadow/update",
    ] {
        for protocol in BOTH {
            let mut client = Client::open(&server, protocol);
            client.send(Connect::new(protocol, "mortal").will(Publish::new(topic, "{}"), 1).encode());
            let connack = client.connack();
            assert_eq!(connack.code, if protocol == V5 { 0x90 } else { 5 }, "{topic} over {protocol:?}");
            let explained =
                connack.properties.text(prop::REASON_STRING).is_some_and(|text| text.starts_with("will topic: "));
            assert_eq!(explained, protocol == V5, "{topic}: {connack:?}");
            client.discard_until_closed();
        }
    }
    for topic in ["will/t", "shadow/d1/update", "$aws/things/d1/shadow/update", "$other/t"] {
        Client::connect_as(&server, &Connect::new(V5, "mortal").will(Publish::new(topic, "{}"), 1)).0.disconnect();
    }
}

/// A bridge of mosquitto in its default settings leaves this will, and was refused for it.
#[test]
fn the_state_of_a_bridge_is_a_will_that_is_dropped() {
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("will/t", 1)]);
    assert_eq!(watcher.subscribe_with(&[("$SYS/#", 1)], &Properties::none()), [1]);
    for protocol in BOTH {
        let state = "$SYS/broker/connection/edge.cloud/state";
        let will = Connect::new(protocol, "edge.cloud").will(Publish::new(state, "0").retain(), 1);
        let (mut client, _) = Client::connect_as(&server, &will);
        let published = client.publish_message(&Publish::new(state, "1").retain(), 1).code;
        assert_eq!(published, if protocol == V5 { 0x90 } else { 0 });
        client.abandon();
        Client::connect_as(&server, &Connect::new(V5, "mortal").will(Publish::new("will/t", "end"), 1)).0.abandon();
        assert_eq!(watcher.message().text(), "end", "after that of {protocol:?}");
    }
}

/// Section 3.8.3.1: a will is a message of its client, whoever sends it.
#[test]
fn a_will_is_not_sent_to_its_own_no_local_subscription() {
    const NO_LOCAL: u8 = 0x04;
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe_with(&[("will/#", 1 | NO_LOCAL)], &Properties::none());
    for delay in [0, 1] {
        let mortal = delayed("mortal", delay, 7_200).clean(false);
        let (mut client, _) = Client::connect_as(&server, &mortal);
        client.subscribe_with(&[("will/#", 1 | NO_LOCAL)], &Properties::none());
        client.abandon();
        assert_eq!(watcher.message().text(), "mortal", "after {delay} s");
        watcher.publish("will/t", "another's", 1);
        let (mut client, connack) = Client::connect_as(&server, &Connect::persistent(V5, "mortal"));
        assert!(connack.session_present);
        assert_eq!(client.message().text(), "another's", "after {delay} s");
        client.disconnect();
    }
}
