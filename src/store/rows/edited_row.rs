//! One edit that stands for all edits of a row in some time.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;

use crate::store::rows::edit::{RowEdit, RowKey};

/// An edited row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct EditedRow {
    /// `None` if the row is removed.
    pub(in crate::store) value: Option<Bytes>,
    /// True if there was no such row before, as far as is known.
    pub(in crate::store) is_new: bool,
}

/// Edited rows by key.
pub(in crate::store) type EditedRows = HashMap<RowKey, EditedRow>;

impl RowEdit {
    /// Returns the key and the edited row.
    pub(in crate::store) fn into_row(self) -> (RowKey, EditedRow) {
        match self {
            Self::Insert(key, value) => (key, EditedRow { value: Some(value), is_new: true }),
            Self::Put(key, value) => (key, EditedRow { value: Some(value), is_new: false }),
            Self::Remove(key) => (key, EditedRow { value: None, is_new: false }),
        }
    }
}

/// Adds an edited row to `rows`, in the place of the former edit of its key, which `other` returns if `rows` lacks it. A
/// new row that is removed leaves nothing.
pub(in crate::store) fn add(
    rows: &mut EditedRows,
    (key, mut row): (RowKey, EditedRow),
    other: impl FnOnce(&RowKey) -> Option<EditedRow>,
) {
    match rows.entry(key) {
        Entry::Occupied(former) if former.get().is_new && row.value.is_none() => drop(former.remove()),
        Entry::Occupied(mut former) => {
            row.is_new = former.get().is_new;
            former.insert(row);
        }
        Entry::Vacant(vacant) => {
            row.is_new = other(vacant.key()).map_or(row.is_new, |former| former.is_new);
            if row.value.is_some() || !row.is_new {
                vacant.insert(row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_of_a_row_become_one() {
        let key = || RowKey::from(b"k".as_slice());
        let insert = |value| RowEdit::Insert(key(), Bytes::from_static(value));
        let put = |value| RowEdit::Put(key(), Bytes::from_static(value));
        let remove = || RowEdit::Remove(key());
        for (label, edits, expected) in [
            ("new", vec![insert(b"1")], Some((Some(&b"1"[..]), true))),
            ("new and changed", vec![insert(b"1"), put(b"2")], Some((Some(b"2"), true))),
            ("new and removed", vec![insert(b"1"), put(b"2"), remove()], None),
            ("changed", vec![put(b"1"), put(b"2")], Some((Some(b"2"), false))),
            ("changed and removed", vec![put(b"1"), remove()], Some((None, false))),
            ("removed and new", vec![remove(), insert(b"1")], Some((Some(b"1"), false))),
            ("new, removed and put", vec![insert(b"1"), remove(), put(b"2")], Some((Some(b"2"), false))),
        ] {
            let mut rows = EditedRows::new();
            edits.into_iter().for_each(|edit| add(&mut rows, edit.into_row(), |_| None));
            let row = rows.get(&key()).map(|row| (row.value.as_deref(), row.is_new));
            assert_eq!(row, expected, "{label}");
        }
    }
}
