//! GET: projections, former versions, lists, and refusals.

use serde_json::{Value, json};

use crate::{
    harness::{
        client::Client,
        eventually,
        wire::{Connect, Publish, V5},
    },
    site::Site,
};

const PATH: &str = "/v1/devices/lamp/shadow";

#[test]
fn the_envelope() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"on": true}, "reported": {"on": false}, "tags": {"room": 7}}));
    let reply = site.get(PATH);
    let response = reply.json();
    assert_eq!(
        response["state"],
        json!({"desired": {"on": true}, "reported": {"on": false}, "tags": {"room": 7}, "delta": {"on": true}})
    );
    assert_eq!((response["version"].clone(), response["etag"].clone()), (json!(1), json!(reply.etag())));
    assert_eq!(response["metadata"]["desired"]["on"]["by"], json!("anonymous/http"));
    assert_eq!(site.get("/v1/devices/lamp/shadows/other").status, 404);
    site.put("/v1/devices/lamp/shadows/other", json!({"reported": {"a": 1}}));
    assert_eq!(site.get("/v1/devices/lamp/shadows/other").json()["state"], json!({"reported": {"a": 1}}));
}

#[test]
fn fields_are_projected() {
    let site = Site::open();
    let state = json!({
        "desired": {"mode": "eco", "light": {"r": 1, "g": 2}, "list": [1, 2], "a/b": {"~": 1}, "c,d": 1},
        "reported": {"mode": "eco", "light": {"r": 1}}
    });
    let tag = site.put(PATH, state).etag();
    for (fields, expected) in [
        ("/desired/mode", json!({"desired": {"mode": "eco"}})),
        (
            "/desired/light/g,/reported",
            json!({"desired": {"light": {"g": 2}}, "reported": {"mode": "eco", "light": {"r": 1}}}),
        ),
        ("/desired/light,/desired/light/g", json!({"desired": {"light": {"r": 1, "g": 2}}})),
        ("/desired/list/1", json!({"desired": {"list": [1, 2]}})),
        ("/desired/a~1b/~0", json!({"desired": {"a/b": {"~": 1}}})),
        ("/desired/c%2Cd", json!({"desired": {"c,d": 1}})),
        ("%2Fdesired%2Fc,d%2C%2Freported%2Fmode", json!({"desired": {"c,d": 1}, "reported": {"mode": "eco"}})),
        ("/delta/light", json!({"delta": {"light": {"g": 2}}})),
        ("/delta", json!({"delta": {"light": {"g": 2}, "list": [1, 2], "a/b": {"~": 1}, "c,d": 1}})),
        ("/tags", json!({})),
        ("/desired/none,/desired/mode/deeper", json!({})),
    ] {
        let reply = site.get(&format!("{PATH}?fields={fields}"));
        assert_eq!(reply.json()["state"], expected, "{fields}");
        assert_eq!(reply.etag(), tag, "{fields}");
        let sections: Vec<_> = expected.as_object().unwrap().keys().filter(|key| *key != "delta").cloned().collect();
        let found: Vec<_> = reply.json()["metadata"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(found, sections, "{fields}");
    }
    for bad in ["desired", "/", "/other", "/desired/~2", "", ",/reported", "/deltas"] {
        let reply = site.get(&format!("{PATH}?fields={bad}"));
        assert_eq!((reply.status, reply.json()["error"].clone()), (400, json!("invalid-parameter")), "{bad}");
        assert!(reply.json()["message"].as_str().unwrap().contains("'fields'"), "{bad}: {}", reply.text());
    }
}

#[test]
fn former_versions_are_reconstructed() {
    let site = Site::open();
    let states = [
        json!({"desired": {"a": 1, "b": {"c": [1]}}}),
        json!({"desired": {"b": {"c": [2], "d": {}}}, "reported": {"a": 1}, "tags": {"t": 1}}),
        json!({"desired": {"b": {}}, "reported": null}),
        json!({"desired": {"b": 5}, "tags": null}),
    ];
    let mut written = Vec::new();
    for state in &states {
        let reply = site.put(PATH, state.clone());
        written.push((reply.etag(), site.state(PATH)));
    }
    for (index, (etag, state)) in written.iter().enumerate() {
        let version = index + 1;
        let path = format!("{PATH}?version={version}");
        let reply = site.get(&path);
        assert_eq!((reply.status, &reply.json()["state"], &reply.etag()), (200, state, etag), "version {version}");
        assert_eq!(reply.json()["version"], json!(version));
        let same = site.send(&format!("GET {path} HTTP/1.1\nIf-None-Match: {etag}"), "");
        assert_eq!(same.status, 304, "version {version}");
    }
    assert_eq!(site.get(&format!("{PATH}?version=5")).status, 404);
    assert_eq!(site.get(&format!("{PATH}?version=0")).status, 400);
    site.send(&format!("DELETE {PATH} HTTP/1.1\nIf-Match: *"), "");
    site.put(PATH, json!({"reported": {"new": 1}}));
    assert_eq!(site.get(&format!("{PATH}?version=5")).status, 404, "the deletion");
    assert_eq!(site.get(&format!("{PATH}?version=2")).json()["state"], written[1].1, "and before it");
    assert_eq!(site.get(&format!("{PATH}?version=6")).json()["state"], json!({"reported": {"new": 1}}));
}

#[test]
fn history_is_paged_newest_first() {
    let site = Site::open();
    assert_eq!(site.get(&format!("{PATH}/history")).status, 404);
    for n in 1..=23 {
        site.put(PATH, json!({"desired": {"n": n}}));
    }
    let mut versions = Vec::new();
    let mut next = Some(format!("{PATH}/history?limit=5"));
    while let Some(path) = next {
        let reply = site.get(&path);
        let page = reply.json();
        assert!(page["entries"].as_array().unwrap().len() <= 5);
        versions.extend(page["entries"].as_array().unwrap().iter().map(|entry| entry["version"].as_u64().unwrap()));
        next = reply.header("link").map(|link| {
            let (target, relation) = link.split_once(';').unwrap();
            assert_eq!(relation.trim(), "rel=\"next\"");
            target.trim_matches(['<', '>']).to_owned()
        });
        assert_eq!(page["end"], json!(if next.is_some() { "more" } else { "first" }));
    }
    assert_eq!(versions, (1..=23).rev().collect::<Vec<u64>>());
    let page = site.get(&format!("{PATH}/history?before=4&limit=1")).json();
    let next = page["next"].as_str().unwrap();
    for (query, status) in [
        (format!("cursor={next}&before=3"), 400),
        ("cursor=1.0".to_owned(), 200),
        ("cursor=999.0".to_owned(), 400),
        ("cursor=1".to_owned(), 400),
        ("cursor=+1.0".to_owned(), 400),
    ] {
        assert_eq!(site.get(&format!("{PATH}/history?{query}")).status, status, "{query}");
    }
    let page = site.get(&format!("{PATH}/history?cursor={next}&limit=1")).json();
    let entry = &page["entries"][0];
    assert_eq!(entry["changes"], json!([{"path": "/desired/n", "value": 2, "previous": 1}]));
    assert_eq!(
        (&entry["version"], &entry["by"], &entry["client"]),
        (&json!(2), &json!("anonymous/http"), &json!("http"))
    );
    site.send(&format!("DELETE {PATH} HTTP/1.1\nIf-Match: *\nUmbra-Client: ops"), "");
    let entry = &site.get(&format!("{PATH}/history?limit=1")).json()["entries"][0];
    assert_eq!((&entry["deleted"], &entry["by"]), (&json!(true), &json!("anonymous/ops")));
    assert_eq!(entry["changes"], json!([{"path": "/desired", "removed": true, "previous": {"n": 23}}]));
}

#[test]
fn refusals_are_recorded() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"n": 1}}));
    let patch = |condition: &str, body: &str| {
        let media = "Content-Type: application/merge-patch+json\nUmbra-Client: app";
        site.send(&format!("PATCH {PATH} HTTP/1.1\n{condition}\n{media}"), body).status
    };
    assert_eq!(patch("If-Match: *", "{\"desired\":"), 400);
    assert_eq!(patch("If-Match: *", "{\"desires\":{}}"), 400);
    assert_eq!(patch("If-Match: \"x\"", "{}"), 412);
    assert_eq!(site.get("/v1/devices/none/shadow").status, 404, "a read that finds nothing is no refusal");
    let response = site.get(&format!("{PATH}/rejections")).json();
    let errors: Vec<_> =
        response["rejections"].as_array().unwrap().iter().map(|entry| entry["error"].clone()).collect();
    assert_eq!(
        errors,
        [json!("version-conflict"), json!("invalid-node"), json!("invalid-json"), json!("version-conflict")]
    );
    let newest = &response["rejections"][0];
    assert_eq!(
        (&newest["by"], &newest["client"], &newest["version"]),
        (&json!("anonymous/app"), &json!("app"), &json!(1))
    );
    assert_eq!(response["rejections"][1]["message"], json!("State contains an invalid node: 'desires'"));
    for _ in 0..40 {
        patch("If-Match: \"x\"", "{}");
    }
    assert_eq!(site.get(&format!("{PATH}/rejections")).json()["rejections"].as_array().unwrap().len(), 32);
}

