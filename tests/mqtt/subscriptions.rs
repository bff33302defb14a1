//! Filters, options and identifiers of subscriptions.

use crate::harness::{
    client::Client,
    server::Server,
    wire::{BOTH, Properties, Publish, V4, V5, Value, prop},
};

const NO_LOCAL: u8 = 0x04;

/// Which of the topics each filter selects, from the tables of the standard, section 4.7.
#[test]
fn filters_select_topics() {
    let topics =
        ["sport", "sport/", "/sport", "sport/tennis", "sport/tennis/p1", "sport/tennis/p1/x", "/", "sport//p1"];
    let rows: [(&str, &[usize]); 14] = [
        ("sport", &[0]),
        ("sport/#", &[0, 1, 3, 4, 5, 7]),
        ("#", &[0, 1, 2, 3, 4, 5, 6, 7]),
        ("+", &[0]),
        ("sport/+", &[1, 3]),
        ("/+", &[2, 6]),
        ("+/+", &[1, 2, 3, 6]),
        ("sport/tennis/+", &[4]),
        ("sport/+/p1", &[4, 7]),
        ("+/tennis/#", &[3, 4, 5]),
        ("/#", &[2, 6]),
        ("sport//+", &[7]),
        ("+/+/+/#", &[4, 5, 7]),
        ("Sport", &[]),
    ];
    let server = Server::start();
    let mut sender = Client::connect(&server, V4, "sender");
    for protocol in BOTH {
        for (filter, selected) in rows {
            let mut client = Client::connect(&server, protocol, "filters");
            client.subscribe(&[(filter, 0), ("end", 0)]);
            for topic in topics {
                sender.publish(topic, "", 0);
            }
            sender.publish("end", "", 0);
            let mut heard = Vec::new();
            while heard.last().map(String::as_str) != Some("end") {
                heard.push(client.message().topic);
            }
            let mut expected: Vec<_> = selected.iter().map(|index| topics[*index]).collect();
            // A filter that selects the marker too brings it once or twice, as the server likes.
            expected.push("end");
            assert_eq!(heard, expected, "{filter}");
            client.disconnect();
        }
    }
}

#[test]
fn invalid_filters_are_refused_and_the_others_granted() {
    let server = Server::start();
    let filters = [("good/#", 1), ("bad/#/x", 1), ("good/+/t", 0), ("bad+", 0), ("bad#", 2), ("good", 2)];
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        let codes = client.subscribe_with(&filters, &Properties::none());
        let refused = if protocol == V5 { 0x8F } else { 0x80 };
        assert_eq!(codes, [1, refused, 0, refused, refused, 2], "{protocol:?}");
        client.publish("good", "arrives", 0);
        assert_eq!(client.message().text(), "arrives");
    }
}

#[test]
fn no_local_skips_own_messages() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "client");
    let mut other = Client::connect(&server, V5, "other");
    client.subscribe_with(&[("nl/#", 1 | NO_LOCAL)], &Properties::none());
    client.publish("nl/t", "own", 1);
    other.publish("nl/t", "other's", 1);
    assert_eq!(client.message().text(), "other's");
    client.subscribe(&[("nl/#", 1)]);
    client.publish("nl/t", "own again", 1);
    assert_eq!(client.message().text(), "own again", "a new SUBSCRIBE replaces the options");
}

#[test]
fn a_message_has_the_identifiers_of_its_subscriptions() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "client");
    let id = |number| Properties::none().with(prop::SUBSCRIPTION_ID, Value::Variable(number));
    client.subscribe_with(&[("id/a", 1), ("id/b/#", 1)], &id(7));
    client.subscribe_with(&[("id/c", 1)], &id(268_435_455));
    client.subscribe(&[("id/none", 1)]);
    client.subscribe_with(&[("id/a", 1)], &id(9));
    for (topic, expected) in [("id/a", Some(9)), ("id/b/x", Some(7)), ("id/c", Some(268_435_455)), ("id/none", None)] {
        client.publish(topic, "", 1);
        let message = client.message();
        assert_eq!(message.properties.number(prop::SUBSCRIPTION_ID), expected, "{message:?}");
    }
}

