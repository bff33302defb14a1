//! PUT, PATCH and DELETE, and their refusals.

use serde_json::json;

use crate::{harness::http::Reply, site::Site};

pub(crate) const PATH: &str = "/v1/devices/lamp/shadow";

pub(crate) fn write(site: &Site, method: &str, query: &str, headers: &str, body: &str) -> Reply {
    site.send(&format!("{method} {PATH}{query} HTTP/1.1\n{headers}"), body)
}

const PUT: &str = "If-Match: *\nContent-Type: application/json";
const MERGE: &str = "If-Match: *\nContent-Type: application/merge-patch+json";
pub(crate) const EDIT: &str = "If-Match: *\nContent-Type: application/json-patch+json";

#[test]
fn put_replaces_sections_and_merge_patch_merges() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"a": 1, "b": {"c": 1, "d": 2}}, "tags": {"t": 1}}));
    for (method, headers, body, expected) in [
        (
            "PATCH",
            MERGE,
            json!({"desired": {"a": 2, "b": {"c": null}}}),
            json!({"desired": {"a": 2, "b": {"d": 2}}, "tags": {"t": 1}}),
        ),
        (
            "PATCH",
            MERGE,
            json!({"reported": {"x": [1]}}),
            json!({"desired": {"a": 2, "b": {"d": 2}}, "reported": {"x": [1]}, "tags": {"t": 1}}),
        ),
        (
            "PUT",
            PUT,
            json!({"desired": {"z": 1}}),
            json!({"desired": {"z": 1}, "reported": {"x": [1]}, "tags": {"t": 1}}),
        ),
        ("PUT", PUT, json!({"desired": {}, "tags": null}), json!({"reported": {"x": [1]}})),
        ("PATCH", MERGE, json!(null), json!({})),
    ] {
        let reply = write(&site, method, "", headers, &body.to_string());
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        assert_eq!(reply.json()["state"], body, "the response has the state sent");
        let mut state = site.state(PATH);
        state.as_object_mut().unwrap().remove("delta");
        assert_eq!(state, expected, "{method} {body}");
    }
    let version = site.get(PATH).json()["version"].clone();
    let same = write(&site, "PATCH", "", MERGE, "{}");
    assert_eq!((same.json()["changed"].clone(), same.json()["version"].clone()), (json!(false), version));
}

