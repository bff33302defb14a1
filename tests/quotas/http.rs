//! Over HTTP: what one principal may ask for, and how many streams it may have, so that others find places too.

use std::time::Instant;

use serde_json::json;

use crate::{
    allowance, assert_met,
    harness::{
        client::Client,
        eventually,
        http::{Http, Reply},
        server::{Server, Setup},
        wire::{Connect, V5},
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

/// Waits until the work of the anonymous client `client` has been above its rate.
fn wait_until_throttled(server: &Server, client: &str) {
    let mut operators = 0..;
    eventually(&format!("{client} to be throttled"), || {
        let operator = format!("operator-{}", operators.next()?);
        let metrics = ask(server, &operator, "/metrics").1.text();
        let is_of_client = |line: &&str| line.starts_with("umbra_principal_throttled_total") && line.contains(client);
        metrics.lines().find(is_of_client).map(|_| ())
    });
}

/// One principal took all places for streams of events and for waits, and everybody else was refused.
#[test]
fn streams_and_waits_of_one_principal() {
    let mut server = web("[[role]]\nrole = \"admin\"\nsessions = 3");
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

/// The connections of one principal that are kept open were nobody's memory.
#[test]
fn connections_are_memory() {
    let mut server = web("[[role]]\nrole = \"admin\"\nmemory = \"200 KiB\"");
    let path = "/v1/devices/lamp/shadow";
    let mut kept = Vec::new();
    let refused = (0..20).map(|_| ask(&server, "greedy", path)).find_map(|(http, reply)| {
        kept.push(http);
        (reply.status == 429).then_some(reply)
    });
    let refused = refused.expect("20 connections are more than its memory");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(kept.len() > 2, "{}", kept.len());
    assert_eq!(ask(&server, "other", path).1.status, 404, "another principal has its own");
    drop(kept);
    eventually("the memory of those that ended", || (ask(&server, "greedy", path).1.status == 404).then_some(()));
    assert_met(&mut server, &["principal_memory"]);
}

/// A document of a megabyte cost as little as an empty one, so that reading it again and again kept a processor busy.
#[test]
fn reads_are_work_by_their_size() {
    let mut server =
        web("requests_rate = \"1000/s burst 1000\"\ndocument_bytes_max = \"1 MiB\"\npacket_bytes_max = \"3 MiB\"\n\
         [[role]]\nrole = \"admin\"\nwork = 100");
    let document = json!({"desired": {"a": "x".repeat(1_000_000)}}).to_string();
    let head =
        "PUT /v1/devices/lamp/shadow HTTP/1.1\nUmbra-Client: owner\nIf-None-Match: *\nContent-Type: application/json";
    let written = Http::connect(server.address_of("web")).send(head, document.as_bytes());
    assert!(matches!(written.status, 200 | 201), "{written:?}");
    // A thousand units at once are a dozen small reads; the large one takes ten seconds and more to be paid.
    let is_refused = |client: &str, path: &str| {
        let replies = (0..5).map(|_| ask(&server, client, path).1.status);
        replies.collect::<Vec<_>>().contains(&429)
    };
    assert!(!is_refused("small", "/v1/devices/other/shadow"), "five small reads are within the burst");
    for path in ["/v1/devices/lamp/shadow", "/things/lamp/shadow"] {
        assert!(is_refused(&format!("reader-of-{}", path.len()), path), "{path}");
    }
    assert_met(&mut server, &["principal_work"]);
}

/// Requests with their bodies, lists and streams are work, and what comes above the rate is refused.
#[test]
fn requests_are_work() {
    // So little that even a machine that takes half a second for each of them meets it: a second for 100 units.
    let mut server = web("requests_rate = \"1000/s burst 1000\"\n[[role]]\nrole = \"admin\"\nwork = 100");
    let update = json!({"state": {"desired": {"a": "x".repeat(20_000)}}}).to_string();
    let (put, list) = ("PUT /v1/devices/lamp/shadow", "GET /api/things/shadow/ListNamedShadowsForThing/lamp");
    for (number, (request, body)) in [
        (put, &*update),
        ("POST /things/lamp/shadow", &update),
        ("GET /v1/devices", ""),
        ("GET /v1/devices/lamp/shadows", ""),
        ("GET /v1/devices/lamp/shadow/history", ""),
        (list, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let condition = if request == put { "If-Match: *\n" } else { "" };
        let head =
            format!("{request} HTTP/1.1\nUmbra-Client: client-{number}\n{condition}Content-Type: application/json");
        let send = || Http::connect(server.address_of("web")).send(&head, body.as_bytes());
        let refused = (0..60).map(|_| send()).find(|reply| reply.status == 429);
        let refused = refused.unwrap_or_else(|| panic!("{request}: none of 60"));
        assert!(refused.header("retry-after").is_some(), "{request}: {refused:?}");
        assert!(refused.text().contains("more than 100 units of work a second of one principal"), "{refused:?}");
    }
    assert_eq!(ask(&server, "other", "/v1/devices").1.status, 200, "another principal has its own");
    assert_met(&mut server, &["principal_work"]);
}

/// Connections that asked for the files of the dashboard, again and again, delayed the updates of all others, and nobody
/// paid for it.
#[test]
fn requests_without_a_login_are_work_of_their_address() {
    const FILE: &str = "/assets/app.js";
    let mut server = web("");
    let mut http = Http::connect(server.address_of("web"));
    let start = Instant::now();
    let file = http.send(&format!("GET {FILE} HTTP/1.1"), b"");
    let bytes = file.body.len();
    let count = 800_000 / (50 + bytes / 512);
    for _ in 0..count {
        http.write(&format!("GET {FILE} HTTP/1.1"), b"");
        assert_eq!(http.reply(false).body.len(), bytes);
    }
    let units = count * (50 + bytes / 512);
    let allowed = allowance(start, 50_000 + 500, 500_000 + 6_000 + 12_500);
    assert!(units <= allowed, "{units} of {allowed} units");
    assert_met(&mut server, &["address_work"]);
}

/// A stream that came back to an old position, a page of history before an old version, and an old version cost as little
/// as new ones, also if nothing of what was read was for the client.
#[test]
fn reading_far_back_is_work() {
    const VERSIONS: usize = 1_600;
    const PATH: &str = "/v1/devices/lamp/shadow";
    let mut server = web("requests_rate = \"1000/s burst 10000\"\n[[role]]\nrole = \"admin\"\nwork = 100");
    let mut http = Http::connect(server.address_of("web"));
    for number in 0..VERSIONS {
        // Each client has a thousand units, which are ten updates.
        let client = number / 10;
        let head =
            format!("PUT {PATH}?upsert=true HTTP/1.1\nUmbra-Client: writer-{client}\nContent-Type: application/json");
        let written = http.send(&head, json!({"desired": {"n": number}}).to_string().as_bytes());
        assert!(matches!(written.status, 200 | 201), "{written:?}");
    }
    for (client, path) in [("historian", "/history?before=2&limit=1"), ("archivist", "?version=900")] {
        let replies = [(); 2].map(|()| ask(&server, client, &format!("{PATH}{path}")).1);
        assert_eq!(replies.each_ref().map(|reply| reply.status), [200, 429], "{path}: {replies:?}");
    }
    let mut follower = Http::connect(server.address_of("web"));
    follower.write("GET /v1/events?path=/tags/none HTTP/1.1\nUmbra-Client: follower\nLast-Event-ID: j0", b"");
    assert_eq!(follower.head().status, 200);
    wait_until_throttled(&server, "follower");
    drop((http, follower));
    assert_met(&mut server, &["principal_work"]);
}

/// A stream whose paths no change met was woken by each, and paid for none.
#[test]
fn changes_that_a_stream_leaves_out_are_work() {
    let listener = r#"
[[listener]]
name = "web"
kind = "http"
bind = "127.0.0.1:0"

[[listener]]
name = "watch"
kind = "http"
bind = "127.0.0.1:0"
anonymous_role = "viewer"
"#;
    let limits = "requests_rate = \"1000000/s burst 1000000\"\npublishes_rate = \"10000000/s burst 5000\"\n\
                  [[role]]\nrole = \"viewer\"\nwork = 100";
    let server = Server::with(Setup { listener, limits, ..Setup::default() });
    let mut follower = Http::connect(server.address_of("watch"));
    follower.write("GET /v1/events?path=/desired/none HTTP/1.1\nUmbra-Client: follower", b"");
    assert_eq!(follower.head().status, 200);
    let mut writer = Client::connect(&server, V5, "writer");
    for number in 0..4_000 {
        writer.publish("shadow/lamp/update", format!("{{\"state\":{{\"desired\":{{\"n\":{number}}}}}}}"), 0);
    }
    wait_until_throttled(&server, "follower");
}

/// A page of devices that match none of its filters read two thousand documents at the price of any page.
#[test]
fn a_list_is_work_by_its_documents() {
    let server = web("[[role]]\nrole = \"admin\"\nwork = 100");
    let mut http = Http::connect(server.address_of("web"));
    for number in 0..300 {
        let head = format!(
            "PUT /v1/devices/lamp-{number}/shadow?upsert=true HTTP/1.1\nUmbra-Client: writer-{}\n\
             Content-Type: application/json",
            number / 8
        );
        assert_eq!(http.send(&head, br#"{"reported": {"a": 1}}"#).status, 201);
    }
    let reply = ask(&server, "lister", "/v1/devices?drift=true").1;
    assert_eq!((reply.status, &reply.json()["devices"]), (200, &json!([])), "{reply:?}");
    wait_until_throttled(&server, "lister");
}

/// A session that came back read large entries of the journal at the price of small ones.
#[test]
fn missed_changes_are_work_by_their_size() {
    let mut server = web("[[role]]\nrole = \"admin\"\nwork = 100");
    let session = Connect::persistent(V5, "sleeper");
    let (mut sleeper, _) = Client::connect_as(&server, &session);
    sleeper.subscribe(&[("shadow/+/update/accepted", 1)]);
    sleeper.disconnect();
    let document = json!({"desired": {"text": "x".repeat(7_000)}}).to_string();
    let mut http = Http::connect(server.address_of("web"));
    for number in 0..100 {
        let head = format!(
            "PUT /v1/devices/lamp-{number}/shadow?upsert=true HTTP/1.1\nUmbra-Client: writer-{number}\n\
             Content-Type: application/json"
        );
        assert_eq!(http.send(&head, document.as_bytes()).status, 201);
    }
    // Connecting, two pages and a hundred messages are less than the thousand units that may come at once.
    let _sleeper = Client::connect_as(&server, &session);
    wait_until_throttled(&server, "sleeper");
    server.stop();
}

/// A client that stored named queries again and again filled the log.
#[test]
fn lines_of_one_client_are_limited() {
    let mut server = web("");
    let start = Instant::now();
    for number in 0..40 {
        let head = format!("PUT /v1/queries/q{} HTTP/1.1\nContent-Type: application/json", number % 2);
        let stored = Http::connect(server.address_of("web")).send(&head, br#"{"q": "drift:true"}"#);
        assert!(matches!(stored.status, 200 | 201), "{stored:?}");
    }
    let most = 10 + usize::try_from(start.elapsed().as_secs() / 6).unwrap() + 1;
    let log = server.stop().log;
    let lines = log.lines().filter(|line| line.contains("named query stored")).count();
    assert!((10..=most).contains(&lines), "{lines} of at most {most}");
}

/// Whole loads of the dashboard, and probes, meet no limit.
#[test]
fn pages_and_probes_do_not_wait() {
    let mut server = Server::with(Setup {
        listener: "[[listener]]\nname = \"web\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\nanonymous = false\n\
                   metrics = true\nconnect_timeout = \"5m\"",
        ..Setup::default()
    });
    let mut http = Http::connect(server.address_of("web"));
    for _ in 0..4 {
        for path in ["/", "/assets/app.js", "/assets/app.css", "/assets/icon.svg"] {
            assert_eq!(http.send(&format!("GET {path} HTTP/1.1"), b"").status, 200, "{path}");
        }
        for path in ["/session", "/v1/devices"] {
            assert_eq!(http.send(&format!("GET {path} HTTP/1.1"), b"").status, 401, "{path}");
        }
        for path in ["/healthz", "/readyz"] {
            assert_eq!(http.send(&format!("GET {path} HTTP/1.1"), b"").status, 200, "{path}");
        }
    }
    assert_eq!(http.send("GET /metrics HTTP/1.1", b"").status, 200);
    assert_met(&mut server, &[]);
}
