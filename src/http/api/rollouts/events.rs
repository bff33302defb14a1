//! `GET /v1/rollouts/{rollout}/events`: the progress of a rollout as server-sent events.
//!
//! An event has the whole state, so a client needs no earlier one. Changes that come faster than [`PAUSE`] are one event.
//! The stream ends after a final state.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{Path, State},
    http::Uri,
    response::Response,
};
use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout_at},
};

use super::{
    found,
    render::{Part, rollout},
};
use crate::{
    admission::work,
    http::{
        api::query::Query,
        auth::caller::Caller,
        operation::Operation,
        problem::Problem,
        sse::{self, HEARTBEAT},
        state::Api,
    },
    rollouts::Slot,
    search::StreamPermit,
};

/// The least time between two events.
const PAUSE: Duration = Duration::from_millis(300);

/// The state of a stream.
struct ProgressStream {
    api: Arc<Api>,
    caller: Caller,
    slot: Arc<Slot>,
    changes: watch::Receiver<u64>,
    /// The time before which no event is sent.
    next_at: Instant,
    heartbeat_at: Instant,
    begun: bool,
    is_over: bool,
    _permit: StreamPermit,
}

/// `GET /v1/rollouts/{rollout}/events`
pub(in crate::http) async fn follow(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    Query::read(uri.query(), Operation::FollowRollout.parameters()).map_err(|bad| api.invalid(&bad))?;
    let slot = found(&api, &caller, &id).await?;
    let permit = caller.stream_permit(&api)?;
    let mut changes = slot.changes();
    changes.mark_changed();
    let now = Instant::now();
    let stream = ProgressStream {
        api,
        caller,
        slot,
        changes,
        next_at: now,
        heartbeat_at: now + HEARTBEAT,
        begun: false,
        is_over: false,
        _permit: permit,
    };
    Ok(sse::response(futures_util::stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        stream.heartbeat_at = Instant::now() + HEARTBEAT;
        Some((bytes, stream))
    })))
}

impl ProgressStream {
    /// Returns the next bytes to send; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            return Some(sse::retry());
        }
        loop {
            if self.is_over || self.api.is_closed() || !self.caller.renew(&self.api) {
                return None;
            }
            if !self.slot.is_visible_to(self.caller.access()) {
                return None; // since the rules were read anew
            }
            let Self { api, caller, changes, next_at, heartbeat_at, .. } = self;
            let changed = async {
                sleep_until((*next_at).into()).await;
                changes.changed().await.is_ok()
            };
            tokio::select! {
                () = caller.rights_may_change(api) => {}
                changed = timeout_at((*heartbeat_at).into(), changed) => match changed {
                    Err(_) => return sse::heartbeat(api),
                    Ok(false) => return None,
                    Ok(true) => return self.progress(),
                },
            }
        }
    }

    fn progress(&mut self) -> Option<Bytes> {
        if self.slot.is_removed() {
            return None;
        }
        self.next_at = Instant::now() + PAUSE;
        // Asked first: the event after a final state is the last one.
        self.is_over = self.slot.state().is_final();
        let data = rollout(&self.slot, Part::Progress);
        let bytes: Bytes = format!("event: progress\ndata: {data}\n\n").into();
        let work = work::DELIVERY + work::rendered(bytes.len() as u64);
        let _delays_the_next = self.caller.quota(&self.api).charge_work(work, Instant::now());
        Some(bytes)
    }
}
