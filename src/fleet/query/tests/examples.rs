//! Queries on a small fleet: the examples of AWS's documentation, and the short forms.

use serde_json::json;

use super::*;
use crate::fleet::{Field, Query};

/// A presence: connected or not, and when it last was.
fn presence(connected: bool, seen: Option<u64>) -> Option<Presence> {
    Some(Presence { connected, seen: seen.map(Timestamp) })
}

fn fleet() -> Vec<Device> {
    vec![
        device(
            "myThingName",
            presence(true, Some(1_557_700_000)),
            10,
            &[
                (
                    "",
                    json!({
                        "desired": {"mode": "eco", "stats": {"battery": 90}},
                        "reported": {"mode": "eco", "stats": {"battery": 80}, "location": "here", "firmware": "1.4.2"},
                        "tags": {"myAttribute": 75, "serialNumber": "abce", "model": "legacy", "attr1": "abc", "attr2": 4,
                                 "attr3": 10, "thingTypeName": "aa", "thingGroupNames": ["a", "berlin"]},
                    }),
                ),
                ("cfg", json!({"desired": {"rate": 5}, "reported": {"rate": 5}})),
            ],
        ),
        device(
            "my2",
            presence(false, Some(1_557_700_000)),
            7_200,
            &[
                (
                    "",
                    json!({
                        "reported": {"myvalues": [1, 2, [3]], "firmware": "1.10.0", "location": {"lat": 1},
                                     "parts": [{"id": "x1"}, {"id": "x2"}], "on": true, "empty": [], "temp": "n/a"},
                        "tags": {"myAttribute": "78", "model": "New Model", "attr1": "ABC", "attr2": "3", "attr3": 11},
                    }),
                ),
                ("cfg", json!({"desired": {"rate": 5}, "reported": {"rate": 6}})),
            ],
        ),
        device(
            "aba",
            presence(false, None),
            900_000,
            &[("", json!({"reported": {"firmware": 1.4, "stats": {"battery": 70}}, "tags": {"myAttribute": 80.5}}))],
        ),
        device("named-only", None, 3_600, &[("cfg", json!({"reported": {"rate": 7}}))]),
    ]
}

fn check(cases: &[(&str, &str)]) {
    let fleet = fleet();
    for (text, expected) in cases {
        let query: Query = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let found: Vec<_> =
            fleet.iter().filter(|device| query.matches(device, NOW)).map(|device| device.id.as_str()).collect();
        assert_eq!(found.join(" "), *expected, "{text}");
    }
}

/// The queries are those of "Example thing queries" in AWS's guide, with the names of its attributes. `abc` is about the
/// id here, and AWS has no connectivity for a thing that never connected.
#[test]
fn examples_of_aws() {
    check(&[
        ("abc", ""),
        ("thingName:myThingName", "myThingName"),
        ("thingName:my*", "myThingName my2"),
        ("thingName:*name", "myThingName"),
        ("thingName:*b*", "aba"),
        ("thingName:ab?", "aba"),
        ("thingTypeName:aa", "myThingName"),
        ("thingGroupNames:a", "myThingName"),
        ("thingGroupNames:b*", "myThingName"),
        ("attributes.myAttribute:75", "myThingName"),
        ("attributes.myAttribute:[75 TO 80]", "myThingName my2"),
        ("attributes.myAttribute:{75 TO 80]", "my2"),
        ("attributes.serialNumber:[\"abcd\" TO \"abcf\"]", "myThingName"),
        ("attributes.model:l*y", "myThingName"),
        ("attributes.attr1:abc AND attributes.attr2<5 NOT attributes.attr3>10", "myThingName"),
        ("shadow.hasDelta:true", "myThingName"),
        ("NOT attributes.model:legacy", "my2 aba named-only"),
        ("shadow.reported.stats.battery:{70 TO 100} (my* OR v3) NOT attributes.model:other", "myThingName"),
        ("shadow.reported.myvalues:2", "my2"),
        ("shadow.reported.location:* NOT shadow.desired.stats.battery:*", "my2"),
        ("shadow.name.cfg.hasDelta:true", "my2"),
        ("shadow.name.cfg.desired.rate:5 AND shadow.name.cfg.reported.rate:6", "my2"),
        ("connectivity.connected:true", "myThingName"),
        ("connectivity.connected:false", "my2 aba"),
        ("connectivity.connected:true AND connectivity.timestamp : [1557651600000 TO 1557867600000]", "myThingName"),
        ("connectivity.connected:false AND connectivity.timestamp : [1557651600000 TO 1557867600000]", "my2"),
        ("connectivity.connected:true AND connectivity.timestamp > 1557651600000", "myThingName"),
        ("connectivity.connected:*", "myThingName my2 aba"),
        ("*", "myThingName my2 aba named-only"),
    ]);
}

