//! A whole document, as stored in the state table.
//!
//! Stamps are written once each, in a table that leaves and tombstones index, and principals once each in another. A
//! document of 30 leaves usually has a handful of stamps and two principals. Decoding shares them again.
//!
//! The *body*, which is everything but the numbers at the beginning and the idempotency keys at the end, is compressed once
//! the store has a dictionary ([`super::dictionary`]).

use std::{collections::HashMap, sync::Arc};

use crate::{
    shadow::{
        Document, Etag, Remembered, Section, Stamp, Timestamp, Version,
        document::{
            Tombstone,
            tree::{Leaf, Members, Node},
        },
        pointer::{Pointer, SectionName},
    },
    store::{
        codec::{DecodeError, Decoder, put_len, put_pointer, put_str, put_u64, put_value},
        frame,
        journal::entry::Seq,
        state::{
            dictionary::{Dictionaries, Dictionary},
            remembered,
        },
    },
};

/// The name of the table, part of each checksum.
pub(in crate::store) const STATE: &str = "state";

const DELETED: u8 = 1;
const COMPRESSED: u8 = 2;

pub(super) const LEAF: u8 = 0;
pub(super) const OBJECT: u8 = 1;

/// Most levels of objects in a record; far above the limit of a document.
pub(super) const DEPTH_MAX: usize = 128;

/// A document, the journal entry that made it, and the stored idempotency keys of its shadow.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredShadow {
    /// The document; [`Document::absent_at`] the floor of the device if the shadow has no record.
    pub document: Arc<Document>,
    /// The newest entry of the shadow; 0 if it has no record: it was never written, or its tombstone was purged.
    pub last_entry: Seq,
    /// The stored outcomes of requests with an idempotency key.
    pub remembered: Remembered,
}

impl StoredShadow {
    /// Returns the state of a shadow without a record whose device has `floor`.
    pub(in crate::store) fn absent_at(floor: Version) -> Self {
        let document = Arc::new(Document::absent_at(floor));
        Self { document, last_entry: Seq(0), remembered: Remembered::default() }
    }

    /// Returns the approximate bytes of the record, and of what is kept in memory for each.
    pub(in crate::store) fn record_bytes(&self, dictionaries: &Dictionaries) -> u32 {
        let section = |name| self.document.section(name).canonical_bytes + 3 * self.document.section(name).leaves;
        let sections: usize = SectionName::ALL.into_iter().map(section).sum();
        let path = |path: &Pointer| 8 + 2 * path.keys.len() + path.key_bytes();
        let tombstones: usize = self.document.tombstones.iter().map(|tombstone| path(&tombstone.path)).sum();
        let body = dictionaries.approximate(sections + tombstones);
        let bytes = 320 + body + 96 * self.remembered.keys().len();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Returns true if the shadow has a record, or will have one once this state is committed.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.last_entry > Seq(0)
    }
}

/// An encoder of records that reuses its buffers.
#[derive(Default)]
pub(in crate::store) struct RecordEncoder {
    stamps: Stamps,
    /// The sections and tombstones, written after the tables that they index.
    indexed: Vec<u8>,
    body: Vec<u8>,
    compressed: Vec<u8>,
    out: Vec<u8>,
}

/// The stamps and principals of the current record, in order of first use.
#[derive(Default)]
struct Stamps {
    by_address: HashMap<usize, u64>,
    stamps: Vec<Arc<Stamp>>,
    principals: Vec<Arc<str>>,
}

