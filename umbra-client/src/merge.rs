//! Three-way merge of two changed copies of one document.
//!
//! Objects merge key by key; any other value is taken from the side that changed it. Equal changes of both sides do not
//! collide, unlike in the service: a counter must be incremented through [`crate::Shadow::update`], not through a merge.
//!
//! Pure, and symmetric.

use serde_json::{Map, Value};

use crate::equality::same;

/// A path that both sides changed to different values. `None` is an absent value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Collision {
    /// A JSON Pointer; empty if the documents as a whole collide.
    pub path: String,
    /// The value that both sides started from.
    pub base: Option<Value>,
    /// The value of one side.
    pub mine: Option<Value>,
    /// The value of the other side.
    pub theirs: Option<Value>,
}

/// Merges the changes from `base` to `mine` and from `base` to `theirs`.
///
/// # Errors
///
/// The paths that both sides changed to different values, in order.
///
/// ```
/// use serde_json::json;
/// use umbra_client::merge;
///
/// let base = json!({"target": 19, "mode": "eco"});
/// let merged = merge(&base, &json!({"target": 21, "mode": "eco"}), &json!({"target": 19, "mode": "heat"}));
/// assert_eq!(merged, Ok(json!({"target": 21, "mode": "heat"})));
///
/// let collisions = merge(&base, &json!({"target": 21}), &json!({"target": 22})).unwrap_err();
/// assert_eq!(collisions[0].path, "/target");
/// ```
pub fn merge(base: &Value, mine: &Value, theirs: &Value) -> Result<Value, Vec<Collision>> {
    let mut collisions = Vec::new();
    let merged = merge_at(&mut Path::default(), [Some(base), Some(mine), Some(theirs)], &mut collisions);
    if collisions.is_empty() { Ok(merged.unwrap_or_default()) } else { Err(collisions) }
}

/// Merges the values at one path: base, mine, theirs.
fn merge_at(path: &mut Path, sides: [Option<&Value>; 3], collisions: &mut Vec<Collision>) -> Option<Value> {
    let [base, mine, theirs] = sides;
    if same(mine, base) || same(mine, theirs) {
        return theirs.cloned();
    }
    if same(theirs, base) {
        return mine.cloned();
    }
    if let (Some(Value::Object(mine)), Some(Value::Object(theirs))) = (mine, theirs) {
        return Some(merge_objects(path, base.and_then(Value::as_object), mine, theirs, collisions));
    }
    collisions.push(Collision {
        path: path.0.clone(),
        base: base.cloned(),
        mine: mine.cloned(),
        theirs: theirs.cloned(),
    });
    None
}

fn merge_objects(
    path: &mut Path,
    base: Option<&Map<String, Value>>,
    mine: &Map<String, Value>,
    theirs: &Map<String, Value>,
    collisions: &mut Vec<Collision>,
) -> Value {
    let only_theirs = theirs.keys().filter(|key| !mine.contains_key(*key));
    let mut keys: Vec<_> = mine.keys().chain(only_theirs).collect();
    keys.sort_unstable();
    let mut merged = Map::new();
    for key in keys {
        let sides = [base.and_then(|base| base.get(key)), mine.get(key), theirs.get(key)];
        let value = path.within(key, |path| merge_at(path, sides, collisions));
        merged.extend(value.map(|value| (key.clone(), value)));
    }
    Value::Object(merged)
}

/// The JSON Pointer of the values being merged.
#[derive(Default)]
struct Path(String);

