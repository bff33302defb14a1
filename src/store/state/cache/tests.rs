//! Tests of the cache.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::shadow::{
    Remembered, Section, Stamp, Timestamp, Version,
    document::{Tombstone, tree},
    name::DeviceId,
};

fn key(name: &str) -> ShadowKey {
    ShadowKey::classic(DeviceId::new(name).unwrap())
}

/// Returns a document whose last entry is `seq`.
fn stored(seq: u64) -> StoredShadow {
    StoredShadow { document: Arc::new(Document::absent()), last_entry: Seq(seq), remembered: Default::default() }
}

fn miss(cache: &DocumentCache) -> CacheMiss {
    match cache.get(&key("d")) {
        Err(NotCached::Miss(miss)) => miss,
        _ => panic!("there is a slot"),
    }
}

/// Returns the last entry of the document to use after one of `read` was read.
fn settled(cache: &DocumentCache, read: u64, miss: &CacheMiss) -> Seq {
    cache.settle(&key("d"), stored(read), miss).unwrap().last_entry
}

/// The events between a lookup in the cache and the end of the read from disk.
#[derive(Debug)]
enum Meanwhile {
    Nothing,
    Published {
        seq: u64,
        pinned: bool,
    },
    /// Published, flushed and evicted.
    Gone {
        seq: u64,
    },
    /// Another reader finished first.
    Settled {
        seq: u64,
    },
    /// The record was purged.
    Purged,
}

#[test]
fn a_read_from_disk_is_merged_with_publications() {
    use Meanwhile::{Gone, Nothing, Published, Purged, Settled};
    for (meanwhile, read, answered, kept) in [
        (Nothing, 5, 5, Some(5)),
        (Nothing, 0, 0, None),
        (Published { seq: 6, pinned: true }, 5, 6, Some(6)),
        (Published { seq: 6, pinned: false }, 5, 6, Some(6)),
        (Published { seq: 6, pinned: false }, 6, 6, Some(6)),
        // The commit of 6 reached the disk before its publication.
        (Settled { seq: 5 }, 6, 6, Some(6)),
        (Settled { seq: 6 }, 5, 6, Some(6)),
        // An old result must not be kept, since nothing would correct it.
        (Gone { seq: 6 }, 5, 5, None),
        (Gone { seq: 6 }, 6, 6, None),
        (Purged, 5, 5, None),
    ] {
        let about = format!("{meanwhile:?}, read {read}");
        let cache = DocumentCache::new(1 << 20, Arc::default());
        let miss = self::miss(&cache);
        match meanwhile {
            Nothing => {}
            Published { seq, pinned } => cache.publish(&key("d"), stored(seq), pinned),
            Gone { seq } => {
                cache.publish(&key("d"), stored(seq), false);
                cache.shard(miss.shard).write().slots.clear();
            }
            Purged => cache.remove(&key("d")),
            Settled { seq } => {
                let other = self::miss(&cache);
                assert_eq!(settled(&cache, seq, &other), Seq(seq), "{about}");
            }
        }
        assert_eq!(settled(&cache, read, &miss), Seq(answered), "{about}");
        assert_eq!(cache.get(&key("d")).ok().map(|stored| stored.last_entry), kept.map(Seq), "{about}");
    }
}

#[test]
fn a_removed_slot_leaves_nothing() {
    let cache = DocumentCache::new(1 << 20, Arc::default());
    for _ in 0..3 {
        cache.publish(&key("d"), stored(1), false);
        cache.remove(&key("d"));
        cache.remove(&key("d"));
    }
    assert!(cache.get(&key("d")).is_err());
    assert_eq!(cache.size(), (0, 0));
    assert!(cache.shards.iter().all(|shard| shard.read().ring.is_empty()));
}

#[test]
fn pinned_slots_stay_and_others_are_bounded() {
    let cache = DocumentCache::new(SHARDS * 2000, Arc::default());
    for n in 0..100 {
        cache.publish(&key(&format!("pinned-{n}")), stored(n + 1), true);
    }
    for n in 0..5000 {
        cache.publish(&key(&format!("clean-{n}")), stored(n + 1000), false);
    }
    for n in 0..100 {
        assert_eq!(cache.get(&key(&format!("pinned-{n}"))).ok().map(|stored| stored.last_entry), Some(Seq(n + 1)));
    }
    let (documents, bytes) = cache.size();
    assert!(bytes <= SHARDS * 2500 + 100 * 800 && documents >= 150, "{documents} documents, {bytes} bytes");
    (0..100).for_each(|n| cache.unpin(&key(&format!("pinned-{n}"))));
    (0..2000).for_each(|n| cache.publish(&key(&format!("later-{n}")), stored(n + 9000), false));
    assert!(cache.size().1 <= SHARDS * 2500, "{:?}", cache.size());
}

