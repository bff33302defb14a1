//! The retries of reads and writes: read, decide, write under the version read, and start over after a conflict.
//!
//! After a failed try:
//!
//! - *Conflict* (409): the shadow is read again, and the caller decides again. This is another request, with another
//!   idempotency key.
//! - *Later* (a quota, the service not ready, no connection): the same request again, after the wait it asked for.
//! - *Outcome unknown* (no reply, a broken connection, a failed commit): with a key the same request again under the
//!   same key, which the service applies once. Without a key, the shadow is read again, and the caller decides again;
//!   the document may include its own write, so a counter may count twice.
//! - Any other failure is final.
//!
//! Waits are [`Backoff`]'s, tries are bounded. The network is behind [`Exchange`], so this is tested without one.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    backoff::Backoff,
    document::{Accepted, Document},
    error::Error,
    names::ShadowId,
    observer::{Attempt, Observer},
    rejection::RecoveryAction,
    update::Update,
};

/// The options of [`Shadow::update_with`](crate::Shadow::update_with). By default it reads first, conflicts with any
/// change since, and carries an idempotency key.
///
/// ```
/// use std::time::Duration;
/// use umbra_client::{Backoff, WriteOptions};
///
/// // For writers of different fields: conflicts only with changes of the same field.
/// let independent = WriteOptions::default().rebase(true);
/// // For a section with a single writer: after a conflict only the version changes.
/// let single = WriteOptions::default().without_precondition();
/// // For a change that may be applied twice, given up after three tries.
/// let hasty = WriteOptions::default()
///     .keyed(false)
///     .backoff(Backoff::new(Duration::from_millis(10), Duration::from_secs(1), 3));
/// ```
#[derive(Debug, Clone)]
pub struct WriteOptions {
    base: Option<Document>,
    rebase: bool,
    keyed: bool,
    refresh: Refresh,
    backoff: Backoff,
}

/// The source of the document for a new decision after a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refresh {
    /// The shadow, read again.
    Document,
    /// The known document, at the version in the rejection.
    Version,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { base: None, rebase: false, keyed: true, refresh: Refresh::Document, backoff: Backoff::REQUESTS }
    }
}

impl WriteOptions {
    /// Starts with a document that was read before, instead of reading it now.
    ///
    /// ```no_run
    /// use serde_json::json;
    /// use umbra_client::WriteOptions;
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let document = shadow.get().await?;
    /// let options = WriteOptions::default().based_on(document);
    /// shadow.update_with(&options, |document| Some(json!({"tags": {"seen": document.version}}))).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn based_on(mut self, document: Document) -> Self {
        self.base = Some(document);
        self
    }

    /// If true, the service accepts a stale version as long as no other client changed a path of the write: writers of
    /// different fields then never conflict.
    #[must_use]
    pub fn rebase(mut self, rebase: bool) -> Self {
        self.rebase = rebase;
        self
    }

    /// If false, writes carry no idempotency key. After a broken connection the caller then decides again, and may apply
    /// its change twice.
    #[must_use]
    pub fn keyed(mut self, keyed: bool) -> Self {
        self.keyed = keyed;
        self
    }

    /// After a conflict, decides again on the known document at the version in the rejection, without reading: for
    /// changes that do not depend on other writers.
    #[must_use]
    pub fn without_precondition(mut self) -> Self {
        self.refresh = Refresh::Version;
        self
    }

    /// Sets the number of tries and the waits in between.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}

/// Requests to one shadow, each tried once.
pub(crate) trait Exchange {
    /// Returns the shadow.
    fn shadow(&self) -> &ShadowId;
    /// Returns the observer of the tries.
    fn observer(&self) -> &dyn Observer;
    /// Reads the shadow; one that does not exist is empty, at version 0.
    async fn get(&self) -> Result<Document, Error>;
    /// Sends an update.
    async fn put(&self, update: &Update) -> Result<Accepted, Error>;
}

/// Reads a shadow, with retries.
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

