//! Replies and events in the dialect of AWS IoT Device Shadow: its fields and no others.
//!
//! Metadata mirrors the state with `{"timestamp"}` in place of every scalar, also in arrays. `accepted` has metadata for
//! every value that was sent, including `null`: in this dialect, sending a value refreshes its time.
//!
//! Each function takes the [`Projection`] of its reader, like the native ones, but without `tags`, which AWS does not
//! have. A reader who may see nothing of a change receives its version and an empty `state`.

pub mod index;

use bytes::Bytes;
use serde_json::Value;

use crate::{
    shadow::{
        ClientToken, Document, Projection, Rejection, SectionPatch, ShadowKey, Timestamp, Update,
        document::tree::{Leaf, Members, Node},
    },
    wire::{
        native::{self, echo, message, version_and_time},
        write::Object,
    },
};

/// Renders `update/accepted`: the values that were sent, with their times; `document` is the shadow after the update.
#[must_use]
pub fn update_accepted(
    update: &Update,
    document: &Document,
    projection: &Projection,
    token: Option<&ClientToken>,
) -> Bytes {
    let (update, document) = (&*projection.update(update), &*projection.document(document));
    message(|message| {
        native::sent(message, update);
        let now = document.timestamp;
        if update.state_is_null {
            stamp(message.key("metadata"), now);
        } else {
            let mut all = message.object("metadata");
            for (name, patch) in update.patches() {
                let out = all.key(name.as_str());
                match patch {
                    SectionPatch::Merge(patch) => {
                        let members = &document.section(name).members;
                        let mut object = Object::open(out);
                        for (key, value) in patch {
                            sent(object.key(key), value, members.get(key.as_str()), now);
                        }
                        object.close();
                    }
                    SectionPatch::Keep | SectionPatch::Clear => stamp(out, now),
                }
            }
            all.close();
        }
        version_and_time(message, document);
        echo(message, token);
    })
}

/// Renders `update/delta`: the part of `desired` that differs from `reported`; `None` if the reader may see none.
#[must_use]
pub fn update_delta(document: &Document, projection: &Projection, token: Option<&ClientToken>) -> Option<Bytes> {
    let delta = projection.delta(document)?;
    Some(message(|message| {
        version_and_time(message, document);
        native::values(message.key("state"), &delta);
        metadata(message.key("metadata"), &delta, document.timestamp);
        echo(message, token);
    }))
}

/// Renders `update/documents`: the shadow before and after a change.
#[must_use]
pub fn update_documents(
    before: &Document,
    after: &Document,
    projection: &Projection,
    token: Option<&ClientToken>,
) -> Bytes {
    native::documents(before, after, token, |object, document| side(object, document, projection))
}

/// Renders `get/accepted` at `now`. `document` must exist.
#[must_use]
pub fn get_accepted(
    document: &Document,
    projection: &Projection,
    now: Timestamp,
    token: Option<&ClientToken>,
) -> Bytes {
    let delta = projection.delta(document);
    let document = &*projection.document(document);
    message(|message| {
        native::state_and_delta(message, document, delta.as_ref());
        metadata_of(message, document);
        message.member("version", &document.version.0);
        message.member("timestamp", &now.0);
        echo(message, token);
    })
}

/// Renders `rejected` for a request to `shadow`.
#[must_use]
pub fn rejected(rejection: &Rejection, shadow: &ShadowKey, now: Timestamp, token: Option<&ClientToken>) -> Bytes {
    let text = match rejection {
        Rejection::Forbidden { .. } => Rejection::Forbidden { what: String::new() }.message(shadow),
        rejection => rejection.message(shadow),
    };
    message(|message| {
        message.member("code", &rejection.code());
        message.text("message", &text);
        message.member("timestamp", &now.0);
        echo(message, token);
    })
}

/// Renders the refusal of an HTTP request that concerns no shadow.
#[must_use]
pub fn refused(code: u16, text: &str, now: Timestamp) -> Bytes {
    message(|message| {
        message.member("code", &code);
        message.text("message", text);
        message.member("timestamp", &now.0);
    })
}

/// Writes one of the two documents of `documents`.
fn side(mut side: Object<'_>, document: &Document, projection: &Projection) {
    let document = &*projection.document(document);
    native::state(&mut side, document);
    metadata_of(&mut side, document);
    side.member("version", &document.version.0);
    side.close();
}

fn metadata_of(message: &mut Object<'_>, document: &Document) {
    let mut all = message.object("metadata");
    for (name, section) in document.sections() {
        metadata(all.key(name.as_str()), &section.members, document.timestamp);
    }
    all.close();
}

/// Writes the metadata of an object in a section; leaves without a known time have `otherwise`.
fn metadata(out: &mut Vec<u8>, members: &Members, otherwise: Timestamp) {
    let mut object = Object::open(out);
    for (key, node) in members {
        let out = object.key(key);
        match node {
            Node::Leaf(leaf) => mirror(out, &leaf.value, time(leaf, otherwise)),
            Node::Object(inner) => metadata(out, inner, otherwise),
        }
    }
    object.close();
}

/// Writes the metadata of a sent `value`, which is `node` in the document; without a node, it was removed at `now`.
fn sent(out: &mut Vec<u8>, value: &Value, node: Option<&Node>, now: Timestamp) {
    match (value, node) {
        (Value::Object(patch), Some(Node::Object(members))) => {
            let mut object = Object::open(out);
            for (key, value) in patch {
                sent(object.key(key), value, members.get(key.as_str()), now);
            }
            object.close();
        }
        (value, Some(Node::Leaf(leaf))) => mirror(out, value, time(leaf, now)),
        (value, _) => mirror(out, value, now),
    }
}

fn time(leaf: &Leaf, otherwise: Timestamp) -> Timestamp {
    if leaf.changed.is_forgotten() { otherwise } else { leaf.changed.timestamp }
}

/// Writes `value` with `time` in place of each scalar.
fn mirror(out: &mut Vec<u8>, value: &Value, time: Timestamp) {
    match value {
        Value::Object(members) => {
            let mut object = Object::open(out);
            members.iter().for_each(|(key, member)| mirror(object.key(key), member, time));
            object.close();
        }
        Value::Array(elements) => {
            out.push(b'[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                mirror(out, element, time);
            }
            out.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => stamp(out, time),
    }
}

fn stamp(out: &mut Vec<u8>, time: Timestamp) {
    let mut object = Object::open(out);
    object.member("timestamp", &time.0);
    object.close();
}
