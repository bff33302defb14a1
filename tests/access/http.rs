//! The same rights over HTTP: what may not be read is not there, not to be guessed, and not to be written round.

use serde_json::{Value, json};

use crate::{
    harness::{
        http::{Http, Reply},
        server::Server,
        wire::{Publish, V5},
    },
    site::{client, site, site_with},
};

/// `user:user-password`, as RFC 7617 has it.
pub(crate) fn basic(user: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = format!("{user}:{user}-password");
    let groups = text.as_bytes().chunks(3).map(|chunk| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digit = |place: usize| {
            if place > chunk.len() { '=' } else { DIGITS[(bits >> (18 - 6 * place) & 63) as usize] as char }
        };
        (0..4).map(digit).collect::<String>()
    });
    format!("Basic {}", groups.collect::<String>())
}

/// Sends a request of `user`: its line, then header lines.
fn send(server: &Server, user: &str, head: &str, body: &str) -> Reply {
    let head = format!("{head}\nAuthorization: {}", basic(user));
    Http::connect(server.address_of("web")).send(&head, body.as_bytes())
}

pub(crate) fn get(server: &Server, user: &str, path: &str) -> Reply {
    send(server, user, &format!("GET {path} HTTP/1.1"), "")
}

fn patch(server: &Server, user: &str, kind: &str, condition: &str, body: &str) -> Reply {
    let head = format!("PATCH {LAMP} HTTP/1.1\nContent-Type: application/{kind}\n{condition}");
    send(server, user, &head, body)
}

const LAMP: &str = "/v1/devices/lamp-1/shadow";

/// A site with a shadow of which `partial` may read `/desired/zone/t` and `/reported/zone`.
fn hidden(pin: u64) -> Server {
    let server = site();
    let state = json!({
        "desired": {"zone": {"t": 20, "pin": pin}, "mode": "eco"},
        "reported": {"zone": {"t": 19}},
        "tags": {"owner": pin},
    });
    client(&server, "boss", V5).publish("shadow/lamp-1/update", json!({ "state": state }).to_string(), 1);
    server
}

#[test]
fn requests_without_credentials_are_refused() {
    let server = hidden(1);
    let bare = Http::connect(server.address_of("web")).send(&format!("GET {LAMP} HTTP/1.1"), b"");
    assert_eq!((bare.status, bare.header("www-authenticate").is_some()), (401, true));
    for wrong in ["Basic bm9ib2R5Om5vYm9keQ==", "Basic !", "Bearer x.y.z", "Digest x", "Basic"] {
        let head = format!("GET {LAMP} HTTP/1.1\nAuthorization: {wrong}");
        let refused = Http::connect(server.address_of("web")).send(&head, b"");
        assert_eq!(refused.status, 401, "{wrong}");
        assert_eq!(refused.json()["message"], bare.json()["message"], "the response does not name the wrong half");
    }
    assert_eq!(get(&server, "boss", LAMP).status, 200);
}

/// The first of two counted, while a proxy before the server might have looked at the second.
#[test]
fn refuses_two_authorization_headers() {
    let server = hidden(1);
    let (boss, viewer) = (basic("boss"), basic("viewer-1"));
    for path in [LAMP, "/v1/devices", "/v1/events", "/session", "/metrics", "/things/lamp-1/shadow"] {
        for second in [&viewer, &boss, "Bearer x"] {
            let head = format!("GET {path} HTTP/1.1\nAuthorization: {boss}\nAuthorization: {second}");
            let reply = Http::connect(server.address_of("web")).send(&head, b"");
            let message = "Invalid parameter 'Authorization': must be present exactly once";
            assert_eq!((reply.status, &reply.json()["message"]), (400, &json!(message)), "{path}: {reply:?}");
        }
    }
}

