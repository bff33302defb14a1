//! Topics under `shadow/`: who may publish to which, and what a request's flags and a will mean.

use serde_json::json;

use crate::harness::{
    client::Client,
    server::Server,
    shadow::{Requester, version},
    wire::{BOTH, Connect, Publish, V4, V5, prop},
};

#[test]
fn other_topics_cannot_be_published_to() {
    let server = Server::start();
    let long_id = format!("shadow/{}/update", "i".repeat(129));
    let long_name = format!("shadow/d/name/{}/update", "n".repeat(65));
    let topics = [
        "shadow",
        "shadow/",
        "shadow/d",
        "shadow/d/",
        "shadow/d/other",
        "shadow/d/update/",
        "shadow/d/update/accepted",
        "shadow/d/update/delta",
        "shadow/d/get/accepted",
        "shadow/d/document",
        "shadow/d/presence",
        "shadow/d/name/n",
        "shadow/d/name//update",
        "shadow/d/name/n/other",
        "shadow//update",
        "shadow/a b/update",
        "shadow/é/update",
        "shadow/$d/update",
        &long_id,
        &long_name,
        "$aws/things/d/other",
        "$aws/events/presence/connected/d",
    ];
    for protocol in BOTH {
        let mut watcher = Client::connect(&server, V5, "watcher");
        watcher.subscribe(&[("#", 1), ("$aws/#", 1)]);
        let mut client = Client::connect(&server, protocol, "client");
        for topic in topics {
            for qos in [0, 1, 2] {
                // `shadow` alone is not under `shadow/`.
                let code = if protocol == V5 && qos > 0 && topic != "shadow" { 0x90 } else { 0 };
                let request = Publish::new(topic, r#"{"state": {}}"#);
                assert_eq!(client.publish_message(&request, qos).code, code, "{topic} at QoS {qos}");
                assert_eq!(client.publish_message(&request.retain(), qos).code, code, "{topic} at QoS {qos}, retained");
            }
        }
        client.publish("marker", "", 1);
        let mut heard = Vec::new();
        while heard.last().map(String::as_str) != Some("marker") {
            heard.push(watcher.message().topic);
        }
        heard.retain(|topic| topic != "shadow");
        assert_eq!(heard, ["marker"], "{protocol:?}: none of it reached anybody");
        watcher.disconnect();
        // Nor was any of it kept.
        let mut late = Client::connect(&server, V5, "late");
        late.subscribe(&[("shadow/+/#", 1), ("$aws/#", 1), ("last", 1)]);
        client.publish("last", "", 1);
        assert_eq!(late.message().topic, "last");
        late.disconnect();
    }
    println!("{} topics, at three QoS, retained or not", topics.len());
}

#[test]
fn the_longest_names_are_accepted() {
    let server = Server::start();
    let id: String = "aZ09:_-".chars().cycle().take(128).collect();
    let name: String = "aZ09:_-$".chars().cycle().take(64).collect();
    for prefix in [format!("shadow/{id}"), format!("shadow/{id}/name/{name}"), "shadow/name".to_owned()] {
        let mut client = Requester::new(&server, V5, "client", &prefix);
        assert_eq!(version(&client.update(json!({"state": {"desired": {"a": 1}}}))), 1);
    }
}

/// A request is not kept, whatever its flag says.
#[test]
fn the_retain_flag_of_a_request_is_ignored() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/kept-{}", protocol as u8);
        let mut live = Client::connect(&server, V5, "live");
        live.subscribe_with(&[(&format!("{prefix}/update/+"), 1 | 0x08)], &Default::default());
        let mut client = Client::connect(&server, protocol, "client");
        let request = Publish::new(&format!("{prefix}/update"), r#"{"state": {"reported": {"a": 1}}}"#).retain();
        assert_eq!(client.publish_message(&request, 1).code, 0);
        for _ in 0..2 {
            assert!(!live.message().retain, "events are not retained");
        }
        let mut late = Client::connect(&server, protocol, "late");
        late.subscribe(&[(&format!("{prefix}/update/#"), 1), (&format!("{prefix}/get/#"), 1)]);
        late.publish(&format!("{prefix}/get"), "", 1);
        assert_eq!(late.message().topic, format!("{prefix}/get/accepted"), "nothing was kept");
    }
}

/// A will on `update` is an update by its owner at the time it fires.
#[test]
fn a_will_may_be_an_update() {
    let server = Server::start();
    for protocol in BOTH {
        for qos in 0..3 {
            let prefix = format!("shadow/will-{}-{qos}", protocol as u8);
            let mut watcher = Requester::new(&server, V5, "watcher", &prefix);
            watcher.update(json!({"state": {"reported": {"online": true}}}));
            let will =
                Publish::new(&format!("{prefix}/update"), r#"{"state": {"reported": {"online": false}}}"#).retain();
            let connect = Connect::new(protocol, "mortal").will(will, qos);
            Client::connect_as(&server, &connect).0.abandon();
            let message = watcher.client.message();
            assert_eq!(message.topic, format!("{prefix}/update/accepted"));
            let body = message.json();
            assert_eq!((version(&body), &body["state"]["reported"]["online"]), (2, &json!(false)));
            assert_eq!(body["metadata"]["reported"]["online"]["by"], json!("anonymous/mortal"));
        }
    }
}

/// A will that is refused is refused to everybody's knowledge; one on another topic under `shadow/` is dropped.
#[test]
fn a_will_may_be_refused() {
    let server = Server::start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("shadow/w/update/+", 1)]);
    let will = Publish::new("shadow/w/update", r#"{"state": {}, "version": 44}"#);
    Client::connect_as(&server, &Connect::new(V4, "mortal").will(will, 1)).0.abandon();
    let message = watcher.message();
    assert_eq!((&*message.topic, &message.json()["error"]), ("shadow/w/update/rejected", &json!("version-conflict")));
    // Either CONNECT is refused or the will goes nowhere.
    let mut client = Client::open(&server, V5);
    client.send(Connect::new(V5, "mortal").will(Publish::new("shadow/w/update/accepted", "{}"), 1).encode());
    if client.connack().code == 0 {
        client.abandon();
    }
    watcher.publish("shadow/w/update", r#"{"state": {"tags": {"a": 1}}}"#, 1);
    assert_eq!(watcher.message().json()["current"]["version"], json!(1), "the next is the documents of the update");
}

/// Each of these was refused with the reason of a topic reserved for the service.
#[test]
fn a_topic_that_is_no_request_is_refused_with_the_reason() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "client");
    for (topic, reason) in [
        ("shadow/my.dev/update", "invalid device id: 'my.dev' holds '.', allowed are A-Z a-z 0-9 : _ -"),
        ("$aws/things/my.dev/shadow/get", "invalid device id: 'my.dev' holds '.', allowed are A-Z a-z 0-9 : _ -"),
        ("shadow/d/name/a.b/delete", "invalid shadow name: 'a.b' holds '.', allowed are A-Z a-z 0-9 : _ - $"),
        ("shadow/d/updat", "unknown operation 'updat': known are update, get and delete"),
        ("shadow/d/update/accepted", "only the service publishes to this topic"),
    ] {
        let ack = client.publish_message(&Publish::new(topic, "{}"), 1);
        assert_eq!((ack.code, ack.properties.text(prop::REASON_STRING)), (0x90, Some(reason)), "{topic}");
    }
}
