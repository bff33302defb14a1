//! Retained messages.

use std::collections::BTreeSet;

use crate::harness::{
    client::Client,
    packet::Message,
    server::{Server, Setup, UNLIMITED},
    wire::{BOTH, Connect, Properties, Publish, V4, V5, Value, prop},
};

/// SUBSCRIBE options of MQTT 5.
const AS_PUBLISHED: u8 = 0x08;
const IF_NEW: u8 = 0x10;
const NEVER: u8 = 0x20;

fn retain(client: &mut Client, topic: &str, payload: &str, qos: u8) {
    assert!(client.publish_message(&Publish::new(topic, payload).retain(), qos).code < 0x80);
}

/// Subscribes, and returns the messages that come before a marker on a topic of its own.
fn brought(client: &mut Client, sender: &mut Client, filter: &str, options: u8) -> Vec<Message> {
    client.subscribe(&[("marker", 1)]);
    client.subscribe_with(&[(filter, options)], &Properties::none());
    sender.publish("marker", "", 1);
    let mut messages = Vec::new();
    loop {
        let message = client.message();
        if message.topic == "marker" {
            return messages;
        }
        messages.push(message);
    }
}

fn payloads(messages: &[Message]) -> Vec<&str> {
    let mut payloads: Vec<_> = messages.iter().map(Message::text).collect();
    payloads.sort_unstable();
    payloads
}

#[test]
fn the_last_retained_message_comes_with_the_subscription() {
    let server = Server::start();
    for protocol in BOTH {
        let mut sender = Client::connect(&server, protocol, "sender");
        for (topic, payload, qos) in [("r/a", "old", 0), ("r/a", "a", 0), ("r/b", "b", 1), ("r/c/d", "d", 2)] {
            retain(&mut sender, topic, payload, qos);
        }
        for (filter, options, expected) in [
            ("r/a", 2, vec!["a"]),
            ("r/+", 2, vec!["a", "b"]),
            ("r/#", 1, vec!["a", "b", "d"]),
            ("r/c", 1, vec![]),
            ("+/c/#", 0, vec!["d"]),
            ("#", 2, vec!["a", "b", "d"]),
        ] {
            let mut client = Client::connect(&server, protocol, "late");
            let messages = brought(&mut client, &mut sender, filter, options);
            assert_eq!(payloads(&messages), expected, "{filter}");
            for message in messages {
                assert!(message.retain, "{message:?}");
                let published = ["a", "b", "d"].iter().position(|name| *name == message.text()).unwrap();
                assert_eq!(usize::from(message.qos), published.min(usize::from(options)), "{message:?}");
            }
            client.disconnect();
        }
        clear(&mut sender, &["r/a", "r/b", "r/c/d"]);
    }
}

fn clear(sender: &mut Client, topics: &[&str]) {
    topics.iter().for_each(|topic| retain(sender, topic, "", 1));
}

#[test]
fn an_empty_payload_clears() {
    let server = Server::start();
    for protocol in BOTH {
        let mut sender = Client::connect(&server, protocol, "sender");
        let mut live = Client::connect(&server, protocol, "live");
        live.subscribe(&[("clear/t", 1)]);
        retain(&mut sender, "clear/t", "kept", 1);
        // Without the flag nothing is kept and nothing cleared.
        sender.publish("clear/t", "passing", 1);
        sender.publish("clear/t", "", 1);
        let mut late = Client::connect(&server, protocol, "late");
        assert_eq!(payloads(&brought(&mut late, &mut sender, "clear/t", 1)), ["kept"]);
        clear(&mut sender, &["clear/t"]);
        let mut later = Client::connect(&server, protocol, "later");
        assert!(brought(&mut later, &mut sender, "clear/t", 1).is_empty());
        // The one that was there saw all of it as it happened, without the flag [MQTT-3.3.1-9].
        let seen: Vec<_> = (0..4).map(|_| live.message()).map(|m| (m.text().to_owned(), m.retain)).collect();
        assert_eq!(seen, ["kept", "passing", "", ""].map(|payload| (payload.to_owned(), false)));
    }
}

