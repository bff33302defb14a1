//! Over HTTP: what one principal may ask for, and how many streams it may have, so that others find places too.

use std::time::Instant;

use serde_json::json;

use crate::{
    allowance, assert_met,
    harness::{
        eventually,
        http::{Http, Reply},
        server::{Server, Setup},
    },
};

fn web(limits: &'static str) -> Server {
    let listener = "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\nconnect_timeout = \"5m\"";
    Server::with(Setup { listener, limits, ..Setup::default() })
}

/// Asks as the anonymous client `client`, which is a principal of its own.
fn ask(server: &Server, client: &str, path: &str) -> (Http, Reply) {
    let mut http = Http::connect(server.address_of("web"));
    http.write(&format!("GET {path} HTTP/1.1\nUmbra-Client: {client}"), b"");
    let mut head = http.head();
    if head.header("content-type") != Some("text/event-stream") {
        head = http.body_of(head);
    }
    (http, head)
}

/// One principal took all places for streams of events and for waits, and everybody else was refused.
#[test]
fn streams_and_waits_of_one_principal() {
    let mut server = web("principal_sessions_max = 3");
    let mut streams: Vec<_> = (0..3).map(|_| ask(&server, "greedy", "/v1/events")).collect();
    assert!(streams.iter().all(|(_, head)| head.status == 200));
    for path in ["/v1/events", "/v1/devices/lamp/shadow?wait=version%3E0"] {
        let (_, refused) = ask(&server, "greedy", path);
        assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true), "{path}: {refused:?}");
        let expected = "Too many requests: more than 3 streams of events and waits of one principal";
        assert_eq!(refused.json()["message"], json!(expected), "{path}");
    }
    assert_eq!(ask(&server, "other", "/v1/events").1.status, 200, "another principal has its own");
    streams.pop();
    eventually("the place of one that ended", || (ask(&server, "greedy", "/v1/events").1.status == 200).then_some(()));
    drop(streams);
    assert_met(&mut server, &["principal_streams"]);
}

/// Over HTTP, what a principal sends was free, which over MQTT it is not.
#[test]
fn bodies_of_one_principal() {
    let mut server = web("principal_bytes_per_second = \"1 KiB\"");
    let send = |client: &str, path: &str, method: &str| {
        let body = json!({"state": {"desired": {"a": "x".repeat(100_000)}}}).to_string();
        let head =
            format!("{method} {path} HTTP/1.1\nUmbra-Client: {client}\nIf-Match: *\nContent-Type: application/json");
        Http::connect(server.address_of("web")).send(&head, body.as_bytes())
    };
    // It has come, so it is counted: as much as may come in more than a minute.
    assert_eq!(send("greedy", "/v1/devices/lamp/shadow", "PUT").status, 400, "'state' is no section");
    for (path, method) in [("/v1/devices/lamp/shadow", "PUT"), ("/things/lamp/shadow", "POST")] {
        let refused = send("greedy", path, method);
        assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true), "{path}: {refused:?}");
        assert_eq!(
            refused.json()["message"],
            json!("Too many requests: more than 1024 bytes a second of one principal")
        );
    }
    assert_eq!(ask(&server, "greedy", "/v1/devices").1.status, 200, "what has no body is not held up");
    assert_eq!(send("other", "/v1/devices/lamp/shadow", "PUT").status, 400, "another principal has its own");
    assert_met(&mut server, &["principal_bytes"]);
}

/// Lists and streams were free, however much of the store they walked through.
#[test]
fn lists_and_streams_are_requests() {
    // So few that even a machine that takes half a second for each of them meets it.
    let mut server = web("principal_requests_per_second = 1\nrequests_rate = \"1000/s burst 1000\"");
    for (number, path) in [
        "/v1/devices",
        "/v1/devices/lamp/shadows",
        "/v1/devices/lamp/shadow/history",
        "/v1/events",
        "/api/things/shadow/ListNamedShadowsForThing/lamp",
    ]
    .into_iter()
    .enumerate()
    {
        let client = format!("client-{number}");
        let start = Instant::now();
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..40 {
            let (_, reply) = ask(&server, &client, path);
            match reply.status {
                429 => {
                    refused += 1;
                    assert!(reply.header("retry-after").is_some(), "{path}: {reply:?}");
                    assert!(
                        reply.text().contains("more than 1 requests a second of one principal"),
                        "{path}: {reply:?}"
                    );
                }
                _ => taken += 1,
            }
        }
        assert!((1..=allowance(start, 1, 1)).contains(&taken), "{path}: {taken} in {:?}", start.elapsed());
        assert!(refused > 0, "{path}: none of 40 in {:?}", start.elapsed());
    }
    assert_met(&mut server, &["principal_requests"]);
}
