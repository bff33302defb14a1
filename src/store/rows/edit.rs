//! One edit of a row, and the encoding of edits in the row log.

use bytes::Bytes;

use crate::store::{
    codec::{DecodeError, Decoder, put_len},
    frame,
    rows::{edited_row::EditedRow, tables::ROW_LOG},
};

/// The key of a row. Keys sort by their bytes.
pub type RowKey = Box<[u8]>;

/// A change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowEdit {
    /// Sets the value of a key that has no row, as the caller knows. Such a row may be removed again without a trace.
    Insert(RowKey, Bytes),
    /// Sets the value of a key that may have a row.
    Put(RowKey, Bytes),
    /// Removes the row of a key, if there is one.
    Remove(RowKey),
}

const INSERT: u8 = 0;
const PUT: u8 = 1;
const REMOVE: u8 = 2;

impl RowEdit {
    /// Returns the key of the row.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Insert(key, _) | Self::Put(key, _) | Self::Remove(key) => key,
        }
    }

    /// Returns the approximate bytes of the edit in the log.
    pub(in crate::store) fn bytes(&self) -> usize {
        match self {
            Self::Insert(key, value) | Self::Put(key, value) => 8 + key.len() + value.len(),
            Self::Remove(key) => 4 + key.len(),
        }
    }

    /// Appends the encoded edit.
    pub(in crate::store) fn put(&self, out: &mut Vec<u8>) {
        let (tag, value) = match self {
            Self::Insert(_, value) => (INSERT, Some(value)),
            Self::Put(_, value) => (PUT, Some(value)),
            Self::Remove(_) => (REMOVE, None),
        };
        put_parts(out, tag, self.key(), value);
    }

    /// Decodes an edit.
    pub(in crate::store) fn decode(payload: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let tag = payload.u8()?;
        let key = part(payload)?.into();
        match tag {
            INSERT => Ok(Self::Insert(key, Bytes::copy_from_slice(part(payload)?))),
            PUT => Ok(Self::Put(key, Bytes::copy_from_slice(part(payload)?))),
            REMOVE => Ok(Self::Remove(key)),
            _ => Err(DecodeError::Invalid("an edit")),
        }
    }
}

fn put_parts(out: &mut Vec<u8>, tag: u8, key: &[u8], value: Option<&Bytes>) {
    out.push(tag);
    for part in [Some(key), value.map(|value| &**value)].into_iter().flatten() {
        put_len(out, part.len());
        out.extend_from_slice(part);
    }
}

fn part<'a>(payload: &mut Decoder<'a>) -> Result<&'a [u8], DecodeError> {
    let length = payload.count()?;
    payload.bytes(length)
}

/// Returns the framed record of `rows` at `seq` of the row log.
pub(in crate::store) fn encode<'a>(seq: u64, rows: impl Iterator<Item = (&'a RowKey, &'a EditedRow)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    frame::begin(&mut out);
    for (key, row) in rows {
        let tag = match row {
            EditedRow { value: Some(_), is_new: true } => INSERT,
            EditedRow { value: Some(_), is_new: false } => PUT,
            EditedRow { value: None, .. } => REMOVE,
        };
        put_parts(&mut out, tag, key, row.value.as_ref());
    }
    frame::finish(&mut out, ROW_LOG, &seq.to_le_bytes());
    out
}

/// Decodes the framed record at `seq` of the row log.
pub(in crate::store) fn decode(seq: u64, framed: &[u8]) -> Result<Vec<RowEdit>, DecodeError> {
    let mut payload = frame::open(framed, ROW_LOG, &seq.to_le_bytes())?;
    let mut edits = Vec::new();
    while !payload.is_empty() {
        edits.push(RowEdit::decode(&mut payload)?);
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn edits_come_back_and_damage_is_found() {
        let row = |value: Option<&'static [u8]>, is_new| EditedRow { value: value.map(Bytes::from_static), is_new };
        let rows: [(RowKey, _); 3] = [
            (b"m1".as_slice().into(), row(Some(b"hello"), true)),
            (b"s".as_slice().into(), row(Some(b""), false)),
            (b"q".as_slice().into(), row(None, false)),
        ];
        let edits = [
            RowEdit::Insert(b"m1".as_slice().into(), Bytes::from_static(b"hello")),
            RowEdit::Put(b"s".as_slice().into(), Bytes::new()),
            RowEdit::Remove(b"q".as_slice().into()),
        ];
        let framed = encode(7, rows.iter().map(|(key, row)| (key, row)));
        assert_eq!(decode(7, &framed).unwrap(), edits);
        assert_eq!(decode(8, &framed), Err(DecodeError::Checksum));
        for length in 0..framed.len() {
            assert!(decode(7, &framed[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(decode(9, &encode(9, std::iter::empty())), Ok(Vec::new()));
    }
}