/// The response does not depend on the existence of a shadow that may not be read.
#[test]
fn an_unreadable_shadow_is_not_found() {
    let server = hidden(1);
    let response = |reply: &Reply| (reply.status, reply.json()["message"].clone());
    for (path, absent) in [
        (LAMP, "/v1/devices/lamp-9/shadow"),
        ("/v1/devices/lamp-1/shadow/history", "/v1/devices/lamp-9/shadow/history"),
        ("/v1/devices/lamp-1/shadow/rejections", "/v1/devices/lamp-9/shadow/rejections"),
        ("/things/lamp-1/shadow", "/things/lamp-9/shadow"),
        ("/v1/devices/lamp-1%2Fshadow", "/v1/devices/lamp-9%2Fshadow"),
        ("/v1/devices/lamp-2/../lamp-1/shadow", "/v1/devices/lamp-2/../lamp-9/shadow"),
        ("/v1/devices/LAMP-1/shadow", "/v1/devices/LAMP-9/shadow"),
    ] {
        let (there, absent) = (get(&server, "lamp-2", path), get(&server, "lamp-2", absent));
        assert_eq!(there.status, absent.status, "{path}: {there:?}");
        assert_ne!(there.status, 200, "{path}");
        let same = response(&there).1.to_string().replace("lamp-1", "lamp-9").replace("LAMP-1", "LAMP-9");
        assert_eq!(same, response(&absent).1.to_string(), "{path}");
    }
    let names = |path: &str| get(&server, "lamp-2", path).json();
    assert_eq!(names("/v1/devices")["devices"], json!([]));
    assert_eq!(names("/v1/rejections")["rejections"], json!([]));
    assert_eq!(get(&server, "boss", "/v1/devices").json()["devices"][0]["id"], "lamp-1");
    let write = format!("PUT {LAMP} HTTP/1.1\nContent-Type: application/json\nIf-Match: *");
    let refused = send(&server, "lamp-2", &write, r#"{"reported":{"a":1}}"#);
    assert_eq!(refused.status, 404);
    assert_eq!(send(&server, "lamp-2", &format!("DELETE {LAMP} HTTP/1.1\nIf-Match: *"), "").status, 404);
    let anything = send(&server, "lamp-2", "POST /things/lamp-1/shadow HTTP/1.1", r#"{"state":{"reported":{"a":1}}}"#);
    assert_eq!(anything.status, 403);
    assert_eq!(get(&server, "boss", LAMP).json()["version"], 1);
    let response = |user: &str| get(&server, user, "/v1/rejections").json()["rejections"].clone();
    let stale = format!("PATCH {LAMP} HTTP/1.1\nContent-Type: application/merge-patch+json\nIf-Match: \"9-x\"");
    assert_eq!(send(&server, "boss", &stale, "{}").status, 412);
    assert_eq!((&response("boss")[0]["code"], response("lamp-2")), (&json!(409), json!([])));
}

#[test]
fn responses_show_only_readable_paths() {
    let server = hidden(4711);
    for path in [
        LAMP.to_owned(),
        format!("{LAMP}?fields=/desired,/reported,/tags,/delta"),
        format!("{LAMP}?fields=/desired/zone/pin,/tags/owner"),
        format!("{LAMP}?version=1"),
        format!("{LAMP}/history"),
        "/things/lamp-1/shadow".to_owned(),
        "/v1/devices/lamp-1/shadows".to_owned(),
    ] {
        let reply = get(&server, "partial", &path);
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 200, "{path} {text}");
        for secret in ["4711", "pin", "owner", "eco"] {
            assert!(!text.contains(secret), "{path} reveals {secret}: {text}");
        }
    }
    let seen = get(&server, "partial", LAMP).json();
    assert_eq!(
        seen["state"],
        json!({"desired": {"zone": {"t": 20}}, "reported": {"zone": {"t": 19}}, "delta": {"zone": {"t": 20}}})
    );
}

/// `?version=` showed the past to whoever might see the present. What a stream missed while it was away is no such
/// past.
#[test]
fn former_versions_need_the_right_to_history() {
    let server = site_with(
        r#"
[[rule]]
role = "present"
devices = ["lamp-*"]
operations = ["get", "subscribe"]
read = ["/desired"]

[[rule]]
role = "past"
devices = ["lamp-*"]
operations = ["history"]
read = ["/desired/mode"]

[[grant]]
role = "present"
principals = ["kiosk", "partial"]

[[grant]]
role = "past"
principals = ["partial"]
"#,
    );
    let mut boss = client(&server, "boss", V5);
    let mut set = |device: &str, state: Value| {
        boss.publish(&format!("shadow/{device}/update"), json!({"state": {"desired": state}}).to_string(), 1);
    };
    const OTHER: &str = "/v1/devices/lamp-2/shadow";
    set("lamp-2", json!({"pin": 4711, "mode": "eco"}));
    set("lamp-2", json!({"pin": 2, "mode": "day"}));
    let now = json!({"desired": {"pin": 2, "mode": "day"}});
    for (user, path, status, state) in [
        ("kiosk", OTHER.to_owned(), 200, &now),
        ("kiosk", format!("{OTHER}?version=2"), 200, &now),
        ("kiosk", format!("{OTHER}?version=1"), 403, &Value::Null),
        ("kiosk", format!("{OTHER}?version=3"), 404, &Value::Null),
        ("kiosk", format!("{OTHER}/history"), 403, &Value::Null),
        ("partial", format!("{OTHER}?version=2"), 200, &now),
        ("partial", format!("{OTHER}?version=1"), 200, &json!({"desired": {"mode": "eco"}})),
        ("lamp-1", format!("{OTHER}?version=1"), 404, &Value::Null),
        ("lamp-1", format!("{OTHER}?version=2"), 404, &Value::Null),
        ("lamp-1", format!("{OTHER}/history"), 404, &Value::Null),
    ] {
        let reply = get(&server, user, &path);
        assert_eq!((reply.status, &reply.json()["state"]), (status, state), "{user} {path}: {reply:?}");
        assert!(!reply.text().contains("4711"), "{user} {path}: {reply:?}");
        if status == 403 {
            assert_eq!(reply.json()["message"], "Forbidden: history lamp-2", "{user} {path}");
        }
    }
    let mut stream = Events::follow(&server, "kiosk", "?device=lamp-2", "");
    set("lamp-2", json!({"pin": 3}));
    let (seen, id) = stream.next_with_id();
    assert_eq!(seen["version"], 3);
    drop(stream);
    set("lamp-2", json!({"pin": 4}));
    let missed = Events::follow(&server, "kiosk", "?device=lamp-2", &format!("\nLast-Event-ID: {id}")).next();
    assert_eq!((&missed["version"], &missed["changes"][0]["value"]), (&json!(4), &json!(4)));
}

#[test]
fn entity_tags_cover_only_readable_paths() {
    let tags = [1, 2].map(|pin| {
        let server = hidden(pin);
        let etag = |user: &str| get(&server, user, LAMP).header("etag").unwrap().to_owned();
        let (own, full) = (etag("partial"), etag("boss"));
        assert_ne!(own, full);
        for (user, tag, status) in
            [("partial", &own, 304), ("partial", &full, 200), ("boss", &full, 304), ("boss", &own, 200)]
        {
            let head = format!("GET {LAMP} HTTP/1.1\nIf-None-Match: {tag}");
            assert_eq!(send(&server, user, &head, "").status, status, "{user} {tag}");
        }
        let update = r#"{"desired":{"zone":{"t":20}}}"#;
        let refused = patch(&server, "partial", "merge-patch+json", &format!("If-Match: {full}"), update);
        assert_eq!((refused.status, refused.header("etag")), (412, Some(own.as_str())));
        assert_eq!(refused.json()["etag"], own);
        let none_of = patch(&server, "partial", "merge-patch+json", &format!("If-None-Match: {full}"), update);
        assert_eq!(none_of.status, 200, "not a tag of what it sees: {none_of:?}");
        let accepted = patch(&server, "partial", "merge-patch+json", &format!("If-Match: {own}"), update);
        assert_eq!(accepted.status, 200, "{accepted:?}");
        own
    });
    assert_eq!(tags[0], tags[1]);
}

/// A replay for a reader of part of a shadow had no `ETag`.
#[test]
fn a_replay_has_the_etag_of_the_readable_part() {
    let mut server = hidden(4711);
    let ask = |server: &Server| {
        let update = r#"{"desired":{"zone":{"t":21}}}"#;
        patch(server, "partial", "merge-patch+json", "If-Match: *\nIdempotency-Key: k", update)
    };
    let first = ask(&server);
    assert_eq!((first.status, first.header("etag")), (200, get(&server, "partial", LAMP).header("etag")));
    for _ in 0..2 {
        let again = ask(&server);
        assert_eq!((again.status, again.header("etag")), (200, first.header("etag")));
        assert_eq!((&again.json()["etag"], &again.json()["replayed"]), (&first.json()["etag"], &json!(true)));
        assert_eq!(send(&server, "boss", &format!("DELETE {LAMP} HTTP/1.1\nIf-Match: *"), "").status / 100, 2);
        let state = r#"{"desired":{"zone":{"t":1}}}"#;
        let put = "HTTP/1.1\nContent-Type: application/json\nIf-None-Match: *";
        assert_eq!(send(&server, "boss", &format!("PUT {LAMP} {put}"), state).status, 201);
        server.kill();
        server.restart();
    }
}

/// One device shows as much as lists do.
#[test]
fn a_device_lists_only_readable_shadows() {
    let server = hidden(1);
    let _device = client(&server, "lamp-1", V5);
    let of = |user: &str, device: &str| get(&server, user, &format!("/v1/devices/{device}"));
    for (user, shown) in [("boss", [true, true]), ("viewer-1", [true, false]), ("lamp-1", [true, false])] {
        let found = of(user, "lamp-1").json();
        assert_eq!([found["connected"] == json!(true), found["address"].is_string()], shown, "{user}: {found}");
        assert_eq!(found["shadows"].as_array().map(Vec::len), Some(1), "{user}");
    }
    assert_eq!(of("partial", "lamp-1").json()["shadows"][0]["etag"], get(&server, "partial", LAMP).etag());
    for (user, device) in [("partial", "lamp-2"), ("lamp-2", "lamp-1"), ("boss", "nobody")] {
        assert_eq!(of(user, device).status, 404, "{user} {device}");
    }
}

#[test]
fn a_json_patch_reads_only_paths_its_sender_may_read() {
    let server = hidden(4711);
    for (operation, path) in [
        (json!({"op": "test", "path": "/desired/zone/pin", "value": 4711}), "/desired/zone/pin"),
        (json!({"op": "test", "path": "/desired/zone/pin", "value": 1}), "/desired/zone/pin"),
        (json!({"op": "test", "path": "/tags/owner", "value": 4711}), "/tags/owner"),
        (json!({"op": "test", "path": "/desired/zone", "value": {"t": 20, "pin": 4711}}), "/desired/zone"),
        (json!({"op": "copy", "from": "/desired/zone/pin", "path": "/desired/zone/t"}), "/desired/zone/pin"),
        (json!({"op": "move", "from": "/tags/owner", "path": "/desired/zone/t"}), "/tags/owner"),
        (json!({"op": "copy", "from": "/tags", "path": "/desired/zone/t"}), "/tags"),
        (json!({"op": "remove", "path": "/desired/zone/pin"}), "/desired/zone/pin"),
        (json!({"op": "replace", "path": "/desired/mode", "value": 1}), "/desired/mode"),
        (json!({"op": "test", "path": "/desired/absent", "value": 1}), "/desired/absent"),
    ] {
        for query in ["", "?dry_run=true"] {
            let head = format!("PATCH {LAMP}{query} HTTP/1.1\nContent-Type: application/json-patch+json\nIf-Match: *");
            let refused = send(&server, "partial", &head, &json!([operation]).to_string());
            assert_eq!(refused.status, 403, "{operation}: {refused:?}");
            assert_eq!(refused.json()["message"], format!("Forbidden: {path}"), "{operation}");
        }
    }
    let allowed = json!([
        {"op": "test", "path": "/desired/zone/t", "value": 20},
        {"op": "copy", "from": "/reported/zone/t", "path": "/desired/zone/t"},
    ]);
    let accepted = patch(&server, "partial", "json-patch+json", "If-Match: *", &allowed.to_string());
    assert_eq!(accepted.status, 200, "{accepted:?}");
    assert_eq!(get(&server, "boss", LAMP).json()["state"]["desired"]["zone"], json!({"t": 19, "pin": 4711}));
}

/// The staleness of a patch that does not fit was decided by all that it would write, and whether one that gives an object
/// is stale by all that is there: both revealed the change of a hidden path.
#[test]
fn a_json_patch_does_not_reveal_hidden_changes() {
    let server = hidden(1);
    let mut boss = client(&server, "boss", V5);
    for state in [json!({"desired": {"zone": {"pin": 2}}, "tags": {"owner": 2}}), json!({"reported": {"n": 1}})] {
        boss.publish("shadow/lamp-1/update", json!({ "state": state }).to_string(), 1);
    }
    let misfit = |path: &str| json!([{"op": "add", "path": path, "value": {}}, {"op": "test", "path": "/desired/zone/t", "value": 0}]);
    let object = json!([{"op": "add", "path": "/desired", "value": {"zone": {"t": 20}}}]);
    for (user, operations, status, error) in [
        ("lamp-1", misfit("/tags/owner"), 412, "expectation-failed"),
        ("partial", misfit("/desired/zone/pin"), 412, "expectation-failed"),
        ("partial", object, 403, "forbidden"),
    ] {
        for (base, dry_run) in [(1, true), (2, true), (3, true), (1, false), (2, false), (3, false)] {
            let query = format!("?on_conflict=rebase&base_version={base}&dry_run={dry_run}");
            let head = format!("PATCH {LAMP}{query} HTTP/1.1\nContent-Type: application/json-patch+json");
            let refused = send(&server, user, &head, &operations.to_string());
            let response = (refused.status, refused.json()["error"].clone());
            assert_eq!(response, (status, json!(error)), "{user} {operations} {query}");
        }
    }
}

/// A stream of events.
pub(crate) struct Events {
    http: Http,
    read: String,
}

impl Events {
    /// That of `user`; with more header lines, each after a line end.
    pub(crate) fn follow(server: &Server, user: &str, query: &str, more: &str) -> Self {
        let mut http = Http::connect(server.address_of("web"));
        http.write(&format!("GET /v1/events{query} HTTP/1.1\nAuthorization: {}{more}", basic(user)), b"");
        assert_eq!(http.head().status, 200);
        // It is known to follow once it has sent something.
        let begun = http.chunk().expect("a stream begins with the time to come back");
        Self { http, read: String::from_utf8(begun).unwrap() }
    }

    /// Reads to the end of the stream; the data of its last change, if there was one.
    pub(crate) fn rest(mut self) -> Option<Value> {
        while let Some(chunk) = self.http.chunk() {
            self.read.push_str(&String::from_utf8(chunk).unwrap());
        }
        let last = self.read.lines().filter_map(|line| line.strip_prefix("data: ")).next_back();
        last.map(|data| serde_json::from_str(data).unwrap())
    }

    /// The data of the next change.
    pub(crate) fn next(&mut self) -> Value {
        self.next_with_id().0
    }

    /// The data of the next change, and its id.
    fn next_with_id(&mut self) -> (Value, String) {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let (data, id) = (field("data: "), field("id: "));
                self.read = rest.to_owned();
                match data {
                    Some(data) => return (serde_json::from_str(&data).unwrap(), id.unwrap()),
                    None => continue, // a comment, or when to come back
                }
            }
            self.read.push_str(&String::from_utf8(self.http.chunk().expect("the stream goes on")).unwrap());
        }
    }
}

