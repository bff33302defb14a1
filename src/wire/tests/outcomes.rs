//! Tests of conflicts, failed expectations, rebases, replays and dry runs in replies.

use serde_json::json;

use super::{json_of, key, only};
use crate::{
    shadow::{
        ClientToken, Command, Decision, Delete, Disposition, Document, DocumentLimits, FirstOutcome, OnConflict,
        Preconditions, Projection, Rejection, Timestamp, Update, Version, collisions,
        pointer::SectionName,
        tests::{decided, update, written},
    },
    wire::{self, Accepted, ReplyOptions},
};

fn shadow() -> Document {
    written(&[
        json!({"desired": {"mode": "heat", "target": 19, "old": 1}, "tags": {"site": "a"}}),
        json!({"desired": {"target": 23, "old": null}}),
        json!({"tags": {"site": "b"}}),
    ])
}

fn conflict() -> Rejection {
    let state = json!({"desired": {"target": 21, "old": 2, "mode": "eco"}, "tags": {"site": "c", "new": 1}});
    let command = Command::Update(update(state));
    let mut found = collisions(&command, &shadow(), Version(1));
    let base = found.conflicts.iter_mut().find(|conflict| conflict.path.to_string() == "/desired/target").unwrap();
    base.base = Some(json!(19));
    Rejection::VersionConflict {
        expected: Some(Version(1)),
        version: Version(3),
        etag: None,
        collisions: Some(Box::new(found)),
    }
}

#[test]
fn a_conflict_names_the_paths_and_values() {
    let shown = json_of(&wire::rejected(&conflict(), &key(None), Timestamp(9), &Projection::ALL, None));
    assert_eq!(
        shown["conflicts"],
        json!([
            {"path": "/desired/old", "yours": 2, "removed": true, "version": 2, "by": "tester", "timestamp": 2},
            {"path": "/desired/target", "yours": 21, "base": 19, "current": 23, "version": 2, "by": "tester", "timestamp": 2},
            {"path": "/tags/site", "yours": "c", "current": "b", "version": 3, "by": "tester", "timestamp": 3},
        ])
    );
    assert_eq!(shown["clean"], json!(["/desired/mode", "/tags/new"]));
    assert!(shown.get("truncated").is_none());
}

/// A conflict names neither values nor paths of a section that the reader may not see.
#[test]
fn a_conflict_names_only_visible_paths() {
    for (projection, paths, clean) in [
        (&Projection::STATE, vec!["/desired/old", "/desired/target"], vec!["/desired/mode"]),
        (&only(SectionName::Tags), vec!["/tags/site"], vec!["/tags/new"]),
        (&Projection::NONE, vec![], vec![]),
    ] {
        let shown = json_of(&wire::rejected(&conflict(), &key(None), Timestamp(9), projection, None));
        let found: Vec<_> = shown["conflicts"].as_array().unwrap().iter().map(|conflict| &conflict["path"]).collect();
        assert_eq!(found, paths);
        assert_eq!(shown["clean"], json!(clean));
        assert_eq!((&shown["expected"], &shown["version"]), (&json!(1), &json!(3)));
    }
}

#[test]
fn failed_expectations_are_named() {
    let expect = json!([
        {"path": "/desired/mode", "value": "eco"}, {"path": "/desired/target", "version": 1},
        {"path": "/desired/old", "version": 1}, {"path": "/desired/mode", "version": 1}, {"path": "/tags", "absent": true},
    ]);
    let payload = json!({"state": {}, "expect": expect}).to_string();
    let parsed = wire::parse_update(payload.as_bytes(), wire::Dialect::Native, &DocumentLimits::default()).unwrap();
    let rejection = decided(&shadow(), &Command::Update(parsed.body), &DocumentLimits::default()).unwrap_err();
    let shown = json_of(&wire::rejected(&rejection, &key(None), Timestamp(9), &Projection::STATE, None));
    assert_eq!(
        (&shown["code"], &shown["error"], &shown["version"]),
        (&json!(409), &json!("expectation-failed"), &json!(3))
    );
    assert_eq!(
        shown["failed"],
        json!([
            {"path": "/desired/mode", "expected": "value", "current": "heat", "version": 1, "by": "tester", "timestamp": 1},
            {"path": "/desired/target", "expected": "version", "current": 23, "version": 2, "by": "tester", "timestamp": 2},
            {"path": "/desired/old", "expected": "version", "version": 2, "by": "tester", "timestamp": 2},
        ])
    );
}

