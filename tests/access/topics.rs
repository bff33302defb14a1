//! Topics of other devices: to publish, to subscribe, by wildcard, group, will, response topic and retained message.

use serde_json::json;

use crate::{
    harness::{
        client::Client,
        shadow::Requester,
        wire::{self, BOTH, Properties, Publish, V4, V5, prop},
    },
    site::{client, connect, heard, site, site_within, topics},
};

const NOT_AUTHORIZED: u8 = 0x87;

#[test]
fn shadows_of_another_device_are_refused() {
    let server = site();
    let mut boss = Requester::over(client(&server, "boss", V5), "boss", "shadow/lamp-2");
    boss.update(json!({"state": {"desired": {"a": 1}, "reported": {"a": 0}, "tags": {"t": 1}}}));
    let mut watcher = client(&server, "viewer-1", V5);
    watcher.subscribe(&[("#", 1)]);
    let retained: Vec<_> = watcher.messages(2).into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(retained, ["shadow/lamp-2/document", "shadow/lamp-2/delta"]);
    for protocol in BOTH {
        let mut lamp = client(&server, "lamp-1", protocol);
        for prefix in
            ["shadow/lamp-2", "shadow/lamp-2/name/n", "$aws/things/lamp-2/shadow", "$aws/things/lamp-2/shadow/name/n"]
        {
            for (operation, body) in [
                ("update", r#"{"state":{"reported":{"a":9}}}"#),
                ("update", r#"{"state":null}"#),
                ("update", "not JSON"),
                ("get", ""),
                ("delete", ""),
            ] {
                let code = lamp.publish(&format!("{prefix}/{operation}"), body, 1);
                // On AWS topics every request is acknowledged alike.
                let expected = if protocol == V5 && !prefix.starts_with('$') { NOT_AUTHORIZED } else { 0 };
                assert_eq!(code, expected, "{protocol:?} {prefix}/{operation} {body}");
            }
        }
        for topic in ["devices/lamp-2/log", "devices", "elsewhere"] {
            let code = lamp.publish(topic, "x", 1);
            assert_eq!(code, if protocol == V5 { NOT_AUTHORIZED } else { 0 }, "{topic}");
        }
    }
    assert_eq!(boss.get()["version"], 1);
    // That devices come and go may be known.
    let mut received = std::iter::repeat_with(|| watcher.message().topic).filter(|topic| !topic.ends_with("/presence"));
    assert_eq!(received.next().as_deref(), Some("shadow/lamp-2/get/accepted"), "nothing was delivered before");
}

#[test]
fn subscribing_needs_the_right_to_receive() {
    let server = site();
    for (protocol, refused) in [(V4, 0x80), (V5, NOT_AUTHORIZED)] {
        let mut lamp = client(&server, "lamp-1", protocol);
        for (filter, granted) in [
            ("shadow/lamp-2/#", false),
            ("shadow/lamp-2/update/accepted", false),
            ("shadow/lamp-2/name/+/document", false),
            ("shadow/LAMP-1/document", false),
            ("$aws/things/lamp-2/shadow/#", false),
            ("$aws/things/lamp-2/shadow/name/n/get/+", false),
            ("$share/g/shadow/lamp-2/#", false),
            ("$share/g/devices/lamp-2/#", false),
            ("devices/lamp-2/#", false),
            ("$SYS/#", false),
            ("elsewhere/#", false),
            ("shadow/lamp-1/#", true),
            ("$aws/things/lamp-1/shadow/name/n/get/+", true),
            ("$share/g/shadow/+/document", true),
            ("devices/+/log", true),
            ("+/+/document", true),
            ("#", true),
        ] {
            let codes = lamp.subscribe_with(&[(filter, 1)], &Properties::none());
            assert_eq!(codes, [if granted { 1 } else { refused }], "{protocol:?} {filter}");
        }
        lamp.ping(); // no disconnect
    }
}

#[test]
fn a_wildcard_delivers_only_what_is_allowed() {
    let server = site();
    for protocol in BOTH {
        let (mut lamp, mut boss) = (client(&server, "lamp-1", protocol), client(&server, "boss", V5));
        boss.send(Publish::new("devices/lamp-2/secret", "kept").retain().encode(V5, 0, 0));
        boss.ping();
        let granted =
            [("#", 1), ("+/lamp-2/document", 1), ("$aws/#", 1), ("$share/g/+/+/document", 1), ("$share/h/#", 1)];
        lamp.subscribe_with(&granted, &Properties::none());
        for device in ["lamp-2", "lamp-1"] {
            for name in ["", "/name/n"] {
                boss.publish(&format!("shadow/{device}{name}/update"), r#"{"state":{"desired":{"a":1}}}"#, 1);
                boss.publish(&format!("shadow/{device}{name}/update"), r#"{"state":{"desired":{"a":null}}}"#, 1);
                boss.publish(&format!("shadow/{device}{name}/update"), r#"{"state":7}"#, 1);
                boss.publish(&format!("shadow/{device}{name}/get"), "", 1);
                boss.publish(&format!("shadow/{device}{name}/delete"), "", 1);
            }
            boss.publish(&format!("devices/{device}/log"), "x", 1);
        }
        let heard = heard(&server, &mut lamp, "devices/lamp-1/marker");
        let foreign: Vec<_> = heard.iter().filter(|message| !message.topic.contains("lamp-1")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        for topic in
            ["shadow/lamp-1/document", "shadow/lamp-1/name/n/update/delta", "$aws/things/lamp-1/shadow/get/accepted"]
        {
            assert!(topics(&heard).contains(&topic), "{topic} in {:?}", topics(&heard));
        }
        boss.send(Publish::new("devices/lamp-2/secret", "").retain().encode(V5, 0, 0));
        lamp.disconnect();
    }
}

/// A group picks only members that may receive: a message is not lost on one that may not.
#[test]
fn a_group_skips_members_without_the_right() {
    let server = site();
    let (mut lamp, mut viewer, mut boss) =
        (client(&server, "lamp-1", V5), client(&server, "viewer-1", V5), client(&server, "boss", V5));
    let group = "$share/g/shadow/+/update/accepted";
    lamp.subscribe_with(&[(group, 1)], &Properties::none());
    viewer.subscribe(&[(group, 1)]);
    for number in 0..6 {
        boss.publish("shadow/lamp-2/update", format!(r#"{{"state":{{"desired":{{"n":{number}}}}}}}"#), 1);
    }
    assert_eq!(viewer.messages(6).len(), 6);
}

#[test]
fn wills_are_authorized_as_their_client() {
    let server = site();
    for protocol in BOTH {
        for (topic, allowed) in [
            ("shadow/lamp-2/update", false),
            ("shadow/lamp-2/name/n/update", false),
            ("$aws/things/lamp-2/shadow/update", false),
            ("devices/lamp-2/gone", false),
            ("shadow/lamp-1/update", true),
            ("devices/lamp-1/gone", true),
        ] {
            let will = Publish::new(topic, r#"{"state":{"reported":{"on":false}}}"#);
            let mut lamp = Client::open(&server, protocol);
            lamp.send(connect("lamp-1", "dies", protocol).will(will, 1).encode());
            let refused = if protocol == V5 { NOT_AUTHORIZED } else { 5 };
            assert_eq!(lamp.connack().code, if allowed { 0 } else { refused }, "{protocol:?} {topic}");
        }
    }
    // A path that may not be written is found out when the will's time has come.
    let mut boss = Requester::over(client(&server, "boss", V5), "boss", "shadow/lamp-1");
    let version = boss.update(json!({"state": {"tags": {"t": 1}}}))["version"].clone();
    let mut viewer = client(&server, "viewer-1", V5);
    viewer.subscribe_with(&[("shadow/lamp-1/update/+", 1)], &Properties::none());
    let will = Publish::new("shadow/lamp-1/update", r#"{"state":{"tags":{"t":9}}}"#);
    Client::connect_as(&server, &connect("lamp-1", "dies", V5).will(will, 1)).0.drop_connection();
    let will = Publish::new("shadow/lamp-1/update", r#"{"state":{"reported":{"t":9}}}"#);
    Client::connect_as(&server, &connect("lamp-1", "dies-too", V5).will(will, 1)).0.drop_connection();
    let received = viewer.wait("the second will", |packet| match packet {
        crate::harness::packet::Packet::Publish(message) if message.topic.ends_with("accepted") => Some(message.json()),
        _ => None,
    });
    assert_eq!(received["state"], json!({"reported": {"t": 9}}));
    assert!(received["version"].as_u64() > version.as_u64());
    assert_eq!(boss.get()["state"]["tags"], json!({"t": 1}));
}

#[test]
fn replies_go_only_to_topics_the_requester_may_publish_to() {
    let server = site();
    let (mut lamp, mut victim) = (client(&server, "lamp-1", V5), client(&server, "lamp-2", V5));
    lamp.subscribe(&[("devices/lamp-1/#", 1)]);
    victim.subscribe(&[("shadow/lamp-2/#", 1), ("$aws/things/lamp-2/shadow/#", 1), ("devices/lamp-2/#", 1)]);
    let update = r#"{"state":{"reported":{"a":1}}}"#;
    for (request, body) in
        [("shadow/lamp-1/update", update), ("shadow/lamp-1/get", "{}"), ("$aws/things/lamp-1/shadow/update", update)]
    {
        for (topic, code) in [
            ("devices/lamp-2/reply", 0x90),
            ("shadow/lamp-2/update/accepted", 0x90),
            ("$aws/things/lamp-2/shadow/get/accepted", 0x90),
            ("shadow/lamp-1/update", 0x90),
            ("$aws/things/lamp-1/shadow/update", 0x90),
            ("elsewhere", 0x90),
            ("devices/lamp-1/reply", 0),
        ] {
            let request =
                Publish::new(request, body).property(prop::RESPONSE_TOPIC, wire::Value::Text(topic.to_owned()));
            assert_eq!(lamp.publish_message(&request, 1).code, code, "{topic}");
            // A subscriber that receives nothing of it.
            lamp.send(request.encode(V5, 0, 0));
        }
    }
    // Two of each request.
    let replies = lamp.messages(6);
    assert!(replies.iter().all(|(topic, _)| topic == "devices/lamp-1/reply"), "{replies:?}");
    let mut heard = heard(&server, &mut victim, "devices/lamp-2/marker");
    heard.retain(|message| message.topic != "shadow/lamp-2/presence");
    assert!(heard.is_empty(), "{heard:?}");
}

/// A device that waits for the answer to its request would take another one's refusal for it.
#[test]
fn an_unauthorized_request_publishes_no_refusal() {
    let server = site();
    let mut victim = client(&server, "lamp-2", V5);
    victim.subscribe(&[("shadow/lamp-2/#", 1), ("$aws/things/lamp-2/shadow/#", 1), ("devices/lamp-2/#", 1)]);
    for user in ["lamp-1", "viewer-1", "partial"] {
        let mut attacker = client(&server, user, V5);
        for prefix in ["shadow/lamp-2", "$aws/things/lamp-2/shadow"] {
            for body in [
                r#"{"clientToken":"guess"}"#,
                r#"{"state":{"reported":{"a":1}},"clientToken":"guess"}"#,
                r#"{"state":{},"clientToken":"guess"}"#,
                r#"{"state":{"reported":{"a":1}},"version":77,"clientToken":"guess"}"#,
                "{",
            ] {
                attacker.publish(&format!("{prefix}/update"), body, 1);
            }
            attacker.publish(&format!("{prefix}/delete"), r#"{"clientToken":"guess"}"#, 1);
            if user != "viewer-1" {
                attacker.publish(&format!("{prefix}/get"), r#"{"clientToken":"guess"}"#, 1);
            }
        }
    }
    // An app may write `desired`, and not `reported`: what it is refused for lack of rights is its own affair too.
    let mut app = client(&server, "app-1", V5);
    app.publish("shadow/lamp-2/update", r#"{"state":{"reported":{"a":1}},"clientToken":"guess"}"#, 1);
    let mut heard = heard(&server, &mut victim, "devices/lamp-2/marker");
    heard.retain(|message| message.topic != "shadow/lamp-2/presence");
    assert!(heard.is_empty(), "{heard:?}");
}

/// The refusal of what may not be sent was announced once its sender was over its quota of requests too.
#[test]
fn an_unauthorized_request_over_a_quota_publishes_no_refusal() {
    let server = site_within("");
    let mut victim = client(&server, "lamp-1", V5);
    victim.subscribe(&[("shadow/lamp-1/#", 1), ("$aws/things/lamp-1/shadow/#", 1), ("devices/lamp-1/#", 1)]);
    let forbidden = r#"{"state":{"reported":{"a":1}},"clientToken":"guess"}"#;
    for user in ["lamp-2", "partial"] {
        for (prefix, operation, body) in [
            ("shadow/lamp-1", "update", forbidden),
            ("shadow/lamp-1", "delete", r#"{"clientToken":"guess"}"#),
            ("$aws/things/lamp-1/shadow", "update", forbidden),
        ] {
            let mut connect = connect(user, user, V5);
            if user == "partial" {
                connect = connect.will(Publish::new("shadow/lamp-1/update", forbidden), 1);
            }
            let mut attacker = Client::connect_as(&server, &connect).0;
            let request = Publish::new(&format!("{prefix}/{operation}"), body);
            attacker.send(request.encode(V5, 0, 0).repeat(90));
            attacker.ping();
            attacker.abandon();
        }
    }
    let mut heard = heard(&server, &mut victim, "devices/lamp-1/marker");
    heard.retain(|message| message.topic != "shadow/lamp-1/presence");
    assert!(heard.is_empty(), "{heard:?}");
}

/// To delete takes more than to update: who may do only the latter had the refusal of a malformed `delete` announced.
#[test]
fn a_malformed_request_publishes_a_refusal_only_if_authorized() {
    let server = site();
    let mut victim = client(&server, "lamp-1", V5);
    victim.subscribe(&[("shadow/lamp-1/#", 1), ("$aws/things/lamp-1/shadow/#", 1), ("devices/lamp-1/#", 1)]);
    for user in ["lamp-2", "viewer-1", "app-1", "partial"] {
        let mut attacker = client(&server, user, V5);
        for prefix in ["shadow/lamp-1", "$aws/things/lamp-1/shadow"] {
            for body in ["{", "7", r#"{"clientToken":"guess","version":"x"}"#, r#"{"clientToken":"guess","x":1}"#] {
                for operation in ["delete", "update", "get"] {
                    let may = match operation {
                        "delete" => false,
                        "update" => matches!(user, "app-1" | "partial"),
                        _ => user != "lamp-2",
                    };
                    if !may {
                        let code = attacker.publish(&format!("{prefix}/{operation}"), body, 1);
                        let expected = if prefix.starts_with('$') { 0 } else { NOT_AUTHORIZED };
                        assert_eq!(code, expected, "{user} {operation} {body}");
                    }
                }
            }
        }
    }
    let mut heard = heard(&server, &mut victim, "devices/lamp-1/marker");
    heard.retain(|message| message.topic != "shadow/lamp-1/presence");
    assert!(heard.is_empty(), "{heard:?}");
}
