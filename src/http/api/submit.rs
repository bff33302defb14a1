//! Submission of writes to the engine, and their outcomes.

use std::{sync::Arc, time::Instant};

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    admission::{Admitted, work},
    engine::{self, AcceptedCommand, Envelope, IncomingRequest, Requester, Taken},
    http::{auth::caller::Caller, state::Api},
    observability::request_id::RequestId,
    shadow::{ClientToken, Command, Disposition, Document, Etag, Projection, Rejection, Sender, ShadowKey, Timestamp},
    store::Applied,
    wire::{self, Dialect, Via},
};

/// The outcome of an accepted command.
#[derive(Debug)]
pub(in crate::http) struct Accepted {
    /// The body of `accepted` in its dialect.
    pub(in crate::http) body: Bytes,
    /// The shadow after the command.
    pub(in crate::http) document: Arc<Document>,
    /// The etag for the caller; for a replay, that of the first outcome if it is known.
    pub(in crate::http) etag: Option<Etag>,
    /// True if the command created the shadow, now or, for a replay, the first time.
    pub(in crate::http) created: bool,
    /// The disposition: applied, dry run or replayed.
    pub(in crate::http) disposition: Disposition,
}

impl Accepted {
    /// Returns true if this is a replay and the shadow has changed since the first response.
    pub(in crate::http) fn is_outdated(&self) -> bool {
        matches!(self.disposition, Disposition::Replayed(first) if first.version != self.document.version)
    }

    /// Adds the header of a replay to `response` if this is one.
    pub(in crate::http) fn mark_replay(&self, mut response: Response) -> Response {
        if matches!(self.disposition, Disposition::Replayed(_)) {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// The header of a response that repeats the first one for an idempotency key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The command in a body, with the data for its reply.
pub(in crate::http) struct Parsed {
    pub(in crate::http) command: Command,
    pub(in crate::http) client_token: Option<ClientToken>,
    /// The part of the shadow that the caller may read.
    pub(in crate::http) projection: Projection,
}

/// The reason why a command was not accepted. `A` is an answer of the API's own.
pub(in crate::http) enum Refusal<A> {
    /// The request was refused before its command was known. The refusal is not recorded yet.
    NotTried(Rejection),
    /// The command was refused for lack of rights or by the engine, and the refusal is recorded.
    Refused(Rejection),
    /// The caller has lost its rights.
    Answered(A),
}

impl<A> From<Rejection> for Refusal<A> {
    fn from(rejection: Rejection) -> Self {
        Self::NotTried(rejection)
    }
}

/// A write to `key`, its body not parsed yet.
struct ReceivedWrite<'a, P> {
    api: &'a Api,
    caller: &'a mut Caller,
    key: &'a ShadowKey,
    body: &'a [u8],
    dialect: Dialect,
    parse: P,
    answer: oneshot::Sender<Result<Accepted, Rejection>>,
}

impl<A, P> IncomingRequest for ReceivedWrite<'_, P>
where
    P: FnMut(&mut Caller, &[u8]) -> Result<Parsed, Refusal<A>>,
{
    type Parsed = (Parsed, Sender);
    type Refusal = Refusal<A>;

    fn key(&self) -> &ShadowKey {
        self.key
    }

    fn weight(&self) -> usize {
        wire::weight(self.body)
    }

    fn parse(&mut self) -> Result<Option<(Parsed, Sender)>, Refusal<A>> {
        let mut parsed = (self.parse)(self.caller, self.body)?;
        match self.caller.authorize(self.key, &mut parsed.command) {
            Ok(author) => Ok(Some((parsed, author))),
            Err(rejection) => {
                if !parsed.command.is_dry_run() {
                    self.caller.note_refusal(self.key, &rejection, self.api);
                }
                Err(Refusal::Refused(rejection))
            }
        }
    }

    fn into_command(self, (parsed, author): (Parsed, Sender), admitted: Admitted) -> (Envelope, Box<dyn Requester>) {
        let Self { caller, key, dialect, answer, .. } = self;
        let Parsed { command, client_token, projection } = parsed;
        let (key, id, client) = (key.clone(), RequestId::current(), caller.client().clone());
        let token = client_token.clone();
        let envelope = Envelope { client_token, ..Envelope::new(key, command, author, id, client) };
        (envelope, Box::new(PendingResponse { answer, dialect, projection, client_token: token, admitted }))
    }
}

/// Passes a write of `caller` to the engine and waits for its outcome.
///
/// `parse` is called when memory is reserved. The wait may be long, so it first renews the rights of the caller. A
/// command that is submitted is decided even if this future is dropped.
pub(in crate::http) async fn submit<A>(
    api: &Api,
    caller: &mut Caller,
    key: &ShadowKey,
    body: &[u8],
    dialect: Dialect,
    parse: impl FnMut(&mut Caller, &[u8]) -> Result<Parsed, Refusal<A>>,
) -> Result<Accepted, Refusal<A>> {
    let quota = caller.quota(api);
    api.service.quotas().admit_http(&quota, work::bytes(body.len()), Instant::now())?;
    let (answer, outcome) = oneshot::channel();
    let received = ReceivedWrite { api, caller, key, body, dialect, parse, answer };
    let taken = match api.service.take(received, &quota) {
        Ok(Taken::Submitted) => Ok(()),
        Ok(Taken::AwaitingPermit(awaiting_permit)) => awaiting_permit.finish().await,
        Err(refused) => Err(refused),
    };
    taken.map_err(|refused| refused.refusal)?;
    // The sender is dropped without an outcome only if the notifier has stopped.
    outcome.await.unwrap_or(Err(Rejection::OutcomeUnknown)).map_err(Refusal::Refused)
}

/// A write whose outcome is pending.
struct PendingResponse {
    answer: oneshot::Sender<Result<Accepted, Rejection>>,
    dialect: Dialect,
    projection: Projection,
    client_token: Option<ClientToken>,
    /// The permit that counts the request until it is decided.
    admitted: Admitted,
}

impl Requester for PendingResponse {
    fn via(&self) -> Via {
        Via::Http
    }

    fn on_outcome(self: Box<Self>, outcome: Result<AcceptedCommand<'_>, &Rejection>, _now: Timestamp) {
        let outcome = match outcome {
            Ok(AcceptedCommand { command, applied }) => Ok(self.accepted(command, applied)),
            Err(rejection) => Err(rejection.clone()),
        };
        let Self { answer, admitted, .. } = *self;
        // Before the response: the next request of the client takes the place of this one.
        drop(admitted);
        // An error means that the client has disconnected.
        let _ = answer.send(outcome);
    }
}

impl PendingResponse {
    fn accepted(&self, command: &Command, applied: &Applied) -> Accepted {
        let body = engine::accepted(self.dialect, command, applied, &self.projection, self.client_token.as_ref());
        let etag = match applied.disposition {
            Disposition::Replayed(first) => (first.etag_is_own || self.projection.reads_state()).then_some(first.etag),
            Disposition::Applied | Disposition::DryRun => Some(self.projection.etag(&applied.after)),
        };
        let created = match applied.disposition {
            Disposition::Replayed(first) => first.created,
            Disposition::Applied => applied.is_created(),
            Disposition::DryRun => false,
        };
        Accepted { body, document: applied.after.clone(), etag, created, disposition: applied.disposition }
    }
}
