//! Selected paths, and documents of earlier versions.

use serde_json::{Value, json};

use super::{json_of, only};
use crate::{
    shadow::{Document, Projection, pointer::SectionName, tests::written},
    wire::{Selection, former, get_selected},
};

fn shadow() -> Document {
    written(&[json!({
        "desired": {"mode": "eco", "zone": {"t": 20, "u": {"v": 1}}, "list": [1, 2]},
        "reported": {"mode": "off", "zone": {"t": 20}},
        "tags": {"site": "a"},
    })])
}

fn selection(paths: &[&str]) -> Selection {
    let mut selection = Selection::default();
    paths.iter().for_each(|path| selection.add(path).unwrap());
    selection
}

#[test]
fn the_values_at_and_below_the_paths_are_selected() {
    for (paths, expected) in [
        (&["/desired/mode"][..], json!({"desired": {"mode": "eco"}})),
        (&["/desired/zone"], json!({"desired": {"zone": {"t": 20, "u": {"v": 1}}}})),
        (&["/desired/zone/t", "/desired/zone/u/v"], json!({"desired": {"zone": {"t": 20, "u": {"v": 1}}}})),
        (
            &["/desired/zone/u", "/reported"],
            json!({"desired": {"zone": {"u": {"v": 1}}}, "reported": {"mode": "off", "zone": {"t": 20}}}),
        ),
        // An element selects the whole array; below a scalar there is nothing.
        (&["/desired/list/1", "/desired/mode/x"], json!({"desired": {"list": [1, 2]}})),
        (&["/desired/zone/none", "/reported/none", "/tags/site"], json!({"tags": {"site": "a"}})),
        (&["/delta"], json!({"delta": {"list": [1, 2], "mode": "eco", "zone": {"u": {"v": 1}}}})),
        (&["/delta/zone", "/delta/none"], json!({"delta": {"zone": {"u": {"v": 1}}}})),
        (&["/delta/zone/t"], json!({})),
        (&[], json!({})),
    ] {
        let shown = json_of(&get_selected(&shadow(), &Projection::ALL, &selection(paths), false));
        assert_eq!(shown["state"], expected, "{paths:?}");
        assert_eq!(shown.get("metadata"), None);
    }
}

#[test]
fn metadata_is_that_of_the_selected_values() {
    let shown = json_of(&get_selected(&shadow(), &Projection::ALL, &selection(&["/desired/zone/t"]), true));
    let stamp = json!({"timestamp": 1, "version": 1, "by": "tester"});
    assert_eq!(
        shown,
        json!({
            "state": {"desired": {"zone": {"t": 20}}}, "metadata": {"desired": {"zone": {"t": stamp}}},
            "version": 1, "timestamp": 1, "etag": shadow().etag.to_string(),
        })
    );
}

#[test]
fn only_visible_values_are_selected() {
    let desired = only(SectionName::Desired);
    let shown =
        json_of(&get_selected(&shadow(), &desired, &selection(&["/desired/mode", "/reported", "/delta"]), false));
    assert_eq!(shown["state"], json!({"desired": {"mode": "eco"}}));
    assert_ne!(shown["etag"], json!(shadow().etag.to_string()));
}

#[test]
fn a_path_begins_with_a_section_or_the_delta() {
    for text in ["", "desired", "/none/a", "/deltas", "/desired/~2", "/delta/~"] {
        assert!(Selection::default().add(text).is_err(), "{text}");
    }
}

#[test]
fn an_earlier_version_has_no_metadata() {
    let document = written(&[json!({"desired": {"a": 1}, "tags": {"t": 1}})]);
    let shown = json_of(&former(&document, &Projection::STATE));
    let expected = json!({
        "state": {"desired": {"a": 1}, "delta": {"a": 1}}, "version": 1, "timestamp": 1, "etag": document.etag.to_string(),
    });
    assert_eq!(shown, expected);
    assert_eq!(json_of(&former(&document, &only(SectionName::Reported)))["state"], Value::Object(Default::default()));
}