#[test]
fn retain_handling_and_retain_as_published() {
    let server = Server::start();
    let mut sender = Client::connect(&server, V5, "sender");
    retain(&mut sender, "h/t", "kept", 1);
    let mut client = Client::connect(&server, V5, "client");
    let rows = [
        (NEVER, 0, "handling 2 never sends"),
        (IF_NEW, 0, "handling 1, but the subscription exists"),
        (0, 1, "handling 0 sends"),
        (0, 1, "handling 0 sends every time"),
    ];
    for (options, count, what) in rows {
        assert_eq!(brought(&mut client, &mut sender, "h/t", 1 | options).len(), count, "{what}");
    }
    client.unsubscribe(&["h/t"]);
    assert_eq!(brought(&mut client, &mut sender, "h/t", 1 | IF_NEW).len(), 1, "handling 1, new");
    client.unsubscribe(&["h/t"]);

    for (options, flag) in [(0, false), (AS_PUBLISHED, true)] {
        client.subscribe_with(&[("h/t", 1 | NEVER | options)], &Properties::none());
        retain(&mut sender, "h/t", "again", 1);
        assert_eq!(client.message().retain, flag, "options {options:#04x}");
        sender.publish("h/t", "plain", 1);
        assert!(!client.message().retain);
    }
}

/// One that there is no memory for is refused whole: nobody receives it, and its topic keeps the message before.
#[test]
fn retained_messages_are_bounded() {
    // A connection takes about 8 KiB of it, and four messages of 12 KiB the rest.
    let limits = "[[role]]\nrole = \"admin\"\nmemory = \"64 KiB\"";
    let mut server = Server::with(Setup { limits, ..Setup::default() });
    let mut live = Client::connect(&server, V5, "live");
    live.subscribe(&[("many/#", 1)]);
    let keep = |topic: &str, bytes: usize| Publish::new(topic, vec![b'x'; bytes]).retain();
    let mut sender = Client::connect(&server, V5, "sender");
    for number in 0..4 {
        assert_eq!(sender.publish_message(&keep(&format!("many/{number}"), 12 << 10), 1).code, 0);
        live.message();
    }
    for qos in [1, 2] {
        let refused = sender.publish_message(&keep("many/10", 12 << 10), qos);
        assert_eq!(refused.code, 0x97);
        let text = refused.properties.text(prop::REASON_STRING);
        assert_eq!(text, Some("there are as many bytes kept for one principal as there may be"));
    }
    sender.publish_message(&keep("many/12", 12 << 10), 0);
    // Those that are kept may be replaced, and cleared to make room; what is not to be kept may be sent.
    retain(&mut sender, "many/2", "new", 1);
    sender.publish("many/14", "passes", 1);
    assert_eq!([(); 2].map(|()| live.message().topic), ["many/2", "many/14"]);
    assert_eq!(sender.publish_message(&keep("many/11", 12 << 10), 1).code, 0);
    live.message();
    let mut late = Client::connect(&server, V4, "late");
    late.subscribe(&[("many/#", 1)]);
    // No marker is sent before: a connection that waits for its client to read may send it ahead of large messages.
    let mut kept: Vec<_> = (0..5).map(|_| late.message().topic).collect();
    kept.sort();
    assert_eq!(kept, ["many/0", "many/1", "many/11", "many/2", "many/3"]);
    sender.publish("many/end", "", 1);
    assert_eq!(late.message().topic, "many/end");
    let log = server.stop().log;
    assert!(log.contains("principal_memory=3"), "{log}");
}

/// A message that is too large is refused, and its topic keeps the message before.
#[test]
fn the_memory_of_retained_messages_is_bounded() {
    let limits = "[[role]]\nrole = \"admin\"\nmemory = \"256 KiB\"";
    let server = Server::with(Setup { limits, ..Setup::default() });
    let keep = |topic: &str, bytes: usize| Publish::new(topic, vec![b'x'; bytes]).retain();
    let mut sender = Client::connect(&server, V5, "sender");
    assert!(sender.publish_message(&keep("many/3", 1), 1).code < 0x80);
    let refused = sender.publish_message(&keep("many/3", 300_000), 1);
    let text = refused.properties.text(prop::REASON_STRING);
    assert_eq!((refused.code, text), (0x97, Some("there are as many bytes kept for one principal as there may be")));
    let mut late = Client::connect(&server, V4, "late");
    let kept = brought(&mut late, &mut sender, "many/#", 1);
    assert!(kept.iter().any(|message| message.topic == "many/3" && message.text() == "x"), "{kept:?}");
}

