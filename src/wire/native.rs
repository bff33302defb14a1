//! Replies and events in the native dialect.
//!
//! Each function takes the [`Projection`] of its reader and renders nothing beyond it. A reader who may see nothing of a
//! change still receives its version, with an empty `state`. `timestamp` is the time of the version; in a rejection, of
//! the refusal. Metadata mirrors the state, with `{"timestamp","version","by"}` in place of each leaf.

pub(super) mod conflicts;
pub(super) mod history;
pub(super) mod listing;
pub(super) mod metadata;
pub(super) mod problem;
pub(super) mod selection;
pub(super) mod sessions;
use bytes::Bytes;
use serde_json::Value;

use crate::{
    shadow::{
        ClientToken, Disposition, Document, Etag, FirstOutcome, Projection, Rejection, SectionPatch, ShadowKey,
        Timestamp, Update, Version,
        document::tree::{Members, Node},
    },
    wire::{ReplyOptions, native::metadata::Metadata, write::Object},
};

/// An accepted update, for the reply to its requester.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// The update as sent.
    pub update: &'a Update,
    /// False if the update is unknown: a replayed patch is not resolved again.
    pub is_known: bool,
    /// True if the update made a version.
    pub changed: bool,
    /// The shadow after the update; for a replay, the current shadow.
    pub document: &'a Document,
    /// The earlier version that the update was rebased from.
    pub rebased_from: Option<Version>,
    /// The disposition: applied, replayed or dry run.
    pub disposition: Disposition,
}

/// Renders `update/accepted`: the values that were sent, and their metadata in `document`, the shadow after the update.
#[must_use]
pub fn update_accepted(
    update: &Update,
    changed: bool,
    document: &Document,
    projection: &Projection,
    token: Option<&ClientToken>,
) -> Bytes {
    let accepted =
        Accepted { update, is_known: true, changed, document, rebased_from: None, disposition: Disposition::Applied };
    update_outcome(&accepted, projection, token)
}

/// Renders `update/accepted` with all its fields.
///
/// A replay repeats the first outcome. It has metadata only for leaves that have not changed since.
#[must_use]
pub fn update_outcome<'a>(
    accepted: &Accepted<'_>,
    projection: &Projection,
    options: impl Into<ReplyOptions<'a>>,
) -> Bytes {
    let options = options.into();
    let (update, document) = (projection.update(accepted.update), projection.document(accepted.document));
    let (first, until) = match accepted.disposition {
        Disposition::Replayed(first) => (first, first.version),
        Disposition::Applied | Disposition::DryRun => (accepted.first(document.etag), Version(u64::MAX)),
    };
    message(|envelope| {
        if accepted.is_known {
            sent(envelope, &update);
        }
        if accepted.is_known && options.metadata {
            let (mut all, mut metadata) = (envelope.object("metadata"), Metadata::until(until));
            for (name, patch) in update.patches() {
                let SectionPatch::Merge(patch) = patch else { continue };
                let members = &document.section(name).members;
                all.member_if(name.as_str(), |out| metadata.sent(out, patch, members));
            }
            all.close();
        }
        envelope.member("version", &first.version.0);
        envelope.member("timestamp", &first.timestamp.0);
        // An etag of the whole document would reveal changes beyond the projection.
        if first.etag_is_own || projection.reads_state() {
            envelope.text("etag", &first.etag.to_string());
        }
        envelope.member("changed", &first.changed);
        if let Some(version) = first.rebased_from {
            envelope.member("rebasedFrom", &version.0);
        }
        if matches!(accepted.disposition, Disposition::Replayed(_)) {
            envelope.member("replayed", &true);
        }
        if update.dry_run {
            envelope.member("dryRun", &true);
            side(envelope.object("document"), accepted.document, projection, options.metadata);
        }
        echo(envelope, options.token);
    })
}

impl Accepted<'_> {
    fn first(&self, etag: Etag) -> FirstOutcome {
        let Document { version, timestamp, .. } = *self.document;
        let (changed, rebased_from) = (self.changed, self.rebased_from);
        let (digest, etag_is_own, created) = (Default::default(), true, false);
        FirstOutcome { digest, version, timestamp, etag, etag_is_own, changed, created, rebased_from }
    }
}

