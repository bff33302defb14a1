//! Queued messages across restarts and kills: acknowledged to the publisher means kept for every session that matched.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::thread;

use crate::harness::{
    client::Client,
    server::{Server, Setup},
    wire::{BOTH, Connect, Protocol, Publish, V4, V5, Value, prop},
};

const UNLIMITED: Setup = crate::harness::server::UNLIMITED;

fn resume(server: &Server, protocol: Protocol, client_id: &str) -> Client {
    let (client, connack) = Client::connect_as(server, &Connect::persistent(protocol, client_id));
    assert!(connack.session_present, "{protocol:?} {client_id}");
    client
}

fn subscriber(server: &Server, protocol: Protocol, client_id: &str, qos: u8) -> Client {
    let (mut client, _) = Client::connect_as(server, &Connect::persistent(protocol, client_id));
    client.subscribe(&[("t/#", qos)]);
    client
}

#[test]
fn messages_for_sessions_that_are_away_survive_sigkill() {
    for protocol in BOTH {
        let mut server = Server::start();
        for qos in [1, 2] {
            subscriber(&server, protocol, &format!("away-{qos}"), qos).disconnect();
        }
        let mut sender = Client::connect(&server, protocol, "sender");
        let mut expected = Vec::new();
        for n in 0..30 {
            let (topic, payload) = (format!("t/{}", n % 3), n.to_string());
            sender.publish(&topic, &payload, if n % 2 == 0 { 1 } else { 2 });
            expected.push((topic, payload));
        }
        // At QoS 0 nothing waits.
        sender.publish("t/0", "at most once", 0);
        sender.ping();
        server.kill();
        server.restart();
        for qos in [1, 2] {
            let mut client = resume(&server, protocol, &format!("away-{qos}"));
            assert_eq!(client.messages(30), expected, "{protocol:?}, QoS {qos}");
            client.ping();
            // The SUBACK comes when everything before it is on disk.
            client.subscribe(&[("other", 0)]);
            client.disconnect();
        }
        // What was acknowledged does not come again.
        server.kill();
        server.restart();
        let mut client = resume(&server, protocol, "away-1");
        client.publish("t/0", "last", 1);
        assert_eq!(client.messages(1), [("t/0".to_owned(), "last".to_owned())]);
    }
}

/// A publisher and a subscriber that is connected, and one that is away, are served until the server is killed in the
/// middle: nothing acknowledged is missing afterwards.
#[test]
fn acknowledged_messages_survive_a_kill_in_the_middle() {
    let mut server = Server::with(UNLIMITED);
    let mut sent = 0;
    for round in 0..5 {
        let away = format!("away-{round}");
        subscriber(&server, V5, &away, 1).disconnect();
        let here = format!("here-{round}");
        let mut reader = subscriber(&server, V4, &here, 1);
        let (first, acknowledged) = (sent, Arc::new(AtomicBool::new(false)));
        let (mut sender, enough) = (Client::connect(&server, V5, "sender"), acknowledged.clone());
        let writer = thread::spawn(move || {
            let mut last = first;
            loop {
                let id = sender.next_id();
                if sender.try_send(Publish::new("t/x", last.to_string()).encode(V5, 1, id)).is_err() {
                    return last;
                }
                match sender.try_recv() {
                    Some(_puback) => last += 1,
                    None => return last,
                }
                if last - first == 100 {
                    enough.store(true, Ordering::Release);
                }
            }
        });
        let received = thread::spawn(move || {
            let mut received = Vec::new();
            while let Some(packet) = reader.try_recv() {
                if let crate::harness::packet::Packet::Publish(message) = packet {
                    received.push(message.text().parse::<u64>().unwrap());
                    reader.acknowledge(&message);
                }
            }
            received
        });
        crate::harness::eventually("100 acknowledged messages", || acknowledged.load(Ordering::Acquire).then_some(()));
        server.kill();
        sent = writer.join().unwrap();
        let mut received = received.join().unwrap();
        server.restart();
        // The marker follows everything that waited.
        let mut marker = Client::connect(&server, V5, "marker");
        marker.publish("t/marker", "", 1);
        for (protocol, client_id, mut numbers) in [(V5, &away, Vec::new()), (V4, &here, std::mem::take(&mut received))]
        {
            let mut client = resume(&server, protocol, client_id);
            loop {
                let message = client.message();
                if message.topic == "t/marker" {
                    break;
                }
                numbers.push(message.text().parse().unwrap());
            }
            let all: Vec<u64> = (first..sent).collect();
            let mut distinct = numbers.clone();
            distinct.sort_unstable();
            distinct.dedup();
            // The last one may have been kept without its acknowledgement.
            distinct.retain(|number| *number < sent);
            assert_eq!(distinct, all, "round {round}, {client_id}");
            client.disconnect();
        }
        sent += 1;
    }
}

