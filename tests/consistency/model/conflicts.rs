//! The required content of a version conflict: its conflicting and its clean paths.
//!
//! For a merged section, exactly the leaves and removals sent are listed. For a section touched whole, they are
//! at least the leaves sent and the present leaves that would go, and beyond that only what was removed meanwhile.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::reference::{
    Path, Request, SECTIONS, Shadow, at, is_empty, leaf_towards, leaves, merged, plain, pointer, sent_leaves,
    to_pointer, whole,
};

/// Checks `conflicts` and `clean` of the rejection `reply` to `request`, which expected `expected`.
pub(crate) fn check(shadow: &Shadow, request: &Request, expected: u64, reply: &Value) -> Result<(), String> {
    let (mut conflicts, mut clean) = (BTreeSet::new(), BTreeSet::new());
    for conflict in reply["conflicts"].as_array().ok_or("no conflicts")? {
        let path = pointer(conflict["path"].as_str().ok_or("a conflict without a path")?);
        entry(shadow, request, expected, &path, conflict)?;
        if !conflicts.insert(path) {
            return Err(format!("{conflict} is listed twice"));
        }
    }
    for path in reply["clean"].as_array().ok_or("no clean paths")? {
        let path = pointer(path.as_str().ok_or("a clean path that is no text")?);
        if shadow.changed_after(&path, expected) {
            return Err(format!("{path:?} is no clean path"));
        }
        if !clean.insert(path.clone()) || conflicts.contains(&path) {
            return Err(format!("clean path {path:?} is listed twice"));
        }
    }
    let listed: BTreeSet<Path> = conflicts.union(&clean).cloned().collect();
    if reply.get("truncated").is_some() {
        return match (conflicts.len().max(clean.len()), &reply["truncated"]) {
            (64, Value::Bool(true)) => Ok(()),
            other => Err(format!("truncated at {other:?}")),
        };
    }
    SECTIONS.into_iter().try_for_each(|name| covers(shadow, request, expected, name, &listed, &conflicts))
}

/// Checks one conflict.
fn entry(shadow: &Shadow, request: &Request, expected: u64, path: &Path, reply: &Value) -> Result<(), String> {
    if !shadow.changed_after(path, expected) {
        return Err(format!("{reply} did not change after {expected}"));
    }
    let sent = sent(request);
    let yours = at(&sent, path);
    let present = |version: u64| {
        let there = shadow.history.get(version as usize).and_then(|snapshot| at(&snapshot.state, path));
        there.filter(|there| path.len() > 1 || !is_empty(there))
    };
    let mut right = json!({"path": to_pointer(path), "yours": yours});
    if let Some(base) = present(expected) {
        right["base"] = base.clone();
    }
    match present(shadow.version()) {
        Some(current) => right["current"] = current.clone(),
        None => right["removed"] = json!(true),
    }
    let changed = shadow.last_change(path, expected);
    if let Some(version) = changed {
        let snapshot = &shadow.history[version as usize];
        right["version"] = json!(version);
        right["by"] = json!(snapshot.by);
        right["timestamp"] = json!(snapshot.timestamp);
    }
    let mut reply = plain(reply);
    // The time may be that of a heartbeat over AWS, which moves the time of a value.
    if let Some(leaf) = leaf_towards(&shadow.now().state, path)
        && reply["timestamp"] == json!(shadow.time_of(&leaf, shadow.version()))
    {
        right["timestamp"] = reply["timestamp"].clone();
    }
    // By whom and when is forgotten of what is below the floor.
    if changed.is_none_or(|version| version <= shadow.floor()) {
        for field in ["version", "by", "timestamp"] {
            if changed.is_none() || reply.get(field).is_none() {
                right.as_object_mut().unwrap().remove(field);
            }
            if changed.is_none() {
                reply.as_object_mut().unwrap().remove(field);
            }
        }
    }
    // Base values are looked up at most 1,000 changes back.
    if shadow.version() - expected > 1_000 && reply.get("base").is_none() {
        right.as_object_mut().unwrap().remove("base");
    }
    if plain(&right) == reply { Ok(()) } else { Err(format!("a conflict should be\n  {right} and is\n  {reply}")) }
}

/// The state as it was sent; in what replaces a section nulls say nothing.
fn sent(request: &Request) -> Value {
    let mut state = if request.delete { Value::Null } else { request.body["state"].clone() };
    for name in whole(request) {
        if let Some(section) = state.get_mut(name).filter(|section| section.is_object()) {
            *section = merged(section);
        }
    }
    state
}

/// Checks that nothing of a section is missing or too much.
fn covers(
    shadow: &Shadow,
    request: &Request,
    expected: u64,
    name: &str,
    listed: &BTreeSet<Path>,
    conflicts: &BTreeSet<Path>,
) -> Result<(), String> {
    let here = |path: &&Path| path[0] == name;
    let mut must: BTreeSet<Path> =
        sent_leaves(&sent(request)).into_iter().map(|(path, _)| path).filter(|path| path[0] == name).collect();
    let listed: BTreeSet<Path> = listed.iter().filter(here).cloned().collect();
    if !whole(request).contains(&name) {
        return if must == listed {
            Ok(())
        } else {
            Err(format!("of {name}, {must:?} are touched and {listed:?} listed"))
        };
    }
    let sent = must.clone();
    let related = |path: &Path| sent.iter().any(|sent| sent.starts_with(path) || path.starts_with(sent));
    let present = leaves(&shadow.now().state).into_iter().map(|(path, _)| path);
    must.extend(present.filter(|path| path[0] == name && !related(path)));
    if let Some(missing) = must.difference(&listed).next() {
        return Err(format!("{missing:?} is touched and not listed"));
    }
    let section = vec![name.to_owned()];
    let extra = listed.difference(&must).find(|path| **path != section && at(&shadow.now().state, path).is_some());
    if let Some(extra) = extra {
        return Err(format!("{extra:?} is listed and not touched"));
    }
    // A deletion has nothing to collide with in a section that is empty.
    let touched = !request.delete || !is_empty(&shadow.now().state[name]);
    if touched && shadow.changed_after(&section, expected) && !conflicts.iter().any(|path| path[0] == name) {
        return Err(format!("{name} changed, and nothing of it is listed"));
    }
    Ok(())
}
