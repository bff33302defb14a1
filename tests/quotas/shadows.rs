//! What everybody together may write to one shadow.

use std::time::Instant;

use serde_json::json;

use crate::{
    allowance, assert_met,
    harness::{
        client::Client,
        server::{Server, Setup},
        shadow::Requester,
        wire::{BOTH, V5},
    },
    server,
};

const UPDATE: &str = r#"{"state":{"reported":{"n":1}}}"#;

/// Twenty principals write to one shadow, each within its own quota; one that writes to another shadow notices nothing.
#[test]
fn writes_of_all_principals_to_a_shadow_are_limited() {
    // So few that even a machine that takes half a second for each of them meets it.
    let mut server = server("shadow_writes_per_second = 1");
    let mut bystander = Requester::new(&server, V5, "bystander", "shadow/quiet");
    let mut writers: Vec<_> =
        (0..20).map(|number| Client::connect(&server, BOTH[number % 2], &format!("writer-{number}"))).collect();
    let mut watcher = Client::connect(&server, V5, "watcher");
    watcher.subscribe(&[("shadow/busy/update/rejected", 1), ("shadow/busy/update/accepted", 1)]);
    let (start, mut accepted, mut refused) = (Instant::now(), 0, 0);
    for round in 0..5 {
        for writer in &mut writers {
            let code = writer.publish("shadow/busy/update", UPDATE, 1);
            let answer = watcher.message();
            if answer.topic.ends_with("accepted") {
                accepted += 1;
                assert_eq!(code, 0);
                continue;
            }
            refused += 1;
            let message = "Too many requests: more than 1 updates and deletions a second of one shadow by all";
            let body = answer.json();
            assert_eq!((&body["code"], &body["message"]), (&json!(429), &json!(message)));
            assert!((1..=1_001).contains(&body["retryAfterMs"].as_u64().unwrap()), "{body}");
            assert_eq!(code, if writer.protocol == V5 { 0x97 } else { 0 });
        }
        if round == 2 {
            bystander.update(json!({"state": {"reported": {"n": round}}}));
        }
    }
    assert!((1..=allowance(start, 1, 1)).contains(&accepted) && refused > 0, "{accepted} in {:?}", start.elapsed());
    // Whoever only asks what it says may do so.
    let mut reader = Requester::new(&server, V5, "reader", "shadow/busy");
    for _ in 0..20 {
        reader.get();
    }
    assert_met(&mut server, &["shadow_writes"]);
}

/// Nobody without rights to a shadow can use up what those with rights have.
#[test]
fn unauthorized_requests_are_not_counted() {
    let limits = "shadow_writes_per_second = 1\nrequests_rate = \"1000/s burst 1000\"\n\
                  [[rule]]\nrole = \"stranger\"\ndevices = [\"elsewhere\"]\nread = [\"/reported\"]\nwrite = [\"/reported\"]\n\
                  [[grant]]\nrole = \"admin\"\nprincipals = [\"anonymous/owner\"]\nby = [\"anonymous\"]";
    let mut server = Server::with(Setup { limits, listener: "anonymous_role = \"stranger\"", ..Setup::default() });
    let mut stranger = Client::connect(&server, V5, "stranger");
    for _ in 0..50 {
        assert_eq!(stranger.publish("shadow/guarded/update", UPDATE, 1), 0x87);
    }
    let mut owner = Client::connect(&server, V5, "owner");
    assert_eq!(owner.publish("shadow/guarded/update", UPDATE, 1), 0);
    assert_met(&mut server, &[]);
}
