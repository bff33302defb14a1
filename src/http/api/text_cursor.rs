//! Cursors whose text says where the next page begins, for lists whose readers may know it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::http::{
    api::query::Query,
    operation::OPAQUE_CURSOR,
    parameter::{BadParameter, bad},
};

/// Returns the text of the cursor in `query`.
pub(super) fn read(query: &Query<'_>) -> Result<Option<String>, BadParameter> {
    let Some(text) = query.text(&OPAQUE_CURSOR)? else { return Ok(None) };
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(text.as_bytes()).ok().filter(|bytes| !bytes.is_empty());
    decoded.and_then(|bytes| String::from_utf8(bytes).ok()).map(Some).ok_or_else(unknown)
}

/// Returns the error of a cursor that no page had.
pub(super) fn unknown() -> BadParameter {
    bad(OPAQUE_CURSOR.name, "is not a 'next' of this operation")
}

/// Returns the cursor with `text`.
pub(super) fn encode(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}
