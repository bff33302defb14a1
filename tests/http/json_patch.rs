//! PATCH with a JSON Patch.

use serde_json::{Value, json};

use crate::{
    site::Site,
    writing::{EDIT, PATH, write},
};

/// The examples of RFC 6902's appendix A, in sections of a shadow.
#[test]
fn json_patches() {
    let site = Site::open();
    // state, patch, what becomes of it: the sections or a status
    for (label, state, patch, expected) in [
        (
            "A.1 adding a member",
            json!({"desired": {"foo": "bar"}}),
            json!([{"op": "add", "path": "/desired/baz", "value": "qux"}]),
            Ok(json!({"desired": {"baz": "qux", "foo": "bar"}})),
        ),
        (
            "A.2 adding an element",
            json!({"desired": {"foo": ["bar", "baz"]}}),
            json!([{"op": "add", "path": "/desired/foo/1", "value": "qux"}]),
            Ok(json!({"desired": {"foo": ["bar", "qux", "baz"]}})),
        ),
        (
            "A.3 removing a member",
            json!({"desired": {"baz": "qux", "foo": "bar"}}),
            json!([{"op": "remove", "path": "/desired/baz"}]),
            Ok(json!({"desired": {"foo": "bar"}})),
        ),
        (
            "A.4 removing an element",
            json!({"desired": {"foo": ["bar", "qux", "baz"]}}),
            json!([{"op": "remove", "path": "/desired/foo/1"}]),
            Ok(json!({"desired": {"foo": ["bar", "baz"]}})),
        ),
        (
            "A.5 replacing",
            json!({"desired": {"baz": "qux", "foo": "bar"}}),
            json!([{"op": "replace", "path": "/desired/baz", "value": "boo"}]),
            Ok(json!({"desired": {"baz": "boo", "foo": "bar"}})),
        ),
        (
            "A.6 moving a value",
            json!({"desired": {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}}),
            json!([{"op": "move", "from": "/desired/foo/waldo", "path": "/desired/qux/thud"}]),
            Ok(json!({"desired": {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}})),
        ),
        (
            "A.7 moving an element",
            json!({"desired": {"foo": ["all", "grass", "cows", "eat"]}}),
            json!([{"op": "move", "from": "/desired/foo/1", "path": "/desired/foo/3"}]),
            Ok(json!({"desired": {"foo": ["all", "cows", "eat", "grass"]}})),
        ),
        (
            "A.8 testing, success",
            json!({"desired": {"baz": "qux", "foo": ["a", 2, "c"]}}),
            json!([{"op": "test", "path": "/desired/baz", "value": "qux"}, {"op": "test", "path": "/desired/foo/1", "value": 2}]),
            Ok(json!({"desired": {"baz": "qux", "foo": ["a", 2, "c"]}})),
        ),
        (
            "A.9 testing, error",
            json!({"desired": {"baz": "qux"}}),
            json!([{"op": "test", "path": "/desired/baz", "value": "bar"}]),
            Err(409),
        ),
        (
            "A.10 adding a nested object",
            json!({"desired": {"foo": "bar"}}),
            json!([{"op": "add", "path": "/desired/child", "value": {"grandchild": {}}}]),
            Ok(json!({"desired": {"foo": "bar", "child": {"grandchild": {}}}})),
        ),
        (
            "A.11 ignoring what is unknown",
            json!({"desired": {"foo": "bar"}}),
            json!([{"op": "add", "path": "/desired/baz", "value": "qux", "xyz": 123}]),
            Ok(json!({"desired": {"foo": "bar", "baz": "qux"}})),
        ),
        (
            "A.12 adding below nothing",
            json!({"desired": {"foo": "bar"}}),
            json!([{"op": "add", "path": "/desired/baz/bat", "value": "qux"}]),
            Err(409),
        ),
        (
            "A.14 escapes in order",
            json!({"desired": {"/": 9, "~1": 10}}),
            json!([{"op": "test", "path": "/desired/~01", "value": 10}]),
            Ok(json!({"desired": {"/": 9, "~1": 10}})),
        ),
        (
            "A.15 strings are no numbers",
            json!({"desired": {"/": 9, "~1": 10}}),
            json!([{"op": "test", "path": "/desired/~01", "value": "10"}]),
            Err(409),
        ),
        (
            "A.16 adding an array",
            json!({"desired": {"foo": ["bar"]}}),
            json!([{"op": "add", "path": "/desired/foo/-", "value": ["abc", "def"]}]),
            Ok(json!({"desired": {"foo": ["bar", ["abc", "def"]]}})),
        ),
        (
            "adding replaces what is there",
            json!({"desired": {"foo": {"a": 1}}}),
            json!([{"op": "add", "path": "/desired/foo", "value": {"b": 2}}]),
            Ok(json!({"desired": {"foo": {"b": 2}}})),
        ),
        (
            "replacing nothing",
            json!({"desired": {"foo": 1}}),
            json!([{"op": "replace", "path": "/desired/bar", "value": 1}]),
            Err(409),
        ),
        (
            "removing nothing",
            json!({"desired": {"foo": 1}}),
            json!([{"op": "remove", "path": "/desired/bar"}]),
            Err(409),
        ),
        (
            "beyond the end",
            json!({"desired": {"foo": [1]}}),
            json!([{"op": "add", "path": "/desired/foo/2", "value": 1}]),
            Err(409),
        ),
        (
            "at the end",
            json!({"desired": {"foo": [1]}}),
            json!([{"op": "add", "path": "/desired/foo/1", "value": 2}]),
            Ok(json!({"desired": {"foo": [1, 2]}})),
        ),
        (
            "an index with a zero before it",
            json!({"desired": {"foo": [1, 2]}}),
            json!([{"op": "remove", "path": "/desired/foo/01"}]),
            Err(409),
        ),
        (
            "the end is no element",
            json!({"desired": {"foo": [1]}}),
            json!([{"op": "remove", "path": "/desired/foo/-"}]),
            Err(409),
        ),
        (
            "inside a scalar",
            json!({"desired": {"foo": 1}}),
            json!([{"op": "add", "path": "/desired/foo/a", "value": 1}]),
            Err(409),
        ),
        (
            "numbers by value",
            json!({"desired": {"foo": 1}}),
            json!([{"op": "test", "path": "/desired/foo", "value": 1.0}]),
            Ok(json!({"desired": {"foo": 1}})),
        ),
        (
            "from one section to another",
            json!({"desired": {"foo": 1, "b": 1}}),
            json!([{"op": "move", "from": "/desired/foo", "path": "/reported"}]),
            Err(400),
        ),
        (
            "a section into another",
            json!({"desired": {"foo": 1}}),
            json!([{"op": "copy", "from": "/desired", "path": "/reported"}]),
            Ok(json!({"desired": {"foo": 1}, "reported": {"foo": 1}})),
        ),
        (
            "a section away",
            json!({"desired": {"foo": 1}, "tags": {"t": 1}}),
            json!([{"op": "remove", "path": "/desired"}]),
            Ok(json!({"tags": {"t": 1}})),
        ),
        (
            "a section that is not there",
            json!({"desired": {"foo": 1}}),
            json!([{"op": "add", "path": "/reported/a", "value": 1}]),
            Err(409),
        ),
        (
            "a new section",
            json!({"desired": {"foo": 1}}),
            json!([{"op": "add", "path": "/reported", "value": {"a": {}}}]),
            Ok(json!({"desired": {"foo": 1}, "reported": {"a": {}}})),
        ),
        (
            "one after another",
            json!({"desired": {"a": {"b": 1}}}),
            json!([{"op": "copy", "from": "/desired/a", "path": "/desired/c"}, {"op": "replace", "path": "/desired/c/b", "value": 2}, {"op": "move", "from": "/desired/a", "path": "/desired/c/a"}]),
            Ok(json!({"desired": {"c": {"b": 2, "a": {"b": 1}}}})),
        ),
        (
            "added and taken away",
            json!({"desired": {"a": 1}}),
            json!([{"op": "add", "path": "/desired/b", "value": {"c": 1}}, {"op": "remove", "path": "/desired/b"}]),
            Ok(json!({"desired": {"a": 1}})),
        ),
        (
            "all or nothing",
            json!({"desired": {"a": 1}}),
            json!([{"op": "replace", "path": "/desired/a", "value": 2}, {"op": "test", "path": "/desired/a", "value": 1}]),
            Err(409),
        ),
        (
            "an empty object for a full one",
            json!({"desired": {"a": {"b": 1}}}),
            json!([{"op": "replace", "path": "/desired/a", "value": {}}]),
            Ok(json!({"desired": {"a": {}}})),
        ),
        ("no section", json!({"desired": {"a": 1}}), json!([{"op": "add", "path": "/other", "value": {}}]), Err(400)),
        ("the whole", json!({"desired": {"a": 1}}), json!([{"op": "replace", "path": "", "value": {}}]), Err(400)),
        ("the delta", json!({"desired": {"a": 1}}), json!([{"op": "remove", "path": "/delta/a"}]), Err(400)),
        ("a null", json!({"desired": {"a": 1}}), json!([{"op": "add", "path": "/desired/a", "value": null}]), Err(400)),
        (
            "a null inside",
            json!({"desired": {"a": 1}}),
            json!([{"op": "add", "path": "/desired/a", "value": {"b": [null]}}]),
            Err(400),
        ),
        ("no value", json!({"desired": {"a": 1}}), json!([{"op": "add", "path": "/desired/a"}]), Err(400)),
        (
            "no such operation",
            json!({"desired": {"a": 1}}),
            json!([{"op": "increment", "path": "/desired/a"}]),
            Err(400),
        ),
        (
            "into itself",
            json!({"desired": {"a": {"b": 1}}}),
            json!([{"op": "move", "from": "/desired/a", "path": "/desired/a/b"}]),
            Err(400),
        ),
        (
            "a section that is no object",
            json!({"desired": {"a": 1}}),
            json!([{"op": "add", "path": "/desired", "value": 1}]),
            Err(400),
        ),
        ("no array", json!({"desired": {"a": 1}}), json!({"op": "remove", "path": "/desired/a"}), Err(400)),
    ] {
        let label: &str = label;
        let whole: Value = ["desired", "reported", "tags"].into_iter().fold(state.clone(), |mut whole, section| {
            whole.as_object_mut().unwrap().entry(section).or_insert(json!(null));
            whole
        });
        site.put(PATH, whole);
        let before = site.get(PATH).etag();
        let reply = write(&site, "PATCH", "", EDIT, &patch.to_string());
        let mut after = site.state(PATH);
        after.as_object_mut().unwrap().remove("delta");
        match expected {
            Ok(expected) => {
                assert_eq!(reply.status, 200, "{label}: {}", reply.text());
                assert_eq!(after, expected, "{label}");
            }
            Err(status) => {
                assert_eq!(reply.status, status, "{label}: {}", reply.text());
                assert_eq!((after, site.get(PATH).etag()), (state, before), "{label}");
            }
        }
    }
    let reply = write(&site, "PATCH", "", EDIT, r#"[{"op":"test","path":"/desired/a","value":7}]"#);
    let response = reply.json();
    assert_eq!(
        (response["error"].clone(), response["failed"][0]["path"].clone()),
        (json!("expectation-failed"), json!("/desired/a"))
    );
    assert_eq!((&response["failed"][0]["expected"], &response["failed"][0]["current"]), (&json!("value"), &json!(1)));
}

/// Copies of copies would fill the memory.
#[test]
fn a_patch_cannot_grow_without_bound() {
    let site = Site::open();
    site.put(PATH, json!({"desired": {"a": {"x": "y"}}}));
    let wide: Vec<_> =
        (0..200).map(|n| json!({"op": "copy", "from": "/desired/a", "path": format!("/desired/a/{n}")})).collect();
    let reply = write(&site, "PATCH", "", EDIT, &json!(wide).to_string());
    assert_eq!(reply.status, 413, "{}", reply.text());
    let mut path = "/desired/a".to_owned();
    let deep: Vec<_> = (0..200)
        .map(|_| {
            path.push_str("/a");
            json!({"op": "copy", "from": "/desired/a", "path": path})
        })
        .collect();
    let reply = write(&site, "PATCH", "", EDIT, &json!(deep).to_string());
    assert!(matches!(reply.status, 400 | 413), "{}", reply.text());
    let many: Vec<_> = (0..257).map(|_| json!({"op": "remove", "path": "/desired/a"})).collect();
    assert_eq!(write(&site, "PATCH", "", EDIT, &json!(many).to_string()).status, 400);
}