impl RecordEncoder {
    /// Returns the framed value of `stored` under `key`, compressed with `dictionary` if that makes it shorter.
    pub(in crate::store) fn encode(
        &mut self,
        key: &[u8],
        stored: &StoredShadow,
        dictionary: Option<&Dictionary>,
    ) -> &[u8] {
        let document = &stored.document;
        self.encode_body(document);
        let dictionary = dictionary.filter(|dictionary| dictionary.compress(&self.body, &mut self.compressed));
        let out = &mut self.out;
        frame::begin(out);
        out.push((u8::from(document.deleted) * DELETED) | (u8::from(dictionary.is_some()) * COMPRESSED));
        put_u64(out, stored.last_entry.0);
        put_u64(out, document.version.0);
        put_u64(out, document.timestamp.0);
        put_u64(out, document.etag.version.0);
        out.extend_from_slice(&document.etag.digest);
        put_u64(out, document.floor.0);
        match dictionary {
            None => out.extend_from_slice(&self.body),
            Some(dictionary) => {
                out.extend_from_slice(&dictionary.checksum().to_le_bytes());
                put_len(out, self.body.len());
                put_len(out, self.compressed.len());
                out.extend_from_slice(&self.compressed);
            }
        }
        remembered::put_all(out, &stored.remembered);
        frame::finish(out, STATE, key);
        out
    }

    /// Returns the body of the record of `document`, which is what a dictionary compresses.
    pub(in crate::store) fn encode_body(&mut self, document: &Document) -> &[u8] {
        self.stamps.clear();
        self.indexed.clear();
        for name in SectionName::ALL {
            put_section(&mut self.indexed, document.section(name), &mut self.stamps);
        }
        put_len(&mut self.indexed, document.tombstones.len());
        for tombstone in document.tombstones.iter() {
            put_pointer(&mut self.indexed, &tombstone.path);
            put_u64(&mut self.indexed, self.stamps.index(&tombstone.removed));
        }
        self.body.clear();
        self.stamps.put(&mut self.body);
        self.body.extend_from_slice(&self.indexed);
        &self.body
    }
}

impl Stamps {
    fn clear(&mut self) {
        self.by_address.clear();
        self.stamps.clear();
        self.principals.clear();
    }

    fn index(&mut self, stamp: &Arc<Stamp>) -> u64 {
        *self.by_address.entry(Arc::as_ptr(stamp).addr()).or_insert_with(|| {
            self.stamps.push(Arc::clone(stamp));
            self.stamps.len() as u64 - 1
        })
    }

    fn put(&mut self, out: &mut Vec<u8>) {
        for stamp in &self.stamps {
            if !self.principals.contains(&stamp.by) {
                self.principals.push(Arc::clone(&stamp.by));
            }
        }
        put_len(out, self.principals.len());
        self.principals.iter().for_each(|principal| put_str(out, principal));
        put_len(out, self.stamps.len());
        for stamp in &self.stamps {
            put_u64(out, stamp.version.0);
            put_u64(out, stamp.timestamp.0);
            put_len(out, self.principals.iter().position(|by| *by == stamp.by).unwrap_or_default());
        }
    }
}

fn put_section(out: &mut Vec<u8>, section: &Section, stamps: &mut Stamps) {
    put_len(out, section.canonical_bytes);
    put_len(out, section.leaves);
    put_members(out, &section.members, stamps);
}

fn put_members(out: &mut Vec<u8>, members: &Members, stamps: &mut Stamps) {
    put_len(out, members.len());
    for (key, node) in members {
        put_str(out, key);
        match node {
            Node::Leaf(leaf) => {
                out.push(LEAF);
                put_value(out, &leaf.value);
                put_u64(out, stamps.index(&leaf.changed));
            }
            Node::Object(below) => {
                out.push(OBJECT);
                put_members(out, below, stamps);
            }
        }
    }
}

/// The numbers at the beginning of a record.
pub(super) struct RecordHead {
    pub(super) is_compressed: bool,
    last_entry: Seq,
    pub(super) version: Version,
    pub(super) timestamp: Timestamp,
    pub(super) deleted: bool,
    pub(super) etag: Etag,
    pub(super) floor: Version,
}

