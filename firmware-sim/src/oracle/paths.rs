//! JSON Pointers into a shadow's `state`: those that an update writes, and the relation of two of them.

use serde_json::Value;
use umbra_client::Version;

/// Returns every leaf that an update writes, with its value; `None` removes.
pub(crate) fn writes(state: &Value) -> Vec<(String, Option<Value>)> {
    let mut found = Vec::new();
    collect(state, &mut String::new(), &mut found);
    found
}

fn collect(value: &Value, at: &mut String, found: &mut Vec<(String, Option<Value>)>) {
    match value {
        Value::Null => found.push((at.clone(), None)),
        // An empty object merged into an object writes nothing; the fleet sends none elsewhere.
        Value::Object(entries) => {
            for (key, value) in entries {
                let length = at.len();
                at.push('/');
                at.push_str(&key.replace('~', "~0").replace('/', "~1"));
                collect(value, at, found);
                at.truncate(length);
            }
        }
        leaf => found.push((at.clone(), Some(leaf.clone()))),
    }
}

/// Returns true if the paths are equal, or one lies below the other.
pub(crate) fn related(left: &str, right: &str) -> bool {
    let (short, long) = if left.len() <= right.len() { (left, right) } else { (right, left) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns the version of a leaf in the metadata.
pub(crate) fn leaf_version(metadata: &Value, path: &str) -> Option<Version> {
    metadata.pointer(path)?.get("version")?.as_u64().map(Version)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_leaf_is_written_and_null_removes() {
        let state = json!({"desired": {"a": 1, "b": {"c": [1, 2], "d": null}}, "tags": null, "reported": {"x/y~": {}}});
        let mut found = writes(&state);
        found.sort_by(|left, right| left.0.cmp(&right.0));
        let expected = [
            ("/desired/a", Some(json!(1))),
            ("/desired/b/c", Some(json!([1, 2]))),
            ("/desired/b/d", None),
            ("/tags", None),
        ];
        assert_eq!(found, expected.map(|(path, value)| (path.to_owned(), value)));
        assert_eq!(writes(&json!({"x/y~": 1})), [("/x~1y~0".to_owned(), Some(json!(1)))]);
    }

    #[test]
    fn related_paths_are_equal_or_nested() {
        for (left, right, expected) in [
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a/b", "/a", true),
            ("/a", "/ab", false),
            ("/a/b", "/a/c", false),
        ] {
            assert_eq!(related(left, right), expected, "{left} {right}");
        }
    }
}
