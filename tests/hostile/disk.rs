//! Clients that would fill the disk, and a disk that is full.

use std::{
    fs::{self, File},
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::{Value, json};

use crate::{
    bystander::Bystander,
    harness::{
        eventually,
        server::{Server, Setup, UNLIMITED, store_path},
        shadow::{Requester, version},
        wire::{BOTH, V5},
    },
};

const MIB: u64 = 1 << 20;

fn large(number: u64) -> Value {
    json!({"state": {"desired": {"filler": format!("{number:0>7000}")}}})
}

/// Ever new shadows of one device, each deleted at once: the deleted ones count while the journal has them, and the loop
/// ends at the limit.
#[test]
fn creating_and_deleting_names_does_not_grow_the_store() {
    let mut server = Server::with(UNLIMITED);
    let mut bystander = Bystander::new(&server);
    for protocol in BOTH {
        let device = format!("shadow/looping-{}", protocol as u8);
        let mut client = Requester::new(&server, protocol, "looping", &format!("{device}/name/+"));
        let mut made = 0;
        for number in 0..300 {
            client.prefix = format!("{device}/name/n{number}");
            if number < 100 {
                client.update(large(number));
                assert_eq!(version(&client.accepted("delete", json!({}))), 2);
                made += 1;
            } else {
                client.rejected("update", large(number), 429, "too-many-requests");
                client.rejected("delete", json!({}), 404, "not-found");
            }
        }
        assert_eq!(made, 100);
        // Those it had may be made again.
        client.prefix = format!("{device}/name/n7");
        assert_eq!(version(&client.update(json!({"state": {"desired": {"back": true}}}))), 3);
    }
    bystander.check(&mut server);
}

/// One shadow made and deleted over and over again: the journal has its limit, and what it gives back is used again.
#[test]
fn creating_and_deleting_one_shadow_does_not_grow_the_store() {
    const ROUNDS: u64 = 5_000;
    let mut server = Server::with(Setup { store: "journal_bytes_max = \"16 MiB\"", ..UNLIMITED });
    let mut bystander = Bystander::new(&server);
    let mut client = Requester::private(&server, "looping", "shadow/looping");
    let size = |server: &Server| fs::metadata(store_path(server.directory())).unwrap().len();
    let mut sizes = Vec::new();
    for round in 1..=ROUNDS {
        client.update(large(round));
        client.accepted("delete", json!({}));
        if round.is_multiple_of(ROUNDS / 5) {
            sizes.push(size(&server) / MIB);
        }
    }
    let written = ROUNDS * 2 * 7_000 / MIB;
    assert!(sizes[4] < 48 && sizes[4] <= sizes[1] + 8, "the file had {sizes:?} MiB, {written} MiB were written");
    bystander.check(&mut server);
    assert_eq!(version(&client.update(large(0))), 2 * ROUNDS + 1);
    println!("{written} MiB through a journal of 16 MiB; the file had {sizes:?} MiB");
}

/// A disk that fills up while the service runs: writes are refused before one fails, reads go on, and once there is
/// room again so do writes. Nothing has to be restarted.
#[test]
fn the_disk_is_full_for_a_while() {
    const STEP: u64 = 256 * MIB;
    let directory = tempfile::tempdir().unwrap();
    let filler = directory.path().join("filler");
    let free = || statvfs(directory.path()).map(|disk| disk.f_bavail * disk.f_frsize).unwrap();
    // Others write to this disk too, hence so much.
    let Some(floor) = free().checked_sub(4 * STEP).filter(|floor| *floor > 0) else {
        panic!("this test needs {} MiB of free disk", 4 * STEP / MIB)
    };
    let store: &'static str = format!("free_disk_min = {floor}").leak();
    let mut server = Server::with(Setup { store, ..UNLIMITED });
    let mut client = Requester::new(&server, V5, "client", "shadow/full");
    let before = client.update(json!({"state": {"desired": {"n": 1}}}));

    let mut taken = 0;
    let refused = eventually("updates to be refused", || {
        taken += STEP;
        grow(&filler, taken);
        // The disk is looked at once a second.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
        std::iter::repeat_with(|| client.request("update", json!({"state": {"desired": {"n": 1}}})))
            .take_while(|answer| !answer.accepted || std::time::Instant::now() < until)
            .find(|answer| !answer.accepted)
    });
    assert_eq!((&refused.body["code"], &refused.body["error"]), (&json!(503), &json!("unavailable")), "{refused:?}");
    client.rejected("delete", json!({}), 503, "unavailable");
    let during = client.get();
    assert_eq!((&during["version"], &during["etag"]), (&before["version"], &before["etag"]), "reads go on");
    let mut newcomer = Requester::new(&server, V5, "newcomer", "shadow/full");
    newcomer.get();

    fs::remove_file(&filler).unwrap();
    eventually("updates to be taken again", || {
        client.request("update", json!({"state": {"desired": {"n": 2}}})).accepted.then_some(())
    });
    assert_eq!(version(&newcomer.get()), version(&before) + 1);
    server.assert_alive();
}

/// Has a file take so much of the disk.
fn grow(file: &Path, bytes: u64) {
    let file = File::options().create(true).append(true).open(file).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, bytes).unwrap();
}
