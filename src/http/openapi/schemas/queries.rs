//! The schemas of named queries.

use serde_json::{Map, Value, json};

use super::{closed, list, put, time};
use crate::{fleet::query::QUERY_BYTES_MAX, search::named::DESCRIPTION_CHARS_MAX};

/// Adds the schemas.
pub(super) fn all(schemas: &mut Map<String, Value>) {
    let text = json!({ "type": "string" });
    let bounded = |max: usize| json!({ "type": "string", "maxLength": max });
    let definition = [("q", bounded(QUERY_BYTES_MAX)), ("description", bounded(DESCRIPTION_CHARS_MAX))];
    put(schemas, "NewNamedQuery", closed(definition.clone(), &["q"]));
    let more = [
        ("name", text.clone()),
        ("origin", json!({ "enum": ["configuration", "stored"] })),
        ("createdBy", text.clone()),
        ("createdAt", time()),
        ("updatedAt", time()),
    ];
    put(schemas, "NamedQuery", closed(definition.into_iter().chain(more), &["name", "q", "origin"]));
    put(schemas, "NamedQueries", closed([("queries", list("NamedQuery")), ("next", text)], &["queries"]));
}
