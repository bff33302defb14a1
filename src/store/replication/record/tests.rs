//! Tests of the encoding: each kind comes back, and nothing else is taken.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{
    shadow::{
        ClientToken, Command, Delete, DeviceId, Etag, FirstOutcome, IdempotencyKey, RememberedKey, ShadowKey,
        ShadowName, Timestamp, Version,
    },
    store::{
        purging::PurgedTombstones,
        replication::{
            batch_record::{DecidedRequest, KeyedNoOp, RequestDecision, SentCommand},
            requests::RequestNumber,
        },
        rows::edit::RowEdit,
        state::{
            floor::DeviceFloor,
            purge::{Purge, Purges},
        },
        store_clock::Now,
    },
};

fn batch() -> BatchRecord {
    let device = DeviceId::new("d").unwrap();
    let named = ShadowKey::named(device.clone(), ShadowName::new("n").unwrap());
    let version = Version(3);
    let first = FirstOutcome {
        digest: [7; 16],
        version,
        timestamp: Timestamp(20),
        etag: Etag { version, digest: [9; 16] },
        etag_is_own: true,
        changed: false,
        created: false,
        rebased_from: Some(Version(2)),
    };
    let key = IdempotencyKey::new("k").unwrap();
    let remembered = Arc::new(RememberedKey { by: "p".into(), key, decided: Timestamp(40), first });
    let floor = DeviceFloor { version: Version(5), last_entry: Seq(4) };
    let keys = [named.clone(), ShadowKey::classic(device.clone())].into();
    BatchRecord {
        now: Now { date: Timestamp(100), running: Timestamp(90) },
        removed: Seq(4),
        path_tombstones_max: 64,
        entries: vec![(Seq(11), b"entry".to_vec()), (Seq(12), Vec::new())],
        no_ops: vec![KeyedNoOp { key: named, after: Seq(11), remembered }],
        purged: Purges::from([(device, Purge { keys, floor })]),
        rows: vec![(3, b"rows".to_vec())],
        requests: requests(),
    }
}

fn requests() -> Vec<DecidedRequest> {
    let origin = |node| Claim { node: NodeId(node), incarnation: 1 << 40 };
    let row = Some(RowEdit::Insert(b"i".as_slice().into(), Bytes::from_static(b"row")));
    let sent = SentCommand { command: Command::Delete(Delete::default()), client_token: ClientToken::new("t"), row };
    [
        (origin(1), 7, RequestDecision::Changed(Box::new(sent))),
        (origin(2), 1, RequestDecision::Refused),
        (origin(1), 8, RequestDecision::Remembered),
        (origin(2), 2, RequestDecision::Unchanged),
        (origin(3), 1, RequestDecision::Broadcast(Bytes::from_static(b"all"))),
        (origin(2), 3, RequestDecision::Stale),
        (origin(3), 2, RequestDecision::Purged(PurgedTombstones { purged: 300, kept: 2 })),
    ]
    .map(|(origin, number, decision)| DecidedRequest { request: RequestNumber { origin, number }, decision })
    .into()
}

fn record(content: RecordContent) -> LogRecord {
    LogRecord { shard: ShardId(2), epoch: Epoch(300), number: 7, previous: RecordDigest([1; 32]), content }
}

fn contents() -> [RecordContent; 5] {
    [
        RecordContent::Claim(
            Claim { node: NodeId(2), incarnation: u64::MAX },
            JournalPosition { seq: Seq(7), bytes: 900 },
        ),
        RecordContent::Batch(Box::new(batch())),
        RecordContent::Batch(Box::default()),
        RecordContent::NodeGone(NodeId(3)),
        RecordContent::Beginning(Claim { node: NodeId(2), incarnation: u64::MAX }),
    ]
}

#[test]
fn records_come_back_and_damage_is_found() {
    for content in contents() {
        let record = record(content);
        let framed = record.encode();
        assert_eq!(LogRecord::decode(7, &framed), Ok(record));
        assert_eq!(LogRecord::decode(8, &framed), Err(DecodeError::Checksum), "at another number");
        for length in 0..framed.len() {
            assert!(LogRecord::decode(7, &framed[..length]).is_err(), "{length} bytes");
        }
        for bit in 0..framed.len() * 8 {
            let mut flipped = framed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(LogRecord::decode(7, &flipped), Err(DecodeError::Checksum), "bit {bit}");
        }
    }
}

/// Frames a record after `change`, which sees the payload behind the frame's format byte.
fn changed(content: RecordContent, change: impl FnOnce(&mut Vec<u8>)) -> Result<LogRecord, DecodeError> {
    let framed = record(content).encode();
    let mut payload = framed[1..framed.len() - 4].to_vec();
    change(&mut payload);
    let mut out = Vec::new();
    frame::begin(&mut out);
    out.extend_from_slice(&payload);
    frame::finish(&mut out, LOG, &7_u64.to_le_bytes());
    LogRecord::decode(7, &out)
}

#[test]
fn what_is_not_known_is_refused() {
    for content in contents() {
        assert!(changed(content.clone(), |_| ()).is_ok());
        let newer = changed(content.clone(), |payload| payload[0] = 2);
        assert_eq!(newer, Err(DecodeError::Format { found: 2, supported: 1 }));
        let longer = changed(content.clone(), |payload| payload.push(0));
        assert!(longer.is_err(), "a field more");
    }
    // Format, shard, epoch in two bytes and number come before the digest.
    let kind = changed(RecordContent::NodeGone(NodeId(1)), |payload| payload[5 + 32] = 5);
    assert_eq!(kind, Err(DecodeError::Invalid("the kind of the record")));
}

#[test]
fn a_batch_is_empty_without_changes_only() {
    assert!(BatchRecord { now: batch().now, removed: Seq(9), ..BatchRecord::default() }.is_empty());
    let full = batch();
    for part in 0..4 {
        let mut record = BatchRecord::default();
        match part {
            0 => record.entries.clone_from(&full.entries),
            1 => record.no_ops.clone_from(&full.no_ops),
            2 => record.purged.clone_from(&full.purged),
            _ => record.rows.clone_from(&full.rows),
        }
        assert!(!record.is_empty(), "part {part}");
    }
}