impl RecordHead {
    pub(super) fn decode(payload: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (deleted, is_compressed) = flags(payload)?;
        Ok(Self {
            deleted,
            is_compressed,
            last_entry: Seq(payload.u64()?),
            version: Version(payload.u64()?),
            timestamp: Timestamp(payload.u64()?),
            etag: Etag { version: Version(payload.u64()?), digest: payload.array()? },
            floor: Version(payload.u64()?),
        })
    }

    /// Returns the document with this head and `body`.
    fn document(&self, body: &mut Decoder<'_>) -> Result<Document, DecodeError> {
        let stamps = stamps(body)?;
        Ok(Document {
            version: self.version,
            timestamp: self.timestamp,
            deleted: self.deleted,
            etag: self.etag,
            floor: self.floor,
            desired: section(body, &stamps)?,
            reported: section(body, &stamps)?,
            tags: section(body, &stamps)?,
            tombstones: Arc::new(tombstones(body, &stamps)?),
        })
    }
}

/// Decodes the framed value found under `key`.
pub(in crate::store) fn decode(
    key: &[u8],
    framed: &[u8],
    dictionaries: &Dictionaries,
) -> Result<StoredShadow, DecodeError> {
    let mut payload = frame::open(framed, STATE, key)?;
    let head = RecordHead::decode(&mut payload)?;
    let document = if head.is_compressed {
        let body = decompress(&mut payload, dictionaries)?;
        let mut body = Decoder::new(&body);
        let document = head.document(&mut body)?;
        body.finish()?;
        document
    } else {
        head.document(&mut payload)?
    };
    let mut remembered = Remembered::default();
    frame::extensions(payload, |tag, mut extension| match tag {
        remembered::TAG_WITHOUT_ANSWER | remembered::TAG => {
            remembered = remembered::all(&mut extension)?;
            extension.finish().map(|()| true)
        }
        _ => Ok(false),
    })?;
    Ok(StoredShadow { document: Arc::new(document), last_entry: head.last_entry, remembered })
}

fn decompress(payload: &mut Decoder<'_>, dictionaries: &Dictionaries) -> Result<Vec<u8>, DecodeError> {
    let (dictionary, packed, length) = compressed(payload, dictionaries)?;
    dictionary.decompress(packed, length)
}

/// Returns the compressed body that comes next, with its dictionary and the length of the body.
pub(super) fn compressed<'a, 'd>(
    payload: &mut Decoder<'a>,
    dictionaries: &'d Dictionaries,
) -> Result<(&'d Dictionary, &'a [u8], usize), DecodeError> {
    let dictionary = dictionaries.get(u32::from_le_bytes(payload.array()?))?;
    let length = payload.size()?;
    let packed = payload.count()?;
    Ok((dictionary, payload.bytes(packed)?, length))
}

/// Returns the framed value without compression; `None` if it has none.
pub(in crate::store) fn decompressed(
    key: &[u8],
    framed: &[u8],
    dictionaries: &Dictionaries,
) -> Result<Option<Vec<u8>>, DecodeError> {
    if framed.get(1).is_none_or(|flags| flags & COMPRESSED == 0) {
        return Ok(None);
    }
    let mut payload = frame::open(framed, STATE, key)?;
    let all = payload.remaining();
    RecordHead::decode(&mut payload)?;
    let head = framed.get(2..1 + all - payload.remaining()).ok_or(DecodeError::Truncated)?;
    let body = decompress(&mut payload, dictionaries)?;
    let mut out = Vec::with_capacity(framed.len() + body.len());
    frame::begin(&mut out);
    out.push(u8::from(may_be_deleted(framed)) * DELETED);
    [head, &body, payload.rest()].into_iter().for_each(|part| out.extend_from_slice(part));
    frame::finish(&mut out, STATE, key);
    Ok(Some(out))
}

/// Returns true if the record under `key` is that of a deleted shadow.
pub(in crate::store) fn decode_deleted(key: &[u8], framed: &[u8]) -> Result<bool, DecodeError> {
    flags(&mut frame::open(framed, STATE, key)?).map(|(deleted, _)| deleted)
}

