//! Sessions across restarts and kills: present, with their subscriptions, wills and expiry.

use std::{thread, time::Duration};

use crate::harness::{
    client::{Client, disconnect_with},
    server::Server,
    wire::{BOTH, Connect, Properties, Protocol, Publish, V5, Value, prop},
};

/// Connects the client with its session of before.
fn resume(server: &Server, protocol: Protocol, client_id: &str) -> Client {
    let (client, connack) = Client::connect_as(server, &Connect::persistent(protocol, client_id));
    assert!(connack.session_present, "{protocol:?}");
    client
}

fn stop(server: &mut Server, kill: bool) {
    match kill {
        true => server.kill(),
        false => drop(server.stop()),
    }
}

#[test]
fn a_session_with_its_subscriptions_survives() {
    for kill in [true, false] {
        let mut server = Server::start();
        for protocol in BOTH {
            let (mut client, _) = Client::connect_as(&server, &Connect::persistent(protocol, "s"));
            client.subscribe(&[("a/+", 1), ("b", 1), ("c/#", 0), ("gone", 1)]);
            client.unsubscribe(&["gone"]);
            // One session is connected when the server ends, the other is away.
            if protocol == V5 {
                client.disconnect();
            }
            stop(&mut server, kill);
            server.restart();
            let mut client = resume(&server, protocol, "s");
            let mut sender = Client::connect(&server, protocol, "sender");
            for topic in ["gone", "a/1", "b", "c/2/3", "other"] {
                sender.publish(topic, topic, 1);
            }
            sender.publish("b", "last", 1);
            let received: Vec<_> = client.messages(4).into_iter().map(|(topic, _)| topic).collect();
            assert_eq!(received, ["a/1", "b", "c/2/3", "b"], "{protocol:?}, kill {kill}");
            client.disconnect();
            // The session ends, durably.
            drop(Client::connect_as(&server, &Connect::persistent(protocol, "s").clean(true)));
            stop(&mut server, kill);
            server.restart();
            let (mut client, connack) = Client::connect_as(&server, &Connect::persistent(protocol, "s"));
            assert!(protocol == V5 || !connack.session_present);
            client.subscribe(&[("marker", 1)]);
            client.publish("a/1", "", 1);
            client.publish("marker", "", 1);
            assert_eq!(client.message().topic, "marker", "the old subscriptions are gone");
        }
    }
}

/// A client ended its session, connected without one, and found the former one after a power cut, with its subscriptions.
#[test]
fn a_session_that_its_client_ended_just_before_a_connack_does_not_come_back() {
    let mut server = Server::start();
    for _ in 0..3 {
        let (mut client, connack) = Client::connect_as(&server, &Connect::persistent(V5, "s"));
        assert!(!connack.session_present);
        client.subscribe(&[("t", 1)]);
        let ends = Properties::none().with(prop::SESSION_EXPIRY, Value::Four(0));
        client.send(disconnect_with(0, &ends));
        assert_eq!(client.closed(), None);
        // This one has no rows.
        let (_client, connack) = Client::connect_as(&server, &Connect::new(V5, "s").clean(false));
        assert!(!connack.session_present);
        server.kill();
        server.restart();
    }
}

#[test]
fn subscription_options_survive() {
    let mut server = Server::start();
    let (mut client, _) = Client::connect_as(&server, &Connect::persistent(V5, "s"));
    let properties = Properties::none().with(prop::SUBSCRIPTION_ID, Value::Variable(77));
    // No Local and Retain As Published.
    client.subscribe_with(&[("t", 0x04 | 0x08 | 1)], &properties);
    server.kill();
    server.restart();
    let mut client = resume(&server, V5, "s");
    client.publish("t", "own", 1);
    let mut sender = Client::connect(&server, V5, "sender");
    sender.publish_message(&Publish::new("t", "other").retain(), 1);
    let message = client.message();
    assert_eq!((message.text(), message.retain), ("other", true));
    assert_eq!(message.properties.get(prop::SUBSCRIPTION_ID), Some(&Value::Variable(77)));
}

#[test]
fn the_expiry_counts_while_the_server_is_down() {
    let mut server = Server::start();
    for (client_id, expiry) in [("short", 1), ("long", 1_000)] {
        let connect = Connect::new(V5, client_id).property(prop::SESSION_EXPIRY, Value::Four(expiry));
        let (mut client, _) = Client::connect_as(&server, &connect);
        client.subscribe(&[("t", 1)]);
        client.disconnect();
    }
    // The date of the loss is written within half a second.
    thread::sleep(Duration::from_millis(600));
    server.kill();
    thread::sleep(Duration::from_millis(1_500));
    server.restart();
    for (client_id, present) in [("short", false), ("long", true)] {
        let connect = Connect::persistent(V5, client_id);
        let (_, connack) = Client::connect_as(&server, &connect);
        assert_eq!(connack.session_present, present, "{client_id}");
    }
}

#[test]
fn wills_survive_a_kill() {
    let mut server = Server::start();
    let will = |topic: &str| Publish::new(topic, "gone").retain();
    let mut clients = Vec::new();
    for (client_id, session_expiry, delay) in
        [("none", 0, 0), ("now", 1_000, 0), ("later", 1_000, 2), ("never", 1_000, 900)]
    {
        let message = will(&format!("will/{client_id}")).property(prop::WILL_DELAY, Value::Four(delay));
        let connect = Connect::new(V5, client_id).will(message, 1);
        clients.push(Client::connect_as(&server, &connect.property(prop::SESSION_EXPIRY, Value::Four(session_expiry))));
    }
    // Their rows are on disk with this.
    clients[1].0.subscribe(&[("t", 1)]);
    server.kill();
    server.restart();
    let mut reader = Client::connect(&server, V5, "reader");
    reader.subscribe(&[("will/+", 1)]);
    let mut topics: Vec<_> = reader.messages(3).into_iter().map(|(topic, _)| topic).collect();
    topics.sort();
    assert_eq!(topics, ["will/later", "will/none", "will/now"]);
    // The client comes back before its will is due.
    drop(resume(&server, V5, "never"));
}

