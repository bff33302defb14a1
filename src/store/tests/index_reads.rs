//! The entries that a search of an index reads: none that its caller may not see, and all are counted.

use std::ops::ControlFlow;

use serde_json::json;

use super::{
    indexes::{declared, rest},
    key, options, queued,
    sim_disk::{SimDisk, Stop},
    stepped::Stepped,
    update,
};
use crate::{
    fleet::{Field, Query},
    shadow::{DeviceId, index::IndexLookup},
    store::{DeviceLookup, DeviceSpan, StoreOptions},
};

/// A store in which the devices have these values, and an index of them.
fn store(values: &[(&str, serde_json::Value)]) -> Stepped {
    let disk = SimDisk::new(Vec::new(), Stop::Never);
    let mut stepped = Stepped::open(&disk, StoreOptions { indexed: declared("reported.v"), ..options() }).unwrap();
    for (device, value) in values {
        stepped.apply([queued(&key(device), update(&json!({"reported": {"v": value}}), None), 0)]);
    }
    rest(&mut stepped);
    stepped
}

fn lookups(query: &str) -> Vec<IndexLookup> {
    query.parse::<Query>().unwrap().lookups()
}

/// The work of a search depended on the values of devices that its caller may not see: their entries were counted and read before those
/// of the caller were selected.
#[test]
fn a_confined_search_reads_no_other_entries() {
    let span = || vec![DeviceSpan::Prefix(DeviceId::new("a-").unwrap())];
    let read = |hidden: i32, query: &str| {
        let visible = [("a-1", json!(7)), ("a-2", json!("x"))];
        let names: Vec<_> = (0..hidden).map(|n| format!("b-{n}")).collect();
        let hidden = names.iter().map(|name| (name.as_str(), json!(7)));
        let stepped = store(&visible.into_iter().chain(hidden).collect::<Vec<_>>());
        let lookups = lookups(query).into_iter();
        let lookups: Vec<_> = lookups.map(|lookup| DeviceLookup { lookup, spans: span(), is_confined: true }).collect();
        let (found, read) = stepped.store.propose(&lookups, &span(), None, None).unwrap();
        (found.map(|found| found.devices.iter().map(DeviceId::as_str).collect::<Vec<_>>().join(" ")), read)
    };
    for (query, expected) in [
        ("reported.v:7", (Some("a-1".to_owned()), 1)),
        ("reported.v:(7 OR X)", (Some("a-1 a-2".to_owned()), 2)),
        ("reported.v:8", (Some(String::new()), 0)),
        // The number of its terms depends on all devices.
        ("reported.v:>=7", (None, 0)),
        ("reported.v:x*", (None, 0)),
    ] {
        assert_eq!(read(0, query), expected, "{query}");
        assert_eq!(read(40, query), expected, "{query}, with hidden devices");
    }
}

/// A search that was given up after many entries, and the entries that were counted to choose one, cost nothing.
#[test]
fn all_entries_that_are_read_are_counted() {
    let long = "x".repeat(300);
    let value = |n: i32| if n == 299 { json!(long) } else { json!(n) };
    let values: Vec<_> = (0..300).map(|n| (format!("d{n:03}"), value(n))).collect();
    let values: Vec<_> = values.iter().map(|(device, value)| (device.as_str(), value.clone())).collect();
    let stepped = store(&values);
    let all = || vec![DeviceSpan::All];
    let read = |query: &str| {
        let lookups = lookups(query).into_iter();
        let lookups: Vec<_> = lookups.map(|lookup| DeviceLookup { lookup, spans: all(), is_confined: false }).collect();
        stepped.store.propose(&lookups, &all(), None, Some(1000)).unwrap().1
    };
    // Counted, its term sought, and read.
    assert_eq!(read("reported.v:7"), 3);
    // Counted, more terms than are merged, and collected.
    assert_eq!(read("reported.v:>=0"), 299 + 256 + 299);
    let path = "reported.v".parse::<Field>().unwrap().path();
    let (found, read) = stepped.store.indexed_values(path.as_ref(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((found, read), (None, 300), "a long value prevents it");
}