/// Events of which nothing may be seen arrive as versions; with `?path=` not even that, or it would be a way to watch a
/// path that may not be read.
#[test]
fn events_show_only_readable_paths() {
    let server = hidden(1);
    let follow = |user: &str, query: &str| Events::follow(&server, user, query, "");
    let mut readers = [
        follow("partial", ""),
        follow("partial", "?path=/desired/zone/pin,/tags,/desired/zone/t"),
        follow("lamp-2", ""),
    ];
    let mut boss = client(&server, "boss", V5);
    for (device, state) in [
        ("lamp-1", json!({"desired": {"zone": {"pin": 2}}, "tags": {"owner": 2}})),
        ("lamp-1", json!({"desired": {"zone": {"t": 30, "pin": 3}}})),
        ("lamp-2", json!({"reported": {"x": 1}})),
    ] {
        boss.publish(&format!("shadow/{device}/update"), json!({ "state": state }).to_string(), 1);
    }
    let first = readers[0].next();
    assert_eq!((&first["version"], &first["changes"], first.get("etag")), (&json!(2), &json!([]), None));
    let changed = json!([{"path": "/desired/zone/t", "value": 30, "previous": 20}]);
    assert_eq!(readers[0].next()["changes"], changed);
    let only = readers[1].next();
    assert_eq!((&only["version"], &only["changes"]), (&json!(3), &changed));
    let own = readers[2].next();
    assert_eq!((&own["device"], &own["version"]), (&json!("lamp-2"), &json!(1)));
}