/// Renders `update/delta`: the part of `desired` that differs from `reported`; `None` if the reader may see none.
#[must_use]
pub fn update_delta<'a>(
    document: &Document,
    projection: &Projection,
    options: impl Into<ReplyOptions<'a>>,
) -> Option<Bytes> {
    let (delta, options) = (projection.delta(document)?, options.into());
    Some(message(|envelope| {
        values(envelope.key("state"), &delta);
        if options.metadata {
            Metadata::default().members(envelope.key("metadata"), &delta);
        }
        version_and_time(envelope, document);
        echo(envelope, options.token);
    }))
}

/// Renders `delta`, for small devices: the version, and the part of `desired` that differs from `reported`. Empty if
/// the reader may see none.
#[must_use]
pub fn lean_delta(document: &Document, projection: &Projection) -> Bytes {
    lean(document, &difference(document, projection))
}

/// Renders `delta` after a change; `None` if the visible difference is the same as before.
#[must_use]
pub fn changed_lean_delta(before: &Document, after: &Document, projection: &Projection) -> Option<Bytes> {
    let state = difference(after, projection);
    (state != difference(before, projection)).then(|| lean(after, &state))
}

fn lean(document: &Document, state: &[u8]) -> Bytes {
    if state.is_empty() {
        return Bytes::new();
    }
    message(|envelope| {
        envelope.member("version", &document.version.0);
        envelope.key("state").extend_from_slice(state);
    })
}

/// Returns the delta of `document` as JSON; empty if there is none.
fn difference(document: &Document, projection: &Projection) -> Vec<u8> {
    let mut state = Vec::new();
    if let Some(delta) = projection.delta(document).filter(|_| document.exists()) {
        values(&mut state, &delta);
    }
    state
}

/// Renders `update/documents`: the shadow before and after a change.
///
/// [`Document::undo`] can make `before` from `after`. Leaves without a known stamp then have their version alone.
#[must_use]
pub fn update_documents<'a>(
    before: &Document,
    after: &Document,
    projection: &Projection,
    options: impl Into<ReplyOptions<'a>>,
) -> Bytes {
    let ReplyOptions { token, metadata } = options.into();
    documents(before, after, token, |object, document| side(object, document, projection, metadata))
}

/// Renders `update/documents` in either dialect; `side` writes one document.
pub(super) fn documents(
    before: &Document,
    after: &Document,
    token: Option<&ClientToken>,
    side: impl Fn(Object<'_>, &Document),
) -> Bytes {
    message(|envelope| {
        if before.exists() {
            side(envelope.object("previous"), before);
        } else {
            envelope.member("previous", &Value::Null);
        }
        side(envelope.object("current"), after);
        envelope.member("timestamp", &after.timestamp.0);
        echo(envelope, token);
    })
}

/// Renders `get/accepted`, and the event `document`. `document` must exist.
#[must_use]
pub fn get_accepted<'a>(document: &Document, projection: &Projection, options: impl Into<ReplyOptions<'a>>) -> Bytes {
    let options = options.into();
    let delta = projection.delta(document);
    let document = &*projection.document(document);
    message(|envelope| {
        state_and_delta(envelope, document, delta.as_ref());
        if options.metadata {
            metadata_of(envelope, document);
        }
        version_and_time(envelope, document);
        envelope.text("etag", &document.etag.to_string());
        echo(envelope, options.token);
    })
}

/// Renders `delete/accepted`; `document` is the tombstone.
#[must_use]
pub fn delete_accepted(document: &Document, token: Option<&ClientToken>) -> Bytes {
    delete_outcome(document, Disposition::Applied, token)
}

/// Renders `delete/accepted` with the mark of a replay.
#[must_use]
pub fn delete_outcome(document: &Document, disposition: Disposition, token: Option<&ClientToken>) -> Bytes {
    message(|envelope| {
        match disposition {
            Disposition::Replayed(first) => {
                envelope.member("version", &first.version.0);
                envelope.member("timestamp", &first.timestamp.0);
                envelope.member("replayed", &true);
            }
            Disposition::Applied | Disposition::DryRun => version_and_time(envelope, document),
        }
        echo(envelope, token);
    })
}

/// Renders `rejected` for a request to `shadow`.
#[must_use]
pub fn rejected(
    rejection: &Rejection,
    shadow: &ShadowKey,
    now: Timestamp,
    projection: &Projection,
    token: Option<&ClientToken>,
) -> Bytes {
    message(|envelope| refused(envelope, rejection, shadow, now, projection, token))
}

