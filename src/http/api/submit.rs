//! The way of a command to the engine and of its outcome back.

use std::{sync::Arc, time::Instant};

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    admission::Admitted,
    auth::Projection,
    engine::{self, AcceptedCommand, Permit, Requester, Submission},
    http::{api::Api, auth::caller::Caller},
    observability::request_id::RequestId,
    shadow::{Command, Disposition, Document, Etag, Rejection, ShadowKey, Timestamp},
    store::Applied,
    wire::{self, ClientToken, Dialect, Via},
};

/// What an accepted command came to.
#[derive(Debug)]
pub(in crate::http) struct Accepted {
    /// `accepted`, as its dialect has it.
    pub(in crate::http) body: Bytes,
    /// The shadow after it.
    pub(in crate::http) document: Arc<Document>,
    /// The etag it was told: for a replay, that of the first time, if it is known.
    pub(in crate::http) etag: Option<Etag>,
    /// True if there was no shadow before and the command made one, now or, for a replay, the first time.
    pub(in crate::http) created: bool,
    /// How it came to be.
    pub(in crate::http) manner: Disposition,
}

impl Accepted {
    /// Returns true if this is a replay and the shadow has changed since the first time.
    pub(in crate::http) fn is_outdated(&self) -> bool {
        matches!(self.manner, Disposition::Replayed(first) if first.version != self.document.version)
    }

    /// Marks `response` as the answer to a request that was accepted before, if it is one.
    pub(in crate::http) fn mark_replay(&self, mut response: Response) -> Response {
        if matches!(self.manner, Disposition::Replayed(_)) {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// Header of an answer that repeats the first one given under an idempotency key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A command, and how its outcome is to be told.
pub(in crate::http) struct Request {
    pub(in crate::http) key: ShadowKey,
    pub(in crate::http) command: Command,
    pub(in crate::http) dialect: Dialect,
    pub(in crate::http) client_token: Option<ClientToken>,
}

/// A request that is counted and has its place in the engine's queue. Its body is read only then: the text that came
/// may wait for a place, and what is made of it would be many times as large.
pub(in crate::http) struct Admission {
    admitted: Admitted,
    permit: Permit,
}

/// Counts a request of `caller` to `key` with `body`, and waits for a place for what that will be.
pub(in crate::http) async fn admit(
    api: &Api,
    caller: &Caller,
    key: &ShadowKey,
    body: &[u8],
) -> Result<Admission, Rejection> {
    let (quotas, now) = (api.service.quotas(), Instant::now());
    let allowance = quotas.principals.of(caller.principal().name(), now);
    if !body.is_empty() {
        quotas.admit_body(&allowance, body.len(), now)?;
    }
    let admitted = api.service.admit(caller.principal(), key)?;
    let permit = api.service.reserve(&allowance, wire::weight(body)).await?;
    Ok(Admission { admitted, permit })
}

/// Has `request` decided, if `caller` may ask for it; else remembers that, unless it is a dry run. Dropped before that,
/// the command is decided all the same once it is submitted.
pub(in crate::http) async fn submit(
    api: &Api,
    caller: &Caller,
    request: Request,
    projection: Projection,
    Admission { admitted, permit }: Admission,
) -> Result<Accepted, Rejection> {
    let Request { key, mut command, dialect, client_token } = request;
    let sender = caller.authorize(&key, &mut command).inspect_err(|rejection| {
        if !command.is_dry_run() {
            caller.note_refusal(&key, rejection, api);
        }
    })?;
    let (answer, decided) = oneshot::channel();
    permit.submit(Submission {
        key,
        command,
        sender,
        id: RequestId::current(),
        client: caller.client().clone(),
        requester: Box::new(PendingResponse { answer, dialect, projection, client_token, admitted }),
    });
    // The other end is dropped without an answer only where the announcer has stopped.
    decided.await.unwrap_or(Err(Rejection::OutcomeUnknown))
}

/// A request that waits for its answer.
struct PendingResponse {
    answer: oneshot::Sender<Result<Accepted, Rejection>>,
    dialect: Dialect,
    projection: Projection,
    client_token: Option<ClientToken>,
    /// Counts the request until it is decided.
    admitted: Admitted,
}

impl Requester for PendingResponse {
    fn session(&self) -> Option<u64> {
        None
    }

    fn via(&self) -> Via {
        Via::Http
    }

    fn client_token(&self) -> Option<&ClientToken> {
        self.client_token.as_ref()
    }

    fn on_outcome(self: Box<Self>, outcome: Result<AcceptedCommand<'_>, &Rejection>, _now: Timestamp) {
        let told = match outcome {
            Ok(AcceptedCommand { command, applied }) => Ok(self.accepted(command, applied)),
            Err(rejection) => Err(rejection.clone()),
        };
        let Self { answer, admitted, .. } = *self;
        // Before its client can know: the next one takes this one's place.
        drop(admitted);
        // Who asked may be gone.
        let _ = answer.send(told);
    }
}

impl PendingResponse {
    fn accepted(&self, command: &Command, applied: &Applied) -> Accepted {
        let body = engine::accepted(self.dialect, command, applied, &self.projection, self.client_token.as_ref());
        let etag = match applied.manner {
            Disposition::Replayed(first) => (first.etag_is_own || self.projection.reads_state()).then_some(first.etag),
            Disposition::Applied | Disposition::DryRun => Some(self.projection.etag(&applied.after)),
        };
        let created = match applied.manner {
            Disposition::Replayed(first) => first.created,
            Disposition::Applied => applied.is_created(),
            Disposition::DryRun => false,
        };
        Accepted { body, document: applied.after.clone(), etag, created, manner: applied.manner }
    }
}