/// A replayed patch is unknown, and a requester may leave out metadata. An etag of everything is for readers of everything.
#[test]
fn accepted_has_only_what_is_known_wanted_and_visible() {
    let (document, sent) = (shadow(), update(json!({"tags": {"site": "b"}})));
    let first = FirstOutcome {
        digest: [7; 16],
        version: Version(3),
        timestamp: Timestamp(3),
        etag: document.etag,
        etag_is_own: true,
        changed: true,
        created: false,
        rebased_from: None,
    };
    let options = |metadata| ReplyOptions { token: None, metadata };
    for (is_known, metadata, members) in [
        (true, true, (true, true)),
        (true, false, (true, false)),
        (false, true, (false, false)),
        (false, false, (false, false)),
    ] {
        let disposition = Disposition::Replayed(first);
        let accepted =
            Accepted { update: &sent, is_known, changed: true, document: &document, rebased_from: None, disposition };
        let shown = json_of(&wire::update_outcome(&accepted, &Projection::ALL, options(metadata)));
        let found = (shown.get("state").is_some(), shown.get("metadata").is_some());
        assert_eq!(found, members, "known: {is_known}, metadata: {metadata}");
        // The leaf has not changed since the first outcome.
        let stamp = json!({"timestamp": 3, "version": 3, "by": "tester"});
        assert!(!members.1 || shown["metadata"] == json!({"tags": {"site": stamp}}), "{shown}");
    }
    for (etag_is_own, projection, is_shown) in [
        (true, Projection::ALL, true),
        (true, only(SectionName::Tags), true),
        (false, Projection::STATE, true),
        (false, only(SectionName::Tags), false),
    ] {
        let disposition = Disposition::Replayed(FirstOutcome { etag_is_own, ..first });
        let accepted = Accepted {
            update: &sent,
            is_known: true,
            changed: true,
            document: &document,
            rebased_from: None,
            disposition,
        };
        let shown = json_of(&wire::update_outcome(&accepted, &projection, None));
        assert_eq!(shown.get("etag").is_some(), is_shown, "own: {etag_is_own}, {projection:?}");
    }
    for metadata in [true, false] {
        let messages = [
            wire::get_accepted(&document, &Projection::ALL, options(metadata)),
            wire::update_delta(&document, &Projection::ALL, options(metadata)).unwrap(),
            wire::update_documents(&document, &document, &Projection::ALL, options(metadata)),
        ];
        for message in messages {
            assert_eq!(String::from_utf8_lossy(&message).contains("metadata"), metadata);
        }
    }
}

#[test]
fn accepted_has_the_fields_of_rebases_replays_and_dry_runs() {
    let document = shadow();
    let preconditions =
        Preconditions { version: Some(Version(1)), on_conflict: OnConflict::Rebase, ..Preconditions::default() };
    let sent = Update { preconditions, ..update(json!({"desired": {"mode": "eco"}, "tags": {"site": "b"}})) };
    let Decision::Changed { document: after, .. } = decided(
        &document,
        &Command::Update(Update { tags: Default::default(), ..sent.clone() }),
        &DocumentLimits::default(),
    )
    .unwrap() else {
        panic!("no change")
    };
    let accepted = Accepted {
        update: &sent,
        is_known: true,
        changed: true,
        document: &after,
        rebased_from: sent.preconditions.rebased_from(&document),
        disposition: Disposition::Applied,
    };
    let shown = json_of(&wire::update_outcome(&accepted, &Projection::ALL, None));
    assert_eq!((&shown["rebasedFrom"], &shown["version"], shown.get("replayed")), (&json!(1), &json!(4), None));

    // A replay after `mode` has changed, and `site` has not.
    let (version, etag) = (Version(4), after.etag);
    let first = FirstOutcome {
        digest: [7; 16],
        version,
        timestamp: Timestamp(4),
        etag,
        etag_is_own: true,
        changed: true,
        created: false,
        rebased_from: Some(Version(1)),
    };
    let later = written(&[
        json!({"desired": {"mode": "heat"}}),
        json!({}),
        json!({"tags": {"site": "b"}}),
        json!({"reported": {"x": 1}}),
        json!({"desired": {"mode": "off"}}),
        json!({"desired": {"mode": "on"}}),
    ]);
    let again = Accepted { changed: false, document: &later, disposition: Disposition::Replayed(first), ..accepted };
    let token = ClientToken::new("retry").unwrap();
    let shown = json_of(&wire::update_outcome(&again, &Projection::ALL, Some(&token)));
    let expected = json!({
        "state": {"desired": {"mode": "eco"}, "tags": {"site": "b"}},
        "metadata": {"tags": {"site": {"timestamp": 2, "version": 2, "by": "tester"}}},
        "version": 4, "timestamp": 4, "etag": etag.to_string(), "changed": true, "rebasedFrom": 1, "replayed": true,
        "clientToken": "retry",
    });
    assert_eq!(shown, expected);

    let dry = Update { dry_run: true, ..sent.clone() };
    let dry = Accepted { update: &dry, rebased_from: None, disposition: Disposition::DryRun, ..accepted };
    let shown = json_of(&wire::update_outcome(&dry, &Projection::STATE, None));
    assert_eq!((&shown["dryRun"], &shown["changed"]), (&json!(true), &json!(true)));
    assert_eq!(shown["document"]["state"], json!({"desired": {"mode": "eco", "target": 23}}));
    assert_eq!(shown["document"]["version"], json!(4));

    let Decision::Changed { document: tombstone, .. } =
        decided(&after, &Command::Delete(Delete::default()), &DocumentLimits::default()).unwrap()
    else {
        panic!("no change")
    };
    let shown = json_of(&wire::delete_outcome(&tombstone, Disposition::Replayed(first), None));
    assert_eq!(shown, json!({"version": 4, "timestamp": 4, "replayed": true}));
}
