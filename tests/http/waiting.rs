//! Reads that wait for something.

use std::thread;

use serde_json::json;

use crate::{harness::http::Http, site::Site};

const PATH: &str = "/v1/devices/lamp/shadow";

/// Begins a read, and returns once the server has it: another request on the same connection would not show that, but
/// the number of those that follow the device does not matter, since a change before the read is answered at once.
fn begin(site: &Site, query: &str) -> Http {
    let mut client = site.client();
    client.write(&format!("GET {PATH}?{query} HTTP/1.1"), b"");
    client
}

#[test]
fn waits_until_there_is_no_delta() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"on": true, "mode": "eco"}}));
    let mut waiters: Vec<_> = (0..20).map(|_| begin(&site, "wait=converged&timeout=120")).collect();
    site.merge(PATH, json!({"reported": {"on": true}}));
    site.merge("/v1/devices/lamp/shadow", json!({"reported": {"mode": "off"}}));
    site.merge(PATH, json!({"reported": {"mode": "eco"}}));
    for waiter in &mut waiters {
        let reply = waiter.reply(false);
        assert_eq!((reply.status, reply.header("umbra-wait")), (200, Some("met")), "{reply:?}");
        assert!(reply.json()["state"].get("delta").is_none(), "{}", reply.text());
        assert_eq!(reply.json()["version"], json!(4));
    }
    let at_once = site.get(&format!("{PATH}?wait=converged&timeout=0"));
    assert_eq!((at_once.status, at_once.header("umbra-wait")), (200, Some("met")));
}

#[test]
fn waits_until_there_is_a_later_version() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"n": 1}}));
    let tag = site.get(PATH).etag();
    let too_early = site.get(&format!("{PATH}?wait=version%3E1&timeout=0"));
    assert_eq!((too_early.status, too_early.header("umbra-wait")), (200, Some("timeout")));
    let unchanged = site.send(&format!("GET {PATH}?wait=version%3E1&timeout=0 HTTP/1.1\nIf-None-Match: {tag}"), "");
    assert_eq!((unchanged.status, unchanged.header("umbra-wait")), (304, Some("timeout")));
    // Whoever asks for the next version again and again misses none that is there when it asks.
    let follower = {
        let mut client = site.client();
        thread::spawn(move || {
            let mut seen = 1;
            while seen < 30 {
                let reply = client.send(&format!("GET {PATH}?wait=version%3E{seen}&timeout=120 HTTP/1.1"), b"");
                assert_eq!(reply.header("umbra-wait"), Some("met"));
                let version = reply.json()["version"].as_u64().unwrap();
                assert!(version > seen);
                assert_eq!(reply.json()["state"]["desired"]["n"], json!(version));
                seen = version;
            }
        })
    };
    (2..=30).for_each(|n| _ = site.merge(PATH, json!({"desired": {"n": n}})));
    follower.join().unwrap();
}

#[test]
fn waits_for_a_shadow_that_does_not_exist() {
    let site = Site::open();
    let nothing = site.get(&format!("{PATH}?wait=version%3E0&timeout=0"));
    assert_eq!(nothing.status, 404);
    let mut waiter = begin(&site, "wait=version%3E0&timeout=120");
    site.put(PATH, json!({"desired": {"n": 1}}));
    assert_eq!(waiter.reply(false).json()["version"], json!(1));
    let mut waiter = begin(&site, "wait=version%3E1&timeout=120");
    site.send(&format!("DELETE {PATH} HTTP/1.1\nIf-Match: *"), "");
    assert_eq!(waiter.reply(false).status, 404, "the later version is that of the deletion");
}
