//! Subscriptions of MQTT 5 to the events of shadows: options, identifiers, groups.

use serde_json::json;

use crate::harness::{
    client::Client,
    server::Server,
    shadow::{Requester, version},
    wire::{BOTH, Connect, Properties, V5, Value, prop},
};

const NO_LOCAL: u8 = 0x04;

/// The service publishes events, not the requester: no-local does not keep them from it.
#[test]
fn no_local_does_not_apply_to_events() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "client");
    client.subscribe_with(&[("shadow/nl/update/+", 1 | NO_LOCAL)], &Properties::none());
    client.publish("shadow/nl/update", r#"{"state": {"reported": {"a": 1}}}"#, 1);
    let topics: Vec<_> = client.messages(2).into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(topics, ["shadow/nl/update/documents", "shadow/nl/update/accepted"]);
}

#[test]
fn events_and_documents_have_the_subscription_identifier() {
    let server = Server::start();
    let mut setter = Requester::private(&server, "setter", "shadow/id");
    setter.update(json!({"state": {"reported": {"a": 1}}}));
    let mut client = Client::connect(&server, V5, "client");
    let id = |number| Properties::none().with(prop::SUBSCRIPTION_ID, Value::Variable(number));
    client.subscribe_with(&[("shadow/id/document", 1)], &id(5));
    let retained = client.message();
    assert_eq!((retained.properties.number(prop::SUBSCRIPTION_ID), retained.retain), (Some(5), true));
    client.subscribe_with(&[("shadow/id/update/accepted", 0)], &id(200_000_000));
    setter.update(json!({"state": {"reported": {"a": 2}}}));
    for _ in 0..2 {
        let message = client.message();
        let expected = if message.topic.ends_with("document") { 5 } else { 200_000_000 };
        assert_eq!(message.properties.number(prop::SUBSCRIPTION_ID), Some(expected), "{message:?}");
    }
}

#[test]
fn each_event_goes_to_one_of_a_group() {
    let server = Server::start();
    let mut members: Vec<Client> = BOTH
        .iter()
        .enumerate()
        .map(|(number, protocol)| {
            let mut member = Client::connect(&server, *protocol, &format!("member-{number}"));
            member.subscribe(&[("$share/g/shadow/+/update/accepted", 1), ("end", 1)]);
            member
        })
        .collect();
    let mut setter = Requester::private(&server, "setter", "shadow/group");
    for number in 0..30 {
        setter.update(json!({"state": {"reported": {"n": number}}}));
    }
    setter.client.publish("end", "", 1);
    let mut versions = Vec::new();
    for member in &mut members {
        loop {
            let message = member.message();
            if message.topic == "end" {
                break;
            }
            versions.push(version(&message.json()));
        }
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=30).collect::<Vec<_>>());
}

/// Unsubscribing and subscribing around each request, as SDKs do, loses no answer.
#[test]
fn a_reply_comes_after_the_suback() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/sdk-{}", protocol as u8);
        let mut client = Client::connect(&server, protocol, "sdk");
        for round in 1..=10u64 {
            let filters = ["accepted", "rejected"].map(|end| format!("{prefix}/update/{end}"));
            client.subscribe(&[(&filters[0], 1), (&filters[1], 1)]);
            let body = json!({"state": {"reported": {"round": round}}, "version": round - 1}).to_string();
            client.publish(&format!("{prefix}/update"), body, 1);
            assert_eq!(version(&client.message().json()), round);
            client.unsubscribe(&[&filters[0], &filters[1]]);
        }
    }
}

/// An event too large for a client is left out for it alone.
#[test]
fn an_event_above_the_clients_maximum_is_skipped() {
    let server = Server::start();
    let small = Connect::new(V5, "small").property(prop::MAXIMUM_PACKET_SIZE, Value::Four(400));
    let (mut small, _) = Client::connect_as(&server, &small);
    small.subscribe(&[("shadow/big/update/+", 1), ("shadow/big/document", 1)]);
    let mut setter = Requester::new(&server, V5, "setter", "shadow/big");
    setter.update(json!({"state": {"reported": {"filler": "x".repeat(1_000)}}}));
    setter.update(json!({"state": {"reported": {"filler": null}, "tags": {"a": 1}}}));
    // Of the first nothing fits; of the second all but the documents.
    for expected in ["update/accepted", "document"] {
        let message = small.message();
        assert_eq!(message.topic, format!("shadow/big/{expected}"));
        assert_eq!(version(&message.json()), 2);
    }
    small.ping();
}
