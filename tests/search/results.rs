//! The devices that a search finds, their fields, their order, and their number.

use serde_json::{Value, json};

use crate::{
    harness::{client::Client, eventually, http::put, wire::V5},
    site::{Site, ids},
};

fn fleet() -> Site {
    let site = Site::open();
    site.write(&[
        (
            "lamp-1/shadow",
            json!({
                "desired": {"mode": "eco"},
                "reported": {"mode": "eco", "firmware": "1.4.2", "battery": 80},
                "tags": {"region": "west"},
            }),
        ),
        ("lamp-2/shadow", json!({"desired": {"mode": "eco"}, "reported": {"mode": "off", "firmware": "1.10.0"}})),
        ("lamp-2/shadows/cfg", json!({"reported": {"rate": 5}})),
        ("lamp-3/shadow", json!({"reported": {"firmware": "1.4.10", "battery": 9.5}, "tags": {"region": "East"}})),
        ("pump/shadows/cfg", json!({"reported": {"rate": 6}, "desired": {"rate": 7}})),
        ("gone/shadow", json!({"reported": {"battery": 1}})),
    ]);
    site.client("web").send("DELETE /v1/devices/gone/shadow HTTP/1.1\nIf-Match: *", b"");
    site
}

#[test]
fn queries_find_devices() {
    let site = fleet();
    for (query, expected) in [
        ("*", "lamp-1 lamp-2 lamp-3 pump"),
        ("reported.firmware:1.4*", "lamp-1 lamp-3"),
        ("shadow.reported.firmware:[1.4.3 TO 2.0.0]", "lamp-2 lamp-3"),
        ("tags.region:(west OR east) AND NOT reported.battery:<10", "lamp-1"),
        ("drift:true", "lamp-2 pump"),
        ("shadow.name.cfg.reported.rate:>=5", "lamp-2 pump"),
        ("reported.mode:off shadow.name.cfg.reported.rate:5", "lamp-2"),
        ("NOT shadow:*", "pump"),
        ("updated:<1d", "lamp-1 lamp-2 lamp-3 pump"),
        ("updated:>1d", ""),
        ("gone", ""),
        // Those that need no document, or those of some shadows only.
        ("connected:false lamp-*", "lamp-1 lamp-2 lamp-3"),
        ("connected:true OR pump", "pump"),
        ("NOT connected:false", ""),
        ("updated:* NOT lamp-1", "lamp-2 lamp-3 pump"),
        ("NOT updated:*", ""),
        ("seen:* OR lamp-1", "lamp-1"),
        ("NOT shadow.name.cfg:*", "lamp-1 lamp-3"),
        ("shadow.name.other:* OR shadow.name.cfg.version:1", "lamp-2 pump"),
    ] {
        assert_eq!(site.found_at("web", query), expected, "{query}");
        // A list takes the same queries.
        let path = format!("/v1/devices?{}", crate::site::encoded(&[("q", query)]));
        let listed = site.client("web").send(&format!("GET {path} HTTP/1.1"), b"");
        assert_eq!(ids(&listed.json()), expected, "{query}");
    }
    assert_eq!(ids(&site.search(&[])), "lamp-1 lamp-2 lamp-3 pump");
    let listed = site.client("web").send("GET /v1/devices?q=drift:true&prefix=lamp-&connected=false HTTP/1.1", b"");
    assert_eq!(ids(&listed.json()), "lamp-2");
}

