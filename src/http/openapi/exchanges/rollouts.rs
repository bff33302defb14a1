//! The requests and responses of rollouts and bulk changes.

use super::{Exchange, Media, Response, json, problem, with_body, with_common, without_body};

pub(super) fn list() -> Exchange {
    exchange(
        "listRollouts",
        "The rollouts that the caller created; all for a caller with all rights",
        vec![],
        vec![with_body(200, "A page", "Rollouts", &["Link"])],
    )
}

pub(super) fn put() -> Exchange {
    exchange(
        "createRollout",
        "Create a rollout with If-None-Match: *; the same request again returns it as it is",
        vec![json("NewRollout")],
        vec![
            with_body(200, "The rollout, which was there; with `dry_run`, what would change", "RolloutOrDryRun", &[]),
            with_body(201, "The rollout", "Rollout", &[]),
            problem(409, "There is another rollout with this id, or one that changes the same path of a device"),
            problem(413, "The body is too large"),
            problem(415, "Unsupported encoding"),
            problem(428, "The request has no If-None-Match: *"),
        ],
    )
}

pub(super) fn bulk() -> Exchange {
    exchange(
        "changeInBulk",
        "Change the shadows of many devices: a rollout of one wave, whose success is an accepted update",
        vec![json("BulkChange")],
        vec![
            with_body(200, "With `dry_run`, what would change", "RolloutDryRun", &[]),
            with_body(202, "The rollout that makes the change", "Rollout", &["Location"]),
            problem(409, "A rollout changes the same path of a device"),
            problem(413, "The body is too large"),
            problem(415, "Unsupported encoding"),
            problem(422, "The idempotency key was used with another request"),
        ],
    )
}

pub(super) fn get() -> Exchange {
    of_one("getRollout", "A rollout", vec![with_body(200, "The rollout", "Rollout", &[])])
}

pub(super) fn delete() -> Exchange {
    of_one(
        "deleteRollout",
        "Delete a rollout that has ended",
        vec![without_body(204, "Deleted", &[]), problem(409, "The rollout has not ended")],
    )
}

pub(super) fn devices() -> Exchange {
    of_one(
        "listRolloutDevices",
        "The devices of a rollout in the order of its waves",
        vec![with_body(200, "A page, which may be empty and have a next one", "RolloutDevices", &["Link"])],
    )
}

pub(super) fn follow() -> Exchange {
    let events = Response {
        status: 200,
        about: "Events named `progress`; `data` is the rollout without its `spec`. The stream ends after a final state",
        media: Some(Media { name: "text/event-stream", schema: "EventStream" }),
        headers: &[],
    };
    of_one("followRollout", "Server-sent events of the progress of a rollout", vec![events])
}

pub(super) fn control(id: &'static str, summary: &'static str) -> Exchange {
    of_one(
        id,
        summary,
        vec![with_body(200, "The rollout", "Rollout", &[]), problem(409, "The state of the rollout does not allow it")],
    )
}

fn of_one(id: &'static str, summary: &'static str, mut responses: Vec<Response>) -> Exchange {
    responses.push(problem(404, "There is no such rollout, or the caller may not see it"));
    exchange(id, summary, vec![], responses)
}

fn exchange(id: &'static str, summary: &'static str, requests: Vec<Media>, responses: Vec<Response>) -> Exchange {
    Exchange { id, summary, requests, responses: with_common(responses) }
}