#[test]
fn unacknowledged_messages_come_again_after_a_kill() {
    let mut server = Server::start();
    let mut client = subscriber(&server, V5, "s", 1);
    let mut sender = Client::connect(&server, V5, "sender");
    for n in 0..3 {
        sender.publish("t/x", n.to_string(), 1);
    }
    let ids: Vec<_> =
        (0..3).map(|_| client.peek_message()).map(|message| (message.text().to_owned(), message.id)).collect();
    // Its packet identifiers are on disk within half a second.
    thread::sleep(std::time::Duration::from_millis(700));
    server.kill();
    server.restart();
    let mut client = resume(&server, V5, "s");
    for (text, id) in ids {
        let message = client.message();
        assert_eq!((message.text(), message.id, message.dup), (text.as_str(), id, true));
    }
}

#[test]
fn messages_expire_while_the_server_is_down() {
    let mut server = Server::start();
    subscriber(&server, V5, "s", 1).disconnect();
    let mut sender = Client::connect(&server, V5, "sender");
    for (text, expiry) in [("short", 1), ("long", 1_000)] {
        let message = Publish::new("t/x", text).property(prop::MESSAGE_EXPIRY, Value::Four(expiry));
        sender.publish_message(&message, 1);
    }
    server.kill();
    thread::sleep(std::time::Duration::from_millis(2_100));
    server.restart();
    let mut client = resume(&server, V5, "s");
    let message = client.message();
    assert_eq!(message.text(), "long");
    assert!(message.properties.number(prop::MESSAGE_EXPIRY).unwrap() < 1_000);
}

#[test]
fn shared_subscriptions_keep_their_messages() {
    let mut server = Server::start();
    for n in 0..2 {
        let (mut client, _) = Client::connect_as(&server, &Connect::persistent(V5, &format!("member-{n}")));
        client.subscribe(&[("$share/g/t/#", 1)]);
        client.disconnect();
    }
    let mut sender = Client::connect(&server, V5, "sender");
    for n in 0..20 {
        sender.publish("t/x", n.to_string(), 1);
    }
    server.kill();
    server.restart();
    let mut all = Vec::new();
    for n in 0..2 {
        let mut client = resume(&server, V5, &format!("member-{n}"));
        all.extend(client.messages(10).into_iter().map(|(_, text)| text.parse::<u32>().unwrap()));
    }
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}

/// A message that cannot be kept is not acknowledged; others are routed as before.
#[test]
fn a_full_disk_refuses_messages_that_would_be_kept() {
    let server = Server::with(Setup { store: "free_disk_min = \"16 TiB\"", ..Setup::default() });
    let mut live = Client::connect(&server, V5, "live");
    live.subscribe(&[("u", 1)]);
    subscriber(&server, V5, "away", 1).disconnect();
    for protocol in BOTH {
        let mut sender = Client::connect(&server, protocol, "sender");
        sender.publish("t/x", "at most once", 0);
        assert_eq!(sender.publish("u", "not kept", 1), 0, "{protocol:?}");
        assert_eq!(live.message().text(), "not kept");
        for message in [Publish::new("t/x", "kept"), Publish::new("u", "kept").retain()] {
            let mut sender = Client::connect(&server, protocol, "sender");
            let id = sender.next_id();
            sender.send(message.encode(protocol, 1, id));
            match protocol {
                Protocol::V5 => assert_eq!(sender.puback(id).code, 0x97),
                Protocol::V4 => assert_eq!(sender.closed(), None, "no acknowledgement"),
            }
        }
    }
    live.ping();
}
