//! The topics under `$aws/` that accept a publication or subscription, and the order of replies.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::{
    harness::{
        client::Client,
        http::Http,
        packet::Packet,
        server::{Server, Setup},
        wire::{self, BOTH, Properties, Publish, V4, V5, Value, prop},
    },
    thing::Thing,
};

#[test]
fn other_topics_below_the_aws_prefix_are_refused() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        client.subscribe(&[("$aws/#", 1)]);
        for topic in [
            "$aws/things/d1/shadow/update/accepted",
            "$aws/things/d1/shadow/document",
            "$aws/things/d1/shadow",
            "$aws/things/d.1/shadow/get",
            "$aws/things/d1/jobs/get",
            "$aws/rules/r1",
            "$aws",
        ] {
            let code = client.publish(topic, "{}", 1);
            assert_eq!(code, if protocol == V5 { 0x90 } else { 0 }, "{topic}");
        }
        // Nor did any of it arrive.
        client.publish("$aws/things/d1/shadow/get", "", 0);
        assert_eq!(client.message().topic, "$aws/things/d1/shadow/get/rejected");
    }
}

/// SDKs subscribe, ask, and unsubscribe around each request; the SUBACK comes before the reply to what follows it.
#[test]
fn subscribing_and_unsubscribing_for_each_request() {
    let server = Server::start();
    for protocol in BOTH {
        let mut client = Client::connect(&server, protocol, "client");
        for round in 0..3 {
            let id = client.next_id();
            let filters = [("$aws/things/d1/shadow/get/+", 1), ("$aws/things/d1/shadow/delete/+", 0)];
            client.send(wire::subscribe(protocol, id, &filters, &Properties::none()));
            let token = json!({"clientToken": format!("r{round}")}).to_string();
            client.send(Publish::new("$aws/things/d1/shadow/get", &token).encode(protocol, 0, 0));
            assert!(matches!(client.recv(), Packet::SubAck { id: found, .. } if found == id));
            let reply = client.message();
            assert_eq!(reply.topic, "$aws/things/d1/shadow/get/rejected");
            assert_eq!(reply.json()["clientToken"], json!(format!("r{round}")));
            client.unsubscribe(&["$aws/things/d1/shadow/get/+", "$aws/things/d1/shadow/delete/+"]);
        }
    }
}

/// `#` and `+` at the front do not select what begins with `$`.
#[test]
fn leading_wildcards_do_not_select_aws_topics() {
    let server = Server::start();
    let mut all = Client::connect(&server, V4, "all");
    all.subscribe(&[("#", 1), ("+/things/#", 1)]);
    let mut below = Client::connect(&server, V4, "below");
    below.subscribe(&[("$aws/things/+/shadow/#", 1)]);
    Thing::new(&server, V4, "thing", "$aws/things/d1/shadow").request("update", r#"{"state":{"reported":{"a":1}}}"#);
    let topics: Vec<String> = all.messages(3).into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(topics, ["shadow/d1/update/documents", "shadow/d1/update/accepted", "shadow/d1/document"]);
    let topics: Vec<String> = below.messages(2).into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(topics, ["$aws/things/d1/shadow/update/documents", "$aws/things/d1/shadow/update/accepted"]);
}

/// A response topic gets the reply in the dialect of the request.
#[test]
fn a_response_topic() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "client");
    client.subscribe(&[("reply", 1)]);
    for (topic, payload, expected) in [
        ("$aws/things/d1/shadow/update", r#"{"state":{"reported":{"a":1}}}"#, "version"),
        ("$aws/things/d1/shadow/update", r#"{"state":{},"version":9}"#, "code"),
        ("$aws/things/d1/shadow/get", "", "version"),
    ] {
        let message = Publish::new(topic, payload).property(prop::RESPONSE_TOPIC, Value::Text("reply".into()));
        assert_eq!(client.publish_message(&message, 1).code, 0);
        let reply = client.message().json();
        assert!(reply.get(expected).is_some() && reply.get("etag").is_none(), "{reply}");
        assert!(reply.get("error").is_none() && reply.get("changed").is_none(), "{reply}");
    }
}

/// A will on an AWS topic is an update in that dialect.
#[test]
fn a_will() {
    let server = Server::start();
    let mut thing = Thing::new(&server, V4, "watcher", "$aws/things/d1/shadow");
    let will = Publish::new("$aws/things/d1/shadow/update", r#"{"state":{"reported":{"connected":false}},"x":1}"#);
    let (client, _) = Client::connect_as(&server, &wire::Connect::new(V5, "d1").will(will, 1));
    client.abandon();
    let events = thing.reply();
    assert_eq!(events.last().unwrap().1["state"], json!({"reported": {"connected": false}}));
}

const WEB: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
"#;

/// A message with more user properties than a packet may have was accepted, and lost at the restart, since its row could not be
/// read.
#[test]
fn user_properties_up_to_the_limit_survive_a_restart() {
    let mut server = Server::with(Setup { listener: WEB, ..Setup::default() });
    let publish = |server: &Server, topic: &str, count: usize| {
        let pairs: Vec<_> = (0..count).map(|number| json!({ "n": number.to_string() })).collect();
        let user = BASE64_STANDARD.encode(json!(pairs).to_string());
        let head = format!("POST /topics/{topic}?qos=1&retain=true HTTP/1.1\nx-amz-mqtt5-user-properties: {user}");
        Http::connect(server.address_of("web")).send(&head, b"kept")
    };
    let refused = publish(&server, "more", 257);
    assert_eq!(refused.status, 400);
    let text = refused.text();
    assert!(text.contains("has 257 user properties; the limit is 256"), "{text}");
    assert_eq!(publish(&server, "most", 256).status, 200);
    server.kill();
    server.restart();
    let mut client = Client::connect(&server, V5, "reader");
    client.subscribe(&[("most", 1), ("more", 1)]);
    client.publish("more", "end", 1);
    let message = client.message();
    assert_eq!((message.text(), message.properties.all(prop::USER).len()), ("kept", 256));
    assert_eq!(client.message().text(), "end");
}