#[test]
fn short_forms() {
    check(&[
        ("reported.firmware:1.4*", "myThingName aba"),
        ("reported.firmware:1.4", "aba"),
        ("tags.model:LEGACY", "myThingName"),
        ("drift:true", "myThingName my2"),
        ("drift:false", "aba named-only"),
        ("delta.mode:*", ""),
        ("delta.stats.battery:90", "myThingName"),
        ("connected:false", "my2 aba"),
        ("NOT connected:true", "my2 aba named-only"),
        ("seen:<1m", "myThingName"),
        ("seen:>1w", "my2"),
        ("updated:<1h", "myThingName"),
        ("updated:<=1h", "myThingName named-only"),
        ("updated:>1d", "aba"),
        ("updated:[1h TO 2h]", "my2 named-only"),
        ("shadow.updated:<=1h", "myThingName"),
        ("version:>0", "myThingName my2 aba"),
        ("version:1", "myThingName my2 aba"),
        ("version:>1", ""),
        ("shadow.name.cfg.version:1", "myThingName my2 named-only"),
        ("shadow.name.cfg:*", "myThingName my2 named-only"),
        ("NOT shadow:*", "named-only"),
        ("shadow.name.other:*", ""),
    ]);
}

#[test]
fn values_compare_by_their_kind() {
    check(&[
        // Versions are ordered by the numbers in them, and are not numbers.
        ("reported.firmware:<1.5", "myThingName aba"),
        ("reported.firmware:>=1.4.2", "myThingName my2"),
        ("reported.firmware:[1.4.0 TO 1.9.9]", "myThingName"),
        ("reported.firmware:>\"1.4\"", "myThingName my2"),
        // A string that is a number compares as one, another one does not.
        ("tags.myAttribute:<79", "myThingName my2"),
        ("tags.myAttribute:80.50", "aba"),
        ("tags.myAttribute:\"75\"", "myThingName"),
        ("tags.myAttribute:8*", "aba"),
        ("reported.temp:>5", ""),
        ("reported.temp:>\"5\"", "my2"),
        // Booleans, arrays and objects.
        ("reported.on:true", "my2"),
        ("reported.on:t*", ""),
        ("reported.on:>0", ""),
        ("reported.myvalues:>2", "my2"),
        ("reported.myvalues:>3", ""),
        ("reported.empty:*", "my2"),
        ("reported.parts.id:x2", "my2"),
        ("reported.parts.id:x?", "my2"),
        ("reported.parts.none:*", ""),
        ("reported.location:here", "myThingName"),
        ("reported.location.lat:1", "my2"),
        ("reported.location.lat.deeper:1", ""),
        ("reported.stats:*", "myThingName aba"),
        ("reported.stats:1", ""),
        ("desired:*", "myThingName"),
        ("tags.model:\"new model\"", "my2"),
        ("tags.model:new\\ model", "my2"),
        ("tags.model:model", ""),
    ]);
}

/// A predicate on a path that may not be read is false, and its negation true, whatever the value.
#[test]
fn hidden_values_change_no_answer() {
    let paths: Paths = ["/reported/mode", "/desired/mode"].map(|path| path.parse().unwrap()).iter().collect();
    let device = |secret: serde_json::Value| {
        let state = json!({
            "desired": {"mode": "eco", "secret": secret},
            "reported": {"mode": "eco", "secret": 1, "list": [secret]},
            "tags": {"secret": secret},
        });
        readable("d", None, 0, &[("", state)], &paths)
    };
    for text in [
        "reported.secret:1",
        "reported.secret:*",
        "desired.secret:<5",
        "desired.secret:s*",
        "reported.list:*",
        "tags:*",
        "tags.secret:*",
        "delta.secret:*",
        "drift:true",
        "shadow.hasDelta:true",
        "connected:*",
    ] {
        let query: Query = text.parse().unwrap();
        let negated: Query = format!("NOT {text}").parse().unwrap();
        for secret in [json!(1), json!(2), json!("secret")] {
            let device = device(secret.clone());
            assert!(!query.matches(&device, NOW), "{text} {secret}");
            assert!(negated.matches(&device, NOW), "NOT {text} {secret}");
        }
    }
    assert!("reported.mode:eco AND NOT delta:*".parse::<Query>().unwrap().matches(&device(json!(1)), NOW));
}

#[test]
fn fields_have_values() {
    let fleet = fleet();
    let value = |id: &str, field: &str| {
        let device = fleet.iter().find(|device| device.id.as_str() == id).unwrap();
        Field::list(field).unwrap().first().unwrap().1.value(device)
    };
    for (id, field, expected) in [
        ("my2", "device", json!("my2")),
        ("my2", "connected", json!(false)),
        ("named-only", "connected", json!(null)),
        ("my2", "seen", json!(1_557_700_000)),
        ("my2", "connectivity.timestamp", json!(1_557_700_000_000_u64)),
        ("my2", "drift", json!(true)),
        ("my2", "updated", json!(NOW.0 - 7_200)),
        ("my2", "version", json!(1)),
        ("my2", "shadow.updated", json!(NOW.0 - 7_200)),
        ("my2", "shadow", json!(true)),
        ("my2", "shadow.hasDelta", json!(false)),
        ("my2", "shadow.name.cfg.hasDelta", json!(true)),
        ("my2", "shadow.name.cfg.delta", json!({"rate": 5})),
        ("my2", "shadow.name.none.delta", json!(null)),
        ("my2", "desired", json!(null)),
        ("my2", "reported.location", json!({"lat": 1})),
        ("my2", "reported.myvalues", json!([1, 2, [3]])),
        ("my2", "reported.parts.id", json!("x1")),
        ("my2", "reported.firmware.none", json!(null)),
    ] {
        assert_eq!(value(id, field).unwrap_or_default(), expected, "{id} {field}");
    }
}