impl Path {
    fn within<T>(&mut self, key: &str, visit: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.0.len();
        self.0.push('/');
        self.0.push_str(&key.replace('~', "~0").replace('/', "~1"));
        let result = visit(self);
        self.0.truncate(length);
        result
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{equality::same_value, patch};

    /// Checks a merge that succeeds, from both sides.
    fn check(label: &str, base: Value, mine: Value, theirs: Value, expected: Value) {
        assert_eq!(merge(&base, &mine, &theirs), Ok(expected.clone()), "{label}");
        assert_eq!(merge(&base, &theirs, &mine), Ok(expected), "{label}, from the other side");
    }

    /// Checks the paths at which two sides collide, from both sides.
    fn check_collides(label: &str, base: Value, mine: Value, theirs: Value, expected: &[&str]) {
        for (mine, theirs) in [(&mine, &theirs), (&theirs, &mine)] {
            let collisions = merge(&base, mine, theirs).expect_err(label);
            let paths: Vec<_> = collisions.iter().map(|collision| collision.path.as_str()).collect();
            assert_eq!(paths, expected, "{label}");
            for Collision { path, base: was, mine: one, theirs: other } in &collisions {
                let found = [&base, mine, theirs].map(|side| side.pointer(path));
                assert_eq!(found, [was.as_ref(), one.as_ref(), other.as_ref()], "{label} at {path}");
            }
        }
    }

    #[test]
    fn changes_in_different_places_are_both_kept() {
        let base = || json!({"a": 1, "b": {"c": 2, "d": [1, 2]}});
        check("nothing", base(), base(), base(), base());
        check("one side", base(), base(), json!({"a": 2}), json!({"a": 2}));
        check(
            "siblings",
            base(),
            json!({"a": 5, "b": {"c": 2, "d": [1, 2]}}),
            json!({"a": 1, "b": {"c": 2, "d": [3]}}),
            json!({"a": 5, "b": {"c": 2, "d": [3]}}),
        );
        check(
            "a removal and an addition in one object",
            base(),
            json!({"a": 1, "b": {"c": 2}}),
            json!({"a": 1, "b": {"c": 2, "d": [1, 2], "e": 9}}),
            json!({"a": 1, "b": {"c": 2, "e": 9}}),
        );
        check("both remove", base(), json!({"a": 1}), json!({"a": 1}), json!({"a": 1}));
        check(
            "both create an object",
            json!({}),
            json!({"o": {"x": 1}}),
            json!({"o": {"y": 2}}),
            json!({"o": {"x": 1, "y": 2}}),
        );
        check(
            "both turn a scalar into an object",
            json!({"o": 1}),
            json!({"o": {"x": 1}}),
            json!({"o": {"y": 2}}),
            json!({"o": {"x": 1, "y": 2}}),
        );
        check(
            "a value spelled in another way is no change",
            json!({"a": 1}),
            json!({"a": 1.0}),
            json!({"a": 2}),
            json!({"a": 2}),
        );
    }

    #[test]
    fn changes_in_one_place_collide() {
        let base = || json!({"a": 1, "b": {"c": 2, "d": [1, 2]}});
        check_collides("scalars", base(), json!({"a": 2}), json!({"a": 3}), &["/a"]);
        check_collides(
            "every place is listed, in order",
            base(),
            json!({"a": 2, "b": {"c": 3, "d": [1]}}),
            json!({"a": 3, "b": {"c": 3, "d": [2]}}),
            &["/a", "/b/d"],
        );
        check_collides("arrays are whole", json!([1, 2]), json!([1, 3]), json!([0, 2]), &[""]);
        check_collides("removal and write", base(), json!({"b": 2}), json!({"a": 2, "b": 3}), &["/a", "/b"]);
    }

    #[test]
    fn a_removal_collides_with_a_write_below() {
        let base = json!({"b": {"c": 2, "d": 3}});
        check_collides("removed", base.clone(), json!({}), json!({"b": {"c": 9, "d": 3}}), &["/b"]);
        check_collides("turned into a scalar", base, json!({"b": 1}), json!({"b": {"c": 2, "d": 3, "e": 4}}), &["/b"]);
    }

    #[test]
    fn paths_are_escaped() {
        check_collides(
            "escaped",
            json!({"a/b": {"~": 1}}),
            json!({"a/b": {"~": 2}}),
            json!({"a/b": {"~": 3}}),
            &["/a~1b/~0"],
        );
    }

    /// Small documents over few keys and values, so that the three sides meet often.
    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![(0..3).prop_map(|n| json!(n)), Just(json!([1])), Just(json!({})), Just(json!(true))];
        let inner = leaf.prop_recursive(3, 12, 3, |inner| {
            proptest::collection::hash_map("[abc]", inner, 0..3).prop_map(|map| json!(map))
        });
        proptest::collection::hash_map("[abc]", inner, 0..4).prop_map(|map| json!(map))
    }

    /// Every path of a document with what is there, objects as empty ones: what is in them has paths of its own.
    fn places(value: &Value, path: String, found: &mut std::collections::BTreeMap<String, Value>) {
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| places(value, format!("{path}/{key}"), found));
                found.insert(path, json!({}));
            }
            other => {
                found.insert(path, other.clone());
            }
        }
    }

    /// The places in which `to` differs from `from`, with what they became.
    fn edits(from: &Value, to: &Value) -> Vec<(String, Option<Value>)> {
        let (mut before, mut after) = Default::default();
        places(from, String::new(), &mut before);
        places(to, String::new(), &mut after);
        let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let changed = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
        changed.map(|path| (path.clone(), after.get(path).cloned())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn from_either_side_the_same(base in documents(), mine in documents(), theirs in documents()) {
            let here = merge(&base, &mine, &theirs);
            let there = merge(&base, &theirs, &mine).map_err(|collisions| {
                let swapped = |c: Collision| Collision { mine: c.theirs, theirs: c.mine, ..c };
                collisions.into_iter().map(swapped).collect::<Vec<_>>()
            });
            prop_assert_eq!(here, there);
        }

        #[test]
        fn no_edit_is_lost_and_none_invented(base in documents(), mine in documents(), theirs in documents()) {
            if let Ok(merged) = merge(&base, &mine, &theirs) {
                let (my, their, made) = (edits(&base, &mine), edits(&base, &theirs), edits(&base, &merged));
                for edit in my.iter().chain(&their) {
                    prop_assert!(made.contains(edit), "lost {:?} in {}", edit, merged);
                }
                for edit in &made {
                    prop_assert!(my.contains(edit) || their.contains(edit), "invented {:?} in {}", edit, merged);
                }
            }
        }

        #[test]
        fn a_collision_is_a_place_that_both_changed(base in documents(), mine in documents(), theirs in documents()) {
            for collision in merge(&base, &mine, &theirs).err().unwrap_or_default() {
                prop_assert!(!same(collision.mine.as_ref(), collision.base.as_ref()));
                prop_assert!(!same(collision.theirs.as_ref(), collision.base.as_ref()));
                prop_assert!(!same(collision.mine.as_ref(), collision.theirs.as_ref()));
            }
        }

        #[test]
        fn one_side_alone_wins(base in documents(), mine in documents()) {
            prop_assert_eq!(merge(&base, &mine, &base), Ok(mine.clone()));
            prop_assert_eq!(merge(&base, &mine, &mine), Ok(mine));
        }

        #[test]
        fn a_patch_leads_where_the_merge_went(base in documents(), mine in documents(), theirs in documents()) {
            if let Ok(merged) = merge(&base, &mine, &theirs) {
                let mut patched = theirs;
                if let Some(patch) = patch::between(&patched, &merged) {
                    patch::tests::apply(&mut patched, &patch);
                }
                prop_assert!(same_value(&patched, &merged), "{} instead of {}", patched, merged);
            }
        }
    }
}