/// A page of devices reads a limited number of shadows. A page that ended among hidden devices named the last of them
/// in `next` and in `Link`.
#[test]
fn a_page_does_not_reveal_the_devices_it_skips() {
    let server = site();
    let mut boss = client(&server, "boss", V5);
    let update = r#"{"state":{"desired":{"a":1}}}"#;
    for number in 0..2_200 {
        boss.send(Publish::new(&format!("shadow/customer-acme-{number:04}/update"), update).encode(V5, 0, 0));
    }
    boss.publish("shadow/lamp-2/update", update, 1);
    let first = get(&server, "lamp-2", "/v1/devices");
    let page = first.json();
    assert_eq!(page["devices"], json!([]), "{page}");
    let (next, link) = (page["next"].as_str().unwrap(), first.header("link").unwrap());
    assert!(!first.text().contains("acme") && !link.contains("acme"), "{page} {link}");
    let path = link.split(['<', '>']).nth(1).unwrap();
    assert_eq!(path, format!("/v1/devices?cursor={next}"));
    let second = get(&server, "lamp-2", path).json();
    assert_eq!((&second["devices"][0]["id"], second.get("next")), (&json!("lamp-2"), None));
    // It is of no use to anybody else, and cannot be made.
    let forged = path.replacen("=~", "=~A", 1);
    for (user, path) in [("lamp-1", path), ("boss", path), ("lamp-2", &forged), ("lamp-2", "/v1/devices?cursor=~")] {
        let refused = get(&server, user, path);
        assert_eq!(refused.status, 400, "{user} {path}: {refused:?}");
        assert!(refused.json()["message"].as_str().unwrap().contains("'cursor'"), "{refused:?}");
    }
    assert_eq!(get(&server, "boss", "/v1/devices?limit=2").json()["next"], "customer-acme-0001", "what it sees");
}

