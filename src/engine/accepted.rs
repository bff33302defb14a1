//! The body of `accepted`, the same over MQTT and HTTP.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    shadow::{Command, Disposition, Document, FirstOutcome, Projection},
    store::Applied,
    wire::{self, Dialect, ReplyOptions, aws},
};

/// Returns the body of `accepted` to `command`, for a reader with `reader`. The AWS dialect has no tags.
pub(crate) fn accepted<'o>(
    dialect: Dialect,
    command: &Command,
    applied: &Applied,
    reader: &Projection,
    options: impl Into<ReplyOptions<'o>>,
) -> Bytes {
    let options = options.into();
    let token = options.token;
    match (command.update(), dialect) {
        (Some(update), Dialect::Native) => {
            let accepted = wire::Accepted {
                update: &update,
                is_known: !matches!(command, Command::Patch(_)),
                changed: applied.is_changed(),
                document: &applied.after,
                rebased_from: applied.rebased_from,
                disposition: applied.disposition,
            };
            wire::update_outcome(&accepted, reader, options)
        }
        (Some(update), Dialect::Aws) => {
            aws::update_accepted(&update, &first_version(applied), &reader.without_tags(), token)
        }
        (None, Dialect::Native) => wire::delete_outcome(&applied.after, applied.disposition, token),
        (None, Dialect::Aws) => wire::delete_accepted(&first_version(applied), token),
    }
}

/// Returns the document with the version of the first outcome if this is a replay, since the AWS dialect does not mark
/// replays.
fn first_version(applied: &Applied) -> Cow<'_, Document> {
    match applied.disposition {
        Disposition::Replayed(FirstOutcome { version, timestamp, .. }) => {
            Cow::Owned(Document { version, timestamp, ..Document::clone(&applied.after) })
        }
        Disposition::Applied | Disposition::DryRun => Cow::Borrowed(&applied.after),
    }
}
