//! Entry points for the fuzz targets: each decodes one kind of stored value and encodes it again.
//!
//! Each function returns the encoding of what it decoded, or `None` if the input is refused. The output may be shorter
//! than the input, since some values have longer encodings. It decodes to the same value and has one canonical form.

use std::fmt::Debug;

use crate::{
    shadow::{Change, DeviceId, Document, ShadowKey, document::tree, pointer::SectionName, selection::Selection},
    store::{
        codec::{DecodeError, Decoder, put_pointer, put_u64, put_value},
        frame,
        journal::entry::{JOURNAL, JournalEntry, NewJournalEntry, Seq},
        replication::{
            command_codec,
            record::{Epoch, LOG, LogRecord, RecordDigest, ShardId, put_head},
            requests::{BUS, BUS_FORMAT, BusMessage},
        },
        schema::{CREATED_KEY, Checkpoint, Created, FILE_FORMAT, META, PROGRESS_KEY},
        state::{
            dictionary::{Dictionaries, Dictionary},
            floor::{DeviceFloor, FLOORS},
            part::PartDecoder,
            record::{self, RecordEncoder, STATE, StoredShadow},
        },
    },
};

const KEY: &[u8] = b"d\0n";
const DEVICE: &[u8] = b"d";
const SEQ: Seq = Seq(7);

/// Decodes and encodes a document of the state table.
#[must_use]
pub fn record(framed: &[u8]) -> Option<Vec<u8>> {
    let dictionaries = dictionaries();
    let (stored, written) = again(framed, |framed| record::decode(KEY, framed, &dictionaries), encode_record)?;
    let plain = record::decompressed(KEY, &written, &dictionaries).expect("just written");
    let plain = plain.unwrap_or_else(|| written.clone());
    assert_eq!(record::decode(KEY, &plain, &Dictionaries::default()).as_ref(), Ok(&stored), "read without compression");
    assert_eq!(record::decode_deleted(KEY, framed), Ok(stored.document.deleted), "read in the short way");
    assert_eq!(record::may_be_deleted(framed), stored.document.deleted, "read without the checksum");
    let mut selection = Selection::default();
    selection.add(SectionName::Reported, &[]);
    let part = PartDecoder::default().decode(KEY, framed, &dictionaries, &selection).expect("decoded before");
    let values = |document: &Document| tree::values(&document.reported.members);
    let whole = Some(&stored.document).filter(|document| !document.deleted);
    assert_eq!(part.as_ref().map(values), whole.map(|document| values(document)), "read in part");
    Some(written)
}

/// Returns the framed value of a document, as [`record`] reads and writes it: compressed if that makes it shorter.
#[must_use]
pub fn encode_record(stored: &StoredShadow) -> Vec<u8> {
    RecordEncoder::default().encode(KEY, stored, dictionaries().newest()).to_vec()
}

fn dictionaries() -> Dictionaries {
    let dictionaries = Dictionaries::default();
    dictionaries.add(Dictionary::of_samples());
    dictionaries
}

/// Decodes and encodes a change of the journal.
#[must_use]
pub fn entry(framed: &[u8]) -> Option<Vec<u8>> {
    again(framed, |framed| JournalEntry::decode(SEQ, framed), encode_entry).map(|(_, written)| written)
}

/// Returns the framed value of the change that made `document`, as [`entry`] reads it.
#[must_use]
pub fn encode_change(document: &Document, changes: &[Change]) -> Vec<u8> {
    encode_entry(&JournalEntry {
        seq: SEQ,
        key: ShadowKey::classic(DeviceId::new("d").expect("valid")),
        deleted: document.deleted,
        version: document.version,
        etag: document.etag,
        timestamp: document.timestamp,
        principal: "p".into(),
        client: "".into(),
        changes: changes.to_vec(),
        previous: Seq(0),
        bytes: 0,
        remembered: None,
    })
}

fn encode_entry(entry: &JournalEntry) -> Vec<u8> {
    NewJournalEntry {
        seq: entry.seq,
        key: &entry.key,
        deleted: entry.deleted,
        version: entry.version,
        etag: entry.etag,
        timestamp: entry.timestamp,
        principal: &entry.principal,
        client: &entry.client,
        changes: &entry.changes,
        previous: entry.previous,
        remembered: entry.remembered.as_ref(),
    }
    .encode()
}

/// Decodes and encodes the positions of journal and state table.
#[must_use]
pub fn progress(framed: &[u8]) -> Option<Vec<u8>> {
    again(framed, Checkpoint::decode, Checkpoint::encode).map(|(_, written)| written)
}

/// Decodes and encodes the floor of a device.
#[must_use]
pub fn floor(framed: &[u8]) -> Option<Vec<u8>> {
    let encode = |floor: &DeviceFloor| floor.encode(DEVICE);
    again(framed, |framed| DeviceFloor::decode(DEVICE, framed), encode).map(|(_, written)| written)
}

