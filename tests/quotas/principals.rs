//! The limits of one principal. Here it has one session; how several sessions share is tested beside the sessions and
//! the quotas themselves.

use std::time::{Duration, Instant};

use crate::{
    assert_met,
    harness::{
        client::Client,
        wire::{BOTH, Properties, Publish, V5, prop},
    },
    server,
};

/// Work above the rate of its role waits, and a new connection does not begin with a new burst.
#[test]
fn work_has_a_rate() {
    // Ten seconds of it may come at once: 10,000 units. A filter takes 20.
    let mut server = server("[[role]]\nrole = \"admin\"\nwork = 1000");
    let filters: Vec<String> = (0..64).map(|number| format!("work/{number}")).collect();
    let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 0)).collect();
    let start = Instant::now();
    for number in 0..5 {
        let mut client = Client::connect(&server, BOTH[number % 2], "busy");
        (0..2).for_each(|_| client.subscribe(&filters));
        // Another principal has its own.
        Client::connect(&server, V5, "other").ping();
        client.disconnect();
    }
    assert!(start.elapsed() >= Duration::from_millis(1_900), "{:?}", start.elapsed());
    assert_met(&mut server, &["principal_work"]);
}

#[test]
fn subscriptions() {
    let mut server = server("[[role]]\nrole = \"admin\"\nfilters = 3");
    for protocol in BOTH {
        let refused = if protocol == V5 { 0x97 } else { 0x80 };
        // Twice: what the first session had is given back.
        for _ in 0..2 {
            let mut client = Client::connect(&server, protocol, "many");
            let mut subscribe = |filters: &[&str]| {
                let filters: Vec<_> = filters.iter().map(|filter| (*filter, 0)).collect();
                client.subscribe_with(&filters, &Properties::none())
            };
            assert_eq!(subscribe(&["a", "b", "c", "d"]), [0, 0, 0, refused]);
            assert_eq!(subscribe(&["a", "e"]), [0, refused], "one that is there may be renewed");
            client.unsubscribe(&["b", "not-there"]);
            assert_eq!(client.subscribe_with(&[("f", 0), ("g", 0)], &Properties::none()), [0, refused]);
            client.disconnect();
        }
    }
    assert_met(&mut server, &["principal_filters"]);
}

/// One principal filled the room for the retained messages of all.
#[test]
fn retained_messages_count_as_memory() {
    // A connection takes about 8 KiB of it, and four messages the rest.
    let mut server = server("[[role]]\nrole = \"admin\"\nmemory = \"64 KiB\"");
    let keep = |topic: &str, payload: &str| Publish::new(topic, payload.repeat(12 * 1024)).retain();
    let refused = |client: &mut Client, topic: &str| {
        let answer = client.publish_message(&keep(topic, "y"), 1);
        let text = answer.properties.text(prop::REASON_STRING).unwrap_or_default();
        assert_eq!((answer.code, text), (0x97, "there are as many bytes kept for one principal as there may be"));
    };
    let mut greedy = Client::connect(&server, V5, "greedy");
    for topic in ["kept/1", "kept/2", "kept/3", "kept/4"] {
        assert!(greedy.publish_message(&keep(topic, "x"), 1).code < 0x80, "{topic}");
    }
    refused(&mut greedy, "kept/5");
    // Another principal has its own, and what it replaces is its from then on.
    let mut other = Client::connect(&server, V5, "other");
    assert!(other.publish_message(&keep("kept/1", "z"), 1).code < 0x80);
    assert!(greedy.publish_message(&keep("kept/5", "x"), 1).code < 0x80);
    refused(&mut greedy, "kept/1");
    greedy.publish_message(&Publish::new("kept/2", "").retain(), 1);
    assert!(greedy.publish_message(&keep("kept/6", "x"), 1).code < 0x80);
    let mut late = Client::connect(&server, V5, "late");
    late.subscribe(&[("kept/#", 0)]);
    let received: Vec<_> = (0..5).map(|_| late.message()).map(|one| (one.topic, one.payload[0])).collect();
    let expected = [("kept/1", b'z'), ("kept/3", b'x'), ("kept/4", b'x'), ("kept/5", b'x'), ("kept/6", b'x')];
    assert_eq!(received, expected.map(|(topic, payload)| (topic.to_owned(), payload)));
    assert_met(&mut server, &["principal_memory"]);
}

/// The number of shadows that a role may create in a day is limited; those that exist may be changed.
#[test]
fn new_shadows_are_limited() {
    let mut server = server("[[role]]\nrole = \"admin\"\nnew_shadows_per_day = 2");
    let update = |number: usize| format!(r#"{{"state":{{"reported":{{"n":{number}}}}}}}"#);
    for protocol in BOTH {
        let id = format!("maker-{}", protocol as u8);
        let mut client = Client::connect(&server, protocol, &id);
        client.subscribe(&[("shadow/+/update/accepted", 1), ("shadow/+/update/rejected", 1)]);
        for (number, device) in ["one", "two", "three", "one", "two"].into_iter().enumerate() {
            client.publish(&format!("shadow/{id}-{device}/update"), update(number), 1);
            let answer = client.message();
            if device != "three" {
                assert!(answer.topic.ends_with("accepted"), "{answer:?}");
                continue;
            }
            let expected = "Too many requests: more new shadows a day than its role allows (role.new_shadows_per_day)";
            assert_eq!(answer.json()["message"], expected, "{answer:?}");
        }
        client.disconnect();
    }
    assert_met(&mut server, &[]);
}
