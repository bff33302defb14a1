//! Tests of single rules of a node's part in the log.

use bytes::Bytes;

use super::{
    log_schedules::{batch, claim},
    memory_log::{MemoryLog, ReplicatedLog},
};
use crate::store::{
    replication::{
        chain::{Chain, ChainError, ReadRecord},
        record::{Epoch, LogPosition, RecordContent},
        replica::{Action, Appended, KeptRecords, Replica},
    },
    schema::JournalPosition,
};

/// Returns a node that has claimed and appended `batches` to `log`.
fn decider(log: &mut MemoryLog, node: usize, batches: u64) -> Replica {
    let mut replica = Replica::new(claim(node, 0), Chain::default(), KeptRecords::default());
    let mut action = replica.claim(JournalPosition::default());
    for number in 0..=batches {
        let Some(Action::Append { expected, record }) = action else { panic!("an append") };
        assert!(replica.appended(log.append(expected, &record)).is_own);
        action = replica.propose(batch(number, 0), usize::MAX);
    }
    replica.appended(Appended::Refused);
    replica
}

#[test]
fn a_node_compares_before_it_appends_again() {
    for (label, kept, others, expected) in [
        ("the log has lost everything", 0, 0, Ok(Some(1))),
        ("it has lost the end", 2, 0, Ok(Some(3))),
        ("it has lost the end, and has another", 2, 1, Err(3)),
        ("it has lost everything, and is another", 0, 2, Err(2)),
    ] {
        let mut log = MemoryLog::default();
        let mut replica = decider(&mut log, 0, 3);
        log.lose_after(kept);
        let mut other = Replica::new(claim(1, 0), Chain::default(), KeptRecords::default());
        for number in 1..=kept {
            other.observe(log.get(number).unwrap());
        }
        for number in 0..others {
            let action = if number == 0 {
                other.claim(JournalPosition::default())
            } else {
                other.propose(batch(100, 0), usize::MAX)
            };
            let Some(Action::Append { expected, record }) = action else { panic!("an append") };
            assert!(other.appended(log.append(expected, &record)).is_own, "{label}");
        }
        // Its append was refused, since the log does not end at 4.
        assert_eq!(replica.action(), Some(Action::Read(5)), "{label}");
        assert_eq!(replica.found(None).action, Some(Action::Tail), "{label}");
        let tail = log.last();
        let mut reaction = replica.ends_at(tail);
        if tail > 0 {
            assert_eq!(reaction.action, Some(Action::Read(tail)), "{label}");
            reaction = replica.found(log.get(tail));
        }
        let next = match reaction.action {
            Some(Action::Append { expected, .. }) => Some(expected + 1),
            _ => None,
        };
        match expected {
            Ok(number) => assert_eq!(next, number, "{label}"),
            Err(number) => assert_eq!(replica.latched(), Some(&ChainError::Forked { number }), "{label}"),
        }
    }
}

#[test]
fn a_void_record_changes_nothing() {
    let mut log = MemoryLog::default();
    let former = decider(&mut log, 0, 1);
    let mut reader = Replica::new(claim(1, 0), Chain::default(), KeptRecords::default());
    (1..=log.last()).for_each(|number| _ = reader.observe(log.get(number).unwrap()));
    let Some(Action::Append { expected, record }) = reader.claim(JournalPosition::default()) else {
        panic!("an append")
    };
    assert!(reader.appended(log.append(expected, &record)).is_own);
    // The former decider reads the claim, and appends in its own epoch nevertheless.
    let mut chain = *former.chain();
    chain.read(&record).unwrap();
    for (label, content) in
        [("a batch", batch(9, 0)), ("a claim", RecordContent::Claim(claim(0, 0), JournalPosition::default()))]
    {
        let void: Bytes = chain.next(former.chain().epoch, content).encode().into();
        assert_eq!(chain.read(&void), Ok(ReadRecord::Void), "{label}");
        assert_eq!(reader.observe(&void).record, Some(ReadRecord::Void), "{label}");
        assert!(!reader.is_deciding(), "{label}: its own append was refused");
    }
    let unclaimed = chain.next(Epoch(3), batch(9, 0)).encode();
    assert_eq!(chain.read(&unclaimed), Err(ChainError::Misplaced { number: 6 }));
    let mut other = Chain { position: LogPosition { number: 5, ..LogPosition::default() }, ..chain };
    assert_eq!(other.read(&chain.next(Epoch(2), batch(9, 0)).encode()), Err(ChainError::Forked { number: 6 }));
}
