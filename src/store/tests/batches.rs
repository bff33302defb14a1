//! Tests of the size of batches.

use serde_json::{Map, Value, json};

use super::{
    key, options, queued,
    sim_disk::{Repaired, SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::shadow::{Rejection, Version};

/// Returns an update of 80 values below a key of 3,000 bytes to `value`, which takes 240 KB in the journal.
fn below_a_long_key(value: u64) -> crate::shadow::Command {
    let members: Map<_, _> = (0..80).map(|number| (format!("{number:02}"), json!(value))).collect();
    let below: Map<_, _> = [("k".repeat(3_000), Value::Object(members))].into_iter().collect();
    update(&json!({"reported": below}), None)
}

/// A batch was bounded by the number of its commands alone. A hundred updates of 4 KB each, whose journal entries repeat a long
/// key for every value, made a commit of hundreds of megabytes, in memory at once, for which all others waited seconds.
#[test]
fn a_batch_ends_once_it_has_written_enough() {
    for fails in [false, true] {
        let disk = SimDisk::new(Vec::new(), Stop::Never);
        let mut stepped = Stepped::open(&disk, options()).unwrap();
        assert!(stepped.apply([queued(&key("d"), below_a_long_key(0), 0)])[0].result.is_ok());
        if fails {
            disk.repair(Repaired::Pending, Stop::AtSync(disk.operations().0 + 1));
        }
        let bytes = stepped.store.health().journal_bytes;
        let outcomes = stepped.apply((1..=40).map(|number| queued(&key("d"), below_a_long_key(number), number)));
        assert_eq!(outcomes.len(), 40, "one step reports all");
        assert!(outcomes.iter().map(|outcome| outcome.context).eq((1..=40).map(Some)), "in order");
        if fails {
            // Those after the first 8 MiB were not part of the commit that failed.
            let results: Vec<_> = outcomes.iter().map(|outcome| &outcome.result).collect();
            let (first, rest) = results.split_at(35);
            assert!(first.iter().all(|result| matches!(result, Err(Rejection::Internal))), "{first:?}");
            assert!(rest.iter().all(|result| matches!(result, Err(Rejection::Unavailable(_)))), "{rest:?}");
        } else {
            let versions = outcomes.iter().map(|outcome| outcome.result.as_ref().unwrap().after.version);
            assert!(versions.eq((2..=41).map(Version)));
            assert!(stepped.store.health().journal_bytes - bytes > 9_600_000);
            let reopened = Stepped::open(&SimDisk::new(disk.durable(), Stop::Never), options()).unwrap();
            assert_eq!(reopened.store.head(), stepped.store.head());
        }
    }
}
