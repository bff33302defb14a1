//! The way of a command from a front end to the writer.
//!
//! [`Service::take`] is the only way in, for requests over MQTT and HTTP and for wills. In this order:
//!
//! 1. The quotas of the principal. A request over one is neither counted nor submitted.
//! 2. Memory in the queue: first in the principal's share, then in the whole queue.
//! 3. The payload and the rights of its author, which the front end parses and checks ([`IncomingRequest::parse`]).
//! 4. The document in memory: it is read here if necessary, since all commands wait for the writer.

use std::{
    any::Any,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::Instant,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task,
};

use crate::{
    admission::{Admitted, PrincipalPermit, PrincipalQuota, work},
    clock::Clock,
    engine::{Service, rejection, unavailable},
    observability::{
        logging::{LineLimit, limited},
        request_id::RequestId,
    },
    shadow::{Command, Rejection, ShadowKey, Timestamp},
    store::{self, Applied, COMMAND_OVERHEAD_BYTES, Envelope, QueuedCommand},
    wire::Via,
};

/// A request to change a shadow, as a front end received it. Its payload is not parsed, since the result may take many
/// times as much memory.
pub trait IncomingRequest: Sized {
    /// The parsed and authorized command, with the data for its reply.
    type Parsed;
    /// The reason of a refusal: a rejection, or an answer of the front end's own.
    type Refusal: From<Rejection>;

    /// Returns the shadow.
    fn key(&self) -> &ShadowKey;

    /// Returns the approximate memory of the parsed request, as [`wire::weight`] estimates it.
    ///
    /// [`wire::weight`]: crate::wire::weight
    fn weight(&self) -> usize;

    /// Parses the payload and checks the rights of the author. `None`: the request does not concern the writer.
    ///
    /// # Errors
    ///
    /// The reason why the request is not submitted.
    fn parse(&mut self) -> Result<Option<Self::Parsed>, Self::Refusal>;

    /// Returns the command with its address and author, and the receiver of its outcome. The receiver keeps `admitted`
    /// until it reports the outcome.
    fn into_command(self, parsed: Self::Parsed, admitted: Admitted) -> (Envelope, Box<dyn Requester>);
}

/// The sender of a command, which receives its outcome.
pub trait Requester: Any + Send {
    /// Returns the protocol of the request.
    fn via(&self) -> Via {
        Via::Mqtt
    }

    /// Receives the outcome. Called once, after the outcome is durable and its events are published. A version conflict
    /// may arrive after later outcomes, because its conflicting values are looked up first.
    fn on_outcome(self: Box<Self>, outcome: Result<AcceptedCommand<'_>, &Rejection>, now: Timestamp);
}

/// An accepted command with its effect.
#[derive(Clone, Copy)]
pub struct AcceptedCommand<'a> {
    /// The command.
    pub command: &'a Command,
    /// Its effect.
    pub applied: &'a Applied,
}

/// A request that [`Service::take`] did not refuse.
pub enum Taken<R> {
    /// Its requester receives the outcome.
    Submitted,
    /// The queue is full.
    AwaitingPermit(AwaitingPermit<R>),
}

/// A request that was not submitted.
pub struct RefusedRequest<R: IncomingRequest> {
    /// The request.
    pub request: R,
    /// The reason.
    pub refusal: R::Refusal,
    /// True if the request exceeds a quota of its principal. Its payload was not parsed.
    pub is_over_quota: bool,
}

/// A request that waits for memory in the queue. It keeps its place among those that wait.
pub struct AwaitingPermit<R> {
    request: R,
    admitted: Admitted,
    weight: usize,
    permit: Pin<Box<dyn Future<Output = Result<Permit, Rejection>> + Send>>,
}

/// Reserved memory in the queue for one command.
pub struct Permit {
    reservation: store::Permit<PendingReply>,
    principal: PrincipalPermit,
    clock: Clock,
}

/// The requester of a queued command, and the queue memory charged to its principal.
pub(super) struct PendingReply {
    pub(super) requester: Box<dyn Requester>,
    pub(super) principal: PrincipalPermit,
}

impl Service {
    /// Takes a request of the principal with this quota to the queue. Returns at once: if the queue is full, the caller
    /// waits for memory with [`AwaitingPermit`].
    ///
    /// # Errors
    ///
    /// The request and the reason of its refusal.
    pub fn take<R: IncomingRequest>(
        self: &Arc<Self>,
        request: R,
        quota: &Arc<PrincipalQuota>,
    ) -> Result<Taken<R>, RefusedRequest<R>> {
        let admitted = match self.admit(quota, request.key()) {
            Ok(admitted) => admitted,
            Err(rejection) => return Err(RefusedRequest { request, refusal: rejection.into(), is_over_quota: true }),
        };
        let weight = request.weight();
        match self.try_reserve(quota, weight) {
            Some(permit) => permit.submit(request, admitted, weight).map(|()| Taken::Submitted),
            None => {
                let (service, quota) = (self.clone(), quota.clone());
                let permit = Box::pin(async move { service.reserve(&quota, weight).await });
                Ok(Taken::AwaitingPermit(AwaitingPermit { request, admitted, weight, permit }))
            }
        }
    }

