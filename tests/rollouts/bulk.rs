//! Bulk changes: a rollout of one wave.

use serde_json::{Value, json};

use crate::site::{Site, error};

#[test]
fn a_bulk_change_is_made_once_for_a_key() {
    let mut site = Site::open();
    site.write_many(5, |n| (format!("d{n}/shadow"), json!({"desired": {"v": 1}, "tags": {"zone": n % 2}})));
    let body = json!({
        "query": "tags.zone:1", "patch": {"desired": {"v": 2}, "tags": {"zone": null}},
        "expect": [{"path": "/desired/v", "value": 1}],
    });
    let dry = site.send("web", "POST /v1/bulk?dry_run=true", &body);
    assert_eq!((dry.status, &dry.json()["wouldChange"], &dry.json()["sample"]), (200, &json!(2), &json!(["d1", "d3"])));
    let send = |site: &Site, body: &Value| site.send("web", "POST /v1/bulk\nIdempotency-Key: change-7", body);
    let reply = send(&site, &body);
    assert_eq!(reply.status, 202, "{}", reply.text());
    let location = reply.header("location").unwrap().to_owned();
    let id = location.strip_prefix("/v1/rollouts/").unwrap().to_owned();
    assert!(id.starts_with("bulk-"), "{id}");
    let done = site.wait_for(&id, "completed");
    assert_eq!((&done["counts"]["converged"], &done["waves"][0]["size"]), (&json!(2), &json!(2)), "{done}");
    assert_eq!(site.state("d1/shadow"), json!({"desired": {"v": 2}, "delta": {"v": 2}}));
    assert_eq!(site.state("d2/shadow")["desired"]["v"], 1);
    for _ in 0..2 {
        let again = send(&site, &body);
        assert_eq!((again.status, again.header("location")), (202, Some(&*location)));
        assert_eq!(again.json()["counts"]["converged"], 2);
        site.0.kill();
        site.0.restart();
    }
    assert_eq!(
        error(&send(&site, &json!({"query": "*", "patch": {"desired": {"v": 3}}}))),
        "422 idempotency-key-reused"
    );
    let other = site.send("web", "POST /v1/bulk", &body);
    assert_eq!((other.status, &other.json()["devices"]), (202, &json!(0)), "another one finds none any more");
}

/// Somebody could create a rollout under the id that another client's bulk change would get, which was refused from then on.
#[test]
fn the_ids_of_bulk_changes_are_theirs() {
    let site = Site::open();
    let spec = json!({"devices": ["d1"], "patch": {"desired": {"v": 1}}});
    let refused = site.create("web", "bulk-0011223344556677", &spec);
    assert_eq!(error(&refused), "403 forbidden");
    assert!(refused.text().contains("must not begin with 'bulk-'"), "{}", refused.text());
    assert_eq!(site.create("web", "bulk", &spec).status, 201);
}

#[test]
fn a_bulk_change_has_no_waves() {
    let site = Site::open();
    let reply =
        site.send("web", "POST /v1/bulk", &json!({"query": "*", "patch": {"desired": {"v": 1}}, "waves": ["100%"]}));
    assert!(reply.status == 400 && reply.text().contains("unknown; known are query"), "{}", reply.text());
}

#[test]
fn a_thousand_devices_are_changed_and_restored() {
    let site = Site::open();
    site.write_many(1_200, |n| (format!("d{n:04}/shadow"), json!({"desired": {"v": n}})));
    let reply = site.send("web", "POST /v1/bulk", &json!({"query": "device:d*", "patch": {"desired": {"v": "x"}}}));
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(site.wait_for(&id, "completed")["counts"]["converged"], 1_200);
    site.command(&id, "rollback");
    assert_eq!(site.wait_for(&id, "rolled-back")["counts"]["rolledBack"], 1_200);
    for n in [0, 499, 500, 1_199] {
        assert_eq!(site.state(&format!("d{n:04}/shadow"))["desired"]["v"], n);
    }
}