/// A message that several subscriptions select comes once with all identifiers, or once for each: the standard allows
/// both (section 3.3.4), and at least one copy has the largest QoS.
#[test]
fn overlapping_subscriptions() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "client");
    let id = |number| Properties::none().with(prop::SUBSCRIPTION_ID, Value::Variable(number));
    for (number, filter, qos) in [(1, "over/+", 0), (2, "over/#", 2), (3, "over/t", 1)] {
        assert_eq!(client.subscribe_with(&[(filter, qos)], &id(number)), [qos]);
    }
    client.subscribe(&[("end", 0)]);
    client.publish("over/t", "message", 2);
    client.publish("end", "", 0);
    let mut copies = Vec::new();
    loop {
        let message = client.message();
        if message.topic == "end" {
            break;
        }
        copies.push(message);
    }
    let mut ids: Vec<_> = copies.iter().flat_map(|copy| copy.properties.all(prop::SUBSCRIPTION_ID)).cloned().collect();
    ids.sort_by_key(|id| format!("{id:?}"));
    assert_eq!(ids, [1, 2, 3].map(Value::Variable), "{copies:?}");
    assert!(copies.len() == 1 || copies.len() == 3, "{copies:?}");
    assert_eq!(copies.iter().map(|copy| copy.qos).max(), Some(2));
    println!("three overlapping subscriptions: {} copies", copies.len());
}

#[test]
fn a_renewed_subscription_has_the_new_qos() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        for qos in [2, 0, 1] {
            client.subscribe(&[("renew", qos)]);
            client.publish("renew", "once", 2);
            assert_eq!(client.message().qos, qos);
        }
        client.subscribe(&[("end", 0)]);
        client.publish("end", "", 0);
        assert_eq!(client.message().topic, "end", "one subscription, one copy");
        client.unsubscribe(&["renew"]);
        client.publish("renew", "to nobody", 0);
        client.publish("end", "", 0);
        assert_eq!(client.message().topic, "end");
    }
}

/// MQTT 5 may report to a publisher that there was no subscriber; this must not be a failure.
#[test]
fn publishing_without_subscribers_succeeds() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        for qos in [1, 2] {
            assert!(matches!(client.publish("nobody/here", "hello", qos), 0x00 | 0x10));
        }
    }
}

/// Topics that begin with `$` are ordinary unless they are the service's, and no wildcard stands for their first level.
#[test]
fn leading_wildcards_do_not_select_dollar_topics() {
    let server = Server::start();
    let mut sender = Client::connect(&server, V5, "sender");
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        let filters = ["#", "+/a", "$other/a", "$other/+", "$other/#", "$share/g/$other/a", "$share/h/#"];
        for (index, filter) in filters.into_iter().enumerate() {
            let mut client = Client::connect(&server, protocol, "one");
            client.subscribe(&[(filter, 1), ("end", 1)]);
            sender.publish_message(&Publish::new("$other/a", "x").retain(), 1);
            sender.publish("end", "", 1);
            let first = client.message();
            let expected = if (2..6).contains(&index) { "$other/a" } else { "end" };
            assert_eq!(first.topic, expected, "{filter} over {protocol:?}");
            client.disconnect();
        }
        // The retained message too.
        client.subscribe(&[("#", 1)]);
        client.subscribe(&[("+/a", 1)]);
        client.subscribe(&[("$other/+", 1)]);
        let message = client.message();
        assert_eq!((&*message.topic, message.retain), ("$other/a", true), "{protocol:?}");
    }
    for topic in ["$SYS/a", "$share/g/a", "$aws/a", "$aws"] {
        assert_eq!(sender.publish(topic, "", 1), 0x90, "{topic}");
    }
}

/// [MQTT-3.8.4-5]: a SUBSCRIBE is a sequence of subscriptions, each of which is sent what is retained.
#[test]
fn a_filter_twice_in_one_subscribe_counts_as_two() {
    let server = Server::start();
    let mut sender = Client::connect(&server, V5, "sender");
    sender.publish_message(&Publish::new("twice/t", "retained").retain(), 1);
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        let filters = [("twice/+", 1), ("twice/t", 1), ("twice/+", 1)];
        assert_eq!(client.subscribe_with(&filters, &Properties::none()), [1, 1, 1]);
        for _ in 0..3 {
            assert_eq!((client.message().text(), protocol), ("retained", protocol));
        }
        sender.publish("twice/t", "once", 1);
        sender.publish("twice/t", "end", 1);
        let (first, second) = (client.message(), client.message());
        assert_eq!((first.text(), second.text()), ("once", "end"), "it is one subscription");
        client.disconnect();
    }
    let id = Properties::none().with(prop::SUBSCRIPTION_ID, Value::Variable(7));
    let mut client = Client::connect(&server, V5, "options");
    // Retain handling 1 asks for what is retained only of a new subscription, 2 never.
    for (filters, retained) in
        [([("twice/t", 0x11), ("twice/t", 0x11)], 1), ([("twice/t", 0x21), ("twice/t", 0x01)], 1)]
    {
        assert_eq!(client.subscribe_with(&filters, &id), [1, 1]);
        sender.publish("twice/t", "end", 1);
        let mut received = Vec::new();
        while received.last().map(String::as_str) != Some("end") {
            received.push(client.message().text().to_owned());
        }
        assert_eq!(received.len(), retained + 1, "{filters:?}: {received:?}");
    }
}
