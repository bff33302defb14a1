//! Reads that are answered once something holds: woken by the feed of changes, never by asking again.
//!
//! Rights may be read anew while somebody waits, so who asks is looked at again each time that it is woken, and what it
//! is answered is cut to what it may see then. A wait ends with the session that its cookie named.

use std::{sync::Arc, time::Duration};

use axum::http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use crate::{
    auth::Projection,
    engine::changes::{FeedFilter, Next, QueueContent},
    http::{
        api::{
            Api,
            problem::Problem,
            query::{BadParameter, Query, bad},
        },
        auth::caller::Caller,
        operation::{TIMEOUT, WAIT},
    },
    shadow::{Document, ShadowKey, Version},
};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Condition {
    /// There is no delta.
    Converged,
    /// The version is a later one.
    After(Version),
}

/// A wait that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Wait {
    condition: Condition,
    patience: Duration,
}

/// What a wait came to.
pub(in crate::http) struct WaitResult {
    /// What is there now.
    pub(in crate::http) document: Arc<Document>,
    /// What may be seen of it now.
    pub(in crate::http) projection: Projection,
    /// Whether what was waited for holds of it.
    pub(in crate::http) met: bool,
}

/// Seconds, if no `timeout` is given.
const SECONDS: u64 = 30;

impl Wait {
    /// Reads what `query` asks for.
    pub(in crate::http) fn read(query: &Query<'_>) -> Result<Option<Self>, BadParameter> {
        let timeout = query.integer(&TIMEOUT)?;
        let Some(text) = query.text(&WAIT)? else {
            return match timeout {
                None => Ok(None),
                Some(_) => Err(bad(TIMEOUT.name, "means nothing without 'wait'")),
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
        Ok(Some(Self { condition, patience: Duration::from_secs(timeout.unwrap_or(SECONDS)) }))
    }

    /// Waits until the condition holds of `key` as `caller`, who sent `headers`, sees it, or the time is up, or the
    /// service ends.
    pub(in crate::http) async fn until(
        self,
        api: &Api,
        caller: &mut Caller,
        key: &ShadowKey,
        headers: &HeaderMap,
    ) -> Result<WaitResult, Problem> {
        let deadline = Instant::now() + self.patience;
        let _place = api.waiter(caller)?;
        let interest = FeedFilter { device: Some(key.device.clone()), name: Some(key.name.clone()), paths: Vec::new() };
        // Before the document is read, so that no change falls in between.
        let following = api.changes.follow(interest, QueueContent::Newest);
        let held = api.service.read(key).await;
        let mut document = held.map_err(|rejection| caller.refused(&rejection, key, api))?.document;
        let mut over = false;
        loop {
            caller.renew_for(headers, api)?;
            let projection = caller.read_projection(key, api)?;
            let met = self.condition.holds(&document, &projection);
            if met || over {
                return Ok(WaitResult { document, projection, met });
            }
            tokio::select! {
                () = caller.in_question(api) => {}
                next = timeout_at(deadline, following.next()) => match next {
                    // One that was told before the document was read may be older than it.
                    Ok(Next::Newest(newest)) if newest.version > document.version => document = newest,
                    Ok(Next::Newest(_) | Next::Change(_)) => {}
                    Ok(Next::Cut | Next::Closed) | Err(_) => over = true,
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
