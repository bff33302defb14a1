//! What one principal has over everything it does. Here that is one session; how several share is tested beside the
//! sessions and the quotas themselves.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    allowance, assert_met,
    harness::{
        client::Client,
        wire::{BOTH, Properties, Publish, V5, prop},
    },
    server,
};

#[test]
fn requests_to_all_shadows_are_counted_together() {
    // So few that even a machine that takes half a second for each of them meets it.
    let mut server = server("principal_requests_per_second = 1");
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, &format!("wide-{}", protocol as u8));
        client.subscribe(&[("shadow/+/update/rejected", 1), ("shadow/+/update/accepted", 1)]);
        let start = Instant::now();
        let (mut accepted, mut refused) = (0, 0);
        for number in 0..60 {
            let code = client.publish(&format!("shadow/wide-{number}/update"), r#"{"state":{"reported":{"n":1}}}"#, 1);
            let answer = client.message();
            if answer.topic.ends_with("accepted") {
                accepted += 1;
                assert_eq!(code, 0);
                continue;
            }
            refused += 1;
            let body = answer.json();
            assert_eq!((&body["code"], &body["error"]), (&json!(429), &json!("too-many-requests")), "{body}");
            assert_eq!(body["message"], json!("Too many requests: more than 1 requests a second of one principal"));
            assert!((1..=1_001).contains(&body["retryAfterMs"].as_u64().unwrap()), "{body}");
            assert_eq!(code, if protocol == V5 { 0x97 } else { 0 });
        }
        assert!((1..=allowance(start, 1, 1)).contains(&accepted) && refused > 0, "{accepted} in {:?}", start.elapsed());
        // Another principal has its own.
        let mut other = Client::connect(&server, V5, &format!("other-{}", protocol as u8));
        assert_eq!(other.publish("shadow/wide-0/update", r#"{"state":{"reported":{"n":2}}}"#, 1), 0);
        client.disconnect();
    }
    assert_met(&mut server, &["principal_requests"]);
}

#[test]
fn subscriptions() {
    let mut server = server("principal_subscriptions_max = 3");
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
    assert_met(&mut server, &["principal_subscriptions"]);
}

/// One principal filled the room for the retained messages of all.
#[test]
fn retained_messages() {
    // One principal may have a tenth of the number, which is 20, and an eighth of the memory.
    for (limits, bytes) in [("retained_bytes_max = \"53 KiB\"", 1), ("retained_bytes_max = \"160 KiB\"", 8 * 1024)] {
        let mut server = server(limits);
        let keep = |topic: &str, payload: &str| Publish::new(topic, payload.repeat(bytes)).retain();
        let refused = |client: &mut Client, topic: &str| {
            let answer = client.publish_message(&keep(topic, "y"), 1);
            let text = answer.properties.text(prop::REASON_STRING).unwrap_or_default();
            assert_eq!(
                (answer.code, text),
                (0x97, "there are as many retained messages of one principal as there may be")
            );
        };
        let mut greedy = Client::connect(&server, V5, "greedy");
        for topic in ["kept/1", "kept/2"] {
            assert!(greedy.publish_message(&keep(topic, "x"), 1).code < 0x80);
        }
        refused(&mut greedy, "kept/3");
        // Another principal has its own, and what it replaces is its from then on.
        let mut other = Client::connect(&server, V5, "other");
        assert!(other.publish_message(&keep("kept/1", "z"), 1).code < 0x80);
        assert!(greedy.publish_message(&keep("kept/3", "x"), 1).code < 0x80);
        refused(&mut greedy, "kept/1");
        greedy.publish_message(&Publish::new("kept/2", "").retain(), 1);
        assert!(greedy.publish_message(&keep("kept/4", "x"), 1).code < 0x80);
        let mut late = Client::connect(&server, V5, "late");
        late.subscribe(&[("kept/#", 0)]);
        let received: Vec<_> = (0..3).map(|_| late.message()).map(|one| (one.topic, one.payload[0])).collect();
        assert_eq!(received, [("kept/1", b'z'), ("kept/3", b'x'), ("kept/4", b'x')].map(|(t, p)| (t.to_owned(), p)));
        assert_met(&mut server, &["principal_retained"]);
    }
}

#[test]
fn bytes_have_a_rate() {
    // A connection may send a quarter of that.
    let mut server = server("principal_bytes_per_second = \"64 KiB\"");
    let start = Instant::now();
    // A new connection does not begin with a new burst.
    for number in 0..16 {
        let mut client = Client::connect(&server, BOTH[number % 2], "large");
        client.publish("large/t", vec![b'x'; 12 * 1024], 1);
        client.disconnect();
    }
    assert!(start.elapsed() >= Duration::from_millis(1_900), "{:?}", start.elapsed());
    assert_met(&mut server, &["principal_bytes"]);
}
