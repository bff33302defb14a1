//! The message of an event in each dialect.
//!
//! Every event is published under both prefixes of its shadow, each time in the form of that dialect and with the part
//! that the reader may see. This file only selects the rendering: the forms are those of [`crate::wire`], and for
//! `accepted` of [`crate::engine`]. The receivers are chosen by [`crate::mqtt::shadow::fan_out`].

use bytes::Bytes;

use crate::{
    mqtt::shadow::topics::Event,
    shadow::{Change, ClientToken, Document, Projection, Rejection, ShadowKey, Timestamp, Update},
    wire::{self, Dialect, ReplyOptions, aws},
};

/// The dialects, in the order in which events are published.
pub(in crate::mqtt) const DIALECTS: [Dialect; 2] = [Dialect::Native, Dialect::Aws];

/// Returns true if `dialect` has this event.
pub(in crate::mqtt) fn has(dialect: Dialect, event: Event) -> bool {
    dialect == Dialect::Native || !event.is_retained()
}

/// Returns the payload of `update/delta`, or `None` without a delta.
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

/// Returns the payload of `update/documents`.
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

/// Returns the payload of `accepted` for a missed change that made `document`. Its `state` is made of `changes`, since
/// the request is no longer known.
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

/// Returns the payload of `get/accepted` at `now`.
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

/// Returns the payload of `P/delta` after a change, or `None` if the delta that the reader may see is unchanged.
pub(in crate::mqtt) fn changed_delta(before: &Document, after: &Document, reader: &Projection) -> Option<Bytes> {
    wire::changed_lean_delta(before, after, reader)
}

/// Returns the payload of `P/document` or `P/delta`: the document or delta, empty if there is none.
pub(in crate::mqtt) fn retained(event: Event, document: &Document, reader: &Projection) -> Bytes {
    if event == Event::LeanDelta { wire::lean_delta(document, reader) } else { self::document(document, reader) }
}

/// Returns the payload of `P/document`: the document, empty if the shadow is deleted.
pub(in crate::mqtt) fn document(document: &Document, reader: &Projection) -> Bytes {
    match document.exists() {
        true => wire::get_accepted(document, reader, None),
        false => Bytes::new(),
    }
}

/// Returns the payload of any `rejected` at `now`.
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
