//! How a write is brought into a shadow: read, decide, write under the version read, and again if somebody was faster.
//!
//! After each try that failed:
//!
//! - *Somebody was faster* (409): what is there now is looked at, and the caller decides anew. This is another request,
//!   so it has another idempotency key.
//! - *Later* (a quota, the service not ready, no connection): the same request again, after the wait it asked for.
//! - *Nobody knows* (no reply, a broken connection, a commit of unknown outcome): with a key the same request again
//!   under the same key, which the service applies once however often it arrives. Without one, what is there now is
//!   looked at and the caller decides anew, who then may see its own write; one who counts would count twice.
//! - Anything else is for good.
//!
//! Waits are [`Backoff`]'s, tries are bounded. What goes over the network is behind [`Exchange`], so all of this is
//! tested without one.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    backoff::Backoff,
    document::{Accepted, Document, Version},
    error::Error,
    names::ShadowId,
    observer::{Attempt, Observer},
    rejection::RecoveryAction,
};

/// How a write goes about it. The default reads first, is rejected when anything changed since, and is keyed.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    known: Option<Document>,
    rebase: bool,
    keyed: bool,
    refresh: Refresh,
    backoff: Backoff,
}

/// What a write takes from a conflict before the caller decides anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refresh {
    /// The document, read again.
    Document,
    /// The version that the rejection told.
    Version,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { known: None, rebase: false, keyed: true, refresh: Refresh::Document, backoff: Backoff::REQUESTS }
    }
}

impl WriteOptions {
    /// Begins with a document that was read before, in place of reading it now.
    #[must_use]
    pub fn from(mut self, known: Document) -> Self {
        self.known = Some(known);
        self
    }

    /// Whether the service may accept the write although the version is stale, as long as nobody else changed what it
    /// touches: writers of different fields then never conflict.
    #[must_use]
    pub fn rebase(mut self, rebase: bool) -> Self {
        self.rebase = rebase;
        self
    }

    /// Whether each write carries an idempotency key. Without one, the caller decides anew after a broken connection,
    /// and may do twice what it did.
    #[must_use]
    pub fn keyed(mut self, keyed: bool) -> Self {
        self.keyed = keyed;
        self
    }

    /// After a conflict decides anew on the document known before, with the version the rejection told: saves a read
    /// where the patch does not depend on what others wrote.
    #[must_use]
    pub fn without_precondition(mut self) -> Self {
        self.refresh = Refresh::Version;
        self
    }

    /// How often to try, and how long to wait in between.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

/// One update request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// The sections and what is to change in them, as a merge patch.
    pub state: Value,
    /// The version the shadow must have; `None` lets the last write win.
    pub version: Option<Version>,
    /// Accept it although the version is stale, if nobody changed what it touches.
    pub rebase: bool,
    /// The same key with the same request is applied once. At most 64 bytes.
    pub idempotency_key: Option<String>,
    /// Replace each section named in place of merging into it.
    pub replace: bool,
    /// Leave metadata out of everything that the service sends to this client because of the update.
    pub omit_metadata: bool,
}

impl Update {
    /// The message. What is not wanted is not in it.
    pub(crate) fn body(&self) -> Value {
        let mut body = Map::from_iter([("state".to_owned(), self.state.clone())]);
        let fields = [
            ("version", self.version.map(|version| json!(version))),
            ("onConflict", self.rebase.then(|| json!("rebase"))),
            ("idempotencyKey", self.idempotency_key.as_ref().map(|key| json!(key))),
            ("replace", self.replace.then_some(json!(true))),
            ("metadata", self.omit_metadata.then_some(json!(false))),
        ];
        body.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Value::Object(body)
    }
}

/// Requests about one shadow, each tried once.
pub(crate) trait Exchange {
    /// Which shadow.
    fn shadow(&self) -> &ShadowId;
    /// Who is told.
    fn observer(&self) -> &dyn Observer;
    /// Reads it; one that does not exist is empty, at version 0.
    async fn get(&self) -> Result<Document, Error>;
    /// Writes it.
    async fn put(&self, update: &Update) -> Result<Accepted, Error>;
}

/// Reads a shadow, and again if that may help.
pub(crate) async fn read(exchange: &impl Exchange, backoff: Backoff) -> Result<Document, Error> {
    let mut tried = 0;
    loop {
        let error = match exchange.get().await {
            Ok(document) => return Ok(document),
            Err(error) => error,
        };
        tried += 1;
        if after(&error) == RetryDecision::Stop {
            return Err(error);
        }
        match backoff.next(tried, asked(&error)) {
            Some(wait) => sleep(wait).await,
            None => return Err(Error::GaveUp { tries: tried, last: Box::new(error), outcome_unknown: false }),
        }
    }
}

