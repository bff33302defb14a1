//! One shadow through both front ends: no update is lost, and MQTT subscribers receive every change made over HTTP.

use std::thread;

use serde_json::{Value, json};

use crate::{
    harness::{
        Meeting,
        client::Client,
        http::Http,
        shadow::Requester,
        wire::{V4, V5},
    },
    site::Site,
};

const PATH: &str = "/v1/devices/counter/shadow";
const WRITERS: usize = 16;
const INCREMENTS: usize = 800;

/// How a writer increments the counter; each has read it before, and is refused if somebody was faster.
#[derive(Clone, Copy, Debug)]
enum Way {
    Mqtt,
    Tag,
    Rebase,
    Patch,
}

fn counter(document: &Value) -> u64 {
    document["state"]["reported"]["counter"].as_u64().unwrap()
}

/// Sends one increment of what `current` has; whether it was accepted.
fn over_http(client: &mut Http, way: Way, current: &Value) -> bool {
    let (now, next) = (counter(current), counter(current) + 1);
    let merge = json!({"reported": {"counter": next}}).to_string();
    let (query, condition, media, body) = match way {
        Way::Rebase => {
            let base = format!("?on_conflict=rebase&base_version={}", current["version"]);
            (base, String::new(), "merge-patch", merge)
        }
        Way::Patch => {
            let patch = json!([
                {"op": "test", "path": "/reported/counter", "value": now},
                {"op": "replace", "path": "/reported/counter", "value": next},
            ]);
            (String::new(), "If-Match: *\n".to_owned(), "json-patch", patch.to_string())
        }
        Way::Mqtt | Way::Tag => {
            let tag = current["etag"].as_str().unwrap();
            (String::new(), format!("If-Match: {tag}\n"), "merge-patch", merge)
        }
    };
    let head = format!("PATCH {PATH}{query} HTTP/1.1\n{condition}Content-Type: application/{media}+json");
    let reply = client.send(&head, body.as_bytes());
    let refused = if matches!(way, Way::Patch) { 409 } else { 412 };
    assert!(reply.status == 200 || reply.status == refused, "{way:?}: {reply:?} {}", reply.text());
    reply.status == 200
}

fn increments(site: &Site, way: Way, name: &str, start: &Meeting) -> usize {
    let mut http = site.client();
    let mut mqtt = Requester::private(&site.server, name, "shadow/counter");
    let mut refused = 0;
    start.wait();
    for _ in 0..INCREMENTS / WRITERS {
        loop {
            let current = http.send(&format!("GET {PATH} HTTP/1.1"), b"").json();
            let accepted = match way {
                Way::Mqtt => {
                    let state = json!({"reported": {"counter": counter(&current) + 1}});
                    mqtt.request("update", json!({"state": state, "version": current["version"]})).accepted
                }
                way => over_http(&mut http, way, &current),
            };
            if accepted {
                break;
            }
            refused += 1;
        }
    }
    refused
}

#[test]
fn no_increment_is_lost() {
    let site = Site::open();
    site.put(PATH, json!({"reported": {"counter": 0}}));
    let start = Meeting::of(WRITERS);
    let ways = [Way::Mqtt, Way::Tag, Way::Mqtt, Way::Rebase, Way::Mqtt, Way::Patch];
    let refused: usize = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (site, start, way) = (&site, &start, ways[number % ways.len()]);
                scope.spawn(move || increments(site, way, &format!("writer-{number}"), start))
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    let end = site.get(PATH).json();
    assert_eq!(counter(&end), INCREMENTS as u64, "{end}");
    assert_eq!(end["version"], json!(INCREMENTS + 1), "one version for each increment, and the first write");
    assert!(refused > 0, "they never met");
    println!("{INCREMENTS} increments through both front ends, {refused} refused");
}

/// Patches that append to one list, whatever is in it: each of them is in it once.
#[test]
fn no_append_is_lost() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"list": []}}));
    let (writers, each) = (16, 20);
    let start = Meeting::of(writers);
    thread::scope(|scope| {
        for writer in 0..writers {
            let (site, start) = (&site, &start);
            scope.spawn(move || {
                let mut client = site.client();
                start.wait();
                for n in 0..each {
                    let patch = json!([{"op": "add", "path": "/desired/list/-", "value": writer * 1000 + n}]);
                    let head = format!("PATCH {PATH} HTTP/1.1\nIf-Match: *\nContent-Type: application/json-patch+json");
                    let reply = client.send(&head, patch.to_string().as_bytes());
                    assert_eq!(reply.status, 200, "{}", reply.text());
                }
            });
        }
    });
    let state = site.state(PATH);
    let mut found: Vec<_> =
        state["desired"]["list"].as_array().unwrap().iter().map(|value| value.as_u64().unwrap() as usize).collect();
    found.sort_unstable();
    let expected: Vec<_> = (0..writers).flat_map(|writer| (0..each).map(move |n| writer * 1000 + n)).collect();
    assert_eq!(found, expected);
}

#[test]
fn devices_receive_every_change_made_over_http() {
    let site = Site::open();
    for (device, protocol) in (0..12).map(|n| (format!("dev-{n}"), if n % 2 == 0 { V4 } else { V5 })) {
        let mut client = Client::connect(&site.server, protocol, &device);
        let (native, aws) = (format!("shadow/{device}"), format!("$aws/things/{device}/shadow"));
        client.subscribe(&[(&format!("{native}/update/+"), 1), (&format!("{aws}/update/+"), 1)]);
        client.subscribe(&[(&format!("{native}/delete/+"), 1)]);
        let path = format!("/v1/devices/{device}/shadow");
        for n in 1..=5 {
            site.put(&path, json!({"desired": {"n": n}}));
            let heard: Vec<_> = (0..6).map(|_| client.message()).collect();
            let topics = ["delta", "documents", "accepted"]
                .iter()
                .flat_map(|event| [format!("{native}/update/{event}"), format!("{aws}/update/{event}")]);
            assert_eq!(
                heard.iter().map(|message| message.topic.clone()).collect::<Vec<_>>(),
                topics.collect::<Vec<_>>()
            );
            assert_eq!(heard[0].json()["state"], json!({"n": n}), "{device}");
            assert_eq!(heard[5].json()["version"], json!(n), "{device}");
        }
        // Of what is refused, of a dry run and of what changes nothing: nothing but the last one's `accepted`.
        let merge = "Content-Type: application/merge-patch+json";
        let body = r#"{"desired":{"n":6}}"#;
        assert_eq!(site.send(&format!("PATCH {path} HTTP/1.1\nIf-Match: \"x\"\n{merge}"), body).status, 412);
        assert_eq!(site.send(&format!("PATCH {path}?dry_run=true HTTP/1.1\nIf-Match: *\n{merge}"), body).status, 200);
        site.merge(&path, json!({"desired": {"n": 5}}));
        let heard = client.message();
        assert_eq!(
            (heard.topic.clone(), &heard.json()["changed"]),
            (format!("{native}/update/accepted"), &json!(false))
        );
        client.message();
        assert_eq!(site.send(&format!("DELETE {path} HTTP/1.1\nIf-Match: *"), "").status, 204);
        let heard = client.message();
        assert_eq!((heard.topic.clone(), &heard.json()["version"]), (format!("{native}/delete/accepted"), &json!(6)));
    }
}
