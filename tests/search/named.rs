//! Named queries over HTTP and by `umbrad queries`: who may store, see and change them, limits, restarts and reloads.

use std::fs;

use serde_json::{Value, json};

use crate::{
    harness::{
        http::Reply,
        program::{ended, umbrad},
    },
    site::Site,
};

/// Sends a request for a query as `user` of `listener`.
pub(crate) fn request(site: &Site, listener: &str, user: &str, request: &str, body: &str) -> Reply {
    let (method, path) = request.split_once(' ').unwrap();
    let (path, headers) = path.split_once('\n').unwrap_or((path, ""));
    let head = format!("{method} /v1/queries{path} HTTP/1.1\nUmbra-Client: {user}\n{headers}");
    site.client(listener).send(head.trim_end(), body.as_bytes())
}

/// Stores a query as an administrator.
pub(crate) fn store(site: &Site, name: &str, q: &str) {
    let reply = request(site, "web", "admin", &format!("PUT /{name}"), &json!({ "q": q }).to_string());
    assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
}

/// The names in a page.
fn names(page: &Value) -> String {
    let names = page["queries"].as_array().unwrap().iter().map(|query| query["name"].as_str().unwrap());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn queries_are_stored_shown_replaced_and_deleted() {
    let mut site = Site::open();
    let admin = |site: &Site, line: &str, body: &str| request(site, "web", "admin", line, body);
    let body = r#"{"q": "reported.firmware:1.4*", "description": "to update"}"#;
    let created = admin(&site, "PUT /old\nIf-None-Match: *", body);
    assert_eq!(created.status, 201, "{}", created.text());
    let shown = created.json();
    assert_eq!(
        [&shown["name"], &shown["q"], &shown["description"], &shown["origin"], &shown["createdBy"]],
        ["old", "reported.firmware:1.4*", "to update", "stored", "anonymous/admin"]
    );
    assert_eq!(admin(&site, "PUT /old", body).status, 200, "the same again");
    let taken = admin(&site, "PUT /old\nIf-None-Match: *", body);
    assert_eq!((taken.status, &taken.json()["error"]), (409, &json!("query-exists")));
    assert_eq!(admin(&site, "PUT /new", r#"{"q": "connected:true"}"#).status, 201);
    assert_eq!(names(&admin(&site, "GET ", "").json()), "drifting new old");
    let page = admin(&site, "GET ?limit=2", "").json();
    assert_eq!(names(&page), "drifting new");
    let next = page["next"].as_str().unwrap();
    assert_eq!(names(&admin(&site, &format!("GET ?limit=2&cursor={next}"), "").json()), "old");
    let replaced = admin(&site, "PUT /old", r#"{"q": "reported.firmware:1.5*"}"#);
    assert_eq!((replaced.status, &replaced.json()["q"]), (200, &json!("reported.firmware:1.5*")));
    assert_eq!(replaced.json().get("description"), None);
    // All that was confirmed is there after a kill.
    assert_eq!(admin(&site, "DELETE /new", "").status, 204);
    site.0.kill();
    site.0.restart();
    assert_eq!(admin(&site, "GET /old", "").json(), replaced.json());
    assert_eq!(names(&admin(&site, "GET ", "").json()), "drifting old");
    let gone = admin(&site, "GET /new", "");
    assert_eq!((gone.status, &gone.json()["message"]), (404, &json!("There is no query 'new'")));
    assert_eq!(admin(&site, "DELETE /new", "").status, 404);
}

#[test]
fn refusals_name_the_reason() {
    let site = Site::open();
    let long = format!(r#"{{"q": "a", "description": "{}"}}"#, "x".repeat(1025));
    for (line, body, status, message) in [
        ("PUT /a", "{", 400, "Invalid named query: EOF while parsing"),
        ("PUT /a", "{}", 400, "Invalid named query: missing field `q`"),
        ("PUT /a", r#"{"q": "a", "query": "b"}"#, 400, "Invalid named query: unknown field `query`"),
        ("PUT /a", r#"{"q": "a", "q": "b"}"#, 400, "Invalid named query: duplicate field `q`"),
        ("PUT /a", r#"{"q": 5}"#, 400, "Invalid named query: invalid type: integer `5`, expected a string"),
        ("PUT /a", r#"{"q": "drift:maybe"}"#, 400, "Invalid field 'q': column 7: expected true, false or *"),
        ("PUT /a", r#"{"q": "updated:<1h"}"#, 400, "Invalid field 'q': 'updated' changes with time"),
        ("PUT /a", &long, 400, "Invalid field 'description': 1025 characters, allowed are 1024"),
        ("PUT /a%20b", r#"{"q": "a"}"#, 400, "Invalid parameter 'query': 'a b' holds ' ', allowed are A-Z"),
        ("PUT /a?dry=1", r#"{"q": "a"}"#, 400, "Invalid parameter 'dry': unknown"),
        ("PUT /a\nIf-Match: *", r#"{"q": "a"}"#, 400, "Invalid parameter 'If-Match': is not evaluated"),
        ("DELETE /a\nIf-Match: *", "", 400, "Invalid parameter 'If-Match': is not evaluated"),
        ("DELETE /a\nIf-None-Match: *", "", 400, "Invalid parameter 'If-None-Match': is not evaluated"),
        (
            "PUT /a\nContent-Range: bytes 0-1/2",
            r#"{"q": "a"}"#,
            400,
            "Invalid parameter 'Content-Range': a PUT replaces",
        ),
        ("PUT /drifting", r#"{"q": "a"}"#, 409, "The query 'drifting' is in the configuration, and is changed there"),
        ("DELETE /drifting", "", 409, "The query 'drifting' is in the configuration, and is changed there"),
        ("GET /none", "", 404, "There is no query 'none'"),
        ("GET ?cursor=%21", "", 400, "Invalid parameter 'cursor': is not a 'next' of this operation"),
    ] {
        let reply = request(&site, "web", "admin", line, body);
        let found = reply.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(reply.status, status, "{line} {body}: {found}");
        assert!(found.starts_with(message), "{line} {body}: {found}");
    }
}

/// A definition is seen by its creator and by readers of every device, and changed by its creator and by an administrator.
#[test]
fn a_query_belongs_to_its_creator() {
    let site = Site::open();
    let body = r#"{"q": "reported.n:1"}"#;
    // `shop` may read what begins with shop-, `slow` may read every device.
    assert_eq!(request(&site, "shop", "ann", "PUT /shops", body).status, 201);
    for (listener, user, line, status) in [
        ("shop", "ann", "GET /shops", 200),
        ("shop", "ann", "GET /drifting", 404),
        ("shop", "bob", "GET /shops", 404),
        ("shop", "bob", "DELETE /shops", 404),
        ("shop", "bob", "PUT /shops", 409),
        ("slow", "eve", "GET /shops", 200),
        ("slow", "eve", "GET /drifting", 200),
        ("slow", "eve", "DELETE /shops", 409),
        ("slow", "eve", "PUT /shops", 409),
        ("partial", "pat", "PUT /pats", 201),
        ("web", "admin", "PUT /shops", 200),
        ("shop", "ann", "DELETE /shops", 204),
        ("web", "admin", "DELETE /pats", 204),
    ] {
        let reply = request(&site, listener, user, line, if line.starts_with("PUT") { body } else { "" });
        assert_eq!(reply.status, status, "{listener} {user} {line}: {}", reply.text());
    }
    assert_eq!(names(&request(&site, "shop", "bob", "GET ", "").json()), "");
}

#[test]
fn queries_are_bounded() {
    let site = Site::open();
    let put = |listener, user: &str, n: usize| {
        let reply = request(&site, listener, user, &format!("PUT /q{n}"), r#"{"q": "a"}"#);
        (reply.status, reply.json()["message"].as_str().unwrap_or_default().to_owned())
    };
    for n in 0..100 {
        assert_eq!(put("web", "admin", n).0, 201);
    }
    let most = "Too many queries: 'anonymous/admin' has 100, the most for one principal".to_owned();
    assert_eq!(put("web", "admin", 100), (409, most));
    assert_eq!(put("web", "admin", 5).0, 200, "one that is there");
    assert_eq!(put("web", "other", 100).0, 201, "of another principal");
    // `small` may keep little.
    let mut stored = 0;
    let refused = loop {
        match put("small", "tiny", 200 + stored) {
            (201, _) => stored += 1,
            refused => break refused,
        }
    };
    assert_eq!(refused.0, 429, "{}", refused.1);
    assert!((1..100).contains(&stored), "{stored}");
}

#[test]
fn a_reload_replaces_the_queries_of_the_configuration() {
    let site = Site::open();
    let listed = || names(&request(&site, "web", "admin", "GET ", "").json());
    assert_eq!(request(&site, "web", "admin", "PUT /mine", r#"{"q": "a"}"#).status, 201);
    let file = site.0.directory().join("broker.toml");
    let before = fs::read_to_string(&file).unwrap();
    let queries = "\n[[query]]\nname = \"cold\"\nq = \"reported.t:<5\"\n\n[[query]]\nname = \"mine\"\nq = \"b\"\n";
    fs::write(&file, format!("{before}{queries}")).unwrap();
    site.0.hangup(1, "roles reloaded");
    assert_eq!(listed(), "cold mine");
    assert_eq!(request(&site, "web", "admin", "GET /mine", "").json()["origin"], json!("configuration"));
    fs::write(&file, format!("{before}\n[[query]]\nname = \"cold\"\nq = \"drift:maybe\"\n")).unwrap();
    site.0.hangup(1, "configuration rejected");
    assert_eq!(listed(), "cold mine", "as before");
    fs::write(&file, before).unwrap();
    site.0.hangup(2, "roles reloaded");
    assert_eq!(listed(), "drifting mine");
    assert_eq!(request(&site, "web", "admin", "GET /mine", "").json()["q"], json!("a"), "the stored one was hidden");
}

#[test]
fn the_command_shows_and_changes_them() {
    let site = Site::open();
    let url = format!("http://{}", site.0.address_of("web"));
    for (arguments, code, expected) in [
        (&["list"][..], 0, "drifting: drift:true (Devices with a difference between desired and reported state)\n"),
        (&["set", "old", "reported.n:1", "--description", "text"], 0, "\"q\":\"reported.n:1\""),
        (&["list", "--limit", "9"], 0, "\nold: reported.n:1 (text)\n"),
        (&["show", "old"], 0, "\"description\":\"text\""),
        (&["set", "old", "n:"], 3, "Invalid field 'q': column"),
        (&["delete", "old"], 0, ""),
        (&["show", "old"], 3, "There is no query 'old'"),
    ] {
        let (ended_with, out, err) =
            ended(umbrad(&[&["queries"], arguments, &["--url", &url]].concat()).output().unwrap());
        assert_eq!(ended_with, code, "{arguments:?}: {out} {err}");
        let shown = if code == 0 { &out } else { &err };
        assert!(shown.contains(expected), "{arguments:?}: {out} {err}");
    }
}
