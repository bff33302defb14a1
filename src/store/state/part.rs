//! Parts of records: only the selected paths are decoded, and the other bytes are passed over.
//!
//! The checksum of a record covers all of it, so what is passed over is intact too. The stamps of the leaves, which queries
//! do not read, are left out: all leaves share one.

use std::sync::Arc;

use crate::{
    shadow::{
        Document, Section, Stamp, Version,
        document::{
            Tombstone,
            tree::{Leaf, Members, Node},
        },
        pointer::SectionName,
        selection::{SelectedPart, Selection},
    },
    store::{
        codec::{DecodeError, Decoder},
        frame,
        state::{
            dictionary::Dictionaries,
            record::{DEPTH_MAX, LEAF, OBJECT, RecordHead, STATE, compressed},
        },
    },
};

/// A decoder of parts of records that reuses its buffer.
#[derive(Debug)]
pub struct PartDecoder {
    /// The body of the last compressed record.
    body: Vec<u8>,
    /// The stamp of every leaf.
    stamp: Arc<Stamp>,
    empty: Arc<Section>,
    tombstones: Arc<Vec<Tombstone>>,
}

impl Default for PartDecoder {
    fn default() -> Self {
        Self {
            body: Vec::new(),
            stamp: Arc::new(Stamp::forgotten(Version(0))),
            empty: Arc::default(),
            tombstones: Arc::default(),
        }
    }
}

impl PartDecoder {
    /// Decodes the selected parts of the framed value found under `key`; `None` if its shadow is deleted.
    pub(in crate::store) fn decode(
        &mut self,
        key: &[u8],
        framed: &[u8],
        dictionaries: &Dictionaries,
        selection: &Selection,
    ) -> Result<Option<Document>, DecodeError> {
        let mut payload = frame::open(framed, STATE, key)?;
        let head = RecordHead::decode(&mut payload)?;
        if head.deleted {
            return Ok(None);
        }
        let mut document = Document {
            version: head.version,
            timestamp: head.timestamp,
            deleted: false,
            etag: head.etag,
            floor: head.floor,
            desired: Arc::clone(&self.empty),
            reported: Arc::clone(&self.empty),
            tags: Arc::clone(&self.empty),
            tombstones: Arc::clone(&self.tombstones),
        };
        if SectionName::ALL.iter().all(|name| selection.section(*name).is_nothing()) {
            return Ok(Some(document));
        }
        let mut body = match head.is_compressed {
            false => payload,
            true => {
                let (dictionary, packed, length) = compressed(&mut payload, dictionaries)?;
                dictionary.decompress_into(packed, length, &mut self.body)?;
                Decoder::new(&self.body)
            }
        };
        skip_stamps(&mut body)?;
        for (name, section) in [
            (SectionName::Desired, &mut document.desired),
            (SectionName::Reported, &mut document.reported),
            (SectionName::Tags, &mut document.tags),
        ] {
            let (canonical_bytes, leaves) = (body.size()?, body.size()?);
            let part = selection.section(name);
            if part.is_nothing() {
                skip_members(&mut body, DEPTH_MAX)?;
            } else {
                let members = members(&mut body, part, &self.stamp, DEPTH_MAX)?;
                *section = Arc::new(Section { members, canonical_bytes, leaves });
            }
        }
        Ok(Some(document))
    }
}

fn skip_stamps(body: &mut Decoder<'_>) -> Result<(), DecodeError> {
    for _ in 0..body.count()? {
        body.skip_str()?;
    }
    for _ in 0..body.count()? {
        body.u64()?;
        body.u64()?;
        body.size()?;
    }
    Ok(())
}

/// Decodes the selected members of an object.
fn members(
    body: &mut Decoder<'_>,
    part: &SelectedPart,
    stamp: &Arc<Stamp>,
    depth: usize,
) -> Result<Members, DecodeError> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::Invalid("the nesting of a section"))?;
    let mut found = Vec::new();
    for _ in 0..body.count()? {
        let key = body.str()?;
        let selected = match part {
            SelectedPart::All => Some(part),
            SelectedPart::Members(wanted) => wanted.get(key),
        };
        let node = match (body.u8()?, selected) {
            (LEAF, None) => {
                body.skip_value()?;
                body.size()?;
                continue;
            }
            (OBJECT, None) => {
                skip_members(body, depth)?;
                continue;
            }
            // A path may go on in an array.
            (LEAF, Some(_)) => {
                let value = body.value()?;
                body.size()?;
                Node::Leaf(Leaf { value: value.into(), changed: Arc::clone(stamp) })
            }
            (OBJECT, Some(part)) => Node::Object(members(body, part, stamp, depth)?),
            _ => return Err(DecodeError::Invalid("the kind of a member")),
        };
        found.push((key.into(), node));
    }
    Ok(found.into())
}

fn skip_members(body: &mut Decoder<'_>, depth: usize) -> Result<(), DecodeError> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::Invalid("the nesting of a section"))?;
    for _ in 0..body.count()? {
        body.skip_str()?;
        match body.u8()? {
            LEAF => {
                body.skip_value()?;
                body.size()?;
            }
            OBJECT => skip_members(body, depth)?,
            _ => return Err(DecodeError::Invalid("the kind of a member")),
        }
    }
    Ok(())
}