/// The numbers of a record by which entries of the journal follow it.
pub(in crate::store) struct RecordState {
    pub(in crate::store) last_entry: Seq,
    pub(in crate::store) version: Version,
    pub(in crate::store) deleted: bool,
}

/// Returns these numbers of the record under `key`, whose checksum is that of the whole record.
pub(in crate::store) fn decode_state(key: &[u8], framed: &[u8]) -> Result<RecordState, DecodeError> {
    let RecordHead { last_entry, version, deleted, .. } = RecordHead::decode(&mut frame::open(framed, STATE, key)?)?;
    Ok(RecordState { last_entry, version, deleted })
}

/// Returns the newest entry of the shadow from its record under `key`.
pub(in crate::store) fn decode_last_entry(key: &[u8], framed: &[u8]) -> Result<Seq, DecodeError> {
    let mut payload = frame::open(framed, STATE, key)?;
    flags(&mut payload)?;
    Ok(Seq(payload.u64()?))
}

/// Returns true if the record is that of a deleted shadow, unless it is damaged. Does not compute the checksum.
pub(in crate::store) fn may_be_deleted(framed: &[u8]) -> bool {
    // The flags follow the format byte.
    framed.get(1).is_some_and(|flags| flags & DELETED != 0)
}

/// Returns true for a deleted shadow, and true for a compressed body.
fn flags(payload: &mut Decoder<'_>) -> Result<(bool, bool), DecodeError> {
    match payload.u8()? {
        flags if flags & !(DELETED | COMPRESSED) == 0 => Ok((flags & DELETED != 0, flags & COMPRESSED != 0)),
        _ => Err(DecodeError::Invalid("a flag")),
    }
}

fn stamps(payload: &mut Decoder<'_>) -> Result<Vec<Arc<Stamp>>, DecodeError> {
    let principals: Vec<Arc<str>> =
        (0..payload.count()?).map(|_| payload.str().map(Arc::from)).collect::<Result<_, _>>()?;
    (0..payload.count()?)
        .map(|_| {
            let (version, timestamp) = (Version(payload.u64()?), Timestamp(payload.u64()?));
            let by = principals.get(payload.size()?).ok_or(DecodeError::Invalid("a principal"))?;
            Ok(Arc::new(Stamp { version, timestamp, by: Arc::clone(by) }))
        })
        .collect()
}

fn section(payload: &mut Decoder<'_>, stamps: &[Arc<Stamp>]) -> Result<Arc<Section>, DecodeError> {
    let (canonical_bytes, leaves) = (payload.size()?, payload.size()?);
    Ok(Arc::new(Section { members: members(payload, stamps, DEPTH_MAX)?, canonical_bytes, leaves }))
}

fn members(payload: &mut Decoder<'_>, stamps: &[Arc<Stamp>], depth: usize) -> Result<Members, DecodeError> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::Invalid("the nesting of a section"))?;
    let count = payload.count()?;
    // A damaged count asks for no memory.
    let mut members = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let key = payload.str()?.into();
        let node = match payload.u8()? {
            LEAF => Node::Leaf(Leaf { value: payload.value()?.into(), changed: stamp(payload, stamps)? }),
            OBJECT => Node::Object(self::members(payload, stamps, depth)?),
            _ => return Err(DecodeError::Invalid("the kind of a member")),
        };
        members.push((key, node));
    }
    Ok(members.into())
}

fn tombstones(payload: &mut Decoder<'_>, stamps: &[Arc<Stamp>]) -> Result<Vec<Tombstone>, DecodeError> {
    (0..payload.count()?)
        .map(|_| Ok(Tombstone { path: payload.pointer()?, removed: stamp(payload, stamps)? }))
        .collect()
}

fn stamp(payload: &mut Decoder<'_>, stamps: &[Arc<Stamp>]) -> Result<Arc<Stamp>, DecodeError> {
    stamps.get(payload.size()?).map(Arc::clone).ok_or(DecodeError::Invalid("a stamp"))
}
