//! The answers of a node that joins its cluster: it is alive, and not ready.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;

use crate::{clock::Clock, http::problem::Problem};

/// Returns the routes of a node that does not serve yet. `state` has a sentence about what it does.
pub fn starting(state: watch::Receiver<String>, clock: Clock) -> Router {
    Router::new().route("/healthz", get(alive)).fallback(not_ready).with_state((state, clock))
}

async fn alive() -> Response {
    ([(header::CACHE_CONTROL, "no-store")], "ok").into_response()
}

async fn not_ready(State((state, clock)): State<(watch::Receiver<String>, Clock)>) -> Response {
    let sentence = state.borrow().clone();
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", &sentence, clock.now()).into_response()
}