/// Decodes and encodes the creation record. Of a later format only the beginning is read, so it is not encoded again.
#[must_use]
pub fn created(framed: &[u8]) -> Option<Vec<u8>> {
    let later = Created::decode(framed).is_ok_and(|created| created.format != FILE_FORMAT);
    if later { None } else { again(framed, Created::decode, Created::encode).map(|(_, written)| written) }
}

/// Decodes and encodes a record of the log of several nodes.
#[must_use]
pub fn log_record(framed: &[u8]) -> Option<Vec<u8>> {
    again(framed, |framed| LogRecord::decode(SEQ.0, framed), LogRecord::encode).map(|(_, written)| written)
}

/// Decodes and encodes a message from node to node.
#[must_use]
pub fn bus_message(framed: &[u8]) -> Option<Vec<u8>> {
    again(framed, BusMessage::decode, |message| message.encode().to_vec()).map(|(_, written)| written)
}

/// Decodes and encodes a command as it is sent to the node that decides.
#[must_use]
pub fn envelope(bytes: &[u8]) -> Option<Vec<u8>> {
    let again = |bytes: &[u8]| {
        let mut payload = Decoder::new(bytes);
        let envelope = command_codec::envelope(&mut payload)?;
        payload.finish()?;
        let mut out = Vec::new();
        command_codec::put_envelope(&mut out, &envelope);
        Ok::<_, DecodeError>(out)
    };
    let written = again(bytes).ok()?;
    assert_eq!(again(&written).as_ref(), Ok(&written), "written in two ways");
    Some(written)
}

/// Returns `content` framed as that of a record of the log, and as a message from node to node.
#[must_use]
pub fn framed_for_nodes(content: &[u8]) -> [Vec<u8>; 2] {
    let (mut record, mut message) = (Vec::new(), Vec::new());
    frame::begin(&mut record);
    put_head(&mut record, (ShardId(0), Epoch(1), SEQ.0), RecordDigest::default());
    frame::begin(&mut message);
    put_u64(&mut message, BUS_FORMAT);
    for framed in [&mut record, &mut message] {
        framed.extend_from_slice(content);
    }
    frame::finish(&mut record, LOG, &SEQ.0.to_le_bytes());
    frame::finish(&mut message, BUS, &[]);
    [record, message]
}

/// Decodes and encodes a JSON value.
#[must_use]
pub fn value(bytes: &[u8]) -> Option<Vec<u8>> {
    part(bytes, |decoder| decoder.value(), |value, out| put_value(out, value))
}

/// Decodes and encodes a path.
#[must_use]
pub fn pointer(bytes: &[u8]) -> Option<Vec<u8>> {
    part(bytes, |decoder| decoder.pointer(), |pointer, out| put_pointer(out, pointer))
}

/// Decodes and encodes an integer.
#[must_use]
pub fn integer(bytes: &[u8]) -> Option<Vec<u8>> {
    part(bytes, |decoder| decoder.u64(), |integer, out| put_u64(out, *integer))
}

/// Returns `payload` framed as a document, a change, a progress record, a creation record and a floor, so that the
/// checksum does not stop the fuzzer.
#[must_use]
pub fn framed(payload: &[u8]) -> [Vec<u8>; 5] {
    let seq = SEQ.0.to_le_bytes();
    let (progress, created) = (PROGRESS_KEY.as_bytes(), CREATED_KEY.as_bytes());
    let keys = [(STATE, KEY), (JOURNAL, &seq), (META, progress), (META, created), (FLOORS, DEVICE)];
    keys.map(|(table, key)| {
        let mut out = Vec::new();
        frame::begin(&mut out);
        out.extend_from_slice(payload);
        frame::finish(&mut out, table, key);
        out
    })
}

fn part<T: Debug + PartialEq>(
    bytes: &[u8],
    read: impl Fn(&mut Decoder<'_>) -> Result<T, DecodeError>,
    put: impl Fn(&T, &mut Vec<u8>),
) -> Option<Vec<u8>> {
    let decode = |bytes: &[u8]| {
        let mut decoder = Decoder::new(bytes);
        let part = read(&mut decoder)?;
        decoder.finish().map(|()| part)
    };
    let encode = |part: &T| {
        let mut out = Vec::new();
        put(part, &mut out);
        out
    };
    let (_, written) = again(bytes, decode, encode)?;
    assert!(written.len() <= bytes.len(), "more is written than was read");
    Some(written)
}

fn again<T: Debug + PartialEq>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Option<(T, Vec<u8>)> {
    let read = decode(bytes).ok()?;
    let written = encode(&read);
    let back = decode(&written);
    assert_eq!(back.as_ref(), Ok(&read), "read differently once written");
    assert_eq!(back.map(|back| encode(&back)).as_ref(), Ok(&written), "written in two ways");
    Some((read, written))
}