/// A reader of a named shadow alone could see the device's presence, connection time and protocol.
#[test]
fn presence_needs_the_right_to_the_classic_shadow() {
    let more = "[[rule]]\nrole = \"named\"\ndevices = [\"lamp-1\"]\nnames = [\"n1\"]\nread = [\"/reported\"]\n\
                [[grant]]\nrole = \"named\"\nprincipals = [\"lamp-2\"]\n";
    let server = site_with(more);
    let mut lamp = client(&server, "lamp-1", V5);
    lamp.publish("shadow/lamp-1/name/n1/update", r#"{"state":{"reported":{"a":1}}}"#, 1);
    let listed = |user: &str, query: &str| get(&server, user, &format!("/v1/devices{query}")).json()["devices"].clone();
    assert_eq!(listed("lamp-2", ""), json!([{"id": "lamp-1", "drift": false, "shadows": 1}]));
    assert_eq!(listed("viewer-1", "")[0]["connected"], json!(true));
    for (query, seen) in [("?connected=true", 1), ("?connected=false", 0)] {
        assert_eq!(listed("lamp-2", query), json!([]), "{query}");
        assert_eq!(listed("viewer-1", query).as_array().unwrap().len(), seen, "{query}");
    }
}

/// Recorded refusals are shown to the same readers as published ones.
#[test]
fn recorded_refusals_quote_only_readable_values() {
    let server = hidden(1);
    for (kind, body) in [("merge-patch", r#"{"tags":{"secret":[null]}}"#), ("merge-patch", r#"{"a":secret}"#)] {
        assert_eq!(patch(&server, "app-1", &format!("{kind}+json"), "If-Match: *", body).status, 400);
    }
    let body = r#"{"state":{"tags":{"secret":1,"secret":2}}}"#;
    client(&server, "app-1", V5).publish("shadow/lamp-1/update", body, 1);
    for path in [&format!("{LAMP}/rejections"), "/v1/rejections"] {
        let response = |user: &str| {
            let page = get(&server, user, path).json();
            let entries = page["rejections"].as_array().unwrap();
            (entries.len(), entries.iter().filter(|entry| entry.to_string().contains("secret")).count())
        };
        let all = response("app-1");
        assert!(all.0 == 3 && all.1 >= 2, "{all:?}");
        assert_eq!(response("viewer-1"), all);
        assert_eq!(response("lamp-1"), (3, 0));
        assert_eq!(response("partial"), (0, 0));
    }
}
