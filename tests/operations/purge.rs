//! `umbrad purge` and the operation that it uses: junk shadows, tombstones, and who may purge.

use serde_json::{Value, json};

use super::site::{LISTENERS, get, run, start, url};
use crate::harness::{
    client::Client,
    http::{Http, Reply},
    server::{Server, Setup, UNLIMITED},
    shadow::Requester,
    wire::V5,
};

fn purge(server: &Server, listener: &str, query: &str) -> Reply {
    Http::connect(server.address_of(listener)).send(&format!("POST /v1/purge?{query} HTTP/1.1"), b"")
}

fn write(server: &Server, device: &str, shadow: &str, value: u64) {
    let mut http = Http::connect(server.address_of("web"));
    let head =
        format!("PATCH /v1/devices/{device}/{shadow}?upsert=true HTTP/1.1\nContent-Type: application/merge-patch+json");
    let reply = http.send(&head, json!({"reported": {"n": value}}).to_string().as_bytes());
    assert!([200, 201].contains(&reply.status), "{reply:?}");
}

fn status(server: &Server, device: &str) -> u16 {
    get(server.address_of("web"), &format!("/v1/devices/{device}/shadow")).status
}

fn numbers(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

#[test]
fn junk_is_counted_and_then_deleted() {
    let server = start();
    let web = url(server.address_of("web"));
    for n in 0..150 {
        write(&server, &format!("junk-{n}"), "shadow", n);
    }
    write(&server, "junk-1", "shadows/named", 1);
    write(&server, "lamp-junk-1", "shadow", 1);
    write(&server, "junk", "shadow", 1);
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("shadow/junk-7/delete/accepted", 1)]);

    let (counted, _) = run(&["purge", "--pattern", "junk-*", "--dry-run", "--url", &web], 0);
    assert_eq!(numbers(&counted), json!({"purged": 0, "matching": 151, "kept": 0}));
    let (_, asked) = run(&["purge", "--pattern", "junk-*", "--url", &web], 2);
    assert!(asked.contains("151 shadows of devices 'junk-*' would be deleted"), "{asked}");
    let old = ["purge", "--pattern", "junk-*", "--not-updated-for", "1d", "--yes", "--url", &web];
    assert_eq!(numbers(&run(&old, 0).0), json!({"purged": 0, "kept": 0}));
    assert_eq!((status(&server, "junk-7"), status(&server, "junk-149")), (200, 200));

    let (done, _) = run(&["purge", "--pattern", "junk-*", "--yes", "--url", &web], 0);
    assert_eq!(numbers(&done), json!({"purged": 151, "kept": 0}));
    assert_eq!(watcher.message().json()["version"], 2, "a deletion has its events");
    let found = ["junk-7", "junk-149", "lamp-junk-1", "junk"].map(|device| status(&server, device));
    assert_eq!(found, [404, 404, 200, 200]);
    let history = get(server.address_of("web"), "/v1/devices/junk-7/shadow/history").json();
    assert_eq!(history["entries"][0]["deleted"], true, "{history}");
    let page = get(server.address_of("web"), "/metrics").text();
    assert!(page.contains("umbra_shadows{state=\"live\"} 2\n"), "{page}");
    assert!(page.contains("umbra_shadows{state=\"deleted\"} 151\n"), "{page}");
    let log = server.log();
    assert!(log.contains("shadows purged") && log.contains("pattern=\"junk-*\""), "{log}");
    // The changes are in the journal, so the tombstones are kept.
    let (kept, _) = run(&["purge", "--deleted", "--yes", "--url", &web], 0);
    assert_eq!(numbers(&kept), json!({"purged": 0, "kept": 151}));
}

/// The journal is as small as it may be, and large updates push out the changes of a deleted shadow.
#[test]
fn tombstones_are_dropped_and_versions_go_on() {
    let server = Server::with(Setup { listener: LISTENERS, store: "journal_bytes_max = \"16 MiB\"", ..UNLIMITED });
    let web = url(server.address_of("web"));
    let mut junk = Requester::new(&server, V5, "setter", "shadow/junk-1");
    junk.update(json!({"state": {"reported": {"n": 1}}}));
    junk.accepted("delete", json!({}));
    write(&server, "lamp-1", "shadow", 1);
    let dropped = || {
        let (output, _) = run(&["purge", "--deleted", "--pattern", "junk-*", "--dry-run", "--url", &web], 0);
        numbers(&output)["matching"] == 1
    };
    assert!(!dropped());
    let mut filler = Requester::new(&server, V5, "filler", "shadow/filler");
    let mut n = 0;
    while !dropped() {
        for _ in 0..20 {
            n += 1;
            filler.update(json!({"state": {"reported": {"n": n, "text": format!("{n:07000}")}}}));
        }
        assert!(n < 20_000, "the journal keeps everything");
    }
    let (output, _) = run(&["purge", "--deleted", "--yes", "--url", &web], 0);
    assert_eq!(numbers(&output), json!({"purged": 1, "kept": 0}));
    let page = get(server.address_of("web"), "/metrics").text();
    assert!(page.contains("umbra_shadows{state=\"deleted\"} 0\n"), "{page}");
    assert_eq!(junk.update(json!({"state": {"reported": {"n": 1}}}))["version"], 3, "after the deleted one");
}

#[test]
fn only_an_operator_may_purge() {
    let server = start();
    write(&server, "junk-1", "shadow", 1);
    for (listener, query, expected) in [
        ("viewers", "pattern=junk-*", 403),
        ("scraped", "pattern=junk-*", 401),
        ("web", "", 400),
        ("web", "pattern=", 400),
        ("web", "pattern=junk%20*", 400),
        ("web", "pattern=junk-*&x=1", 400),
        ("web", "pattern=junk-*&cursor=%2F", 400),
        ("web", "deleted=true&not_updated_since=5", 400),
        ("web", "pattern=junk-*&not_updated_since=99999999999", 400),
        ("web", "pattern=junk-*&not_updated_since=5", 200),
        ("web", "pattern=other-*", 200),
    ] {
        let reply = purge(&server, listener, query);
        assert_eq!(reply.status, expected, "{listener}, {query}: {reply:?}");
    }
    assert_eq!(status(&server, "junk-1"), 200);
    let reply = purge(&server, "web", "pattern=*-1");
    assert_eq!((reply.status, reply.json()), (200, json!({"purged": 1, "kept": 0})));
    assert_eq!(status(&server, "junk-1"), 404);
}
