//! Windows of unacknowledged messages and undecided requests: every wait for one of them ends.

use std::{net::TcpStream, thread};

use crate::harness::{
    client::Client,
    eventually,
    packet::Packet,
    server::{Server, UNLIMITED},
    shadow::Requester,
    wire::{self, BOTH, Connect, Protocol, Publish, V5},
};
use serde_json::json;

/// Undecided messages of a 3.1.1 client, and unacknowledged ones in either direction, at most.
const WINDOW: u16 = 64;

fn update(protocol: Protocol, id: u16) -> Vec<u8> {
    let body = json!({"state": {"reported": {"n": id}}}).to_string();
    Publish::new(&format!("shadow/joint-{id}/update"), body).encode(protocol, 1, id)
}

/// Reads until `messages` have come and been acknowledged and `pubacks` have come.
fn settle(client: &mut Client, mut messages: usize, mut pubacks: usize) {
    while messages > 0 || pubacks > 0 {
        match client.recv() {
            Packet::Publish(message) => {
                client.acknowledge(&message);
                messages -= 1;
            }
            Packet::PubAck(_) => pubacks -= 1,
            other => panic!("{other:?} with {messages} messages and {pubacks} acknowledgements to come"),
        }
    }
}

/// A client had as many requests undecided as it may, their replies waited for its window, and the PUBACKs that would
/// have opened that were not read.
#[test]
fn reads_acknowledgements_while_the_maximum_of_requests_waits() {
    for protocol in BOTH {
        let server = Server::with(UNLIMITED);
        let mut client = Client::connect(&server, protocol, "gateway");
        client.subscribe(&[("shadow/+/update/documents", 1), ("shadow/+/update/accepted", 1)]);
        client.send((1..=WINDOW).flat_map(|id| update(protocol, id)).collect::<Vec<u8>>());
        // Two messages for each request: half of the requests fill the window.
        let mut unacknowledged = Vec::new();
        for id in 1..=WINDOW / 2 {
            client.puback(id);
        }
        while unacknowledged.len() < WINDOW.into() {
            unacknowledged.push(client.peek_message());
        }
        client.send((1..=WINDOW / 2).flat_map(|id| update(protocol, WINDOW + id)).collect::<Vec<u8>>());
        for message in &unacknowledged {
            client.acknowledge(message);
        }
        settle(&mut client, (2 * WINDOW).into(), WINDOW.into());
    }
}

