//! The rows of named queries in the store.
//!
//! | key | value |
//! |---|---|
//! | `n`, name | a named query in JSON: its text and description, creator and dates; in a cluster also the number of its last change |

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    search::named::QueryName,
    store::{RowEdit, RowKey},
};

const KIND: u8 = b'n';

/// The row of a query. Fields of newer versions are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueryRow {
    pub(super) q: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    pub(super) created_by: Arc<str>,
    pub(super) created_at: u64,
    pub(super) updated_at: u64,
    /// The number of the last change in the log of a cluster; `None` for a change on a single node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<u64>,
}

/// The rows of named queries at the start of the server.
#[derive(Debug, Default)]
pub struct QueryRows(pub(super) BTreeMap<QueryName, QueryRow>);

impl QueryRows {
    /// Takes a row. Returns false for one of another kind, or a damaged one.
    pub fn take(&mut self, key: &[u8], value: &Bytes) -> bool {
        self.read(key, value).is_some()
    }

    fn read(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let name = key.strip_prefix(&[KIND])?;
        let name = QueryName::new(std::str::from_utf8(name).ok()?).ok()?;
        self.0.insert(name, serde_json::from_slice(value).ok()?);
        Some(())
    }
}

/// Returns the edit of the row of a query.
pub(super) fn put(name: &QueryName, row: &QueryRow) -> RowEdit {
    RowEdit::Put(key(name), serde_json::to_vec(row).expect("all keys are strings").into())
}

/// Returns the removal of the row of a query.
pub(super) fn remove(name: &QueryName) -> RowEdit {
    RowEdit::Remove(key(name))
}

fn key(name: &QueryName) -> RowKey {
    [&[KIND], name.as_str().as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let (name, mut rows) = (QueryName::new("a:b").unwrap(), QueryRows::default());
        let row = QueryRow {
            q: "drift:true".into(),
            description: Some("text".into()),
            created_by: "app".into(),
            created_at: 5,
            updated_at: 7,
            revision: None,
        };
        let RowEdit::Put(key, value) = put(&name, &row) else { panic!("a put") };
        assert!(rows.take(&key, &value));
        let text = r#"{"q":"drift:true","description":"text","created_by":"app","created_at":5,"updated_at":7}"#;
        assert_eq!(value, text, "that of a single node");
        assert_eq!(rows.0, BTreeMap::from([(name.clone(), row.clone())]));
        let row = QueryRow { revision: Some(u64::MAX), ..row };
        let RowEdit::Put(_, logged) = put(&name, &row) else { panic!("a put") };
        assert!(rows.take(&key, &logged));
        assert_eq!(rows.0, BTreeMap::from([(name.clone(), row)]));
        assert!(matches!(remove(&name), RowEdit::Remove(removed) if removed == key));
        for (key, value) in [("oa", "{}"), ("n", "{}"), ("na", "{}"), ("na b", "{}"), ("", "")] {
            assert!(!rows.take(key.as_bytes(), &Bytes::from_static(value.as_bytes())), "{key} {value}");
        }
    }
}
