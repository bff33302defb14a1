//! The presence of devices: on `shadow/<id>/presence` and in the list of devices.

use serde_json::{Value, json};

use super::site::{get, start};
use crate::harness::{
    client::Client,
    eventually,
    packet::Message,
    server::{Server, Setup, UNLIMITED},
    shadow::Requester,
    wire::{self, BOTH, Connect, Properties, Protocol, V4, V5, prop},
};

/// A client that shows by a request that it is the device its client id names.
fn device(server: &Server, protocol: Protocol, id: &str) -> Client {
    let mut client = Client::connect(server, protocol, id);
    client.publish(&format!("shadow/{id}/get"), "", 1);
    client
}

/// The next message with a presence.
fn presence(client: &mut Client) -> Message {
    loop {
        let message = client.message();
        if message.topic.ends_with("/presence") {
            return message;
        }
    }
}

fn presence_of(message: &Message) -> (String, bool) {
    let body = message.json();
    assert!(body["lastSeen"].as_u64().unwrap() > 1_700_000_000, "{body}");
    assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
    (message.topic.clone(), body["connected"].as_bool().unwrap())
}

#[test]
fn a_device_is_connected_while_any_of_its_connections_is() {
    let server = start();
    for protocol in BOTH {
        let mut watcher = Client::connect(&server, protocol, "watcher");
        let id = format!("lamp-{protocol:?}");
        watcher.subscribe(&[(&format!("shadow/{id}/presence"), 1)]);
        let lamp = device(&server, V4, &id);
        assert_eq!(presence_of(&presence(&mut watcher)), (format!("shadow/{id}/presence"), true));
        // A second connection of the same client takes the first one's place: what the end of it all is arrives.
        let second = device(&server, V5, &id);
        lamp.abandon();
        second.disconnect();
        eventually("the lamp to be gone", || {
            let (_, connected) = presence_of(&presence(&mut watcher));
            (!connected).then_some(())
        });
        watcher.disconnect();
    }
}

/// A client that may do everything is no device for that alone.
#[test]
fn a_client_without_requests_is_not_a_device() {
    let server = start();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("#", 1)]);
    let mut other = Client::connect(&server, V5, "other");
    other.publish("shadow/lamp-1/get", "", 1);
    other.publish("marker", "", 1);
    let topics: Vec<_> =
        std::iter::repeat_with(|| watcher.message().topic).take_while(|topic| topic != "marker").collect();
    assert!(!topics.iter().any(|topic| topic.ends_with("/presence")), "{topics:?}");
}