/// Writes the members of `rejected`.
pub(super) fn refused(
    envelope: &mut Object<'_>,
    rejection: &Rejection,
    shadow: &ShadowKey,
    now: Timestamp,
    projection: &Projection,
    token: Option<&ClientToken>,
) {
    envelope.member("code", &rejection.code());
    envelope.text("error", rejection.error());
    envelope.text("message", &rejection.message(shadow));
    if let Some(detail) = rejection.detail() {
        envelope.text("detail", &detail);
    }
    envelope.member("timestamp", &now.0);
    echo(envelope, token);
    match rejection {
        Rejection::VersionConflict { expected, version, etag, collisions } => {
            if let Some(expected) = expected {
                envelope.member("expected", &expected.0);
            }
            envelope.member("version", &version.0);
            etag.iter().for_each(|etag| envelope.text("etag", &etag.to_string()));
            collisions.iter().for_each(|found| conflicts::collisions(envelope, found, projection));
        }
        Rejection::ExpectationFailed { version, etag, failed } => {
            envelope.member("version", &version.0);
            etag.iter().for_each(|etag| envelope.text("etag", &etag.to_string()));
            conflicts::failed(envelope, failed, projection);
        }
        Rejection::TooManyRequests { retry_after_ms: Some(retry_after_ms), .. } => {
            envelope.member("retryAfterMs", retry_after_ms);
        }
        _ => {}
    }
}

pub(super) fn message(write: impl FnOnce(&mut Object<'_>)) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    let mut envelope = Object::open(&mut out);
    write(&mut envelope);
    envelope.close();
    out.into()
}

pub(super) fn version_and_time(envelope: &mut Object<'_>, document: &Document) {
    envelope.member("version", &document.version.0);
    envelope.member("timestamp", &document.timestamp.0);
}

pub(super) fn echo(envelope: &mut Object<'_>, token: Option<&ClientToken>) {
    if let Some(token) = token {
        envelope.text("clientToken", token.as_str());
    }
}

/// Writes the cursor of the next page of a list, if there is one.
pub(super) fn cursor(envelope: &mut Object<'_>, next: Option<&str>) {
    if let Some(next) = next {
        envelope.text("next", next);
    }
}

/// Writes one of the two documents of `documents`.
fn side(mut side: Object<'_>, document: &Document, projection: &Projection, metadata: bool) {
    let document = &*projection.document(document);
    state(&mut side, document);
    if metadata {
        metadata_of(&mut side, document);
    }
    side.member("version", &document.version.0);
    side.close();
}

/// Writes the `state` of `update`.
pub(super) fn sent(envelope: &mut Object<'_>, update: &Update) {
    if update.state_is_null {
        return envelope.member("state", &Value::Null);
    }
    let mut state = envelope.object("state");
    for (name, patch) in update.patches() {
        match patch {
            SectionPatch::Merge(members) => state.member(name.as_str(), members),
            SectionPatch::Keep | SectionPatch::Clear => state.member(name.as_str(), &Value::Null),
        }
    }
    state.close();
}

/// Writes the `state` of `document`.
pub(super) fn state(envelope: &mut Object<'_>, document: &Document) {
    state_and_delta(envelope, document, None);
}

/// Writes the `state` of `document` with its `delta`.
pub(super) fn state_and_delta(envelope: &mut Object<'_>, document: &Document, delta: Option<&Members>) {
    let mut state = envelope.object("state");
    for (name, section) in document.sections() {
        values(state.key(name.as_str()), &section.members);
    }
    if let Some(delta) = delta {
        values(state.key("delta"), delta);
    }
    state.close();
}

fn metadata_of(envelope: &mut Object<'_>, document: &Document) {
    let (mut all, mut metadata) = (envelope.object("metadata"), Metadata::default());
    for (name, section) in document.sections() {
        metadata.members(all.key(name.as_str()), &section.members);
    }
    all.close();
}

pub(super) fn values(out: &mut Vec<u8>, members: &Members) {
    let mut object = Object::open(out);
    for (key, node) in members {
        match node {
            Node::Leaf(leaf) => object.member(key, &*leaf.value),
            Node::Object(inner) => values(object.key(key), inner),
        }
    }
    object.close();
}