#[test]
fn bodies_are_refused_as_over_mqtt() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"a": 1}}));
    let etag = site.get(PATH).etag();
    let deep = format!("{}1{}", "{\"a\":".repeat(10), "}".repeat(10));
    for (body, status, error) in [
        ("", 400, "invalid-json"),
        ("{", 400, "invalid-json"),
        ("[]", 400, "invalid-json"),
        ("{} {}", 400, "invalid-json"),
        (r#"{"desired":{"a":1,"a":2}}"#, 400, "invalid-json"),
        (r#"{"desired":{"a":9007199254740993}}"#, 400, "invalid-json"),
        (r#"{"desired":5}"#, 400, "invalid-section"),
        (r#"{"wanted":{}}"#, 400, "invalid-node"),
        (r#"{"state":{"desired":{}}}"#, 400, "invalid-node"),
        (r#"{"desired":{"a":[null]}}"#, 400, "invalid-node"),
        (&format!(r#"{{"desired":{deep}}}"#), 400, "too-deep"),
        (&format!(r#"{{"desired":{{"a":"{}"}}}}"#, "x".repeat(9000)), 413, "too-large"),
        (&format!(r#"{{"desired":{{"a":"{}"}}}}"#, "x".repeat(140_000)), 413, "too-large"),
    ] {
        for (method, headers) in [("PUT", PUT), ("PATCH", MERGE)] {
            let reply = write(&site, method, "", headers, body);
            let shown: String = body.chars().take(80).collect();
            assert_eq!(
                (reply.status, reply.json()["error"].clone()),
                (status, json!(error)),
                "{shown}: {}",
                reply.text()
            );
        }
    }
    // What was read and is written back as it was has a delta.
    for (method, headers) in [("PUT", PUT), ("PATCH", MERGE)] {
        let response = write(&site, method, "", headers, r#"{"desired":{"a":1},"delta":{"a":1}}"#).json();
        let detail = response["detail"].as_str().unwrap_or_default();
        assert_eq!((&response["status"], &response["error"]), (&json!(400), &json!("invalid-node")), "{response}");
        assert!(detail.contains("'delta' is computed") && detail.contains("leave it out"), "{method}: {response}");
    }
    let mut client = site.client();
    let reply = client.send(&format!("PUT {PATH} HTTP/1.1\n{PUT}"), b"{\"desired\":{\"a\":\"\xff\"}}");
    assert_eq!((reply.status, reply.json()["error"].clone()), (415, json!("not-utf8")));
    assert_eq!(site.get(PATH).etag(), etag);
}

#[test]
fn media_types_and_encodings() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"a": 1}}));
    for (method, headers, status, hint) in [
        ("PUT", "Content-Type: application/json; charset=utf-8", 200, None),
        ("PUT", "Accept: */*", 200, None),
        ("PUT", "Content-Type: text/plain", 415, Some(("accept", "application/json"))),
        ("PUT", "Content-Type: application/json; charset=latin1", 415, Some(("accept", "application/json"))),
        ("PUT", "Content-Type: application/json\nContent-Encoding: gzip", 415, Some(("accept-encoding", "identity"))),
        ("PATCH", "Content-Type: Application/Merge-Patch+JSON", 200, None),
        (
            "PATCH",
            "Content-Type: application/json",
            415,
            Some(("accept-patch", "application/merge-patch+json, application/json-patch+json")),
        ),
        (
            "PATCH",
            "Accept: */*",
            415,
            Some(("accept-patch", "application/merge-patch+json, application/json-patch+json")),
        ),
    ] {
        let reply = write(&site, method, "", &format!("If-Match: *\n{headers}"), r#"{"desired":{"a":1}}"#);
        assert_eq!(reply.status, status, "{method} {headers}: {}", reply.text());
        if let Some((name, value)) = hint {
            assert_eq!(reply.header(name), Some(value), "{method} {headers}");
        }
    }
}

#[test]
fn preferences_and_dry_runs() {
    let site = Site::open();
    let created = write(
        &site,
        "PUT",
        "",
        "If-None-Match: *\nPrefer: return=minimal\nContent-Type: application/json",
        r#"{"desired":{"n":1}}"#,
    );
    assert_eq!(
        (created.status, created.body.len(), created.header("preference-applied")),
        (201, 0, Some("return=minimal"))
    );
    let minimal = write(&site, "PATCH", "", &format!("{MERGE}\nPrefer: return=minimal"), r#"{"desired":{"n":2}}"#);
    assert_eq!((minimal.status, minimal.header("preference-applied")), (204, Some("return=minimal")));
    assert_eq!(minimal.etag(), site.get(PATH).etag());
    let whole = write(
        &site,
        "PATCH",
        "",
        &format!("{MERGE}\nPrefer: wait=1, return=representation"),
        r#"{"reported":{"m":1}}"#,
    );
    assert_eq!((whole.status, whole.json()), (200, site.get(PATH).json()));
    assert_eq!((whole.etag(), whole.header("content-location")), (site.get(PATH).etag(), Some(PATH)));
    let before = site.get(PATH);
    let dry = write(&site, "PATCH", "?dry_run=true", MERGE, r#"{"desired":{"n":3}}"#);
    let response = dry.json();
    assert_eq!((dry.status, &response["dryRun"], &response["changed"]), (200, &json!(true), &json!(true)));
    assert_eq!(response["document"]["state"], json!({"desired": {"n": 3}, "reported": {"m": 1}}));
    assert_eq!(site.get(PATH).etag(), before.etag());
    let refused =
        write(&site, "PATCH", "?dry_run=true", "If-Match: \"x\"\nContent-Type: application/merge-patch+json", "{}");
    assert_eq!(refused.status, 412);
}

#[test]
fn rebase_replaces_if_match() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"a": 1, "b": 1}}));
    site.merge(PATH, json!({"desired": {"a": 2}}));
    let media = "Content-Type: application/merge-patch+json";
    let rebase = "?on_conflict=rebase&base_version=1";
    let clean = write(&site, "PATCH", rebase, media, r#"{"desired":{"b":2}}"#);
    assert_eq!((clean.status, clean.json()["rebasedFrom"].clone()), (200, json!(1)), "{}", clean.text());
    let unclean = write(&site, "PATCH", rebase, media, r#"{"desired":{"a":3}}"#);
    assert_eq!((unclean.status, unclean.json()["conflicts"][0]["path"].clone()), (412, json!("/desired/a")));
    let strict = write(&site, "PATCH", "?on_conflict=reject&base_version=1", media, r#"{"desired":{"c":3}}"#);
    assert_eq!(strict.status, 412);
    for (query, headers, status, named) in [
        (rebase, "If-Match: *\n", 400, "base_version"),
        ("?base_version=3", "If-None-Match: *\n", 400, "base_version"),
        ("?on_conflict=rebase", "If-Match: *\n", 400, "on_conflict"),
        ("?on_conflict=merge&base_version=1", "", 400, "on_conflict"),
        ("?on_conflict=rebase", "", 428, "base_version"),
        ("?base_version=0", "", 400, "base_version"),
    ] {
        let reply = write(&site, "PATCH", query, &format!("{headers}{media}"), "{}");
        assert_eq!(reply.status, status, "{query} {headers}: {}", reply.text());
        assert!(reply.json()["message"].as_str().unwrap().contains(named), "{query}: {}", reply.text());
    }
}

#[test]
fn a_repeated_key_is_answered_again() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"n": 1, "list": [1]}}));
    let etag = site.get(PATH).etag();
    for (media, body, other) in [
        ("application/merge-patch+json", json!({"desired": {"n": 2}}), json!({"desired": {"n": 3}})),
        (
            "application/json-patch+json",
            json!([{"op": "test", "path": "/desired/n", "value": 2}, {"op": "replace", "path": "/desired/n", "value": 4}, {"op": "add", "path": "/desired/list/-", "value": 2}]),
            json!([{"op": "remove", "path": "/desired/n"}]),
        ),
    ] {
        let current = site.get(PATH).etag();
        let headers = format!("If-Match: {current}\nContent-Type: {media}\nIdempotency-Key: \"{media}\"");
        let first = write(&site, "PATCH", "", &headers, &body.to_string());
        assert_eq!((first.status, first.json()["replayed"].clone()), (200, json!(null)), "{}", first.text());
        site.merge(PATH, json!({"reported": {"since": media}}));
        let after = site.get(PATH).etag();
        let again = write(&site, "PATCH", "", &headers, &body.to_string());
        assert_eq!((again.status, again.json()["replayed"].clone()), (200, json!(true)), "{}", again.text());
        assert_eq!((again.etag(), again.json()["version"].clone()), (first.etag(), first.json()["version"].clone()));
        assert_eq!(site.get(PATH).etag(), after, "nothing changed");
        // What a patch came to the first time is not remembered.
        let merged = media.contains("merge").then(|| body.clone());
        assert_eq!(
            (again.json().get("state"), again.json().get("metadata").is_some()),
            (merged.as_ref(), merged.is_some())
        );
        let reused = write(&site, "PATCH", "", &headers, &other.to_string());
        assert_eq!(reused.status, 422, "{}", reused.text());
    }
    let delete = format!("If-Match: {etag}\nIdempotency-Key: gone");
    assert_eq!(write(&site, "DELETE", "", &delete, "").status, 412);
    let delete = format!("If-Match: {}\nIdempotency-Key: gone", site.get(PATH).etag());
    assert_eq!(write(&site, "DELETE", "", &delete, "").status, 204);
    assert_eq!(write(&site, "DELETE", "", &delete, "").status, 204, "again");
    for bad in ["Idempotency-Key:".to_owned(), format!("Idempotency-Key: {}", "k".repeat(65))] {
        assert_eq!(write(&site, "PATCH", "", &format!("{MERGE}\n{bad}"), "{}").status, 400, "{bad}");
    }
}

/// A replay was 200 whatever the first answer had been, and without `ETag` for a reader of part of the shadow: a client
/// that retried after a lost answer could not know that it had created the shadow.
#[test]
fn a_replay_has_the_first_response() {
    let site = Site::open();
    let json = "Content-Type: application/json";
    let etag = |site: &Site| site.get(PATH).etag();
    let steps: [(&str, &str, String, &str, u16); 7] = [
        ("PUT", "", format!("If-None-Match: *\n{json}"), r#"{"desired":{"n":1}}"#, 201),
        ("PATCH", "", MERGE.to_owned(), r#"{"desired":{"n":2}}"#, 200),
        ("PATCH", "", MERGE.to_owned(), r#"{"desired":{"n":2}}"#, 200),
        ("PATCH", "", format!("{MERGE}\nPrefer: return=minimal"), r#"{"desired":{"n":3}}"#, 204),
        ("DELETE", "", "If-Match: *".to_owned(), "", 204),
        ("PUT", "", format!("If-None-Match: *\nPrefer: return=minimal\n{json}"), r#"{"desired":{"n":1}}"#, 201),
        ("PUT", "?upsert=true", json.to_owned(), r#"{"reported":{"n":1}}"#, 200),
    ];
    let ask = |site: &Site, key: usize| {
        let (method, query, headers, body, _) = &steps[key];
        write(site, method, query, &format!("{headers}\nIdempotency-Key: k{key}"), body)
    };
    let mut firsts = Vec::new();
    for (key, (method, .., status)) in steps.iter().enumerate() {
        let first = ask(&site, key);
        assert_eq!((first.status, first.header("idempotent-replayed")), (*status, None), "{key} {method}");
        firsts.push(first);
    }
    let mut site = site;
    for restarted in [false, true] {
        let now = etag(&site);
        for (key, first) in firsts.iter().enumerate() {
            let again = ask(&site, key);
            assert_eq!((again.status, again.header("etag")), (first.status, first.header("etag")), "{key} {restarted}");
            assert_eq!(again.header("idempotent-replayed"), Some("true"), "{key} {restarted}");
            assert_eq!(again.body.is_empty(), first.body.is_empty(), "{key} {restarted}");
        }
        assert_eq!(etag(&site), now, "nothing changed");
        if !restarted {
            site = site.restarted();
        }
    }
    // The shadow has gone on: what it is now is not passed off as what the first request made.
    let representation = format!("{MERGE}\nPrefer: return=representation\nIdempotency-Key: whole");
    let first = write(&site, "PATCH", "", &representation, r#"{"desired":{"n":5}}"#);
    assert_eq!(write(&site, "PATCH", "", &representation, r#"{"desired":{"n":5}}"#).json(), first.json());
    site.merge(PATH, json!({"desired": {"n": 6}}));
    let again = write(&site, "PATCH", "", &representation, r#"{"desired":{"n":5}}"#);
    assert_eq!((again.status, again.etag(), again.header("preference-applied")), (200, first.etag(), None));
    assert_eq!((&again.json()["version"], &again.json()["replayed"]), (&first.json()["version"], &json!(true)));
}

#[test]
fn upsert_creates_or_changes() {
    let site = Site::open();
    let json = "Content-Type: application/json";
    let merge = "Content-Type: application/merge-patch+json";
    for (method, query, headers, status) in [
        ("PUT", "", json, 428),
        ("PUT", "?upsert=false", json, 428),
        ("PATCH", "?upsert=true&dry_run=true", merge, 200),
        ("PATCH", "?upsert=true", merge, 201),
        ("PATCH", "?upsert=true", merge, 200),
        ("PUT", "?upsert=true", json, 200),
        ("DELETE", "?upsert=true", "", 400),
        ("DELETE", "", "If-Match: *", 204),
        ("PUT", "", "If-Match: *\nContent-Type: application/json", 412),
        ("PUT", "?upsert=true", json, 201),
        ("PUT", "?upsert=true", "If-Match: *\nContent-Type: application/json", 400),
        ("PUT", "?upsert=true", "If-None-Match: *\nContent-Type: application/json", 400),
        ("PUT", "?upsert=true&on_conflict=rebase&base_version=1", json, 400),
        // Was a write without any condition, though its sender asked for a rebase.
        ("PUT", "?upsert=true&on_conflict=rebase", json, 400),
        ("PATCH", "?upsert=true&on_conflict=rebase", json, 400),
        ("PUT", "?upsert=yes", json, 400),
    ] {
        let body = if method == "DELETE" { "" } else { r#"{"desired":{"n":1}}"# };
        let reply = write(&site, method, query, headers, body);
        assert_eq!(reply.status, status, "{method} {query} {headers}: {}", reply.text());
    }
}

/// The refusal named a minute as the time to wait, although nothing would have changed by then.
#[test]
fn refuses_a_name_beyond_the_maximum() {
    let site = Site::limited("shadow_names_max = 2\nrequests_rate = \"1000/s burst 1000\"");
    let create = |name: &str| {
        let head = format!("PUT /v1/devices/lamp/shadows/{name} HTTP/1.1\nIf-None-Match: *");
        site.send(&format!("{head}\nContent-Type: application/json"), r#"{"desired":{"n":1}}"#)
    };
    assert_eq!((create("a").status, create("b").status), (201, 201));
    site.send("DELETE /v1/devices/lamp/shadows/a HTTP/1.1\nIf-Match: *", "");
    let refused = create("c");
    let response = refused.json();
    let message = response["message"].as_str().unwrap_or_default();
    assert_eq!((refused.status, refused.header("retry-after"), response.get("retryAfterMs")), (429, None, None));
    for part in ["'lamp'", "2 named shadows", "limits.shadow_names_max", "deleted names count until"] {
        assert!(message.contains(part), "{part}: {response}");
    }
    assert_eq!(create("a").status, 201, "a deleted one may come back");
}

#[test]
fn quotas_set_retry_after() {
    let site = Site::with(1);
    site.put(PATH, json!({"desired": {"n": 1}}));
    let mut client = site.client();
    let refused = (0..8).map(|_| client.send(&format!("GET {PATH} HTTP/1.1"), b"")).find(|reply| reply.status != 200);
    let refused = refused.unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert!(refused.json()["retryAfterMs"].as_u64().unwrap() <= 1001, "{}", refused.text());
}
