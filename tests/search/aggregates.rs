//! Aggregates over HTTP and by `umbrad aggregate`: results, rights, refusals and limits.

use serde_json::{Value, json};

use crate::{
    harness::program::{ended, umbrad},
    site::Site,
};

/// The aggregate of what the callers of `listener` may see.
fn aggregate_at(site: &Site, listener: &str, parameters: &[(&str, &str)]) -> Value {
    let reply = site.aggregate_at(listener, parameters);
    assert_eq!(reply.status, 200, "{parameters:?}: {}", reply.text());
    reply.json()
}

#[test]
fn fields_are_aggregated_over_the_devices_of_a_query() {
    let site = Site::open();
    site.write_many(40, |n| {
        let state = json!({
            "desired": {"mode": "eco"},
            "reported": {"battery": n, "mode": if n % 4 == 0 { "eco" } else { "off" }},
            "tags": {"region": if n < 10 { "west" } else { "east" }},
        });
        (format!("d{n:02}/shadow"), state)
    });
    site.write(&[("d00/shadows/cfg", json!({"reported": {"rate": 5}})), ("x/shadow", json!({"tags": {"a": 1}}))]);
    let field = ("field", "reported.battery");
    for (parameters, expected) in [
        (&[][..], json!({"devices": 41, "withValue": 0})),
        (&[("q", "drift:true")], json!({"devices": 30, "withValue": 0})),
        (&[("q", "d*"), ("field", "shadow.name.cfg")], json!({"devices": 40, "withValue": 1})),
        (
            &[("type", "terms"), ("field", "tags.region"), ("q", "reported.battery:<20")],
            json!({
                "devices": 20, "withValue": 20, "other": 0, "truncated": false,
                "terms": [{"value": "east", "count": 10}, {"value": "west", "count": 10}],
            }),
        ),
        (
            &[("type", "terms"), ("field", "reported.mode"), ("size", "1")],
            json!({"devices": 41, "withValue": 40, "other": 10, "truncated": false,
                   "terms": [{"value": "off", "count": 30}]}),
        ),
        (
            &[("type", "stats"), field, ("q", "tags.region:west")],
            json!({"devices": 10, "withValue": 10, "stats":
                   {"count": 10, "sum": 45, "min": 0, "max": 9, "avg": 4.5, "variance": 8.25, "stdDev": 8.25_f64.sqrt()}}),
        ),
        (&[("type", "stats"), ("field", "tags.none")], json!({"devices": 41, "withValue": 0, "stats": {"count": 0}})),
        (
            &[("type", "percentiles"), field, ("percents", "0,50,97.5")],
            json!({"devices": 41, "withValue": 40, "exact": true, "percentiles": [
                {"percent": 0, "value": 0}, {"percent": 50, "value": 19.5}, {"percent": 97.5, "value": 38.025}]}),
        ),
        (
            &[("type", "histogram"), field, ("interval", "25")],
            json!({"devices": 41, "withValue": 40, "buckets": [{"from": 0, "count": 25}, {"from": 25, "count": 15}]}),
        ),
        (
            &[("type", "cardinality"), ("field", "connected")],
            json!({"devices": 41, "withValue": 41, "cardinality": 1, "exact": true}),
        ),
        (
            &[("type", "cardinality"), ("field", "device"), ("q", "NOT reported.battery:*")],
            json!({"devices": 1, "withValue": 1, "cardinality": 1, "exact": true}),
        ),
    ] {
        assert_eq!(aggregate_at(&site, "web", parameters), expected, "{parameters:?}");
    }
}

/// An aggregate of what may not be read is the same, whatever it is, and `NOT` reveals nothing.
#[test]
fn hidden_values_change_no_aggregate() {
    let answers = ["abc", "xyz"].map(|secret| {
        let site = Site::open();
        let secrets = json!({"zone": {"t": 20, "secret": secret.len() + usize::from(secret == "xyz")}, "pin": secret});
        site.write(&[
            (
                "lamp-1/shadow",
                json!({"desired": {"zone": {"t": 20, "u": 1}}, "reported": secrets, "tags": {"a": secret}}),
            ),
            ("lamp-2/shadow", json!({"reported": {"zone": {"t": 22}}})),
            ("vault/shadow", json!({"reported": {"zone": {"t": 9}, "pin": secret}})),
        ]);
        let of = |parameters: &[(&str, &str)]| aggregate_at(&site, "partial", parameters);
        vec![
            of(&[]),
            of(&[("q", "NOT reported.pin:abc")]),
            of(&[("q", "NOT tags.a:xyz"), ("type", "terms"), ("field", "tags.a")]),
            of(&[("type", "terms"), ("field", "reported.pin")]),
            of(&[("type", "stats"), ("field", "reported.zone.secret")]),
            of(&[("type", "stats"), ("field", "reported.zone.t")]),
            of(&[("type", "cardinality"), ("field", "device")]),
            of(&[("type", "terms"), ("field", "drift")]),
            of(&[("type", "cardinality"), ("field", "connected")]),
        ]
    });
    assert_eq!(answers[0], answers[1]);
    let [all, without_pin, .., presence] = answers[0].as_slice() else { panic!("{answers:?}") };
    assert_eq!((all, without_pin), (&json!({"devices": 2, "withValue": 0}), all));
    assert_eq!(answers[0][5]["stats"]["sum"], json!(42));
    assert_eq!(presence, &json!({"devices": 2, "withValue": 0, "cardinality": 0, "exact": true}));
}