    /// Reserves memory for a command of about `bytes` of `principal`; `None` if there is too little now.
    #[must_use]
    pub(crate) fn try_reserve(&self, principal: &Arc<PrincipalQuota>, bytes: usize) -> Option<Permit> {
        let permit = principal.try_queue(bytes.saturating_add(COMMAND_OVERHEAD_BYTES))?;
        Some(self.permit(permit, self.store.try_reserve(bytes)?))
    }

    /// Waits for memory for a command of about `bytes` of `principal`: first in the principal's share, then in the
    /// whole queue.
    ///
    /// # Errors
    ///
    /// [`Rejection::Unavailable`]: the service is ending.
    pub(super) async fn reserve(&self, principal: &Arc<PrincipalQuota>, bytes: usize) -> Result<Permit, Rejection> {
        let permit = principal.queue(bytes.saturating_add(COMMAND_OVERHEAD_BYTES)).await;
        Ok(self.permit(permit, self.store.reserve(bytes).await.map_err(rejection)?))
    }

    fn permit(&self, principal: PrincipalPermit, reservation: store::Permit<PendingReply>) -> Permit {
        Permit { reservation, principal, clock: self.clock.clone() }
    }
}

impl<R: IncomingRequest> AwaitingPermit<R> {
    /// Returns the request.
    pub fn request(&self) -> &R {
        &self.request
    }

    /// Waits until memory is reserved. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Rejection::Unavailable`]: the service is ending.
    pub async fn reserved(&mut self) -> Result<Permit, Rejection> {
        self.permit.as_mut().await
    }

    /// Parses and submits the request with the result of [`AwaitingPermit::reserved`].
    ///
    /// # Errors
    ///
    /// As [`Service::take`].
    pub fn resume(self, permit: Result<Permit, Rejection>) -> Result<(), RefusedRequest<R>> {
        match permit {
            Ok(permit) => permit.submit(self.request, self.admitted, self.weight),
            Err(rejection) => {
                Err(RefusedRequest { request: self.request, refusal: rejection.into(), is_over_quota: false })
            }
        }
    }

    /// Waits until memory is reserved, then parses and submits the request.
    ///
    /// # Errors
    ///
    /// As [`Service::take`].
    pub async fn finish(mut self) -> Result<(), RefusedRequest<R>> {
        let permit = self.reserved().await;
        self.resume(permit)
    }
}

impl Permit {
    /// Parses and sends a request of `weight` bytes.
    fn submit<R: IncomingRequest>(
        self,
        mut request: R,
        admitted: Admitted,
        weight: usize,
    ) -> Result<(), RefusedRequest<R>> {
        let _its_next_request_waits = self.principal.quota().charge_work(work::parsed(weight), Instant::now());
        match aside(weight, || request.parse()) {
            Ok(None) => {}
            Ok(Some(parsed)) => {
                let (envelope, requester) = request.into_command(parsed, admitted);
                self.send(envelope, requester);
            }
            Err(refusal) => return Err(RefusedRequest { request, refusal, is_over_quota: false }),
        }
        Ok(())
    }

    /// Queues a command behind all earlier ones.
    pub(super) fn send(self, mut envelope: Envelope, requester: Box<dyn Requester>) {
        let Self { reservation, principal, clock } = self;
        if !reservation.is_loaded(&envelope.key) {
            let load = || reservation.load(&envelope.key);
            if reservation.is_load_slow() { blocking(load) } else { load() }
        }
        envelope.may_create = principal.quota().may_create_shadow(Instant::now());
        let context = PendingReply { requester, principal };
        if let Err(unsent) = reservation.send(QueuedCommand { envelope, context }) {
            let QueuedCommand { envelope, context } = *unsent;
            refuse(&envelope, context.requester, &unavailable(), clock.now());
        }
    }
}

/// Calls `parse` for a payload of `weight` bytes. A large one takes milliseconds.
fn aside<T>(weight: usize, parse: impl FnOnce() -> T) -> T {
    if weight > LARGE_WEIGHT { blocking(parse) } else { parse() }
}

/// Calls `work`, which may take long; other tasks leave this worker meanwhile.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    let is_shared = Handle::try_current().is_ok_and(|it| it.runtime_flavor() == RuntimeFlavor::MultiThread);
    if is_shared { task::block_in_place(work) } else { work() }
}

/// The weight of a payload that is parsed aside.
const LARGE_WEIGHT: usize = 256 << 10;

/// Answers the requester of a command that does not reach the writer.
fn refuse(envelope: &Envelope, requester: Box<dyn Requester>, rejection: &Rejection, now: Timestamp) {
    let Envelope { key, author, id, client, .. } = envelope;
    log_refusal(*id, key, &author.by, client, rejection);
    requester.on_outcome(Err(rejection), now);
}

/// The limit of lines about requests that failed: all do that wait for a commit that fails.
static FAILURE_LINES: LazyLock<LineLimit> = LazyLock::new(LineLimit::default);

/// Logs a refusal: at debug if it is the client's fault, at error if it is ours.
pub(crate) fn log_refusal(id: RequestId, key: &ShadowKey, by: &str, client: &str, rejection: &Rejection) {
    match rejection {
        Rejection::Internal | Rejection::OutcomeUnknown => {
            limited!(
                error, FAILURE_LINES, request = %id, %key, by, client, error = rejection.error(), "a request failed"
            );
        }
        rejection => {
            tracing::debug!(request = %id, %key, by, client, error = rejection.error(), "a request is refused")
        }
    }
}