#[test]
fn a_result_has_the_fields_asked_for() {
    let site = fleet();
    let fields = "reported.battery,tags,version,drift,shadow.name.cfg.delta.rate,device,connected";
    let page = site.search(&[("q", "lamp-1 OR lamp-3 OR pump"), ("fields", fields)]);
    let fields: Vec<Value> =
        page["devices"].as_array().unwrap().iter().map(|device| device["fields"].clone()).collect();
    assert_eq!(
        fields,
        [
            json!({"reported.battery": 80, "tags": {"region": "west"}, "version": 1, "drift": false, "device": "lamp-1", "connected": false}),
            json!({"reported.battery": 9.5, "tags": {"region": "East"}, "version": 1, "drift": false, "device": "lamp-3", "connected": false}),
            json!({"drift": true, "shadow.name.cfg.delta.rate": 7, "device": "pump", "connected": false}),
        ]
    );
    let pump = &page["devices"][2];
    assert_eq!((&pump["connected"], &pump["drift"], &pump["shadows"]), (&json!(false), &json!(true), &json!(1)));
    let bare = site.search(&[("q", "lamp-2")]);
    assert_eq!(bare["devices"][0]["fields"], json!({}));
    assert_eq!(bare["devices"][0]["shadows"], json!(2));
    assert_eq!((bare.get("total"), bare.get("next")), (None, None));
}

#[test]
fn matches_are_ordered_and_counted() {
    let site = fleet();
    for (sort, expected) in [
        ("device", "lamp-1 lamp-2 lamp-3 pump"),
        ("-device", "pump lamp-3 lamp-2 lamp-1"),
        ("reported.battery", "lamp-3 lamp-1 lamp-2 pump"),
        ("-reported.battery", "lamp-1 lamp-3 pump lamp-2"),
        ("reported.firmware", "lamp-1 lamp-3 lamp-2 pump"),
        ("tags.region", "lamp-3 lamp-1 lamp-2 pump"),
        ("-drift", "pump lamp-2 lamp-3 lamp-1"),
        ("connected", "lamp-1 lamp-2 lamp-3 pump"),
    ] {
        for limit in ["1", "3", "4", "100"] {
            let (mut found, mut cursor): (Vec<String>, Option<String>) = (Vec::new(), None);
            loop {
                let mut parameters = vec![("sort", sort), ("limit", limit), ("total", "true")];
                parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
                let page = site.search(&parameters);
                assert_eq!(page["total"], json!(4), "{sort} {limit}");
                found.push(ids(&page));
                match page["next"].as_str() {
                    Some(next) => cursor = Some(next.to_owned()),
                    None => break,
                }
            }
            assert_eq!(found.join(" "), expected, "{sort} {limit}");
        }
    }
    let counted = site.search(&[("q", "lamp-*"), ("total", "true"), ("limit", "1")]);
    assert_eq!((ids(&counted).as_str(), &counted["total"]), ("lamp-1", &json!(3)));
}

#[test]
fn presence_is_searched() {
    let site = fleet();
    let mut lamp = Client::connect(&site.0, V5, "lamp-2");
    // Shows that it is the device.
    lamp.publish("shadow/lamp-2/get", "", 1);
    eventually("the connection to be seen", || (site.found_at("web", "connected:true") == "lamp-2").then_some(()));
    assert_eq!(site.found_at("web", "connectivity.connected:false"), "lamp-1 lamp-3 pump");
    assert_eq!(site.found_at("web", "connectivity.timestamp:>1557651600000"), "lamp-2");
    assert_eq!(site.found_at("web", "seen:<1m"), "lamp-2");
    let page = site.search(&[("sort", "-connected"), ("limit", "1"), ("fields", "seen")]);
    assert_eq!(ids(&page), "lamp-2");
    assert_eq!(page["devices"][0]["fields"]["seen"], page["devices"][0]["lastSeen"]);
    lamp.abandon();
    eventually("the end to be seen", || site.found_at("web", "connected:true").is_empty().then_some(()));
    assert_eq!(site.found_at("web", "connected:false seen:<1h"), "lamp-2");
}

/// An accepted update is found at once, and after a restart.
#[test]
fn a_search_finds_what_was_written_before() {
    let mut site = Site::open();
    let mut client = site.client("web");
    for n in 0..200 {
        put(&mut client, &format!("d{}/shadow", n % 20), &json!({"reported": {"n": n}}));
        assert_eq!(site.found_at("web", &format!("reported.n:{n}")), format!("d{}", n % 20));
    }
    site.0.kill();
    site.0.restart();
    assert_eq!(site.found_at("web", "reported.n:>=197"), "d17 d18 d19");
}
