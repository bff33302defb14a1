//! The log and the bus on real servers: conditions, faults of servers and connections, and what is refused at the start.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod append;
mod bus;
mod credentials;
mod follow;
mod isolated;
#[path = "../../../../tests/harness/proxy.rs"]
#[allow(unreachable_pub, reason = "shared with the tests of the program")]
mod proxy;
mod refusals;
mod servers;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{NatsLog, api, follow::Follower};
use crate::store::Appended;

/// The time for something that must happen, on a machine with much else to do.
const LIMIT: Duration = Duration::from_secs(90);

/// Waits for `future`, which must end.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| unreachable!("waited {LIMIT:?} in vain for: {what}"))
}

fn record(number: u64) -> Bytes {
    format!("record {number}").into()
}

/// Appends records after `last` as a decider does: one at a time, each until it is known to be stored. Returns the longest time that
/// one took.
async fn append_all(log: &NatsLog, last: u64, count: u64) -> Duration {
    let mut longest = Duration::ZERO;
    for number in last + 1..=last + count {
        let begun = Instant::now();
        store(log, number - 1, record(number)).await;
        longest = longest.max(begun.elapsed());
    }
    longest
}

/// Appends a record after `last`, again and again until it is known to be stored: a slow machine does not answer in time.
async fn store(log: &NatsLog, last: u64, record: Bytes) {
    let number = last + 1;
    let stored = async {
        loop {
            match log.append(last, record.clone()).await {
                Appended::Stored => return,
                Appended::Unknown => {}
                Appended::Refused => {
                    if let Ok(Some(found)) = log.read(number).await {
                        return assert_eq!(found, record, "record {number}");
                    }
                }
            }
        }
    };
    within(&format!("the append of record {number}"), stored).await;
}

/// Asks to append a record after `last`, again and again until that is refused.
async fn refuse(log: &NatsLog, last: u64, record: Bytes) {
    let refused = async {
        loop {
            match log.append(last, record.clone()).await {
                Appended::Unknown => {}
                outcome => return outcome,
            }
        }
    };
    assert_eq!(within("an answer", refused).await, Appended::Refused, "after record {last}");
}

/// Reads the next `count` records, which must be those after `last`.
async fn follow_all(follower: &mut Follower, last: u64, count: u64) {
    for number in last + 1..=last + count {
        let found = within(&format!("record {number}"), follower.next()).await;
        assert_eq!(found, Ok((number, record(number))));
    }
}

/// Checks that the log has exactly `count` records, by reads.
async fn check_all(log: &NatsLog, count: u64) {
    let tail = async {
        loop {
            if let Ok(tail) = log.tail().await {
                return tail;
            }
        }
    };
    assert_eq!(within("the end of the log", tail).await, count);
    for number in 1..=count {
        let read = async {
            loop {
                if let Ok(found) = log.read(number).await {
                    return found;
                }
            }
        };
        assert_eq!(within("a read", read).await, Some(record(number)));
    }
}
