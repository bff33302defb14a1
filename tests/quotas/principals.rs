//! What one principal has over everything it does. Here that is one session; how several share is tested beside the
//! sessions and the quotas themselves.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    allowance, assert_met,
    harness::{
        client::Client,
        server::Server,
        wire::{BOTH, Properties, Protocol, Publish, V5},
    },
    server,
};

#[test]
fn requests_to_all_shadows_together() {
    let mut server = server("principal_requests_per_second = 5");
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
            assert_eq!(body["message"], json!("Too many requests: more than 5 requests a second of one principal"));
            assert!((1..=201).contains(&body["retryAfterMs"].as_u64().unwrap()), "{body}");
            assert_eq!(code, if protocol == V5 { 0x97 } else { 0 });
        }
        assert!((5..=allowance(start, 5, 5)).contains(&accepted) && refused > 0, "{accepted} in {:?}", start.elapsed());
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

#[test]
fn bytes_have_a_rate() {
    let mut server = server("principal_bytes_per_second = \"32 KiB\"\npublishes_per_second = 10_000");
    let spend = |server: &Server, protocol: Protocol| {
        let mut client = Client::connect(server, protocol, "large");
        for _ in 0..6 {
            client.send(Publish::new("large/t", vec![b'x'; 8 * 1024]).encode(protocol, 0, 0));
        }
        client.ping();
        client.disconnect();
    };
    let start = Instant::now();
    // A new connection does not begin with a new burst.
    BOTH.into_iter().for_each(|protocol| spend(&server, protocol));
    assert!(start.elapsed() >= Duration::from_millis(1_900), "{:?}", start.elapsed());
    assert_met(&mut server, &["principal_bytes"]);
}
