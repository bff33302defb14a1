//! What happened to a shadow, told in hindsight: accepted changes with old and new values, and refusals.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    auth::Projection,
    shadow::{
        Change, Etag, ShadowKey, Timestamp, Version,
        document::change::{Effect, Replaced},
    },
    wire::{native::message, write::Object},
};

/// One accepted change.
#[derive(Clone, Copy, Debug)]
pub struct ChangeEntry<'a> {
    /// The shadow.
    pub key: &'a ShadowKey,
    /// The version it made.
    pub version: Version,
    /// The etag of that version.
    pub etag: Etag,
    /// When.
    pub timestamp: Timestamp,
    /// The principal.
    pub by: &'a str,
    /// The client; empty if none.
    pub client: &'a str,
    /// Whether it deleted the shadow.
    pub deleted: bool,
    /// Path by path.
    pub changes: &'a [Change],
}

/// What comes after the last entry of a page of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryEnd {
    /// Nothing: it was the first change.
    First,
    /// More, on the next page.
    More,
    /// What is no longer kept.
    Gone,
}

/// The protocol that a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// MQTT, wills included.
    Mqtt,
    /// HTTP.
    Http,
}

/// One refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedEntry {
    /// When.
    pub timestamp: Timestamp,
    /// The principal.
    pub by: Arc<str>,
    /// The client; empty if none.
    pub client: Arc<str>,
    /// The protocol it came by.
    pub via: Via,
    /// As in `rejected`.
    pub code: u16,
    /// As in `rejected`.
    pub error: &'static str,
    /// As in `rejected`.
    pub message: String,
    /// As in `rejected`.
    pub detail: Option<String>,
    /// `message` for others who may not see all of the shadow.
    pub message_to_others: String,
    /// The version it expected, if it named one.
    pub expected: Option<Version>,
    /// The version there was, if it was that which did not fit.
    pub version: Option<Version>,
}

/// A page of history, newest first; `next` is the cursor of the one after it.
#[must_use]
pub fn history<'a>(
    entries: impl Iterator<Item = ChangeEntry<'a>>,
    end: HistoryEnd,
    next: Option<&str>,
    projection: &Projection,
) -> Bytes {
    message(|envelope| {
        envelope.array("entries", entries, |out, entry| write_change(Object::open(out), &entry, projection));
        envelope.text("end", end.as_str());
        if let Some(next) = next {
            envelope.text("next", next);
        }
    })
}

/// One change, as an event of its own: with the names of its shadow.
#[must_use]
pub fn change_entry(entry: &ChangeEntry<'_>, projection: &Projection) -> Bytes {
    message(|envelope| {
        envelope.text("device", entry.key.device.as_str());
        if let Some(name) = &entry.key.name {
            envelope.text("name", name.as_str());
        }
        members(envelope, entry, projection);
    })
}

/// The recent refusals of a shadow, newest first.
#[must_use]
pub fn refusals(entries: impl Iterator<Item = RefusedEntry>) -> Bytes {
    message(|envelope| {
        envelope.array("rejections", entries, |out, entry| {
            let mut object = Object::open(out);
            refusal(&mut object, &entry);
            object.close();
        });
    })
}

/// Refusals of several shadows, each with the names of its own, and `next`, the position after them.
#[must_use]
pub fn followed_refusals(entries: impl Iterator<Item = (ShadowKey, RefusedEntry)>, next: &str) -> Bytes {
    message(|envelope| {
        envelope.array("rejections", entries, |out, (key, entry)| {
            let mut object = Object::open(out);
            object.text("device", key.device.as_str());
            if let Some(name) = &key.name {
                object.text("name", name.as_str());
            }
            refusal(&mut object, &entry);
            object.close();
        });
        envelope.text("next", next);
    })
}

fn refusal(object: &mut Object<'_>, entry: &RefusedEntry) {
    object.member("code", &entry.code);
    object.text("error", entry.error);
    object.text("message", &entry.message);
    if let Some(detail) = &entry.detail {
        object.text("detail", detail);
    }
    object.member("timestamp", &entry.timestamp.0);
    who(object, &entry.by, &entry.client);
    object.text("via", entry.via.as_str());
    if let Some(expected) = entry.expected {
        object.member("expected", &expected.0);
    }
    if let Some(version) = entry.version {
        object.member("version", &version.0);
    }
}

impl Via {
    /// As it stands in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Http => "http",
        }
    }
}

impl RefusedEntry {
    /// As others are told of it who may not see all of the shadow.
    #[must_use]
    pub fn for_others(self) -> Self {
        Self { message: self.message_to_others.clone(), detail: None, ..self }
    }
}

impl HistoryEnd {
    /// As it stands in the page.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::More => "more",
            Self::Gone => "gone",
        }
    }
}

fn write_change(mut object: Object<'_>, entry: &ChangeEntry<'_>, projection: &Projection) {
    members(&mut object, entry, projection);
    object.close();
}

fn members(object: &mut Object<'_>, entry: &ChangeEntry<'_>, projection: &Projection) {
    object.member("version", &entry.version.0);
    object.member("timestamp", &entry.timestamp.0);
    who(object, entry.by, entry.client);
    // It digests all of the state.
    if projection.reads_state() {
        object.text("etag", &entry.etag.to_string());
    }
    if entry.deleted {
        object.member("deleted", &true);
    }
    let visible = entry.changes.iter().filter_map(|change| projection.change(change));
    object.array("changes", visible, |out, change| {
        let mut object = Object::open(out);
        object.text("path", &change.path.to_string());
        match (&change.effect, &change.replaced) {
            (Effect::Set(value), _) => object.member("value", value),
            (Effect::Remove, _) => object.member("removed", &true),
            // Sent again: what is there is what was there.
            (Effect::Touch, Some(Replaced { value, .. })) => object.member("value", value),
            (Effect::Touch, None) => {}
        }
        if let Some(Replaced { value, .. }) = &change.replaced {
            object.member("previous", value);
        }
        object.close();
    });
}

fn who(object: &mut Object<'_>, by: &str, client: &str) {
    object.text("by", by);
    if !client.is_empty() {
        object.text("client", client);
    }
}