#[test]
fn a_refusal_names_parameter_and_limit() {
    let site = Site::open();
    site.write_many(3, |n| {
        (format!("d{n}/shadow"), json!({"reported": {"n": (n * 1000..n * 1000 + 400).collect::<Vec<_>>()}}))
    });
    for (parameters, expected) in [
        (&[("q", "drift:maybe")][..], "Invalid parameter 'q': column 7: expected true, false or *, for drift"),
        (&[("type", "stats")], "Invalid parameter 'field': is needed for type=stats"),
        (
            &[("sort", "device")],
            "Invalid parameter 'sort': unknown; the parameters are q, type, field, size, percents, interval",
        ),
        (
            &[("type", "histogram"), ("field", "reported.n"), ("interval", "1")],
            "Invalid parameter 'interval': the numbers are in more than 1000 buckets; choose a larger one",
        ),
    ] {
        let reply = site.aggregate_at("web", parameters);
        assert_eq!((reply.status, &reply.json()["error"]), (400, &json!("invalid-parameter")), "{parameters:?}");
        assert_eq!(reply.json()["message"], json!(expected));
    }
    let buckets = aggregate_at(&site, "web", &[("type", "histogram"), ("field", "reported.n"), ("interval", "2")]);
    assert_eq!(buckets["buckets"].as_array().unwrap().len(), 600);
}

/// An aggregate that costs more than its caller may cause within its time is refused.
#[test]
fn an_aggregate_is_charged_as_a_search() {
    let site = Site::open();
    site.write_many(1400, |n| (format!("d{n:03}/shadow"), json!({"reported": {"n": n}})));
    let refused = site.aggregate_at("slow", &[]);
    assert_eq!((refused.status, &refused.json()["error"]), (503, &json!("search-too-long")), "{}", refused.text());
    let refused = site.aggregate_at("slow", &[]);
    assert_eq!((refused.status, &refused.json()["error"]), (429, &json!("too-many-requests")));
    // Other callers are not affected, and what an aggregate keeps counts as memory.
    assert_eq!(aggregate_at(&site, "web", &[])["devices"], json!(1400));
    let refused = site.aggregate_at("small", &[("type", "cardinality"), ("field", "device")]);
    assert_eq!((refused.status, &refused.json()["error"]), (429, &json!("too-many-requests")), "{}", refused.text());
    assert!(refused.text().contains("bytes"), "{}", refused.text());
    assert_eq!(aggregate_at(&site, "small", &[])["devices"], json!(1400));
}

#[test]
fn the_command_prints_them() {
    let site = Site::open();
    site.write(&[
        ("lamp-1/shadow", json!({"reported": {"battery": 80}, "tags": {"region": "west"}})),
        ("lamp-2/shadow", json!({"reported": {"battery": 9}, "tags": {"region": "west"}})),
        ("pump/shadow", json!({"reported": {"battery": 50}, "tags": {"region": "east"}})),
    ]);
    let url = format!("http://{}", site.0.address_of("web"));
    for (arguments, code, expected) in [
        (&["terms", "tags.region"][..], 0, "west 2\neast 1\n"),
        (&["terms", "tags.region", "reported.battery:>60"], 0, "west 1\n"),
        (&["terms", "tags.region", "--size", "1"], 0, "west 2\n"),
        (&["stats", "reported.battery", "pump"], 0, "count 1\nsum 50\nmin 50\nmax 50\navg 50\nvariance 0\nstdDev 0\n"),
        (&["percentiles", "reported.battery", "--percents", "0,50"], 0, "0 9\n50 50\n"),
        (&["histogram", "reported.battery", "--interval", "50"], 0, "0 1\n50 2\n"),
        (&["cardinality", "tags.region"], 0, "2\n"),
        (
            &["cardinality", "tags.region", "lamp-*", "--json"],
            0,
            "{\"cardinality\":1,\"devices\":2,\"exact\":true,\"withValue\":2}\n",
        ),
        (&["terms", "colour"], 3, "Invalid parameter 'field': column 1: unknown field 'colour'"),
        (&["histogram", "reported.battery"], 2, "--interval"),
        (&["sum", "reported.battery"], 2, "possible values"),
    ] {
        let (ended_with, out, err) =
            ended(umbrad(&[&["aggregate"], arguments, &["--url", &url]].concat()).output().unwrap());
        assert_eq!(ended_with, code, "{arguments:?}: {out} {err}");
        match code {
            0 => assert_eq!(out, expected, "{arguments:?}: {err}"),
            _ => assert!(err.contains(expected), "{arguments:?}: {err}"),
        }
    }
}
