//! Rollouts and named queries, which change by the log of a cluster: the wait until a change survives, and reads at a node that may not
//! have applied a change yet.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::oneshot;

use crate::http::{problem::Problem, state::Api};

/// The longest wait for the disk.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until what was done to a thing, such as "rollout", survives a restart. In a cluster the log has it already.
pub(super) async fn confirmed(thing: &str, api: &Api) -> Result<(), Problem> {
    if api.service.is_in_cluster() || wait_for_disk(api).await { Ok(()) } else { Err(unconfirmed("disk", thing, api)) }
}

/// Returns the problem for a change of a thing that the log of the cluster has not confirmed.
pub(super) fn unconfirmed_by_log(thing: &str, api: &Api) -> Problem {
    unconfirmed("log of the cluster", thing, api)
}

/// Returns the thing that `find` finds. In a cluster, this node may not have applied yet that it was created.
pub(super) async fn find_applied<T>(
    thing: &str,
    find: impl Fn() -> Option<T>,
    api: &Api,
) -> Result<Option<T>, Problem> {
    let known = find();
    if known.is_some() {
        return Ok(known);
    }
    reach_log_end(&format!("this node does not know the {thing}"), api).await?;
    Ok(find())
}

/// Waits until this node of a cluster has applied what any node has answered. `otherwise` says in a refusal what cannot be done.
pub(in crate::http) async fn reach_log_end(otherwise: &str, api: &Api) -> Result<(), Problem> {
    let reached = api.service.reach_log_end(otherwise).await;
    reached.map_err(|rejection| Problem::general(&rejection, api.now()))
}

fn unconfirmed(by: &str, thing: &str, api: &Api) -> Problem {
    let message =
        format!("Unavailable: the {by} has not confirmed it in time; look at the {thing}, and repeat the request");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message, api.now())
}

/// Waits until all rows that were sent so far are on disk. Returns false if that takes too long, or the server ends.
async fn wait_for_disk(api: &Api) -> bool {
    let (done, wait) = oneshot::channel();
    let on_disk = move || {
        let _ = done.send(());
    };
    api.service.write_rows(Vec::new(), Some(Box::new(on_disk)));
    matches!(tokio::time::timeout(DURABLE_TIMEOUT, wait).await, Ok(Ok(())))
}
