//! Devices as things in the results of AWS IoT's fleet indexing.

use bytes::Bytes;
use serde_json::Value;

use crate::{
    shadow::{
        Document, ShadowName, Timestamp,
        document::tree::{Members, Node},
        pointer::SectionName,
    },
    wire::{
        aws::metadata,
        native::{message, values},
        write::Object,
    },
};

/// A device that a search of the index found, as far as its reader may see it.
#[derive(Clone, Debug)]
pub struct IndexedThing<'a> {
    /// Its id.
    pub name: &'a str,
    /// Its shadows; `None` is the name of the classic one.
    pub shadows: Vec<IndexedShadow<'a>>,
    /// True if it is connected, and the time of its connection or of its last packet. `None` if the reader may not know.
    pub connectivity: Option<(bool, Option<Timestamp>)>,
}

/// A shadow of an [`IndexedThing`].
#[derive(Clone, Copy, Debug)]
pub struct IndexedShadow<'a> {
    /// Its name; `None` for the classic shadow.
    pub name: Option<&'a ShadowName>,
    /// Its document, cut to the readable paths.
    pub document: &'a Document,
    /// True if it has a delta.
    pub has_delta: bool,
}

/// Renders a thing. Its attributes, type and groups are the tags of the classic shadow, and its shadows are one text of
/// JSON.
#[must_use]
pub fn thing(thing: &IndexedThing<'_>) -> Bytes {
    let classic = thing.shadows.iter().find(|shadow| shadow.name.is_none());
    message(|object| {
        object.text("thingName", thing.name);
        if let Some(shadow) = classic {
            registry(object, &shadow.document.section(SectionName::Tags).members);
        }
        object.text("shadow", &String::from_utf8_lossy(&shadows(&thing.shadows, classic)));
        if let Some((connected, time)) = thing.connectivity {
            let mut connectivity = object.object("connectivity");
            connectivity.member("connected", &connected);
            if let Some(time) = time {
                connectivity.member("timestamp", &time.0.saturating_mul(1000));
            }
            connectivity.close();
        }
    })
}

/// Renders a page of `things`; `next` is the token of the next page.
#[must_use]
pub fn things(things: &[Bytes], next: Option<&str>) -> Bytes {
    message(|object| {
        object.array("things", things.iter(), |out, thing| out.extend_from_slice(thing));
        if let Some(next) = next {
            object.text("nextToken", next);
        }
    })
}

/// Writes the tags as the registry of AWS has them: a type, groups, and attributes that are text.
fn registry(object: &mut Object<'_>, tags: &Members) {
    let of_registry = |name: &str| matches!(name, THING_TYPE | THING_GROUPS);
    if let Some(Value::String(name)) = tags.get(THING_TYPE).map(Node::to_value) {
        object.text(THING_TYPE, &name);
    }
    let groups = match tags.get(THING_GROUPS).map(Node::to_value) {
        Some(Value::String(name)) => vec![Value::String(name)],
        Some(Value::Array(names)) => names.into_iter().filter(Value::is_string).collect(),
        _ => Vec::new(),
    };
    if !groups.is_empty() {
        object.member(THING_GROUPS, &groups);
    }
    object.member_if("attributes", |out| {
        let mut attributes = Object::open(out);
        for (name, node) in tags.iter().filter(|(name, _)| !of_registry(name)) {
            match node.to_value() {
                Value::String(text) => attributes.text(name, &text),
                value => attributes.text(name, &value.to_string()),
            }
        }
        attributes.close_unless_empty()
    });
}

const THING_TYPE: &str = "thingTypeName";
const THING_GROUPS: &str = "thingGroupNames";

