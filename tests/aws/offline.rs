//! A session on AWS topics that was away hears what it missed, in the AWS shape.

use serde_json::json;

use crate::{
    harness::{
        client::Client,
        server::Server,
        wire::{BOTH, Connect, V5},
    },
    thing::timeless,
};

#[test]
fn a_resync_over_aws_has_the_aws_shape() {
    let server = Server::start();
    for protocol in BOTH {
        let id = format!("away-{}", protocol as u8);
        let prefix = format!("$aws/things/{id}/shadow");
        let mut writer = Client::connect(&server, V5, "writer");
        let mut update = |state: &str| {
            let topic = format!("shadow/{id}/update");
            assert_eq!(writer.publish(&topic, format!(r#"{{"state":{state},"clientToken":"w"}}"#), 1), 0);
        };
        update(r#"{"desired":{"a":1,"k":0},"reported":{"a":1},"tags":{"t":1}}"#);

        let connect = Connect::persistent(protocol, &id);
        let (mut client, _) = Client::connect_as(&server, &connect);
        client.subscribe(&[(&format!("{prefix}/update/+"), 1)]);
        client.disconnect();
        for value in 2..=5 {
            update(&format!(r#"{{"desired":{{"a":{value}}}}}"#));
        }

        let (mut client, answer) = Client::connect_as(&server, &connect);
        assert!(answer.session_present);
        let mut events = (0..3).map(|_| client.message()).map(|message| {
            let name = message.topic.strip_prefix(&format!("{prefix}/")).unwrap().to_owned();
            (name, timeless(message.json()))
        });
        let t = json!({"timestamp": "T"});
        let desired = json!({"a": t, "k": t});
        assert_eq!(
            events.next().unwrap(),
            (
                "update/delta".into(),
                json!({
                    "version": 5, "timestamp": "T", "state": {"a": 5, "k": 0}, "metadata": desired
                })
            )
        );
        let side = |a: u8, version: u8| {
            json!({
                "state": {"desired": {"a": a, "k": 0}, "reported": {"a": 1}},
                "metadata": {"desired": desired, "reported": {"a": t}},
                "version": version,
            })
        };
        assert_eq!(
            events.next().unwrap(),
            (
                "update/documents".into(),
                json!({
                    "previous": side(4, 4), "current": side(5, 5), "timestamp": "T"
                })
            )
        );
        assert_eq!(
            events.next().unwrap(),
            (
                "update/accepted".into(),
                json!({
                    "state": {"desired": {"a": 5}}, "metadata": {"desired": {"a": t}}, "version": 5, "timestamp": "T"
                })
            )
        );
        client.disconnect();
    }
}
