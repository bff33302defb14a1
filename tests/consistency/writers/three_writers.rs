//! An app, analytics and a monitor write one device's shadow at once, each its own part of it, then all the same field.

use serde_json::{Value, json};

use crate::harness::{
    Meeting,
    server::{Server, UNLIMITED},
    shadow::{Requester, version},
};

const UPDATES: u64 = 400;

const WRITERS: [&str; 3] = ["app", "analytics", "monitor"];

/// Returns the `n`th update of a writer, which has fields of its own.
fn own_part(writer: usize, n: u64) -> Value {
    match writer {
        0 => json!({"desired": {"target": n}}),
        1 => json!({"reported": {"mean": n, "trend": {"hour": n, "day": n / 24}}}),
        _ => json!({"tags": {"lastSeen": n}}),
    }
}

/// Runs `write` for each writer at once and adds up what they return.
fn at_once(server: &Server, device: &str, write: impl Fn(usize, &mut Requester) -> u64 + Sync) -> u64 {
    let meeting = Meeting::of(WRITERS.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = WRITERS
            .iter()
            .enumerate()
            .map(|(number, name)| {
                let (meeting, write) = (&meeting, &write);
                scope.spawn(move || {
                    let mut writer = Requester::private(server, name, device);
                    meeting.wait();
                    write(number, &mut writer)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

fn check_own_parts(server: &Server, device: &str) {
    let document = Requester::private(server, "reader", device).get();
    for writer in 0..WRITERS.len() {
        for (section, members) in own_part(writer, UPDATES).as_object().unwrap() {
            assert_eq!(document["state"][section], *members, "{device}");
        }
    }
    assert_eq!(version(&document), 1 + 3 * UPDATES, "{device}: every update made a version");
}

/// With versions of the whole document they lose nothing, but stand in each other's way.
#[test]
fn writers_conflict_by_version() {
    let (server, device) = (Server::with(UNLIMITED), "shadow/whole");
    let conflicts = writers_of_parts(&server, device, "reject");
    println!("whole versions: {} updates accepted, {conflicts} conflicts", 3 * UPDATES);
    assert!(conflicts > 0, "they never met");
    check_own_parts(&server, device);
}

/// With rebase they never notice each other.
#[test]
fn rebased_updates_of_different_fields_do_not_conflict() {
    let (server, device) = (Server::with(UNLIMITED), "shadow/parts");
    let conflicts = writers_of_parts(&server, device, "rebase");
    println!("rebase, each its own fields: {} updates accepted, {conflicts} conflicts", 3 * UPDATES);
    assert_eq!(conflicts, 0);
    check_own_parts(&server, device);
}

/// Each writer knows the version of its own last update; returns how many conflicts there were.
fn writers_of_parts(server: &Server, device: &str, on_conflict: &str) -> u64 {
    Requester::private(server, "maker", device).update(json!({"state": {}, "version": 0}));
    at_once(server, device, |number, writer| {
        let (mut seen, mut conflicts) = (1, 0);
        for n in 1..=UPDATES {
            loop {
                let body = json!({"state": own_part(number, n), "version": seen, "onConflict": on_conflict});
                let answer = writer.request("update", body);
                seen = version(&answer.body);
                if answer.accepted {
                    break;
                }
                assert_eq!(answer.body["error"], json!("version-conflict"), "{answer:?}");
                assert_eq!(answer.body["conflicts"], json!([]), "nobody else writes these: {answer:?}");
                conflicts += 1;
            }
        }
        conflicts
    })
}

/// On the same field every collision is reported, and none is lost.
#[test]
fn rebased_updates_of_the_same_field_conflict() {
    let (server, device) = (Server::with(UNLIMITED), "shadow/same");
    Requester::private(&server, "maker", device).update(json!({"state": {"desired": {"n": 0}}}));
    let conflicts = at_once(&server, device, |_, writer| {
        let (mut seen, mut n, mut conflicts) = (1, 0, 0);
        for _ in 0..UPDATES {
            loop {
                let body = json!({"state": {"desired": {"n": n + 1}}, "version": seen, "onConflict": "rebase"});
                let answer = writer.request("update", body);
                let before = std::mem::replace(&mut seen, version(&answer.body));
                if answer.accepted {
                    n += 1;
                    break;
                }
                let listed = answer.body["conflicts"].as_array().unwrap();
                let [listed] = listed.as_slice() else { panic!("{answer:?}") };
                assert_eq!(listed["path"], json!("/desired/n"));
                assert_eq!(listed["base"], json!(before - 1), "version {before} had the value {}", before - 1);
                assert_eq!((&listed["yours"], &listed["version"]), (&json!(n + 1), &json!(seen)));
                n = listed["current"].as_u64().unwrap();
                assert_eq!(n, seen - 1);
                conflicts += 1;
            }
        }
        conflicts
    });
    let end = Requester::private(&server, "reader", device).get();
    println!(
        "rebase, the same field: {} increments accepted, {conflicts} conflicts, counter {}",
        3 * UPDATES,
        end["state"]["desired"]["n"]
    );
    assert!(conflicts > 0, "they never met");
    assert_eq!(end["state"]["desired"]["n"], json!(3 * UPDATES));
}