/// A server that ended stopped reading, and so never saw the PUBACKs that the answers it owed were waiting for.
#[test]
fn answers_received_requests_of_a_client_with_a_full_window() {
    for protocol in BOTH {
        let mut server = Server::with(UNLIMITED);
        let mut client = Client::connect(&server, protocol, "gateway");
        client.subscribe(&[("shadow/+/update/documents", 1), ("shadow/+/update/accepted", 1)]);
        client.send((1..=WINDOW).flat_map(|id| update(protocol, id)).collect::<Vec<u8>>());
        let unacknowledged: Vec<_> = (0..WINDOW).map(|_| client.peek_message()).collect();
        let address = server.address;
        thread::scope(|scope| {
            scope.spawn(|| server.stop());
            eventually("the listener to be gone", || TcpStream::connect(address).is_err().then_some(()));
            for message in &unacknowledged {
                client.acknowledge(message);
            }
            let mut pubacks = 0;
            while let Some(packet) = client.try_recv() {
                match packet {
                    Packet::Publish(message) => drop(client.try_send(wire::ack(0x40, message.id))),
                    Packet::PubAck(_) => pubacks += 1,
                    Packet::Disconnect { code, .. } => assert_eq!(code, 0x8B),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(pubacks, WINDOW, "{protocol:?}");
        });
    }
}

/// Replies to requests that came in one segment were all queued before the first was sent, and the connection of a
/// client that reads as fast as it can was ended for them.
#[test]
fn a_client_that_reads_may_send_many_requests_at_once() {
    for protocol in BOTH {
        let server = Server::with(UNLIMITED);
        let leaves: serde_json::Map<_, _> = (0..300).map(|n| (format!("leaf-number-{n}"), json!(n))).collect();
        Requester::private(&server, "setter", "shadow/large").update(json!({"state": {"reported": leaves}}));
        let mut client = Client::connect(&server, protocol, "reader");
        client.subscribe(&[("shadow/large/get/accepted", 1)]);
        let gets = |id| Publish::new("shadow/large/get", "").encode(protocol, 1, id);
        client.send((1..=WINDOW).flat_map(gets).collect::<Vec<u8>>());
        settle(&mut client, WINDOW.into(), WINDOW.into());
    }
}

/// A resumed session is sent again at once all that was not acknowledged. A client that said anything before it had
/// read that was ended for not reading its replies, and so again at each attempt.
#[test]
fn resumes_a_session_with_many_unacknowledged_messages() {
    const COUNT: usize = 3; // more than outbox_bytes_max, and no more is sent
    for protocol in BOTH {
        let server = Server::with(UNLIMITED);
        let connect = Connect::persistent(protocol, "slow");
        let (mut client, _) = Client::connect_as(&server, &connect);
        client.subscribe(&[("large", 1)]);
        let mut publisher = Client::connect(&server, V5, "publisher");
        for _ in 0..COUNT {
            publisher.publish("large", vec![b'x'; 100_000], 1);
            client.peek_message();
        }
        client.abandon();
        let mut client = Client::open(&server, protocol);
        client.send([connect.encode(), wire::PINGREQ.repeat(100)].concat());
        assert!(client.connack().session_present);
        for _ in 0..COUNT {
            client.message();
        }
        client.ping();
    }
}

/// A device that reported directly after it reconnected received `accepted` before the delta of the resync: device SDKs
/// drop a delta that comes after its `accepted`.
#[test]
fn accepted_comes_last_during_a_resync() {
    const FILLERS: u16 = 60;
    for protocol in BOTH {
        let server = Server::with(UNLIMITED);
        let connect = Connect::persistent(protocol, "device");
        let (mut client, _) = Client::connect_as(&server, &connect);
        for id in 1..=FILLERS {
            client.subscribe(&[(&format!("shadow/joint-{id}/update/+"), 1)]);
        }
        client.subscribe(&[("shadow/device/update/+", 0)]);
        client.disconnect();
        let mut writer = Client::connect(&server, V5, "app");
        for id in 1..=FILLERS {
            writer.send(update(V5, id));
            writer.puback(id);
        }
        let wanted = json!({"state": {"desired": {"mode": "eco"}}}).to_string();
        assert_eq!(writer.publish("shadow/device/update", wanted, 1), 0);

        let (mut client, answer) = Client::connect_as(&server, &connect);
        assert!(answer.session_present);
        // The window is full of what was missed, and catching up waits for it.
        let fillers: Vec<_> = (0..WINDOW).map(|_| client.peek_message()).collect();
        let body = json!({"state": {"reported": {"rssi": -70}}}).to_string();
        assert_eq!(client.publish("shadow/device/update", body, 1), 0);
        for message in &fillers {
            client.acknowledge(message);
        }
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "accepted") {
            let message = client.message();
            if message.topic.starts_with("shadow/device/") {
                heard.push(message.topic.rsplit('/').next().unwrap().to_owned());
            }
        }
        assert_eq!(heard, ["delta", "documents", "accepted"], "{protocol:?}");
    }
}

/// Wills were updates outside of the quota: a client could connect and die as often as it liked.
#[test]
fn wills_are_counted_as_requests() {
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("shadow/dying/update/accepted", 1), ("shadow/dying/update/rejected", 1)]);
    let mut codes = Vec::new();
    for number in 0..100 {
        let will = Publish::new("shadow/dying/update", json!({"state": {"reported": {"n": number}}}).to_string());
        Client::connect_as(&server, &Connect::new(V5, "dying").will(will, 1)).0.abandon();
        codes.push(watcher.message().json()["code"].as_u64());
    }
    assert!(codes[..40].iter().all(Option::is_none) && codes.contains(&Some(429)), "{codes:?}");
}
