//! The history of a shadow: accepted changes with old and new values, and refusals.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    shadow::{
        Change, Etag, Projection, ShadowKey, Timestamp, Version,
        document::change::{Effect, Replaced},
    },
    wire::{
        native::{cursor, message},
        write::Object,
    },
};

/// One accepted change.
#[derive(Clone, Copy, Debug)]
pub struct ChangeEntry<'a> {
    /// The shadow.
    pub key: &'a ShadowKey,
    /// The version that the change made.
    pub version: Version,
    /// The etag of that version.
    pub etag: Etag,
    /// The time.
    pub timestamp: Timestamp,
    /// The principal.
    pub by: &'a str,
    /// The client; empty if none.
    pub client: &'a str,
    /// True if the change deleted the shadow.
    pub deleted: bool,
    /// The changed paths.
    pub changes: &'a [Change],
}

/// The end of a page of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryEnd {
    /// The page ends with the first change.
    First,
    /// More entries are on the next page.
    More,
    /// Older entries are no longer kept.
    Gone,
}

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// MQTT, including wills.
    Mqtt,
    /// HTTP.
    Http,
}

/// One refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedEntry {
    /// The time.
    pub timestamp: Timestamp,
    /// The principal.
    pub by: Arc<str>,
    /// The client; empty if none.
    pub client: Arc<str>,
    /// The protocol.
    pub via: Via,
    /// The code of `rejected`.
    pub code: u16,
    /// The error of `rejected`.
    pub error: &'static str,
    /// The message of `rejected`.
    pub message: String,
    /// The detail of `rejected`.
    pub detail: Option<String>,
    /// The message for other readers, without names from the payload.
    pub message_to_others: String,
    /// The expected version, if any.
    pub expected: Option<Version>,
    /// The current version, if a precondition failed.
    pub version: Option<Version>,
}

/// Renders a page of history, newest first; `next` is the cursor of the next page.
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
        cursor(envelope, next);
    })
}

/// Renders one change as an event, with the names of its shadow.
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

/// Renders the recent refusals of a shadow, newest first.
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

/// Renders refusals of several shadows, each with the names of its shadow, and `next`, the position after them.
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
    /// Returns the name in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Http => "http",
        }
    }
}

impl RefusedEntry {
    /// Returns the entry for readers who may not see the whole shadow.
    #[must_use]
    pub fn for_others(self) -> Self {
        Self { message: self.message_to_others.clone(), detail: None, ..self }
    }
}

impl HistoryEnd {
    /// Returns the name in the page.
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
    // The etag is a digest of the whole state.
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
            // The same value was sent again.
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
