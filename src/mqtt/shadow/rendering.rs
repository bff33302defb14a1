//! Which message an event is in each dialect.
//!
//! Every event is told under both prefixes of its shadow, each in its own shape, and of it each reader what it may see.
//! This file only chooses, but for `accepted`, which [`crate::engine`] does: the shapes themselves are
//! [`crate::wire`]'s, who hears them is [`crate::mqtt::shadow::fan_out`]'.

use bytes::Bytes;

use crate::{
    auth::Projection,
    mqtt::shadow::topics::Event,
    shadow::{Change, Document, Rejection, ShadowKey, Timestamp, Update},
    wire::{self, ClientToken, Dialect, ReplyOptions, aws},
};

/// The dialects, in the order an event is told in.
pub(in crate::mqtt) const DIALECTS: [Dialect; 2] = [Dialect::Native, Dialect::Aws];

/// Whether `dialect` has such an event at all.
pub(in crate::mqtt) fn has(dialect: Dialect, event: Event) -> bool {
    dialect == Dialect::Native || !event.is_retained()
}

/// `update/delta`, if there is one.
pub(in crate::mqtt) fn delta(
    dialect: Dialect,
    document: &Document,
    reader: &Projection,
    options: ReplyOptions<'_>,
) -> Option<Bytes> {
    match dialect {
        Dialect::Native => wire::update_delta(document, reader, options),
        Dialect::Aws => aws::update_delta(document, &reader.without_tags(), options.token),
    }
}

/// `update/documents`.
pub(in crate::mqtt) fn documents(
    dialect: Dialect,
    before: &Document,
    after: &Document,
    reader: &Projection,
    options: ReplyOptions<'_>,
) -> Bytes {
    match dialect {
        Dialect::Native => wire::update_documents(before, after, reader, options),
        Dialect::Aws => aws::update_documents(before, after, &reader.without_tags(), options.token),
    }
}

/// What `accepted` says, in hindsight, of the `changes` that made `document`: `state` is what they changed.
pub(in crate::mqtt) fn missed_accepted(
    dialect: Dialect,
    changes: &[Change],
    document: &Document,
    reader: &Projection,
) -> Bytes {
    match dialect {
        _ if document.deleted => wire::delete_accepted(document, None),
        Dialect::Native => wire::update_accepted(&Update::of_changes(changes), true, document, reader, None),
        Dialect::Aws => aws::update_accepted(&Update::of_changes(changes), document, &reader.without_tags(), None),
    }
}

/// What `get/accepted` says at `now`.
pub(in crate::mqtt) fn got(
    dialect: Dialect,
    document: &Document,
    now: Timestamp,
    reader: &Projection,
    options: ReplyOptions<'_>,
) -> Bytes {
    match dialect {
        Dialect::Native => wire::get_accepted(document, reader, options),
        Dialect::Aws => aws::get_accepted(document, &reader.without_tags(), now, options.token),
    }
}

/// What `P/delta` says after a change; `None` if the difference, as far as the reader may see it, is as it was before.
pub(in crate::mqtt) fn changed_delta(before: &Document, after: &Document, reader: &Projection) -> Option<Bytes> {
    wire::changed_lean_delta(before, after, reader)
}

/// What `P/document` or `P/delta` says: the document or the difference, or nothing if there is none.
pub(in crate::mqtt) fn retained(event: Event, document: &Document, reader: &Projection) -> Bytes {
    if event == Event::LeanDelta { wire::lean_delta(document, reader) } else { self::document(document, reader) }
}

/// What `P/document` says: the document, or nothing once it is deleted.
pub(in crate::mqtt) fn document(document: &Document, reader: &Projection) -> Bytes {
    match document.exists() {
        true => wire::get_accepted(document, reader, None),
        false => Bytes::new(),
    }
}

/// What any `rejected` says at `now`.
pub(in crate::mqtt) fn rejected(
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