/// Sends one update that requires no version, with retries under the same key.
pub(crate) async fn send(exchange: &impl Exchange, update: Update, backoff: Backoff) -> Result<Accepted, Error> {
    let update = Update { idempotency_key: Some(new_key()), ..update };
    let (began, mut tried, mut outcome_unknown) = (Instant::now(), 0, false);
    loop {
        tried += 1;
        let Failed { error, after, wait } = match attempt(exchange, backoff, &update, tried, began).await {
            Ok(accepted) => return Ok(accepted),
            Err(failed) => failed,
        };
        outcome_unknown |= after == RetryDecision::Find;
        match wait {
            // A conflict would be another's expectation: this update has none.
            Some(wait) if after != RetryDecision::Refresh => sleep(wait).await,
            _ => return Err(gave_up(tried, error, after, outcome_unknown)),
        }
    }
}

/// Writes the changes that `decide` returns, with retries; `None` if it returns none.
pub(crate) async fn write(
    exchange: &impl Exchange,
    options: &WriteOptions,
    mut decide: impl FnMut(&Document) -> Option<Value>,
) -> Result<Option<Accepted>, Error> {
    let mut known = match &options.base {
        Some(base) => base.clone(),
        None => read(exchange, options.backoff).await?,
    };
    let Some(mut update) = decide(&known).map(|state| options.update(state, &known)) else { return Ok(None) };
    let (began, mut tried, mut outcome_unknown) = (Instant::now(), 0, false);
    loop {
        tried += 1;
        let Failed { error, after, wait } = match attempt(exchange, options.backoff, &update, tried, began).await {
            Ok(accepted) => return Ok(Some(accepted)),
            Err(failed) => failed,
        };
        // A known key is answered before preconditions are checked, so after a conflict no try is applied.
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

/// A failed try.
struct Failed {
    error: Error,
    after: RetryDecision,
    /// The wait before the next try; `None` if there is none.
    wait: Option<Duration>,
}

async fn attempt(
    exchange: &impl Exchange,
    backoff: Backoff,
    update: &Update,
    number: u32,
    began: Instant,
) -> Result<Accepted, Failed> {
    let sent = Instant::now();
    let outcome = exchange.put(update).await;
    let after = outcome.as_ref().err().map_or(RetryDecision::Stop, after);
    let wait = match &outcome {
        Err(error) if after != RetryDecision::Stop => backoff.next(number, asked(error)),
        _ => None,
    };
    exchange.observer().on_attempt(&Attempt {
        shadow: exchange.shadow(),
        number,
        expected: update.version,
        state: &update.state,
        took: sent.elapsed(),
        since_first: began.elapsed(),
        outcome: outcome.as_ref(),
        retry_in: wait,
    });
    outcome.map_err(|error| Failed { error, after, wait })
}

/// Returns the error of a write whose last try, or whose last read, failed with `last`.
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
            // A creation has no version to rebase.
            rebase: self.rebase && known.exists(),
            idempotency_key: self.keyed.then(new_key),
            ..Update::default()
        }
    }

    async fn refreshed(&self, exchange: &impl Exchange, known: Document, error: &Error) -> Result<Document, Error> {
        let rejection = error.rejection().filter(|_| self.refresh == Refresh::Version);
        match rejection.and_then(|rejection| rejection.version) {
            Some(version) => Ok(Document { version, ..known }),
            None => read(exchange, self.backoff).await,
        }
    }
}

/// The step after a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetryDecision {
    /// Read, decide again.
    Refresh,
    /// Send the same request again.
    Again,
    /// Send the same request again under the same key; without a key read, decide again.
    Find,
    /// Fail.
    Stop,
}

fn after(error: &Error) -> RetryDecision {
    match error {
        Error::Rejected(rejection) => match rejection.recovery() {
            RecoveryAction::Refresh => RetryDecision::Refresh,
            RecoveryAction::Later => RetryDecision::Again,
            RecoveryAction::Find => RetryDecision::Find,
            RecoveryAction::None => RetryDecision::Stop,
        },
        Error::Unanswered | Error::Disconnected(_) => RetryDecision::Find,
        Error::Offline(_) => RetryDecision::Again,
        _ => RetryDecision::Stop,
    }
}

fn new_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Returns the wait that the service asks for.
fn asked(error: &Error) -> Option<Duration> {
    error.rejection().and_then(|rejection| rejection.retry_after())
}

#[cfg(test)]
mod tests;