/// Brings what `decide` wants into a shadow; `None` if it finds nothing to do.
pub(crate) async fn write(
    exchange: &impl Exchange,
    options: &WriteOptions,
    mut decide: impl FnMut(&Document) -> Option<Value>,
) -> Result<Option<Accepted>, Error> {
    let mut known = match &options.known {
        Some(known) => known.clone(),
        None => read(exchange, options.backoff).await?,
    };
    let Some(mut update) = decide(&known).map(|state| options.update(state, &known)) else { return Ok(None) };
    let (began, mut tried, mut outcome_unknown) = (Instant::now(), 0, false);
    loop {
        tried += 1;
        let Failed { error, after, wait } = match attempt(exchange, options, &update, tried, began).await {
            Ok(accepted) => return Ok(Some(accepted)),
            Err(failed) => failed,
        };
        // A key that is known is answered before versions are looked at, so a conflict says that nothing got in.
        outcome_unknown = after == RetryDecision::Find || (outcome_unknown && after != RetryDecision::Refresh);
        let Some(wait) = wait else { return Err(gave_up(tried, error, after, outcome_unknown)) };
        sleep(wait).await;
        if after == RetryDecision::Refresh || (after == RetryDecision::Find && !options.keyed) {
            known = match options.refreshed(exchange, known, &error).await {
                Ok(known) => known,
                Err(error) => return Err(gave_up(tried, error, RetryDecision::Stop, outcome_unknown)),
            };
            let Some(state) = decide(&known) else { return Ok(None) };
            update = options.update(state, &known);
            outcome_unknown = false;
        }
    }
}

/// A try that failed.
struct Failed {
    error: Error,
    after: RetryDecision,
    /// Before the next try; `None` if there is to be none.
    wait: Option<Duration>,
}

async fn attempt(
    exchange: &impl Exchange,
    options: &WriteOptions,
    update: &Update,
    number: u32,
    began: Instant,
) -> Result<Accepted, Failed> {
    let sent = Instant::now();
    let outcome = exchange.put(update).await;
    let after = outcome.as_ref().err().map_or(RetryDecision::Stop, after);
    let wait = match &outcome {
        Err(error) if after != RetryDecision::Stop => options.backoff.next(number, asked(error)),
        _ => None,
    };
    exchange.observer().tried(&Attempt {
        shadow: exchange.shadow(),
        number,
        expected: update.version.unwrap_or_default(),
        state: &update.state,
        took: sent.elapsed(),
        since_first: began.elapsed(),
        outcome: outcome.as_ref(),
        retry_in: wait,
    });
    outcome.map_err(|error| Failed { error, after, wait })
}

/// The end of a write whose last try, or whose look at what is there now, ended in `last`.
fn gave_up(tries: u32, last: Error, after: RetryDecision, outcome_unknown: bool) -> Error {
    match (after, last) {
        (RetryDecision::Stop, last) if !outcome_unknown => last,
        (_, Error::GaveUp { last, .. }) => Error::GaveUp { tries, last, outcome_unknown },
        (_, last) => Error::GaveUp { tries, last: Box::new(last), outcome_unknown },
    }
}

impl WriteOptions {
    fn update(&self, state: Value, known: &Document) -> Update {
        Update {
            state,
            version: Some(known.version),
            // There is nothing to rebase a creation on.
            rebase: self.rebase && known.exists(),
            idempotency_key: self.keyed.then(|| format!("{:032x}", rand::random::<u128>())),
            replace: false,
            omit_metadata: false,
        }
    }

    async fn refreshed(&self, exchange: &impl Exchange, known: Document, why: &Error) -> Result<Document, Error> {
        let told = why.rejection().filter(|_| self.refresh == Refresh::Version).and_then(|rejection| rejection.version);
        match told {
            Some(version) => Ok(Document { version, ..known }),
            None => read(exchange, self.backoff).await,
        }
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetryDecision {
    /// Look, decide anew.
    Refresh,
    /// The same again.
    Again,
    /// The same again under the same key, or look and decide anew.
    Find,
    /// Nothing helps.
    Stop,
}

fn after(error: &Error) -> RetryDecision {
    match error {
        Error::Rejected(rejection) => match rejection.remedy() {
            RecoveryAction::Refresh => RetryDecision::Refresh,
            RecoveryAction::Later => RetryDecision::Again,
            RecoveryAction::Find => RetryDecision::Find,
            RecoveryAction::None => RetryDecision::Stop,
        },
        Error::Unanswered => RetryDecision::Find,
        Error::Offline(_) => RetryDecision::Again,
        _ => RetryDecision::Stop,
    }
}

fn asked(error: &Error) -> Option<Duration> {
    error.rejection().and_then(|rejection| rejection.retry_after())
}

#[cfg(test)]
mod tests;