/// Renders the classic shadow with the named ones below `name`.
fn shadows(all: &[IndexedShadow<'_>], classic: Option<&IndexedShadow<'_>>) -> Bytes {
    message(|object| {
        if let Some(shadow) = classic {
            members(object, shadow);
        }
        object.member_if("name", |out| {
            let mut named = Object::open(out);
            for shadow in all {
                if let Some(name) = shadow.name {
                    let mut object = named.object(name.as_str());
                    members(&mut object, shadow);
                    object.close();
                }
            }
            named.close_unless_empty()
        });
    })
}

fn members(object: &mut Object<'_>, shadow: &IndexedShadow<'_>) {
    let IndexedShadow { document, has_delta, .. } = shadow;
    let sections = || document.sections().filter(|(name, _)| *name != SectionName::Tags);
    for (name, section) in sections() {
        values(object.key(name.as_str()), &section.members);
    }
    let mut all = object.object("metadata");
    for (name, section) in sections() {
        metadata(all.key(name.as_str()), &section.members, document.timestamp);
    }
    all.close();
    object.member("hasDelta", has_delta);
    object.member("version", &document.version.0);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

    use serde_json::json;

    use super::*;
    use crate::shadow::tests::written;

    fn rendered(tags: Value, connectivity: Option<(bool, Option<Timestamp>)>) -> (Value, Value) {
        let state = json!({"desired": {"a": 1, "b": {"c": [1]}}, "reported": {"a": 1}, "tags": tags});
        let (classic, named) = (written(&[state]), written(&[json!({"reported": {"rate": 5}})]));
        let name = ShadowName::new("cfg").unwrap();
        let shadows = vec![
            IndexedShadow { name: None, document: &classic, has_delta: true },
            IndexedShadow { name: Some(&name), document: &named, has_delta: false },
        ];
        let rendered = thing(&IndexedThing { name: "lamp", shadows, connectivity });
        let mut rendered: Value = serde_json::from_slice(&rendered).unwrap();
        let shadow = rendered.as_object_mut().unwrap().remove("shadow").unwrap();
        (rendered, serde_json::from_str(shadow.as_str().unwrap()).unwrap())
    }

    #[test]
    fn shadows_are_one_text_of_json() {
        let (_, shadow) = rendered(json!({"x": "y"}), None);
        let time = json!({ "timestamp": shadow["metadata"]["reported"]["a"]["timestamp"] });
        let metadata = json!({"desired": {"a": time, "b": {"c": [time]}}, "reported": {"a": time}});
        let named =
            json!({"reported": {"rate": 5}, "metadata": {"reported": {"rate": time}}, "hasDelta": false, "version": 1});
        let expected = json!({
            "desired": {"a": 1, "b": {"c": [1]}}, "reported": {"a": 1}, "metadata": metadata,
            "hasDelta": true, "version": 1, "name": {"cfg": named},
        });
        assert_eq!(shadow, expected);
    }

    #[test]
    fn tags_are_what_the_registry_has() {
        for (tags, expected) in [
            (json!({}), json!({})),
            (
                json!({"a": "b", "n": 4, "f": 1.5, "on": true, "list": [1, "x"], "deep": {"k": "v"}}),
                json!({"attributes": {"a": "b", "n": "4", "f": "1.5", "on": "true", "list": "[1,\"x\"]", "deep": "{\"k\":\"v\"}"}}),
            ),
            (
                json!({"thingTypeName": "lamp", "thingGroupNames": ["a", 5, "b"]}),
                json!({"thingTypeName": "lamp", "thingGroupNames": ["a", "b"]}),
            ),
            (json!({"thingTypeName": 5, "thingGroupNames": "a"}), json!({"thingGroupNames": ["a"]})),
        ] {
            let (mut thing, _) = rendered(tags, None);
            assert_eq!(thing.as_object_mut().unwrap().remove("thingName"), Some(json!("lamp")));
            assert_eq!(thing, expected);
        }
    }

    #[test]
    fn connectivity_has_milliseconds() {
        for (connectivity, expected) in [
            (None, json!(null)),
            (Some((false, None)), json!({"connected": false})),
            (Some((true, Some(Timestamp(5)))), json!({"connected": true, "timestamp": 5000})),
        ] {
            assert_eq!(rendered(json!({}), connectivity).0["connectivity"], expected);
        }
    }
}
