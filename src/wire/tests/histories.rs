//! Histories, change events and refusals.

use serde_json::{Value, json};

use super::{json_of, key, only};
use crate::{
    shadow::{
        Change, Etag, Projection, ShadowKey, Timestamp, Version,
        document::change::{Effect, Replaced},
        pointer::SectionName,
        tests::{pointer, written},
    },
    wire::{ChangeEntry, HistoryEnd, RefusedEntry, Via, change_entry, followed_refusals, history, refusals},
};

fn etag() -> Etag {
    written(&[json!({"reported": {"a": 1}})]).etag
}

fn changes() -> [Change; 4] {
    let was = |value: Value| Some(Replaced { value, version: Version(1) });
    [
        Change { path: pointer("/desired/a"), replaced: was(json!(1)), effect: Effect::Set(json!({"b": 2})) },
        Change { path: pointer("/reported/gone"), replaced: was(json!("x")), effect: Effect::Remove },
        Change { path: pointer("/reported/same"), replaced: was(json!(5)), effect: Effect::Touch },
        Change { path: pointer("/tags/new"), replaced: None, effect: Effect::Touch },
    ]
}

fn entry<'a>(key: &'a ShadowKey, changes: &'a [Change]) -> ChangeEntry<'a> {
    let (version, etag, timestamp) = (Version(3), etag(), Timestamp(30));
    ChangeEntry { key, version, etag, timestamp, by: "app-1", client: "dash", deleted: false, changes }
}

#[test]
fn an_entry_has_the_old_and_new_values() {
    let (classic, changes) = (key(None), changes());
    let first = entry(&classic, &changes);
    let deleted = ChangeEntry { deleted: true, client: "", changes: &[], ..first };
    let shown = json!({
        "version": 3, "timestamp": 30, "by": "app-1", "client": "dash", "etag": etag().to_string(),
        "changes": [
            {"path": "/desired/a", "value": {"b": 2}, "previous": 1},
            {"path": "/reported/gone", "removed": true, "previous": "x"},
            {"path": "/reported/same", "value": 5, "previous": 5},
            {"path": "/tags/new"},
        ],
    });
    let end = json!({
        "version": 3, "timestamp": 30, "by": "app-1", "etag": etag().to_string(), "deleted": true, "changes": [],
    });
    let page = json_of(&history([first, deleted].into_iter(), HistoryEnd::More, Some("2.0"), &Projection::ALL));
    assert_eq!(page, json!({"entries": [shown, end], "end": "more", "next": "2.0"}));
    for (ends, name) in [(HistoryEnd::First, "first"), (HistoryEnd::Gone, "gone")] {
        let page = json_of(&history([].into_iter(), ends, None, &Projection::ALL));
        assert_eq!(page, json!({"entries": [], "end": name}));
    }
}

#[test]
fn an_entry_has_only_visible_paths() {
    let (classic, changes) = (key(None), changes());
    let desired = only(SectionName::Desired);
    let page = json_of(&history([entry(&classic, &changes)].into_iter(), HistoryEnd::First, None, &desired));
    let shown = json!({
        "version": 3, "timestamp": 30, "by": "app-1", "client": "dash",
        "changes": [{"path": "/desired/a", "value": {"b": 2}, "previous": 1}],
    });
    assert_eq!(page["entries"], json!([shown]));
}

#[test]
fn an_event_names_its_shadow() {
    for (name, expected) in
        [(None, json!({"device": "dev-1"})), (Some("cfg"), json!({"device": "dev-1", "name": "cfg"}))]
    {
        let (key, changes) = (key(name), changes());
        let mut shown = json_of(&change_entry(&entry(&key, &changes[..1]), &Projection::ALL));
        let shown = shown.as_object_mut().unwrap();
        let change = json!([{"path": "/desired/a", "value": {"b": 2}, "previous": 1}]);
        assert_eq!(shown.remove("changes"), Some(change));
        assert_eq!(shown.remove("version"), Some(json!(3)));
        shown.retain(|member, _| ["device", "name"].contains(&member.as_str()));
        assert_eq!(Value::Object(shown.clone()), expected);
    }
}

#[test]
fn a_refusal_hides_names_of_the_payload_from_others() {
    let refused = RefusedEntry {
        timestamp: Timestamp(9),
        by: "app-1".into(),
        client: "".into(),
        via: Via::Http,
        code: 400,
        error: "invalid-field",
        message: "Invalid field 'secret'".into(),
        detail: Some("secret is unknown".into()),
        message_to_others: "Invalid field".into(),
        expected: Some(Version(1)),
        version: Some(Version(2)),
    };
    let own = json!({
        "code": 400, "error": "invalid-field", "message": "Invalid field 'secret'", "detail": "secret is unknown",
        "timestamp": 9, "by": "app-1", "via": "http", "expected": 1, "version": 2,
    });
    let other = RefusedEntry {
        client: "dash".into(),
        via: Via::Mqtt,
        expected: None,
        version: None,
        ..refused.clone().for_others()
    };
    let others = json!({
        "code": 400, "error": "invalid-field", "message": "Invalid field", "timestamp": 9, "by": "app-1",
        "client": "dash", "via": "mqtt",
    });
    let shown = json_of(&refusals([refused, other.clone()].into_iter()));
    assert_eq!(shown, json!({"rejections": [own, others]}));

    let both = [(key(None), other.clone()), (key(Some("cfg")), other)];
    let shown = json_of(&followed_refusals(both.into_iter(), "p-7"));
    let with = |names: Value| {
        let mut entry = others.clone();
        entry.as_object_mut().unwrap().extend(names.as_object().unwrap().clone());
        entry
    };
    let (classic, named) = (with(json!({"device": "dev-1"})), with(json!({"device": "dev-1", "name": "cfg"})));
    assert_eq!(shown, json!({"rejections": [classic, named], "next": "p-7"}));
}
