//! What an operator's tools ask for: whether the service can be used, its metrics, a backup. None of it is about a
//! shadow, so it is not in the table of [`crate::http::operation`].

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{FromRequestParts, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use crate::{
    http::{
        api::{Api, backup, problem::Problem},
        auth::caller::Caller,
    },
    store::{DiskLow, State as StoreState},
};

/// What there is to measure, told by the wiring: a page in the text format of Prometheus.
pub trait Metrics: Send + Sync {
    /// The page, as of now.
    fn page(&self) -> String;
}

/// Whether whoever reaches the listener may read the metrics: its `metrics` key.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct MetricsForAll(pub(in crate::http) bool);

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(in crate::http) fn router() -> Router<Arc<Api>> {
    Router::new()
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/backup", post(backup::back_up))
}

/// `GET /readyz`: whether updates are taken. Whoever asks may know.
async fn ready(State(api): State<Arc<Api>>) -> Response {
    let state = if api.is_closed() { StoreState::Closed } else { api.service.health().state };
    match obstacle(&state) {
        None => ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], "ready\n").into_response(),
        Some(obstacle) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", &obstacle, api.now()).into_response()
        }
    }
}

/// Why updates are not taken now.
fn obstacle(state: &StoreState) -> Option<String> {
    match state {
        StoreState::Writable => None,
        StoreState::DiskLow(DiskLow { free, needed }) => Some(format!(
            "The disk of the store is nearly full: {free} bytes are free, {needed} are needed; updates are refused until \
             there are"
        )),
        // What failed names files of this machine.
        StoreState::Latched(_) => Some(
            "The store stopped after a failed write: updates are refused until a restart; the log says why".to_owned(),
        ),
        StoreState::Closed => Some("The server is ending".to_owned()),
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
        if !caller.may_everything() {
            let message =
                "Forbidden: metrics are for who may do everything, or for all where the listener says metrics = true";
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", message, api.now()));
        }
    }
    // Every session is looked at, which may take some milliseconds.
    let metrics = api.metrics.clone();
    let page = tokio::task::spawn_blocking(move || metrics.page()).await;
    let page = page.map_err(|error| {
        tracing::error!(%error, "the metrics cannot be told");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal service failure", api.now())
    })?;
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], page).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_told() {
        for (state, told) in [
            (StoreState::Writable, None),
            (
                StoreState::DiskLow(DiskLow { free: 5, needed: 10 }),
                Some("nearly full: 5 bytes are free, 10 are needed"),
            ),
            (StoreState::Latched("/secret/path: No space left".to_owned()), Some("refused until a restart")),
            (StoreState::Closed, Some("ending")),
        ] {
            let found = obstacle(&state);
            assert_eq!(found.is_some(), told.is_some(), "{state:?}");
            let found = found.unwrap_or_default();
            assert!(found.contains(told.unwrap_or_default()) && !found.contains("/secret"), "{state:?}: {found}");
        }
    }
}
