//! The acknowledgement of a request: after the decision, with the verdict, and never for a second decision.

use serde_json::json;

use crate::harness::{
    client::Client,
    server::Server,
    shadow::{Requester, version},
    wire::{self, BOTH, Connect, Publish, V4, V5, prop},
};

#[test]
fn mqtt_5_pubacks_carry_the_outcome() {
    let server = Server::start();
    let mut client = Client::connect(&server, V5, "client");
    let rows = [
        (r#"{"state": {"desired": {"a": 1}}}"#, 0x00, None),
        (r#"{"state": {"desired": {"a": 1}}}"#, 0x00, None),
        (r#"{"state": {"desired": {"a": 2}}, "version": 7}"#, 0x83, Some("version conflict: expected 7, current 1")),
        (r#"{"state": "#, 0x99, None),
    ];
    for qos in [1, 2] {
        for (body, code, reason) in rows {
            let ack = client.publish_message(&Publish::new("shadow/verdict/update", body), qos);
            assert_eq!(ack.code, code, "QoS {qos}: {body}");
            if reason.is_some() {
                assert_eq!(ack.properties.text(prop::REASON_STRING), reason, "{body}");
            }
        }
        assert_eq!(client.publish("shadow/verdict/get", "", qos), 0x00);
        assert_eq!(client.publish("shadow/never/get", "", qos), 0x83);
        assert_eq!(client.publish("shadow/never/delete", "", qos), 0x83);
    }
}

/// A 3.1.1 client is acknowledged whatever the verdict; it learns it from `rejected`.
#[test]
fn mqtt_3_is_acknowledged() {
    let server = Server::start();
    let mut client = Requester::new(&server, V4, "client", "shadow/old");
    client.rejected("update", json!({"state": {"desired": {}}, "version": 4}), 409, "version-conflict");
    for qos in [1, 2] {
        client.client.publish("shadow/old/update", "{", qos);
        assert_eq!(client.client.message().json()["error"], json!("invalid-json"));
    }
}

/// A client that declines problem information receives no reasons.
#[test]
fn no_reason_string_without_request_problem_information() {
    let server = Server::start();
    let connect = Connect::new(V5, "terse").property(0x17, wire::Value::Byte(0));
    let (mut client, _) = Client::connect_as(&server, &connect);
    let body = r#"{"state": {}, "version": 3}"#;
    let ack = client.publish_message(&Publish::new("shadow/terse/update", body), 1);
    assert_eq!((ack.code, ack.properties.0.len()), (0x83, 0), "{ack:?}");
}

/// A QoS 2 identifier is taken on receipt: a resend, also after a resume, repeats the PUBREC and decides nothing.
///
/// The update has no expected version and changes the value each time it is decided, so that a second decision would
/// take a second version.
#[test]
fn a_qos_2_request_is_decided_once() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/twice-{}", protocol as u8);
        let topic = format!("{prefix}/update");
        let connect = Connect::persistent(protocol, &format!("sender-{protocol:?}"));
        let (mut client, _) = Client::connect_as(&server, &connect);
        let first = Publish::new(&topic, r#"{"state": {"desired": {"n": 1}}, "version": 0}"#);
        let conflict = Publish::new(&topic, r#"{"state": {"desired": {"n": 3}}, "version": 0}"#);
        let code = if protocol == V5 { 0x83 } else { 0 };

        client.send(first.encode(protocol, 2, 21));
        client.send(first.clone().dup().encode(protocol, 2, 21));
        // A resend before the decision may be answered by the one PUBREC that follows it.
        assert_eq!(client.pubrec(21).code, 0);
        client.send(first.clone().dup().encode(protocol, 2, 21));
        assert_eq!(client.pubrec(21).code, 0, "the same verdict again");
        client.abandon();

        let (mut client, answer) = Client::connect_as(&server, &connect);
        assert!(answer.session_present);
        client.send(first.clone().dup().encode(protocol, 2, 21));
        assert_eq!(client.pubrec(21).code, 0, "decided again it would be a conflict");
        client.send(wire::ack(0x62, 21));
        assert_eq!(client.pubcomp(21).code, 0);

        // Free again: the same bytes are another request now, and refused.
        client.send(first.encode(protocol, 2, 21));
        assert_eq!(client.pubrec(21).code, code);
        if protocol == V4 {
            client.send(wire::ack(0x62, 21));
            client.pubcomp(21);
        }
        client.send(conflict.encode(protocol, 2, 21));
        assert_eq!(client.pubrec(21).code, code, "an identifier refused is free at once in MQTT 5");
        let document = Requester::new(&server, V5, "reader", &prefix).get();
        assert_eq!((version(&document), &document["state"]["desired"]["n"]), (1, &json!(1)));
    }
}

/// QoS 1 is at least once: a resend is a request again, and with a version it does no harm.
#[test]
fn a_qos_1_resend_with_a_version_is_refused() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/resend");
    client.update(json!({"state": {"reported": {"n": 1}}}));
    let request = Publish::new("shadow/resend/update", r#"{"state": {"reported": {"n": 2}}, "version": 1}"#);
    client.client.send(request.encode(V5, 1, 77));
    assert_eq!(client.client.puback(77).code, 0);
    client.client.send(request.dup().encode(V5, 1, 77));
    assert_eq!(client.client.puback(77).code, 0x83);
    assert_eq!(version(&client.get()), 2);
}
