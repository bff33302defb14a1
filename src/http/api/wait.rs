//! Reads that wait for a condition. The change feed wakes them; nothing polls.
//!
//! Rights may be reloaded during a wait. Each wake-up therefore renews the caller, and the response is projected with
//! its present rights. A wait ends with the session of its caller.

use std::{sync::Arc, time::Duration};

use axum::http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use crate::{
    engine::changes::{FeedFilter, Next, QueueContent},
    http::{
        api::query::Query,
        auth::caller::Caller,
        operation::{TIMEOUT, WAIT},
        parameter::{BadParameter, bad},
        problem::Problem,
        state::Api,
    },
    shadow::{Document, Projection, ShadowKey, Version},
};

/// The condition of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Condition {
    /// The shadow exists and has no delta.
    Converged,
    /// The version is greater than this one.
    After(Version),
}

/// A requested wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Wait {
    condition: Condition,
    timeout: Duration,
}

/// The result of a wait.
pub(in crate::http) struct WaitResult {
    /// The current document.
    pub(in crate::http) document: Arc<Document>,
    /// The caller's present projection.
    pub(in crate::http) projection: Projection,
    /// True if the document meets the condition.
    pub(in crate::http) met: bool,
}

/// Default of `timeout`, in seconds.
const TIMEOUT_DEFAULT: u64 = 30;

impl Wait {
    /// Parses the parameters of a wait.
    pub(in crate::http) fn read(query: &Query<'_>) -> Result<Option<Self>, BadParameter> {
        let timeout = query.integer(&TIMEOUT)?;
        let Some(text) = query.text(&WAIT)? else {
            return match timeout {
                None => Ok(None),
                Some(_) => Err(bad(TIMEOUT.name, "requires 'wait'")),
            };
        };
        let condition = match text.strip_prefix("version>") {
            None if text == "converged" => Some(Condition::Converged),
            None => None,
            Some(number) => {
                let digits = number.bytes().all(|byte| byte.is_ascii_digit());
                number.parse().ok().filter(|_| digits).map(Version).map(Condition::After)
            }
        };
        let condition =
            condition.ok_or_else(|| bad(WAIT.name, "must be 'converged' or 'version>N', sent as version%3EN"))?;
        Ok(Some(Self { condition, timeout: Duration::from_secs(timeout.unwrap_or(TIMEOUT_DEFAULT)) }))
    }

    /// Waits until `key`, as `caller` sees it, meets the condition, the timeout expires or the service ends. `headers`
    /// are those of the request.
    pub(in crate::http) async fn until(
        self,
        api: &Api,
        caller: &mut Caller,
        key: &ShadowKey,
        headers: &HeaderMap,
    ) -> Result<WaitResult, Problem> {
        let deadline = Instant::now() + self.timeout;
        let _permit = caller.wait_permit(api)?;
        let filter = FeedFilter { device: Some(key.device.clone()), name: Some(key.name.clone()), paths: Vec::new() };
        // Followed before the document is read, so that no change is missed in between.
        let following = api.changes.follow(filter, None, QueueContent::Newest);
        let stored = caller.read(key, api).await;
        let mut document = stored.map_err(|rejection| caller.refused(&rejection, key, api))?.document;
        let mut ended = false;
        loop {
            caller.renew_for(headers, api)?;
            let projection = caller.read_projection(key, api)?;
            let met = self.condition.holds(&document, &projection);
            if met || ended {
                return Ok(WaitResult { document, projection, met });
            }
            tokio::select! {
                () = caller.rights_may_change(api) => {}
                next = timeout_at(deadline, following.next()) => match next {
                    // A change from before the read may be older than the document.
                    Ok(Next::Newest(newest)) if newest.version > document.version => document = newest,
                    Ok(Next::Newest(_) | Next::Change(_) | Next::Shadow(..)) => {}
                    Ok(Next::Cut | Next::Closed) | Err(_) => ended = true,
                },
            }
        }
    }
}

impl Condition {
    fn holds(self, document: &Document, projection: &Projection) -> bool {
        match self {
            Self::Converged => document.exists() && !projection.has_delta(document),
            Self::After(version) => document.version > version,
        }
    }
}
