//! Which message an event is in each dialect.
//!
//! Every event is told under both prefixes of its shadow, each in its own shape, and of it each reader what it may see. This file only chooses: the shapes
//! themselves are [`crate::wire`]'s, who hears them is [`super::events`]'.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    auth::Projection,
    mqtt::shadow_topic::Event,
    shadow::{Change, Command, Document, FirstOutcome, Manner, Rejection, ShadowKey, Timestamp, Update},
    store::Applied,
    wire::{self, ClientToken, Dialect, aws},
};

/// The dialects, in the order an event is told in.
pub(super) const DIALECTS: [Dialect; 2] = [Dialect::Native, Dialect::Aws];

/// Whether `dialect` has such an event at all.
pub(super) fn has(dialect: Dialect, event: Event) -> bool {
    dialect == Dialect::Native || event != Event::Document
}

/// `update/delta`, if there is one.
pub(super) fn delta(
    dialect: Dialect,
    document: &Document,
    reader: &Projection,
    token: Option<&ClientToken>,
) -> Option<Bytes> {
    match dialect {
        Dialect::Native => wire::update_delta(document, reader, token),
        Dialect::Aws => aws::update_delta(document, &reader.without_tags(), token),
    }
}

/// `update/documents`.
pub(super) fn documents(
    dialect: Dialect,
    before: &Document,
    after: &Document,
    reader: &Projection,
    token: Option<&ClientToken>,
) -> Bytes {
    match dialect {
        Dialect::Native => wire::update_documents(before, after, reader, token),
        Dialect::Aws => aws::update_documents(before, after, &reader.without_tags(), token),
    }
}

/// What `accepted` says of a command.
pub(super) fn accepted(
    dialect: Dialect,
    command: &Command,
    applied: &Applied,
    reader: &Projection,
    token: Option<&ClientToken>,
) -> Bytes {
    match (command.said(), dialect) {
        (Some(update), Dialect::Native) => {
            let accepted = wire::Accepted {
                update: &update,
                changed: applied.is_changed(),
                document: &applied.after,
                rebased_from: applied.rebased_from,
                manner: applied.manner,
            };
            wire::update_outcome(&accepted, reader, token)
        }
        (Some(update), Dialect::Aws) => aws::update_accepted(&update, &told(applied), &reader.without_tags(), token),
        (None, Dialect::Native) => wire::delete_outcome(&applied.after, applied.manner, token),
        (None, Dialect::Aws) => wire::delete_accepted(&told(applied), token),
    }
}

/// The document as `accepted` over AWS tells of it, which for a replay is at the version that was told first.
fn told(applied: &Applied) -> Cow<'_, Document> {
    match applied.manner {
        Manner::Again(FirstOutcome { version, timestamp, .. }) => {
            Cow::Owned(Document { version, timestamp, ..Document::clone(&applied.after) })
        }
        Manner::Done | Manner::DryRun => Cow::Borrowed(&applied.after),
    }
}

/// What `accepted` says, in hindsight, of the `changes` that made `document`: `state` is what they changed.
pub(super) fn missed_accepted(dialect: Dialect, changes: &[Change], document: &Document, reader: &Projection) -> Bytes {
    match dialect {
        _ if document.deleted => wire::delete_accepted(document, None),
        Dialect::Native => wire::update_accepted(&Update::of_changes(changes), true, document, reader, None),
        Dialect::Aws => aws::update_accepted(&Update::of_changes(changes), document, &reader.without_tags(), None),
    }
}

/// What `get/accepted` says at `now`.
pub(super) fn got(
    dialect: Dialect,
    document: &Document,
    now: Timestamp,
    reader: &Projection,
    token: Option<&ClientToken>,
) -> Bytes {
    match dialect {
        Dialect::Native => wire::get_accepted(document, reader, token),
        Dialect::Aws => aws::get_accepted(document, &reader.without_tags(), now, token),
    }
}

/// What `P/document` says: the document, or nothing once it is deleted.
pub(super) fn document(document: &Document, reader: &Projection) -> Bytes {
    match document.exists() {
        true => wire::get_accepted(document, reader, None),
        false => Bytes::new(),
    }
}

/// What any `rejected` says at `now`.
pub(super) fn rejected(
    dialect: Dialect,
    rejection: &Rejection,
    key: &ShadowKey,
    now: Timestamp,
    reader: &Projection,
    token: Option<&ClientToken>,
) -> Bytes {
    match dialect {
        Dialect::Native => wire::rejected(rejection, key, now, reader, token),
        Dialect::Aws => aws::rejected(rejection, key, now, token),
    }
}
