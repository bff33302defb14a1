//! Conditional requests: every row is a request and what RFC 9110 has it answered with.

use serde_json::json;

use crate::{
    harness::http::{Http, Reply},
    site::Site,
};

const PATH: &str = "/v1/devices/lamp/shadow";

/// One request: what must hold of the status and of the headers that a condition is about.
fn check(client: &mut Http, label: &str, head: &str, body: &str, status: u16, etag: Option<&str>) -> Reply {
    let reply = client.send(head, body.as_bytes());
    assert_eq!(reply.status, status, "{label}: {head}: {reply:?} {}", reply.text());
    assert_eq!(reply.header("etag"), etag, "{label}: {head}: {reply:?}");
    reply
}

#[test]
fn conditional_reads() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"mode": "eco"}}));
    let first = site.get(PATH);
    let (tag, modified) = (first.etag(), first.header("last-modified").unwrap().to_owned());
    assert_eq!(first.header("cache-control"), Some("private, no-cache"));
    // A browser whose second user signed in with another cookie showed him what the first one may see.
    assert_eq!(first.header("vary"), Some("authorization, cookie"));
    assert_eq!(first.header("content-type"), Some("application/json"));
    let weak = format!("W/{tag}");
    let mut client = site.client();
    for (label, condition, status) in [
        ("unconditional", "Accept: */*".to_owned(), 200),
        ("the current tag", format!("If-Match: {tag}"), 200),
        ("any", "If-Match: *".to_owned(), 200),
        ("one of a list", format!("If-Match: \"x,y\", {tag}"), 200),
        ("a list over two lines", format!("If-Match: \"x\"\nIf-Match: {tag}"), 200),
        ("another tag", "If-Match: \"x\"".to_owned(), 412),
        ("a weak tag never matches strongly", format!("If-Match: {weak}"), 412),
        ("nothing at all", "If-Match:".to_owned(), 412),
        ("unchanged", format!("If-None-Match: {tag}"), 304),
        ("unchanged, compared weakly", format!("If-None-Match: {weak}"), 304),
        ("unchanged, in a list", format!("If-None-Match: \"x\",{tag}"), 304),
        ("whatever it is", "If-None-Match: *".to_owned(), 304),
        ("changed", "If-None-Match: \"x\"".to_owned(), 200),
        ("If-Match goes first", format!("If-Match: \"x\"\nIf-None-Match: {tag}"), 412),
        ("both hold", format!("If-Match: {tag}\nIf-None-Match: \"x\""), 200),
        ("If-Match holds, then unchanged", format!("If-Match: {tag}\nIf-None-Match: {tag}"), 304),
        ("not modified since", format!("If-Modified-Since: {modified}"), 304),
        ("modified since long ago", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 200),
        ("a tag outranks the date", format!("If-None-Match: \"x\"\nIf-Modified-Since: {modified}"), 200),
        ("no date", "If-Modified-Since: tomorrow".to_owned(), 200),
        ("unmodified since", format!("If-Unmodified-Since: {modified}"), 200),
        ("modified after", "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 412),
        (
            "If-Match outranks the date",
            format!("If-Match: {tag}\nIf-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
            200,
        ),
    ] {
        for method in ["GET", "HEAD"] {
            let head = format!("{method} {PATH} HTTP/1.1\n{condition}");
            let reply = check(&mut client, label, &head, "", status, Some(&tag));
            match status {
                304 => {
                    assert!(
                        reply.header("content-type").is_none() && reply.header("last-modified").is_some(),
                        "{label}"
                    );
                    assert_eq!(reply.header("cache-control"), Some("private, no-cache"), "{label}");
                    assert_eq!(reply.header("vary"), first.header("vary"), "{label}");
                }
                412 => assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{label}"),
                _ => assert_eq!(reply.header("content-length"), first.header("content-length"), "{label}"),
            }
        }
    }
    for bad in ["If-Match: x", "If-None-Match: \"x", "If-Match: *, \"x\"", "If-None-Match: \"a b\""] {
        let reply = client.send(&format!("GET {PATH} HTTP/1.1\n{bad}"), b"");
        assert_eq!(reply.status, 400, "{bad}: {reply:?}");
        let (name, _) = bad.split_once(':').unwrap();
        assert!(reply.json()["message"].as_str().unwrap().contains(name), "{bad}: {}", reply.text());
    }
    // What is not there has no tag, and conditions do not make it something else.
    let nothing = client.send("GET /v1/devices/none/shadow HTTP/1.1\nIf-Match: *", b"");
    assert_eq!((nothing.status, nothing.header("etag")), (404, None));
}

/// Each write begins with the shadow at the tag `current` and must leave it there if it is refused.
#[test]
fn conditional_writes() {
    let site = Site::open();
    let mut client = site.client();
    let first = site.put(PATH, json!({"desired": {"n": 0}})).etag();
    let mut current = site.put(PATH, json!({"desired": {"n": 1}})).etag();
    for (method, media) in [
        ("PUT", "application/json"),
        ("PATCH", "application/merge-patch+json"),
        ("PATCH", "application/json-patch+json"),
    ] {
        for (label, condition, expected) in [
            ("nothing expected", String::new(), 428),
            ("a date alone", "If-Unmodified-Since: Sun, 06 Nov 2094 08:49:37 GMT\n".to_owned(), 428),
            ("an empty list excludes nothing", "If-None-Match: ,\n".to_owned(), 428),
            ("the current tag", "If-Match: CURRENT\n".to_owned(), 200),
            ("the tag before", format!("If-Match: {first}\n"), 412),
            ("any", "If-Match: *\n".to_owned(), 200),
            ("one of a list", format!("If-Match: {first}, CURRENT\n"), 200),
            ("none of a list", format!("If-Match: {first}, \"x\"\n"), 412),
            ("a weak tag", "If-Match: W/CURRENT\n".to_owned(), 412),
            ("a weak tag in a list", format!("If-Match: W/CURRENT, {first}\n"), 412),
            ("to create", "If-None-Match: *\n".to_owned(), 412),
            ("if it is not this", "If-None-Match: CURRENT\n".to_owned(), 412),
            ("if it is not this, weakly", "If-None-Match: W/CURRENT\n".to_owned(), 412),
            ("if it is not that", format!("If-None-Match: {first}\n"), 200),
            ("both", format!("If-Match: CURRENT\nIf-None-Match: {first}\n"), 200),
            ("one of both", "If-Match: CURRENT\nIf-None-Match: *\n".to_owned(), 412),
        ] {
            let label = format!("{media}, {label}");
            let version: u64 = current.trim_start_matches('"').split('-').next().unwrap().parse().unwrap();
            let body = match media {
                "application/json-patch+json" => {
                    json!([{"op": "add", "path": "/desired/n", "value": version}]).to_string()
                }
                _ => json!({"desired": {"n": version}}).to_string(),
            };
            let condition = condition.replace("CURRENT", &current);
            let head = format!("{method} {PATH} HTTP/1.1\n{condition}Content-Type: {media}");
            let reply = client.send(&head, body.as_bytes());
            assert_eq!(reply.status, expected, "{label}: {}", reply.text());
            match expected {
                200 => {
                    assert_ne!(reply.etag(), current, "{label}");
                    current = reply.etag();
                }
                412 => {
                    assert_eq!(reply.etag(), current, "{label}");
                    let response = reply.json();
                    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{label}");
                    assert_eq!((&response["status"], &response["code"]), (&json!(412), &json!(409)), "{label}");
                    assert_eq!((&response["error"], &response["etag"]), (&json!("version-conflict"), &json!(current)));
                    let says = response["detail"].as_str().is_some_and(|detail| detail.contains("weak"));
                    assert_eq!(says, label.contains("a weak tag"), "{label}: {response}");
                }
                _ => assert_eq!(reply.json()["error"], json!("precondition-required"), "{label}"),
            }
            assert_eq!(site.get(PATH).etag(), current, "{label}");
        }
    }
}

#[test]
fn creation_and_deletion() {
    let site = Site::open();
    let mut client = site.client();
    let put = |condition: &str| format!("PUT {PATH} HTTP/1.1\n{condition}\nContent-Type: application/json");
    let body = r#"{"reported":{"on":true}}"#;
    check(&mut client, "there is none to match", &put("If-Match: *"), body, 412, None);
    check(&mut client, "nor this one", &put("If-Match: \"1-00000000000000000000000000000000\""), body, 412, None);
    let created = client.send(&put("If-None-Match: *"), body.as_bytes());
    assert_eq!((created.status, created.json()["version"].clone()), (201, json!(1)));
    let tag = created.etag();
    check(&mut client, "it is there", &put("If-None-Match: *"), body, 412, Some(&tag));
    let delete = |condition: &str| format!("DELETE {PATH} HTTP/1.1{condition}");
    check(&mut client, "nothing expected", &delete(""), "", 428, None);
    check(&mut client, "another", &delete("\nIf-Match: \"x\""), "", 412, Some(&tag));
    check(&mut client, "only if it is not there", &delete("\nIf-None-Match: *"), "", 412, Some(&tag));
    let deleted = check(&mut client, "this one", &delete(&format!("\nIf-Match: {tag}")), "", 204, None);
    assert!(deleted.body.is_empty());
    // Without its condition it would be 404, so the condition does not count. RFC 9110 section 13.2.1.
    check(&mut client, "again", &delete(&format!("\nIf-Match: {tag}")), "", 404, None);
    check(&mut client, "the tag of before", &put(&format!("If-Match: {tag}")), body, 412, None);
    let again = client.send(&put("If-None-Match: *"), body.as_bytes());
    assert_eq!((again.status, again.json()["version"].clone()), (201, json!(3)), "versions go on");
}

/// A query was deleted, whatever its client had made a condition for it, and a part replaced the whole.
#[test]
fn a_condition_that_an_operation_does_not_evaluate_is_refused() {
    let site = Site::open();
    let tag = site.put(PATH, json!({"desired": {"mode": "eco"}})).etag();
    let (query, rollout) = ("/v1/queries/all", "/v1/rollouts/r");
    let stored = site.send(&format!("PUT {query} HTTP/1.1\nIf-None-Match: *"), r#"{"q": "drift:false"}"#);
    assert_eq!(stored.status, 201, "{}", stored.text());
    let description = json!({"devices": ["lamp"], "patch": {"desired": {"mode": "off"}}, "paused": true});
    let created = site.send(&format!("PUT {rollout} HTTP/1.1\nIf-None-Match: *"), &description.to_string());
    assert_eq!(created.status, 201, "{}", created.text());
    for (target, field, body) in [
        (format!("DELETE {query}"), "If-Match", ""),
        (format!("DELETE {query}"), "If-None-Match", ""),
        (format!("PUT {query}"), "If-Match", r#"{"q": "drift:true"}"#),
        (format!("PUT {query}"), "Content-Range", r#"{"q": "drift:true"}"#),
        (format!("DELETE {rollout}"), "If-Match", ""),
        (format!("POST {rollout}/cancel"), "If-Match", ""),
        (format!("PUT {rollout}"), "If-Match", "{}"),
        (format!("PUT {PATH}"), "Content-Range", r#"{"desired": {"mode": "off"}}"#),
        ("DELETE /v1/sessions/p/c".to_owned(), "If-Match", ""),
        ("DELETE /v1/principals/p/connections".to_owned(), "If-Match", ""),
        ("POST /v1/purge".to_owned(), "If-None-Match", ""),
        ("DELETE /session".to_owned(), "If-Match", ""),
        ("POST /things/lamp/shadow".to_owned(), "If-Match", r#"{"state": {"desired": {"mode": "off"}}}"#),
        ("DELETE /things/lamp/shadow".to_owned(), "If-None-Match", ""),
    ] {
        let value = if field == "Content-Range" { "bytes 0-1/2".to_owned() } else { tag.clone() };
        let refused = site.send(&format!("{target} HTTP/1.1\n{field}: {value}"), body);
        assert_eq!(refused.status, 400, "{target} {field}: {}", refused.text());
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&format!("'{field}'")), "{target}: {message}");
    }
    assert_eq!(site.get(PATH).etag(), tag, "nothing was done");
    assert_eq!(site.get(query).json()["q"], json!("drift:false"));
    assert_eq!(site.get(rollout).json()["state"], json!("paused"));
    let reads = site.send(&format!("GET {query} HTTP/1.1\nIf-Match: \"x\""), "");
    assert_eq!(reads.status, 200, "a read changes nothing");
    let wrong = site.send(&format!("POST {query} HTTP/1.1\nIf-Match: *"), "");
    assert_eq!(wrong.status, 405, "it would be refused without the condition as well");
}

#[test]
fn a_conflict_lists_paths_and_values() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"target": 19, "mode": "eco"}}));
    let old = site.get(PATH).etag();
    site.merge(PATH, json!({"desired": {"target": 23}}));
    let head = format!("PATCH {PATH} HTTP/1.1\nIf-Match: {old}\nContent-Type: application/merge-patch+json");
    let reply = site.send(&head, r#"{"desired":{"target":21,"mode":"off"}}"#);
    let response = reply.json();
    assert_eq!((reply.status, &response["expected"], &response["version"]), (412, &json!(1), &json!(2)), "{response}");
    let conflict = &response["conflicts"][0];
    for (member, value) in [("path", json!("/desired/target")), ("yours", json!(21)), ("base", json!(19))] {
        assert_eq!(conflict[member], value, "{response}");
    }
    assert_eq!((&conflict["current"], &response["clean"]), (&json!(23), &json!(["/desired/mode"])));
    for member in ["type", "title", "status", "message", "timestamp"] {
        assert!(!response[member].is_null(), "{member}: {response}");
    }
}
