//! The submission of a command to the engine, and its outcome.

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

/// The outcome of an accepted command.
#[derive(Debug)]
pub(in crate::http) struct Accepted {
    /// The body of `accepted` in the request's dialect.
    pub(in crate::http) body: Bytes,
    /// The document after the command.
    pub(in crate::http) document: Arc<Document>,
    /// The etag of the response. For a replay this is the first response's, if known.
    pub(in crate::http) etag: Option<Etag>,
    /// True if the command created the shadow, now or, for a replay, the first time.
    pub(in crate::http) created: bool,
    /// The way the command was accepted.
    pub(in crate::http) manner: Disposition,
}

impl Accepted {
    /// Returns true if this is a replay and the shadow has changed since the first response.
    pub(in crate::http) fn is_outdated(&self) -> bool {
        matches!(self.manner, Disposition::Replayed(first) if first.version != self.document.version)
    }

    /// Adds the header of a replay to `response`, if this is one.
    pub(in crate::http) fn mark_replay(&self, mut response: Response) -> Response {
        if matches!(self.manner, Disposition::Replayed(_)) {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// The header of a response that repeats the first one for an idempotency key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A command and the format of its response.
pub(in crate::http) struct Request {
    pub(in crate::http) key: ShadowKey,
    pub(in crate::http) command: Command,
    pub(in crate::http) dialect: Dialect,
    pub(in crate::http) client_token: Option<ClientToken>,
}

/// The admission of a request: it is counted and has memory reserved in the engine's queue. Its body is parsed only
/// then, as the parsed form may be many times larger than the text.
pub(in crate::http) struct Admission {
    admitted: Admitted,
    permit: Permit,
}

/// Counts a request of `caller` to `key` with `body`, and waits until memory for its parsed form is reserved.
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

/// Submits `request` if `caller` has the rights for it, and waits for the outcome. A refusal for missing rights is
/// recorded, unless it is a dry run. A submitted command is decided even if this future is dropped.
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
    // The sender is dropped without an outcome only if the engine's notifier has stopped.
    decided.await.unwrap_or(Err(Rejection::OutcomeUnknown))
}

/// A request that waits for its outcome.
struct PendingResponse {
    answer: oneshot::Sender<Result<Accepted, Rejection>>,
    dialect: Dialect,
    projection: Projection,
    client_token: Option<ClientToken>,
    /// The count of the request, released when it is decided.
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
        // Released before the response, so that the client's next request is admitted.
        drop(admitted);
        // The client may have disconnected.
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