/// The refusal of a will before the engine was published, but not recorded.
#[test]
fn a_refused_will_is_recorded() {
    let site = Site::open();
    let mut watcher = Client::connect(&site.server, V5, "watcher");
    watcher.subscribe(&[("shadow/lamp/update/rejected", 1)]);
    let will = Publish::new("shadow/lamp/update", r#"{"state":"#);
    Client::connect_as(&site.server, &Connect::new(V5, "mortal").will(will, 1)).0.abandon();
    assert_eq!(watcher.message().json()["error"], json!("invalid-json"));
    let response = site.get(&format!("{PATH}/rejections")).json();
    let entry = &response["rejections"][0];
    let expected = ["invalid-json", "mortal", "mqtt"].map(|text| json!(text));
    assert_eq!([entry["error"].clone(), entry["client"].clone(), entry["via"].clone()], expected);
}

/// A refusal over HTTP is announced to nobody: who watches a fleet asks for those of all shadows, from where it left off.
#[test]
fn refusals_of_all_shadows_are_followed() {
    let site = Site::open();
    let page = |query: &str| {
        let page = site.get(&format!("/v1/rejections{query}")).json();
        let of = |entry: &Value| format!("{} {} {} {}", entry["device"], entry["name"], entry["code"], entry["via"]);
        let entries: Vec<_> = page["rejections"].as_array().unwrap().iter().map(of).collect();
        (entries, page["next"].as_str().unwrap().to_owned())
    };
    let refuse = |path: &str| {
        let head = format!("PATCH {path} HTTP/1.1\nIf-Match: \"9-x\"\nContent-Type: application/merge-patch+json");
        assert_eq!(site.send(&head, "{}").status, 412);
    };
    let paths = ["/v1/devices/a/shadow", "/v1/devices/b/shadows/n"];
    for path in paths {
        site.put(path, json!({"reported": {"n": 1}}));
    }
    let (_, start) = page("");
    let (none, next) = page(&format!("?after={start}"));
    assert_eq!((&*none, &next), (&[][..], &start), "there is always a next page");
    paths.into_iter().for_each(refuse);
    let stale = r#"{"version":7,"state":{"reported":{"n":2}}}"#;
    Client::connect(&site.server, V5, "a").publish("shadow/a/update", stale, 1);
    let all = [r#""a" null 409 "http""#, r#""b" "n" 409 "http""#, r#""a" null 409 "mqtt""#];
    let (entries, end) = page(&format!("?after={start}"));
    assert_eq!(entries, all);
    assert_eq!(page(&format!("?after={end}")), (none, end));
    assert_eq!(page("?limit=2").0, all[1..], "the newest");
    let (first, next) = page(&format!("?after={start}&limit=1"));
    assert_eq!(first, all[..1]);
    assert_eq!(page(&format!("?after={next}")).0, all[1..]);
    let elsewhere = page("?after=0-99").0;
    assert_eq!(elsewhere[elsewhere.len() - 3..], all, "after those of a server that has ended");
    for wrong in ["after=", "after=1", "after=x-1", "limit=0", "limit=101", "since=1"] {
        assert_eq!(site.get(&format!("/v1/rejections?{wrong}")).status, 400, "{wrong}");
    }
}

/// Follows the pages of a list to its end.
fn listed(site: &Site, path: &str, member: &str) -> Vec<Value> {
    let (mut found, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let reply = site.get(&path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let page = reply.json();
        found.extend(page[member].as_array().unwrap().iter().cloned());
        next = reply.header("link").map(|link| link.split(['<', '>']).nth(1).unwrap().to_owned());
        assert_eq!(next.is_some(), page["next"].is_string(), "{page}");
    }
    found
}

#[test]
fn devices_are_listed_in_pages() {
    let site = Site::open();
    for n in 0..12 {
        let drift = json!({"desired": {"n": n}, "reported": {"n": n % 3}});
        site.put(&format!("/v1/devices/dev-{n:02}/shadow"), drift);
    }
    site.put("/v1/devices/dev/shadow", json!({"reported": {"only": 1}}));
    site.put("/v1/devices/zone/shadows/a", json!({"reported": {"x": 1}}));
    site.put("/v1/devices/zone/shadows/b", json!({"desired": {"x": 1}}));
    site.put("/v1/devices/gone/shadow", json!({}));
    site.send("DELETE /v1/devices/gone/shadow HTTP/1.1\nIf-Match: *", "");
    let ids = |path: &str| -> Vec<String> {
        listed(&site, path, "devices").iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
    };
    let numbered = |from: usize, to: usize| (from..to).map(|n| format!("dev-{n:02}")).collect::<Vec<_>>();
    let all: Vec<_> = [vec!["dev".to_owned()], numbered(0, 12), vec!["zone".to_owned()]].concat();
    for limit in [1, 2, 5, 100] {
        assert_eq!(ids(&format!("/v1/devices?limit={limit}")), all, "pages of {limit}");
        assert_eq!(ids(&format!("/v1/devices?limit={limit}&prefix=dev")), all[..13], "pages of {limit}");
        let drifting = [numbered(3, 12), vec!["zone".to_owned()]].concat();
        assert_eq!(ids(&format!("/v1/devices?drift=true&limit={limit}")), drifting, "pages of {limit}");
    }
    assert_eq!(ids("/v1/devices?prefix=dev-1&drift=true"), numbered(10, 12));
    assert_eq!(ids("/v1/devices?prefix=none"), Vec::<String>::new());
    assert_eq!(ids("/v1/devices?prefix=zone&cursor=a"), ["zone"]);
    let zone = &listed(&site, "/v1/devices?prefix=z", "devices")[0];
    assert_eq!((&zone["drift"], &zone["shadows"]), (&json!(true), &json!(2)));
    for limit in [1, 2, 3] {
        let path = format!("/v1/devices/zone/shadows?limit={limit}");
        let names: Vec<_> = listed(&site, &path, "shadows").iter().map(|shadow| shadow["name"].clone()).collect();
        assert_eq!(names, [json!("a"), json!("b")]);
        site.put("/v1/devices/zone/shadow", json!({"reported": {"x": 1}}));
        let names: Vec<_> = listed(&site, &path, "shadows").iter().map(|shadow| shadow["name"].clone()).collect();
        assert_eq!(names, [json!(null), json!("a"), json!("b")]);
        site.send("DELETE /v1/devices/zone/shadow HTTP/1.1\nIf-Match: *", "");
    }
    assert_eq!(listed(&site, "/v1/devices/nobody/shadows", "shadows"), Vec::<Value>::new());
}

#[test]
fn devices_are_filtered_by_presence() {
    let site = Site::open();
    let ids = |connected: bool| -> Vec<Value> {
        let found = listed(&site, &format!("/v1/devices?connected={connected}"), "devices");
        assert!(found.iter().all(|entry| entry["connected"] == json!(connected)), "{found:?}");
        found.iter().map(|entry| entry["id"].clone()).collect()
    };
    for device in ["dev-1", "dev-2"] {
        site.put(&format!("/v1/devices/{device}/shadow"), json!({"reported": {"x": 1}}));
    }
    assert_eq!((ids(true), ids(false)), (vec![], vec![json!("dev-1"), json!("dev-2")]));
    // A client that may do everything is taken for the device of its name once it asks for that one's shadow.
    let device = || {
        let mut client = Client::connect(&site.server, V5, "dev-2");
        client.publish("shadow/dev-2/get", "", 1);
        client
    };
    let first = device();
    assert_eq!((ids(true), ids(false)), (vec![json!("dev-2")], vec![json!("dev-1")]));
    let second = device();
    assert_eq!(ids(true), [json!("dev-2")], "taken over");
    let detail = |id: &str| site.get(&format!("/v1/devices/{id}"));
    let known = detail("dev-2").json();
    assert_eq!((&known["id"], &known["connected"], &known["drift"]), (&json!("dev-2"), &json!(true), &json!(false)));
    assert_eq!((&known["protocol"], &known["address"]), (&json!("mqtt-5"), &json!("127.0.0.1")));
    assert!(known["lastSeen"].is_u64() && known["connectedSince"] == known["lastSeen"], "{known}");
    let summary = &site.get("/v1/devices/dev-2/shadows").json()["shadows"];
    assert_eq!(&known["shadows"], summary);
    let away = detail("dev-1").json();
    assert_eq!((&away["connected"], away.get("lastSeen"), away.get("connectedSince")), (&json!(false), None, None));
    assert_eq!((detail("nobody").status, detail("a.b").status), (404, 400));
    first.abandon();
    second.drop_connection();
    eventually("the connection's end", || ids(true).is_empty().then_some(()));
}

#[test]
fn invalid_parameters_are_named() {
    let site = Site::open();
    site.put(PATH, json!({"reported": {}}));
    let long = "d".repeat(129);
    for (head, status, named) in [
        ("GET /v1/devices/a.b/shadow HTTP/1.1".to_owned(), 400, "'id'"),
        (format!("GET /v1/devices/{long}/shadow HTTP/1.1"), 400, "'id'"),
        ("GET /v1/devices/%ff/shadow HTTP/1.1".to_owned(), 400, "'id'"),
        ("GET /v1/devices/a/shadows/b.c HTTP/1.1".to_owned(), 400, "'name'"),
        (format!("GET {PATH}?field=/desired HTTP/1.1"), 400, "'field'"),
        (format!("GET {PATH}?version=1&version=1 HTTP/1.1"), 400, "'version'"),
        (format!("GET {PATH}?consistent=yes HTTP/1.1"), 400, "'consistent'"),
        (format!("GET {PATH}?wait=now HTTP/1.1"), 400, "'wait'"),
        (format!("GET {PATH}?wait=version%3E-1 HTTP/1.1"), 400, "'wait'"),
        (format!("GET {PATH}?timeout=1 HTTP/1.1"), 400, "'timeout'"),
        (format!("GET {PATH}?wait=converged&timeout=301 HTTP/1.1"), 400, "'timeout'"),
        (format!("GET {PATH}?wait=converged&version=1 HTTP/1.1"), 400, "'version'"),
        (format!("GET {PATH}/history?limit=101 HTTP/1.1"), 400, "'limit'"),
        (format!("GET {PATH}/history?before=x HTTP/1.1"), 400, "'before'"),
        ("GET /v1/devices?drift=yes HTTP/1.1".to_owned(), 400, "'drift'"),
        ("GET /v1/devices?cursor=a/b HTTP/1.1".to_owned(), 400, "'cursor'"),
        ("GET /v1/devices?prefix=a.b HTTP/1.1".to_owned(), 400, "'prefix'"),
        ("GET /v1/events?path=/x HTTP/1.1".to_owned(), 400, "'path'"),
        ("GET /v1/events HTTP/1.1\nLast-Event-ID: x".to_owned(), 400, "'Last-Event-ID'"),
        ("GET /v1/events HTTP/1.1\nLast-Event-ID: j+1".to_owned(), 400, "'Last-Event-ID'"),
        ("GET /v1/devices/lamp?limit=1 HTTP/1.1".to_owned(), 400, "'limit'"),
        (format!("GET {PATH} HTTP/1.1\nUmbra-Client: a b"), 400, "'Umbra-Client'"),
        ("GET /v1/nothing HTTP/1.1".to_owned(), 404, "/v1/nothing"),
        (format!("GET {PATH}/ HTTP/1.1"), 404, "/shadow/"),
    ] {
        let reply = site.send(&head, "");
        assert_eq!(reply.status, status, "{head}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{head}");
        let response = reply.json();
        assert_eq!(response["status"], json!(status), "{head}");
        assert!(response["message"].as_str().unwrap().contains(named), "{head}: {response}");
    }
}

#[test]
fn a_wrong_method_lists_the_allowed_ones() {
    let site = Site::open();
    for (path, allow) in [
        (PATH, "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"),
        ("/v1/devices", "GET, HEAD, OPTIONS"),
        ("/things/lamp/shadow", "GET, HEAD, POST, DELETE, OPTIONS"),
    ] {
        let reply = site.send(&format!("TRACE {path} HTTP/1.1"), "");
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{path}: {reply:?}");
        let options = site.send(&format!("OPTIONS {path} HTTP/1.1"), "");
        assert_eq!((options.status, options.header("allow")), (204, Some(allow)), "{path}: {options:?}");
    }
    let options = site.send(&format!("OPTIONS {PATH} HTTP/1.1"), "");
    assert_eq!(options.header("accept-patch"), Some("application/merge-patch+json, application/json-patch+json"));
    for path in ["/v1/devices", "/openapi.json", "/v1/devices/lamp/shadows"] {
        let (get, head) = (site.get(path), site.send(&format!("HEAD {path} HTTP/1.1"), ""));
        assert_eq!((head.status, head.header("content-length")), (200, get.header("content-length")), "{path}");
    }
}
