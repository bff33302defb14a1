//! Sessions: clean starts, resumption, what waits for an absent client, and how long.

use crate::harness::{
    client::{Client, disconnect_with},
    server::{Server, Setup},
    wire::{BOTH, Connect, Properties, Publish, V4, V5, Value, prop},
};

fn session_present(server: &Server, connect: &Connect) -> bool {
    let (client, answer) = Client::connect_as(server, connect);
    client.disconnect();
    answer.session_present
}

#[test]
fn a_session_lasts_until_a_clean_start() {
    let server = Server::start();
    for protocol in BOTH {
        let persistent = Connect::persistent(protocol, "s");
        let clean = Connect::new(protocol, "s");
        let steps =
            [(&persistent, false), (&persistent, true), (&clean, false), (&persistent, false), (&persistent, true)];
        for (step, (connect, present)) in steps.into_iter().enumerate() {
            assert_eq!(session_present(&server, connect), present, "{protocol:?}, step {step}");
        }
        assert!(!session_present(&server, &clean));
    }
}

#[test]
fn a_session_lasts_for_its_expiry() {
    let server = Server::start();
    // Without an expiry an MQTT 5 session ends with its connection, clean start or not.
    let none = Connect::new(V5, "none").clean(false);
    assert!(!session_present(&server, &none));
    assert!(!session_present(&server, &none));

    // DISCONNECT may shorten it to nothing.
    let hour = Connect::persistent(V5, "shortened");
    let (mut client, _) = Client::connect_as(&server, &hour);
    client.send(disconnect_with(0, &Properties::none().with(prop::SESSION_EXPIRY, Value::Four(0))));
    assert_eq!(client.closed(), None);
    assert!(!session_present(&server, &hour));

    // Clean start with an expiry begins a session that stays.
    assert!(!session_present(&server, &Connect::persistent(V5, "begun").clean(true)));
    assert!(session_present(&server, &Connect::persistent(V5, "begun")));
}

/// The end of the session is observed by its will, which has a longer delay: reading the session would renew it.
#[test]
fn a_session_expires() {
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("over", 0)]);
    let will = Publish::new("over", "brief").property(prop::WILL_DELAY, Value::Four(3_600));
    let second = Connect::new(V5, "brief").clean(false).property(prop::SESSION_EXPIRY, Value::Four(1)).will(will, 0);
    Client::connect_as(&server, &second).0.abandon();
    assert_eq!(watcher.message().text(), "brief");
    assert!(!session_present(&server, &second));
}

#[test]
fn messages_are_queued_for_a_disconnected_client() {
    let server = Server::start();
    for protocol in BOTH {
        let connect = Connect::persistent(protocol, &format!("absent-{protocol:?}"));
        let (mut client, _) = Client::connect_as(&server, &connect);
        client.subscribe(&[("wait/1/#", 1), ("wait/2/#", 2), ("wait/0/#", 0)]);
        client.disconnect();
        let mut sender = Client::connect(&server, protocol, "sender");
        for number in 0..10 {
            sender.publish(&format!("wait/{}/t", 1 + number % 2), number.to_string(), 1 + number % 2);
        }
        let (mut client, answer) = Client::connect_as(&server, &connect);
        assert!(answer.session_present);
        for number in 0..10u8 {
            let message = client.message();
            assert_eq!((message.text(), message.qos), (&*number.to_string(), 1 + number % 2), "{protocol:?}");
        }
        // The subscriptions are there still, live.
        sender.publish("wait/0/t", "live", 0);
        assert_eq!(client.message().text(), "live");
        client.disconnect();
        assert!(session_present(&server, &connect));
    }
}

/// The queue is bounded and keeps the newest messages, in order and without a gap.
#[test]
fn the_queue_of_a_disconnected_client_is_bounded() {
    const SENT: u32 = 200;
    let server = Server::with(Setup {
        limits: "outbox_bytes_max = \"16 KiB\"\npublishes_rate = \"10000000/s burst 5000\"",
        ..Setup::default()
    });
    let connect = Connect::persistent(V5, "absent");
    let (mut client, _) = Client::connect_as(&server, &connect);
    client.subscribe(&[("much/#", 1)]);
    client.disconnect();
    let mut sender = Client::connect(&server, V4, "sender");
    for number in 0..SENT {
        sender.publish("much/t", format!("{number:0>1000}"), 1);
    }
    let (mut client, _) = Client::connect_as(&server, &connect);
    client.ping();
    sender.publish("much/t", "live", 1);
    let mut numbers: Vec<u32> = Vec::new();
    while let Ok(number) = client.message().text().parse() {
        numbers.push(number);
    }
    assert!((8..=16).contains(&numbers.len()), "{} of 200 messages of 1 kB in 16 KiB", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "in order and without a gap: {numbers:?}");
    assert_eq!(numbers.last(), Some(&(SENT - 1)), "the oldest go first: {numbers:?}");
    println!("{} of {SENT} messages were kept, from number {}", numbers.len(), numbers[0]);
}

/// A session belongs to its client id, whichever version of MQTT comes back for it.
#[test]
fn a_session_can_resume_with_the_other_version() {
    let server = Server::start();
    for (first, second) in [(V4, V5), (V5, V4)] {
        let id = format!("{first:?}-{second:?}");
        let (mut client, _) = Client::connect_as(&server, &Connect::persistent(first, &id));
        client.subscribe(&[("either", 1)]);
        client.disconnect();
        Client::connect(&server, first, "sender").publish("either", "kept", 1);
        let (mut client, answer) = Client::connect_as(&server, &Connect::persistent(second, &id));
        assert!(answer.session_present);
        assert_eq!(client.message().text(), "kept");
    }
}

#[test]
fn unsubscribing_persists_in_the_session() {
    let server = Server::start();
    for protocol in BOTH {
        let connect = Connect::persistent(protocol, &format!("gone-{protocol:?}"));
        let (mut client, _) = Client::connect_as(&server, &connect);
        client.subscribe(&[("gone/a", 1), ("gone/b", 1)]);
        let codes = client.unsubscribe(&["gone/a", "gone/never"]);
        assert_eq!(codes, if protocol == V5 { vec![0x00, 0x11] } else { vec![] });
        client.abandon();
        let mut sender = Client::connect(&server, protocol, "sender");
        sender.publish("gone/a", "no", 1);
        sender.publish("gone/b", "yes", 1);
        let (mut client, _) = Client::connect_as(&server, &connect);
        assert_eq!(client.message().text(), "yes");
    }
}
