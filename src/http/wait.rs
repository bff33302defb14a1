//! Reads that are answered once something holds: woken by the feed of changes, never by asking again.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::{
    auth::Projection,
    changes::{Interest, Keep, Next},
    http::{
        api::Api,
        operation::{TIMEOUT, WAIT},
        problem::Problem,
        query::{BadParameter, Query, bad},
    },
    shadow::{Document, Rejection, ShadowKey, Version},
};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// There is no delta.
    Converged,
    /// The version is a later one.
    After(Version),
}

/// A wait that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    condition: Condition,
    patience: Duration,
}

/// What a wait came to.
pub(super) struct Waited {
    /// What is there now.
    pub(super) document: Arc<Document>,
    /// Whether what was waited for holds of it.
    pub(super) met: bool,
}

/// Why there was no waiting.
pub(super) enum Unwaited {
    Problem(Problem),
    Rejected(Rejection),
}

/// Seconds, if no `timeout` is given.
const SECONDS: u64 = 30;

impl Wait {
    /// Reads what `query` asks for.
    pub(super) fn read(query: &Query<'_>) -> Result<Option<Self>, BadParameter> {
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
        let condition = condition.ok_or_else(|| bad(WAIT.name, "must be 'converged' or 'version>N'"))?;
        Ok(Some(Self { condition, patience: Duration::from_secs(timeout.unwrap_or(SECONDS)) }))
    }

    /// Waits until the condition holds of `key` as `projection` shows it, or the time is up, or the service ends.
    pub(super) async fn until(self, api: &Api, key: &ShadowKey, projection: &Projection) -> Result<Waited, Unwaited> {
        let deadline = Instant::now() + self.patience;
        let _place = api.waiter().map_err(Unwaited::Problem)?;
        let interest = Interest { device: Some(key.device.clone()), name: Some(key.name.clone()), paths: Vec::new() };
        // Before the document is read, so that no change falls in between.
        let following = api.changes.follow(interest, Keep::Newest);
        let mut document = api.service.read(key).await.map_err(Unwaited::Rejected)?.document;
        loop {
            if self.condition.holds(&document, projection) {
                return Ok(Waited { document, met: true });
            }
            match timeout_at(deadline, following.next()).await {
                // One that was told before the document was read may be older than it.
                Ok(Next::Newest(newest)) if newest.version > document.version => document = newest,
                Ok(Next::Newest(_) | Next::Change(_)) => {}
                Ok(Next::Cut | Next::Closed) | Err(_) => return Ok(Waited { document, met: false }),
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