/// A resumed session is no new subscription: its retained messages were sent long ago.
#[test]
fn resuming_sends_no_retained_messages() {
    let server = Server::start();
    for protocol in BOTH {
        let mut sender = Client::connect(&server, V4, "sender");
        retain(&mut sender, "res/t", "kept", 1);
        let connect = Connect::persistent(protocol, &format!("resumes-{protocol:?}"));
        let (mut client, _) = Client::connect_as(&server, &connect);
        client.subscribe(&[("res/#", 1)]);
        assert_eq!(client.message().text(), "kept");
        client.disconnect();
        let (mut client, _) = Client::connect_as(&server, &connect);
        sender.publish("res/t", "live", 1);
        assert_eq!(client.message().text(), "live");
    }
}

/// Retained messages that a connection had not sent yet were lost with it, though its session had the subscription.
#[test]
fn retained_messages_continue_after_a_lost_connection() {
    const MESSAGES: usize = 100; // more than are looked up at once
    let server = Server::with(UNLIMITED);
    let mut sender = Client::connect(&server, V5, "sender");
    let (mut expected, mut found) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..MESSAGES {
        retain(&mut sender, &format!("r/{number}"), "kept", 1);
        sender.publish(&format!("shadow/d/name/n{number}/update"), r#"{"state":{"desired":{"a":1}}}"#, 1);
        expected.extend([format!("r/{number}"), format!("shadow/d/name/n{number}/document")]);
    }
    let one_at_a_time = Connect::persistent(V5, "reader").property(prop::RECEIVE_MAXIMUM, Value::Two(1));
    let (mut reader, _) = Client::connect_as(&server, &one_at_a_time);
    reader.subscribe(&[("r/#", 1), ("shadow/d/name/+/document", 1)]);
    while found != expected {
        found.insert(reader.message().topic);
        if found.len() % 8 == 0 {
            reader.abandon();
            let answer;
            (reader, answer) = Client::connect_as(&server, &one_at_a_time);
            assert!(answer.session_present);
        }
    }
}

#[test]
fn wildcards_do_not_select_topics_that_begin_with_a_dollar() {
    let server = Server::start();
    let mut sender = Client::connect(&server, V5, "sender");
    for filter in ["#", "+/t", "+/#"] {
        let mut client = Client::connect(&server, V5, "wild");
        client.subscribe(&[(filter, 1)]);
        sender.publish("$other/t", "hidden", 0);
        sender.publish_message(&Publish::new("$other/t", "hidden").retain(), 1);
        sender.publish("plain/t", "seen", 1);
        let message = client.message();
        assert_eq!((&*message.topic, message.text()), ("plain/t", "seen"), "{filter}");
        assert!(brought(&mut client, &mut sender, filter, 1).is_empty(), "{filter}");
    }
}

/// A client that subscribes again with handling 1, as it may at each connection, lost what it had not received of the first time.
#[test]
fn a_further_subscribe_leaves_what_the_first_one_asked_for() {
    let server = Server::start();
    let mut sender = Client::connect(&server, V5, "sender");
    let expected: BTreeSet<_> = (0..20).map(|number| format!("r/{number}")).collect();
    expected.iter().for_each(|topic| retain(&mut sender, topic, "kept", 1));
    for (id, handling, connects_again) in [("a", IF_NEW, true), ("b", IF_NEW, false), ("c", NEVER, false)] {
        let slow = Connect::persistent(V5, id).property(prop::RECEIVE_MAXIMUM, Value::Two(2));
        let (mut client, _) = Client::connect_as(&server, &slow);
        client.subscribe(&[("r/#", 1)]);
        let first = [0; 2].map(|_| client.peek_message());
        if connects_again {
            client.abandon();
            client = Client::connect_as(&server, &slow).0;
        }
        client.subscribe(&[("r/#", 1 | handling)]);
        if !connects_again {
            first.iter().for_each(|message| client.acknowledge(message));
        }
        let mut received: BTreeSet<_> = first.iter().map(|message| message.topic.clone()).collect();
        while received != expected {
            received.insert(client.message().topic);
        }
    }
}
