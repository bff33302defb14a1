//! `version`, `etag` and `version: 0`.

use serde_json::json;

use crate::harness::{
    server::Server,
    shadow::{Requester, version},
    wire::{BOTH, V5},
};

#[test]
fn an_expected_version_decides() {
    let server = Server::start();
    for protocol in BOTH {
        let prefix = format!("shadow/version-{}", protocol as u8);
        let mut client = Requester::new(&server, protocol, "client", &prefix);
        let write = |value: u64, version: u64| json!({"state": {"desired": {"v": value}}, "version": version});
        // On a shadow that never was.
        let refused = client.rejected("update", write(1, 1), 409, "version-conflict");
        assert_eq!((&refused.body["expected"], &refused.body["version"]), (&json!(1), &json!(0)));
        assert!(refused.body.get("etag").is_none(), "{:?}", refused.body);
        client.update(write(1, 0));
        client.update(write(2, 1));
        for stale in [0, 1, 3, 9_007_199_254_740_991] {
            let refused = client.rejected("update", write(9, stale), 409, "version-conflict");
            assert_eq!(refused.body["message"], json!("Version conflict"));
            assert_eq!((&refused.body["expected"], &refused.body["version"]), (&json!(stale), &json!(2)));
            assert!(refused.body["timestamp"].is_u64());
            // A retry needs no get: the version and the etag are the current ones.
            assert_eq!(refused.body["etag"], client.get()["etag"]);
            if protocol == V5 {
                assert_eq!(refused.ack.code, 0x83);
                let reason = refused.ack.properties.text(crate::harness::wire::prop::REASON_STRING);
                assert_eq!(reason, Some(format!("version conflict: expected {stale}, current 2").as_str()));
            }
        }
        assert_eq!(client.get()["state"]["desired"]["v"], json!(2), "a rejected update changes nothing");
        assert_eq!(version(&client.update(write(3, 2))), 3);
    }
}

#[test]
fn an_expected_etag_decides() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/etag");
    let first = client.update(json!({"state": {"desired": {"v": 1}}}));
    let second = client.update(json!({"state": {"desired": {"v": 2}}, "etag": first["etag"]}));
    let body = |etag: &serde_json::Value| json!({"state": {"desired": {"v": 3}}, "etag": etag});
    let etag = second["etag"].as_str().unwrap();
    for wrong in [first["etag"].clone(), json!("\"*\""), json!("\"\"")] {
        let refused = client.rejected("update", body(&wrong), 409, "version-conflict");
        assert_eq!((&refused.body["version"], &refused.body["etag"]), (&json!(2), &second["etag"]), "{wrong}");
    }
    // What could never be one was a conflict too, whatever the client tried.
    for wrong in [json!("*"), json!(""), json!(etag.trim_matches('"')), json!(format!("W/{etag}"))] {
        let refused = client.rejected("update", body(&wrong), 400, "invalid-field");
        let message = "Invalid field 'etag': must be an etag with its own quotes, such as \"7-…\"";
        assert_eq!(refused.body["message"], message, "{wrong}");
    }
    // Both given, both must hold.
    for (version, etag, holds) in [(1, &second["etag"], false), (2, &first["etag"], false), (2, &second["etag"], true)]
    {
        let answer =
            client.request("update", json!({"state": {"desired": {"v": 4}}, "etag": etag, "version": version}));
        assert_eq!(answer.accepted, holds, "{answer:?}");
    }
}

/// The same value again has another etag: the version is in it.
#[test]
fn a_restored_value_has_another_etag() {
    let server = Server::start();
    let mut client = Requester::new(&server, V5, "client", "shadow/aba");
    let a = client.update(json!({"state": {"desired": {"v": "a"}}}));
    client.update(json!({"state": {"desired": {"v": "b"}}}));
    client.update(json!({"state": {"desired": {"v": "a"}}}));
    client.rejected("update", json!({"state": {"desired": {"v": "c"}}, "etag": a["etag"]}), 409, "version-conflict");
}

/// Many clients, one expected version: exactly one wins.
#[test]
fn one_of_many_wins() {
    const CLIENTS: usize = 32;
    let server = Server::start();
    let meeting = crate::harness::Meeting::of(CLIENTS);
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let (server, meeting) = (&server, &meeting);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = Requester::private(server, &format!("racer-{number}"), "shadow/one");
                    meeting.wait();
                    let body = json!({"state": {"desired": {"winner": number}}, "version": 0});
                    client.request("update", body).accepted
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|accepted| **accepted).count(), 1, "{outcomes:?}");
    let end = Requester::private(&server, "reader", "shadow/one").get();
    let winner = outcomes.iter().position(|accepted| *accepted).unwrap();
    assert_eq!((version(&end), &end["state"]["desired"]["winner"]), (1, &json!(winner)));
    println!("{CLIENTS} clients created one shadow: number {winner} won");
}
