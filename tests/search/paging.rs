//! Pages of a search while others write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::json;

use crate::{
    harness::http::{Http, put},
    site::{Site, ids},
};

const DEVICES: usize = 1200;

fn name(n: usize) -> String {
    format!("d{n:04}")
}

/// Writes until `is_over` is set: numbers that do not matter to the query, and devices that come, go and change sides.
fn disturb(client: &mut Http, is_over: &AtomicBool) {
    let mut round = 0;
    while !is_over.load(Ordering::Relaxed) {
        round += 1;
        let steady = round * 7 % DEVICES;
        let kind = if steady.is_multiple_of(3) { "wanted" } else { "other" };
        put(client, &format!("{}/shadow", name(steady)), &json!({"reported": {"kind": kind, "n": round}}));
        put(client, &format!("d{:04}x/shadow", round % 50), &json!({"reported": {"kind": "wanted"}}));
        let kind = if round.is_multiple_of(2) { "wanted" } else { "other" };
        put(client, &format!("d{:04}y/shadow", round % 50), &json!({"reported": {"kind": kind}}));
        let path = format!("/v1/devices/d{:04}x/shadow", (round + 25) % 50);
        let deleted = client.send(&format!("DELETE {path} HTTP/1.1\nIf-Match: *"), b"").status;
        assert!(matches!(deleted, 204 | 404 | 412), "{deleted}");
    }
}

#[test]
fn every_device_that_matches_throughout_is_there_once() {
    let site = Site::open();
    site.write_many(DEVICES, |n| {
        let kind = if n.is_multiple_of(3) { "wanted" } else { "other" };
        (format!("{}/shadow", name(n)), json!({"reported": {"kind": kind, "n": 0}}))
    });
    let wanted: BTreeSet<String> = (0..DEVICES).step_by(3).map(name).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2).map(|_| scope.spawn(|| disturb(&mut site.client("web"), &is_over))).collect();
        for sort in ["device", "-device"] {
            let mut found: BTreeMap<String, usize> = BTreeMap::new();
            let mut cursor: Option<String> = None;
            loop {
                let mut parameters = vec![("q", "reported.kind:wanted"), ("limit", "37"), ("sort", sort)];
                parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
                let page = site.search(&parameters);
                for id in ids(&page).split_whitespace() {
                    *found.entry(id.to_owned()).or_default() += 1;
                }
                match page["next"].as_str() {
                    Some(next) => cursor = Some(next.to_owned()),
                    None => break,
                }
            }
            assert!(found.values().all(|times| *times == 1), "{found:?}");
            let steady: BTreeSet<String> = found.keys().filter(|id| id.len() == 5).cloned().collect();
            assert_eq!(steady, wanted, "{sort}");
        }
        is_over.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}
