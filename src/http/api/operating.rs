//! Health, readiness, metrics and backup, for operators' tools. They are not in the table of [`crate::http::operation`], which
//! has the operations on shadows.

use std::{fmt, sync::Arc, time::Instant};

use axum::{
    Extension, Router,
    extract::{FromRequestParts, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use crate::{
    admission::RequestClass,
    http::{
        api::{backup, cluster},
        auth::caller::Caller,
        problem::Problem,
        state::Api,
    },
    store::{DiskLow, MemberHealth, State as StoreState},
};

/// The listener's `metrics` key: true if all its clients may read the metrics.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct MetricsForAll(pub(in crate::http) bool);

/// The work of a response beyond that of any request, in its extensions. For requests that no principal pays for.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct ExtraWork(pub(in crate::http) u64);

/// Returns the class of the requests to `path`, for the quotas of those that no principal pays for.
pub(in crate::http) fn class_of(path: &str) -> RequestClass {
    if matches!(path, "/healthz" | "/readyz" | "/metrics") { RequestClass::Probe } else { RequestClass::Other }
}

/// The media type of the page. <https://prometheus.io/docs/instrumenting/exposition_formats/>
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(in crate::http) fn router() -> Router<Arc<Api>> {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/backup", post(backup::back_up))
        .route("/v1/cluster", get(cluster::get))
}

/// `GET /healthz`: 503 while the store is not open after a failed write, for all clients.
async fn alive(State(api): State<Arc<Api>>) -> Response {
    let failed = Some(api.service.health().state).filter(|state| matches!(state, StoreState::Failed(_)));
    answer(&api, failed.and_then(|state| obstacle(&state, None)), "ok")
}

/// `GET /readyz`: readiness for updates, for all clients. What is not the same at all nodes of a cluster is a warning.
async fn ready(State(api): State<Arc<Api>>) -> Response {
    let health = api.service.health();
    let used = DiskUse { table_bytes: health.row_bytes, log_bytes: health.row_log_bytes };
    let state = if api.is_closed() { StoreState::Closed } else { health.state };
    let of_cluster = || health.member.as_ref().and_then(MemberHealth::obstacle);
    let warnings = health.member.iter().flat_map(|member| &member.differences);
    let text = warnings.fold("ready\n".to_owned(), |text, warning| format!("{text}warning: {warning}\n"));
    answer(&api, obstacle(&state, Some(used)).or_else(of_cluster), text)
}

/// Returns 200 with `text`, or 503 with the `obstacle`.
fn answer(api: &Api, obstacle: Option<String>, text: impl IntoResponse) -> Response {
    match obstacle {
        None => ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], text).into_response(),
        Some(obstacle) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", &obstacle, api.now()).into_response()
        }
    }
}

/// The disk use of sessions, queued and retained messages, which an operator may end or clear.
#[derive(Clone, Copy)]
struct DiskUse {
    table_bytes: u64,
    log_bytes: u64,
}

impl fmt::Display for DiskUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table_bytes, log_bytes } = self;
        write!(f, "; sessions and messages take {table_bytes} bytes, and the log of their changes {log_bytes}")
    }
}

/// Returns the reason that no updates are accepted now. A nearly full disk is reported with what is `used`.
fn obstacle(state: &StoreState, used: Option<DiskUse>) -> Option<String> {
    match state {
        StoreState::Writable => None,
        StoreState::DiskLow(DiskLow { free, needed }) => Some(format!(
            "The disk of the store is nearly full: {free} bytes are free, {needed} are needed; until then updates are \
             refused{}",
            used.map(|used| used.to_string()).unwrap_or_default()
        )),
        // The cause names files of this machine.
        StoreState::Failed(_) => Some(
            "A write to the store failed: updates are refused until it was reopened, which is tried again and again; the \
             log has the cause"
                .to_owned(),
        ),
        StoreState::Closed => Some("The server is shutting down".to_owned()),
    }
}

/// `GET /metrics`
async fn metrics(
    State(api): State<Arc<Api>>,
    Extension(MetricsForAll(for_all)): Extension<MetricsForAll>,
    request: Request,
) -> Result<Response, Problem> {
    if !for_all {
        let caller = Caller::from_request_parts(&mut request.into_parts().0, &api).await?;
        caller.require_all_rights("the metrics need all rights, unless the listener has metrics = true", &api)?;
    }
    let now = api.now();
    // The page counts every session, which may take some milliseconds.
    let page = tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        let page = api.metrics.page() + &api.rollouts.metrics();
        (page, ExtraWork(begun.elapsed().as_micros().try_into().unwrap_or(u64::MAX)))
    });
    let (page, work) = page.await.map_err(|error| {
        tracing::error!(%error, "cannot render the metrics");
        Problem::internal(now)
    })?;
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], Extension(work), page).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_the_obstacle() {
        for (state, expected) in [
            (StoreState::Writable, None),
            (
                StoreState::DiskLow(DiskLow { free: 5, needed: 10 }),
                Some(
                    "5 bytes are free, 10 are needed; until then updates are refused; sessions and messages take 7 bytes",
                ),
            ),
            (StoreState::Failed("/secret/path: No space left".to_owned()), Some("refused until it was reopened")),
            (StoreState::Closed, Some("shutting down")),
        ] {
            let found = obstacle(&state, Some(DiskUse { table_bytes: 7, log_bytes: 8 }));
            assert_eq!(found.is_some(), expected.is_some(), "{state:?}");
            let found = found.unwrap_or_default();
            assert!(found.contains(expected.unwrap_or_default()) && !found.contains("/secret"), "{state:?}: {found}");
        }
    }
}
