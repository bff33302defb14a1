//! What an operator's tools ask for: whether the service can be used, its metrics, a backup. None of it is about a shadow, so
//! it is not in the table of [`super::operation`].

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{FromRequestParts, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use crate::{
    http::{api::Api, backup, caller::Caller, problem::Problem},
    store,
};

/// What there is to measure, told by the wiring: a page in the text format of Prometheus.
pub trait Metrics: Send + Sync {
    /// The page, as of now.
    fn page(&self) -> String;
}

/// Whether whoever reaches the listener may read the metrics: its `metrics` key.
#[derive(Clone, Copy, Debug)]
pub(super) struct MetricsForAll(pub(super) bool);

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) fn router() -> Router<Arc<Api>> {
    Router::new()
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/backup", post(backup::back_up))
}

/// `GET /readyz`: whether updates are taken. Whoever asks may know.
async fn ready(State(api): State<Arc<Api>>) -> Response {
    match obstacle(&api) {
        None => ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], "ready\n").into_response(),
        Some(obstacle) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", &obstacle, api.now()).into_response()
        }
    }
}

/// Why updates are not taken now.
fn obstacle(api: &Api) -> Option<String> {
    if api.is_closed() {
        return Some("The server is ending".to_owned());
    }
    match api.service.health().state {
        store::State::Writable => None,
        store::State::DiskLow(low) => Some(format!(
            "The disk of the store is nearly full: {} bytes are free, {} are needed; updates are refused until there are",
            low.free, low.needed
        )),
        store::State::Latched(_) => Some(
            "The store stopped after a failed write: updates are refused until a restart; the log says why".to_owned(),
        ),
        store::State::Closed => Some("The store is closed".to_owned()),
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
