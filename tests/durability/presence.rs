//! Presence across restarts and kills: every device is disconnected until it connects, and its `lastSeen` is kept.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    eventually,
    http::Http,
    server::{Server, Setup, UNLIMITED},
    wire::{Connect, V4, V5},
};

const LISTENERS: &str = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"
"#;

/// Returns the retained presence of the devices, without the time.
fn retained(server: &Server) -> BTreeMap<String, bool> {
    let mut client = Client::connect(server, V5, "reader/1");
    client.subscribe(&[("shadow/+/presence", 1)]);
    (0..2).map(|_| presence(&mut client)).collect()
}

/// Returns the device and the state of the next presence message.
fn presence(client: &mut Client) -> (String, bool) {
    let message = client.message();
    let device = message.topic.strip_prefix("shadow/").and_then(|rest| rest.strip_suffix("/presence"));
    let device = device.unwrap_or_else(|| panic!("{message:?}")).to_owned();
    (device, message.json()["connected"].as_bool().unwrap())
}

fn device(server: &Server, id: &str) -> Value {
    Http::connect(server.address_of("web")).send(&format!("GET /v1/devices/{id} HTTP/1.1"), b"").json()
}

/// Connects a device, which shows by a request that it is one.
fn connect(server: &Server, id: &str) -> Client {
    let mut client = Client::connect(server, if id == "away" { V4 } else { V5 }, id);
    client.publish(&format!("shadow/{id}/get"), "", 1);
    client
}

#[test]
fn last_seen_survives_and_every_device_is_disconnected_at_the_start() {
    for kill in [true, false] {
        let mut server = Server::with(Setup { listener: LISTENERS, ..UNLIMITED });
        let (mut watcher, _) = Client::connect_as(&server, &Connect::persistent(V5, "watcher/1"));
        watcher.subscribe(&[("shadow/+/presence", 1)]);
        connect(&server, "away").disconnect();
        let held = connect(&server, "held");
        eventually("the first device to be gone and the other one to be there", || {
            let states = ["away", "held"].map(|id| device(&server, id)["connected"].clone());
            (states == [json!(false), json!(true)]).then_some(())
        });
        let before = ["away", "held"].map(|id| device(&server, id));
        // The rows of all this are on disk with this.
        watcher.subscribe(&[("marker", 1)]);
        match kill {
            true => server.kill(),
            false => drop(server.stop()),
        }
        drop((held, watcher));
        for start in 0..2 {
            server.restart();
            let after = ["away", "held"].map(|id| device(&server, id));
            for (before, after) in before.iter().zip(&after) {
                assert_eq!(after["connected"], json!(false), "kill {kill}, start {start}: {after}");
                assert_eq!((&after["protocol"], &after["address"]), (&before["protocol"], &before["address"]));
            }
            assert_eq!(after[0]["lastSeen"], before[0]["lastSeen"], "kill {kill}, start {start}");
            let seen = |device: &Value| device["lastSeen"].as_u64().unwrap();
            let range = seen(&before[1])..=seen(&before[1]) + 60;
            assert!(range.contains(&seen(&after[1])), "kill {kill}, start {start}: {after:?}, {before:?}");
            let gone: BTreeMap<_, _> = [("away".to_owned(), false), ("held".to_owned(), false)].into();
            assert_eq!(retained(&server), gone, "kill {kill}, start {start}");
            if start == 0 {
                // A watcher with the presence of a connected device gets the one of a disconnected device.
                let (mut watcher, connack) = Client::connect_as(&server, &Connect::persistent(V5, "watcher/1"));
                assert!(connack.session_present);
                let mut last = BTreeMap::new();
                while last != gone {
                    last.extend([presence(&mut watcher)]);
                }
                watcher.disconnect();
                drop(server.stop());
            }
        }
        let _held = connect(&server, "held");
        eventually("the device to be back", || (device(&server, "held")["connected"] == json!(true)).then_some(()));
    }
}