#[test]
fn shadows_that_changed_meanwhile_come_once() {
    for kill in [true, false] {
        let mut server = Server::start();
        let (mut watcher, _) = Client::connect_as(&server, &Connect::persistent(V5, "watcher"));
        watcher.subscribe(&[("shadow/+/document", 1)]);
        watcher.disconnect();
        let mut writer = Client::connect(&server, V5, "writer");
        for n in 0..3 {
            writer.publish("shadow/before/update", format!(r#"{{"state":{{"reported":{{"n":{n}}}}}}}"#), 1);
        }
        stop(&mut server, kill);
        server.restart();
        let mut writer = Client::connect(&server, V5, "writer");
        writer.publish("shadow/after/update", r#"{"state":{"reported":{"n":9}}}"#, 1);
        let mut watcher = resume(&server, V5, "watcher");
        let mut topics: Vec<_> = watcher.messages(2).into_iter().map(|(topic, _)| topic).collect();
        topics.sort();
        assert_eq!(topics, ["shadow/after/document", "shadow/before/document"], "kill {kill}");
        watcher.ping();
    }
}

/// A restart loses the message, which is in flight; its news come by the newest state.
#[test]
fn an_event_that_was_not_acknowledged_comes_after_a_restart() {
    let delta = "shadow/lamp-1/update/delta";
    for (is_connected, kill) in [(true, true), (false, true), (false, false)] {
        let mut server = Server::start();
        let (mut lamp, _) = Client::connect_as(&server, &Connect::persistent(V5, "lamp"));
        lamp.subscribe(&[(delta, 1)]);
        let mut writer = Client::connect(&server, V5, "writer");
        writer.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"n":1}}}"#, 1);
        assert_eq!(lamp.peek_message().topic, delta);
        if !is_connected {
            lamp.disconnect();
        }
        stop(&mut server, kill);
        server.restart();
        let mut lamp = resume(&server, V5, "lamp");
        let message = lamp.message();
        assert_eq!((&*message.topic, &message.json()["state"]["n"]), (delta, &1.into()), "kill {kill}");
        // It is acknowledged, so it does not come again. The SUBACK comes when everything before is on disk.
        lamp.disconnect();
        let mut marker = Client::connect_as(&server, &Connect::persistent(V5, "marker")).0;
        marker.subscribe(&[("other", 0)]);
        stop(&mut server, kill);
        server.restart();
        let mut lamp = resume(&server, V5, "lamp");
        Client::connect(&server, V5, "writer").publish("shadow/lamp-1/update", r#"{"state":{"desired":{"n":2}}}"#, 1);
        assert_eq!(lamp.message().json()["state"]["n"], 2, "kill {kill}");
    }
}

/// A session that had expired while no server ran was ended before those that lost their connections later were restored: its will, and its
/// messages of a shared subscription, found nobody.
#[test]
fn the_end_of_a_session_while_no_server_runs_reaches_the_others() {
    let mut server = Server::start();
    let expiry = |client_id: &str, seconds| {
        Connect::new(V5, client_id).property(prop::SESSION_EXPIRY, Value::Four(seconds)).clean(false)
    };
    let will = Publish::new("will/short", "gone").property(prop::WILL_DELAY, Value::Four(900));
    let (mut short, _) = Client::connect_as(&server, &expiry("short", 3).will(will, 1));
    let (mut long, _) = Client::connect_as(&server, &expiry("long", 1_000));
    short.subscribe(&[("$share/g/t", 1)]);
    long.subscribe(&[("$share/g/t", 1), ("will/+", 1)]);
    short.send(disconnect_with(0x04, &Properties::none())); // with its will
    short.discard_until_closed();
    drop(long);
    let mut sender = Client::connect(&server, V5, "sender");
    let sent: Vec<_> = (0..10).map(|number| number.to_string()).collect();
    for text in &sent {
        sender.publish("t", text, 1);
    }
    server.kill();
    // The session expires while no server runs.
    thread::sleep(Duration::from_millis(4_100));
    server.restart();
    let (mut long, connack) = Client::connect_as(&server, &expiry("long", 1_000));
    assert!(connack.session_present);
    let mut received: Vec<_> = long.messages(11).into_iter().map(|(_, text)| text).collect();
    received.sort();
    assert_eq!(received, [sent, vec!["gone".to_owned()]].concat());
}

/// A client with a subscription and a shared one has two deliveries of a message, whose rows were one.
#[test]
fn two_deliveries_of_one_message_are_both_kept() {
    for protocol in BOTH {
        let mut server = Server::start();
        let (mut client, _) = Client::connect_as(&server, &Connect::persistent(protocol, "both"));
        client.subscribe(&[("t", 1), ("$share/g/t", 1), ("$share/h/t", 1)]);
        client.disconnect();
        let mut sender = Client::connect(&server, protocol, "sender");
        sender.publish("t", "once", 1);
        sender.publish("t", "twice", 1);
        server.kill();
        server.restart();
        let mut client = resume(&server, protocol, "both");
        let texts: Vec<_> = client.messages(6).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts.iter().filter(|text| *text == "once").count(), 3, "{protocol:?} {texts:?}");
        client.publish("t", "last", 1);
        assert_eq!(client.messages(3).len(), 3);
    }
}
