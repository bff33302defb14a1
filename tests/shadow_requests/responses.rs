//! Client tokens, response topics and correlation data.

use serde_json::json;

use crate::harness::{
    client::Client,
    server::Server,
    shadow::Requester,
    wire::{Publish, V4, V5, Value, prop},
};

#[test]
fn the_token_is_on_every_message() {
    let server = Server::start();
    let mut client = Client::connect(&server, V4, "client");
    client.subscribe(&[("shadow/token/+/+", 1)]);
    let longest = "€".repeat(21) + "x";
    assert_eq!(longest.len(), 64);
    let rows = [
        (
            "update",
            json!({"state": {"desired": {"a": 1}}}),
            vec!["update/delta", "update/documents", "update/accepted"],
        ),
        ("update", json!({"state": {"desired": {"a": 2}}, "version": 9}), vec!["update/rejected"]),
        ("update", json!({"state": 5}), vec!["update/rejected"]),
        ("get", json!({}), vec!["get/accepted"]),
        ("delete", json!({"version": 9}), vec!["delete/rejected"]),
        ("delete", json!({}), vec!["delete/accepted"]),
        ("get", json!({}), vec!["get/rejected"]),
        ("delete", json!({}), vec!["delete/rejected"]),
    ];
    for (operation, mut body, events) in rows {
        for token in ["t", &longest] {
            // The second time the delete has nothing to delete, and the update nothing to change.
            if token != "t" && events.last().is_some_and(|event| event.ends_with("accepted")) && operation != "get" {
                continue;
            }
            body["clientToken"] = json!(token);
            client.publish(&format!("shadow/token/{operation}"), body.to_string(), 1);
            for event in &events {
                let message = client.message();
                assert_eq!(message.topic, format!("shadow/token/{event}"), "{body}");
                assert_eq!(message.json()["clientToken"], json!(token), "{message:?}");
            }
        }
    }
}

fn asking(topic: &str, payload: &str, response: &str) -> Publish {
    Publish::new(topic, payload)
        .property(prop::RESPONSE_TOPIC, Value::Text(response.to_owned()))
        .property(prop::CORRELATION_DATA, Value::Binary(vec![0, 1, 2, 255]))
}

#[test]
fn the_reply_goes_to_the_response_topic_too() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "client");
    let mut watcher = Client::connect(&server, V4, "watcher");
    client.subscribe(&[("answers/#", 1)]);
    watcher.subscribe(&[("shadow/resp/+/accepted", 1), ("shadow/resp/+/rejected", 1)]);
    let rows = [
        ("update", r#"{"state": {"desired": {"a": 1}}}"#, 0x00),
        ("update", r#"{"state": {"desired": {"a": 1}}, "version": 5}"#, 0x83),
        ("update", r#"{"state""#, 0x99),
        ("get", "", 0x00),
        ("delete", "", 0x00),
        ("get", "", 0x83),
    ];
    for qos in [1, 0] {
        for (operation, payload, code) in rows {
            let ack = client.publish_message(&asking(&format!("shadow/resp/{operation}"), payload, "answers/1"), qos);
            assert!(qos == 0 || ack.code == code, "{operation} {payload}: {ack:?}");
            let reply = client.message();
            let outcome = if code == 0 { "accepted" } else { "rejected" };
            let public = watcher.message();
            assert_eq!(public.topic, format!("shadow/resp/{operation}/{outcome}"));
            assert_eq!((&*reply.topic, reply.json()), ("answers/1", public.json()), "{operation} {payload}");
            let correlation = reply.properties.get(prop::CORRELATION_DATA);
            assert_eq!(correlation, Some(&Value::Binary(vec![0, 1, 2, 255])), "{reply:?}");
        }
    }
}

/// A reply must not land where it could be a request or an event, and a request that asks for it is refused whole.
#[test]
fn a_response_topic_that_is_no_ordinary_one_is_refused() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/bad");
    for response in ["shadow/other/update", "shadow/x", "$aws/things/x/shadow/update", "$SYS/x"] {
        let request = asking("shadow/bad/update", r#"{"state": {"desired": {"a": 1}}}"#, response);
        assert_eq!(client.client.publish_message(&request, 1).code, 0x90, "{response}");
        assert_eq!(client.client.publish_message(&request, 2).code, 0x90, "{response}");
    }
    client.rejected("get", json!({}), 404, "not-found");
    client.client.ping();
}

/// A message to a response topic is an ordinary one, even where it looks like a request.
#[test]
fn a_reply_is_never_a_request() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "client");
    client.subscribe(&[("shadowy/x/update", 1), ("shadow/x/update/+", 1)]);
    let request = asking("shadow/x/update", r#"{"state": {"reported": {"a": 1}}}"#, "shadowy/x/update");
    assert_eq!(client.publish_message(&request, 1).code, 0);
    let topics: Vec<_> = client.messages(3).into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(topics, ["shadow/x/update/documents", "shadow/x/update/accepted", "shadowy/x/update"]);
}