/// Returns a document with content, whose last entry is `seq`.
fn written(seq: u64) -> StoredShadow {
    let Value::Object(members) = json!({"temperature": seq, "log": {"a": [1, 2], "b": "x"}}) else { panic!() };
    let stamp = Arc::new(Stamp { version: Version(seq), timestamp: Timestamp(9), by: "d".into() });
    let reported = Arc::new(Section::new(tree::stamped(&members, &stamp)));
    let document = Document { version: Version(seq), reported, ..Document::absent() };
    StoredShadow { document: Arc::new(document), last_entry: Seq(seq), remembered: Remembered::default() }
}

fn is_record(cache: &DocumentCache, key: &ShadowKey) -> bool {
    matches!(cache.kept(key), Some(Form::Record(_)))
}

#[test]
fn dirty_documents_beyond_the_budget_are_kept_as_records() {
    let cache = DocumentCache::new(0, Arc::default());
    let keys: Vec<_> = (1..=200).map(|n| key(&format!("d{n}"))).collect();
    for (key, n) in keys.iter().zip(1..) {
        cache.publish(key, written(n), true);
    }
    assert!(keys.iter().filter(|key| is_record(&cache, key)).count() > 100);
    for (key, n) in keys.iter().zip(1..) {
        assert_eq!(cache.summary(key), Some((false, Seq(n))), "before it is decoded");
        assert_eq!(cache.get(key).ok(), Some(written(n)));
    }
}

#[test]
fn a_lookup_decodes_a_record_for_the_next_one() {
    let cache = DocumentCache::new(1 << 20, Arc::default());
    cache.publish(&key("d"), written(1), true);
    let mut shard = cache.shard(cache.shard_of(&key("d"))).write();
    cache.sweep(&mut shard, 0);
    drop(shard);
    assert!(is_record(&cache, &key("d")) && !cache.is_decoded(&key("d")));
    assert!(cache.get(&key("d")).is_ok_and(|stored| stored == written(1)));
    assert!(cache.is_decoded(&key("d")));
    cache.unpin(&key("d"));
    let mut shard = cache.shard(cache.shard_of(&key("d"))).write();
    (0..3).for_each(|_| cache.sweep(&mut shard, 0));
    drop(shard);
    assert!(cache.kept(&key("d")).is_none(), "not pinned any more");
}

#[test]
fn a_document_decoded_too_late_replaces_nothing() {
    let cache = DocumentCache::new(1 << 20, Arc::default());
    cache.publish(&key("d"), written(1), true);
    let encode = || cache.sweep(&mut cache.shard(cache.shard_of(&key("d"))).write(), 0);
    encode();
    let record = cache.kept(&key("d")).unwrap();
    cache.publish(&key("d"), written(2), true);
    assert!(!cache.keep_decoded(&key("d"), &record, &written(1)), "the slot has a document");
    encode();
    assert!(!cache.keep_decoded(&key("d"), &record, &written(1)), "the slot has another record");
    assert_eq!(cache.get(&key("d")).ok(), Some(written(2)));
}

#[test]
fn looked_up_slots_outlive_others() {
    let cache = DocumentCache::new(SHARDS * 10_000, Arc::default());
    let hot = key("hot");
    cache.publish(&hot, stored(1), false);
    for n in 0..20_000 {
        cache.publish(&key(&format!("cold-{n}")), stored(n + 2), false);
        assert!(cache.get(&hot).is_ok(), "after {n}");
    }
}

/// A path tombstone counted as 128 bytes however long its keys are, so a hundred shadows of one device kept 200 MB unseen.
#[test]
fn the_keys_of_tombstones_count() {
    let tombstone = |_| Tombstone {
        path: Pointer { section: SectionName::Desired, keys: vec!["k".repeat(1_000).into(); 8] },
        removed: Arc::new(Stamp { version: Version(1), timestamp: Timestamp(1), by: "by".into() }),
    };
    let document = Document { tombstones: Arc::new((0..4).map(tombstone).collect()), ..Document::absent() };
    let stored = StoredShadow { document: Arc::new(document), ..stored(1) };
    let record = RecordEncoder::default().encode(&schema::state_key(&key("d")), &stored, None).len();
    assert!(record > 32_000 && stored.record_bytes(&Dictionaries::default()) as usize > 32_000, "{record}");
    let cache = DocumentCache::new(64 << 20, Arc::default());
    cache.publish(&key("d"), stored, false);
    assert!(cache.size().1 > 32_000, "{:?}", cache.size());
}