#[test]
fn it_comes_with_the_subscription() {
    let server = start();
    let mut lamp = device(&server, V5, "lamp-1");
    let gone = device(&server, V5, "lamp-2");
    gone.disconnect();
    let web = server.address_of("web");
    eventually("two devices to be seen", || {
        let page = get(web, "/metrics").text();
        page.contains("\numbra_devices_connected 1\n").then_some(())
    });
    // filter, what it brings of these two
    let rows: [(&str, &[(&str, bool)]); 7] = [
        ("shadow/lamp-1/presence", &[("lamp-1", true)]),
        ("shadow/lamp-2/#", &[("lamp-2", false)]),
        ("shadow/+/presence", &[("lamp-1", true), ("lamp-2", false)]),
        ("shadow/#", &[("lamp-1", true), ("lamp-2", false)]),
        ("shadow/never/presence", &[]),
        ("shadow/+/name/+/presence", &[]),
        ("$aws/things/+/shadow/#", &[]),
    ];
    for (row, (filter, expected)) in rows.into_iter().enumerate() {
        let mut late = Client::connect(&server, V5, &format!("late/{row}")); // no device id
        late.subscribe(&[(filter, 1)]);
        let mut found = Vec::new();
        for _ in expected {
            let message = presence(&mut late);
            assert!(message.retain, "{message:?}");
            let (topic, connected) = presence_of(&message);
            found.push((topic.split('/').nth(1).unwrap().to_owned(), connected));
        }
        let expected: Vec<_> = expected.iter().map(|(device, connected)| ((*device).to_owned(), *connected)).collect();
        assert_eq!(found, expected, "{filter}");
        // Nothing else comes before what is sent after.
        late.subscribe(&[("marker", 0)]);
        late.publish("marker", "", 0);
        assert_eq!(late.message().topic, "marker", "{filter}");
        late.disconnect();
    }
    // Asked not to: nothing retained comes.
    let mut late = Client::connect(&server, V5, "late/never");
    late.subscribe_with(&[("shadow/+/presence", 0x20)], &Properties::none());
    lamp.publish("shadow/lamp-1/update", r#"{"state":{"reported":{"on":true}}}"#, 1);
    lamp.disconnect();
    assert_eq!(presence_of(&presence(&mut late)), ("shadow/lamp-1/presence".to_owned(), false));
}

/// A device that comes and goes while nobody reads is announced once, with its current presence; of many devices, each
/// is. Presence that a connection had taken and not sent was lost with the connection.
#[test]
fn a_resumed_session_receives_the_current_presence() {
    const DEVICES: usize = 60;
    let server = start();
    let connect = Connect::persistent(V5, "watcher/1").property(prop::RECEIVE_MAXIMUM, wire::Value::Two(1));
    let (mut watcher, _) = Client::connect_as(&server, &connect);
    watcher.subscribe(&[("shadow/+/presence", 1)]);
    watcher.disconnect();
    let mut kept = Vec::new();
    for number in 0..DEVICES {
        for _ in 0..3 {
            device(&server, V4, &format!("lamp-{number}")).disconnect();
        }
        if number % 2 == 0 {
            kept.push(device(&server, V5, &format!("lamp-{number}")));
        }
    }
    let web = server.address_of("web");
    eventually("the others to be gone", || {
        let page = get(web, "/metrics").text();
        page.contains(&format!("\numbra_devices_connected {}\n", kept.len())).then_some(())
    });
    let mut found = Vec::new();
    for _ in 0..3 {
        let (mut watcher, connack) = Client::connect_as(&server, &connect);
        assert!(connack.session_present);
        found.extend((0..DEVICES / 3).map(|_| presence_of(&presence(&mut watcher))));
        watcher.abandon();
    }
    found.sort();
    let mut expected: Vec<_> =
        (0..DEVICES).map(|device| (format!("shadow/lamp-{device}/presence"), device % 2 == 0)).collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn presence_is_in_the_list_of_devices() {
    let server = start();
    let (web, viewers) = (server.address_of("web"), server.address_of("viewers"));
    for device in ["lamp-1", "lamp-2", "lamp-3"] {
        Requester::private(&server, "setter/1", &format!("shadow/{device}"))
            .update(json!({"state": {"desired": {"a": 1}}}));
    }
    let before = get(web, "/v1/devices/lamp-1/shadow").json()["version"].clone();
    let _lamp = device(&server, V4, "lamp-1");
    device(&server, V5, "lamp-2").disconnect();
    let list = |address, query: &str| get(address, &format!("/v1/devices{query}")).json()["devices"].clone();
    eventually("lamp-2 to be gone", || {
        let connected = list(web, "?connected=true");
        (connected.as_array().unwrap().len() == 1).then_some(())
    });
    let devices = list(web, "");
    assert_eq!((&devices[0]["id"], &devices[0]["connected"]), (&json!("lamp-1"), &json!(true)));
    assert_eq!((&devices[0]["protocol"], &devices[0]["address"]), (&json!("mqtt-3.1.1"), &json!("127.0.0.1")));
    assert_eq!((&devices[1]["connected"], &devices[1]["protocol"]), (&json!(false), &json!("mqtt-5")));
    assert!(devices[1]["lastSeen"].as_u64().unwrap() > 1_700_000_000, "{devices}");
    assert_eq!((&devices[2]["connected"], &devices[2]["lastSeen"]), (&json!(false), &Value::Null), "{devices}");
    let seen = list(viewers, "?connected=false");
    assert_eq!(
        (&seen[0]["id"], &seen[0]["protocol"], &seen[0]["address"]),
        (&json!("lamp-2"), &json!("mqtt-5"), &Value::Null)
    );
    assert_eq!(get(web, "/v1/devices/lamp-1/shadow").json()["version"], before, "it takes no version");
}

/// A client that may read nothing of a device's classic shadow receives no presence of it; an app is no device.
#[test]
fn presence_is_sent_to_readers_of_the_shadow() {
    let devices = r#"
anonymous_role = ""

[[rule]]
role = "hall"
devices = ["lamp-1"]
operations = ["subscribe"]
read = ["/reported/on"]

[[rule]]
role = "lamp"
devices = ["lamp-1", "lamp-2"]
write = ["/reported"]

[[grant]]
role = "hall"
principals = ["anonymous/hall"]
by = ["anonymous"]

[[grant]]
role = "lamp"
principals = ["anonymous/lamp-1", "anonymous/lamp-2"]
by = ["anonymous"]
"#;
    let server = Server::with(Setup { listener: devices, ..UNLIMITED });
    let mut hall = Client::connect(&server, V5, "hall");
    hall.subscribe(&[("shadow/#", 1)]);
    let _other = Client::connect(&server, V5, "lamp-2");
    let _own = Client::connect(&server, V5, "lamp-1");
    assert_eq!(presence_of(&presence(&mut hall)), ("shadow/lamp-1/presence".to_owned(), true));
}
