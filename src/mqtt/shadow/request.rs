//! Shadow requests received as a PUBLISH or as a will, and their replies.
//!
//! [`ReceivedRequest`] has the payload and is parsed by the engine when memory is reserved. [`Request`] is the part that
//! remains until the reply. The replies leave in this order: the `accepted` or `rejected` event, the same on the
//! response topic if there is one, then the PUBACK or PUBREC, through the requester's outbox like the events before it.

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    admission::Admitted,
    auth::{self, Access},
    engine::{self, AcceptedCommand, Envelope, IncomingRequest, RefusedRequest, Requester, Service},
    mqtt::{
        broker::outbox::{Outbox, SessionId},
        protocol::{
            message::{Message, Row},
            packet::{Properties, QoS, Reason},
            topic::TopicName,
        },
        session::{AckId, AckResult},
        shadow::{
            fan_out::Events,
            rendering,
            topics::{Event, RequestKind},
        },
    },
    observability::request_id::RequestId,
    shadow::{
        ClientToken, Command, Delete, Document, DocumentLimits, Projection, Rejection, Sender, ShadowKey, Timestamp,
    },
    store::RowEdit,
    wire::{self, Dialect, Parsed, Payload, Refused, ReplyOptions, Via},
};

/// A request with its payload, which is not parsed yet: the parsed form may take many times as much memory.
pub(in crate::mqtt) struct ReceivedRequest {
    /// The data for the reply.
    pub request: Request,
    /// The payload.
    pub payload: Bytes,
    /// The properties beside it.
    pub properties: Option<Box<Properties>>,
    /// The client, for the history.
    pub client: Arc<str>,
    /// The limits of the document.
    pub limits: DocumentLimits,
}

/// A request without its payload: the data for its reply.
pub(in crate::mqtt) struct Request {
    /// The publisher of its events.
    pub events: Arc<Events>,
    /// The sender.
    pub origin: RequestOrigin,
    /// The id in the log.
    pub id: RequestId,
    /// The shadow that is requested.
    pub key: ShadowKey,
    /// The operation.
    pub operation: RequestKind,
    /// The dialect of the topic.
    pub dialect: Dialect,
    /// The client token to echo in replies.
    pub client_token: Option<ClientToken>,
    /// False if the requester receives no metadata.
    pub metadata: bool,
    /// The response topic of the PUBLISH.
    pub response: Option<ResponseTopic>,
    /// At QoS 2 in a session that outlives the server, the row of the packet identifier.
    pub received: Option<ReceivedIdentifier>,
    /// The permit that counts the request until it is decided.
    pub admitted: Option<Admitted>,
    /// True for a dry run, whose outcome is sent to the requester alone.
    pub private: bool,
    /// The part of the shadow that the requester may read.
    pub reads: Projection,
}

/// The sender of a request.
pub(in crate::mqtt) enum RequestOrigin {
    /// A session.
    Session {
        /// Its outbox.
        outbox: Arc<Outbox>,
        /// The pending acknowledgement, for QoS 1 and 2.
        ack_id: Option<AckId>,
    },
    /// A will, whose sender receives no reply.
    Will {
        /// The rights of its owner.
        access: Access,
        /// True if its owner opened its session at another node of a cluster last, which is gone.
        is_adopted: bool,
    },
}

/// The packet identifier of a request, on its way to the disk.
pub(in crate::mqtt) struct ReceivedIdentifier {
    /// The edit that writes it with the accepted command.
    pub edit: Option<RowEdit>,
    /// True in a cluster, whose nodes all write it.
    pub is_shared: bool,
    /// Its row, which is not removed before the command is decided.
    #[expect(dead_code, reason = "for its drop")]
    pub row: Arc<dyn Row>,
}

/// A topic for the reply besides the shadow's own topics.
#[derive(Clone, Debug)]
pub(in crate::mqtt) struct ResponseTopic {
    /// The ordinary topic.
    pub topic: TopicName,
    /// The correlation data, returned unchanged.
    pub correlation_data: Option<Bytes>,
}

impl IncomingRequest for ReceivedRequest {
    type Parsed = (Command, Sender);
    type Refusal = Rejection;

    fn key(&self) -> &ShadowKey {
        &self.request.key
    }

    fn weight(&self) -> usize {
        wire::weight(with_properties(&self.payload, self.properties.as_deref()))
    }

    /// Parses the payload and the fields in user properties, and checks the rights that the sender has now. `None`: a
    /// get.
    ///
    /// # Errors
    ///
    /// The rejection. A sender without any right of this kind on the shadow receives `Forbidden` even for a malformed
    /// payload, or it could publish `rejected` events to the shadow's subscribers. For the same reason, lack of rights
    /// comes before an exceeded quota.
    fn parse(&mut self) -> Result<Option<(Command, Sender)>, Rejection> {
        let Self { request, payload, properties, limits, .. } = self;
        request.prepare(with_properties(payload, properties.as_deref()), limits)
    }

    fn into_command(self, (command, author): (Command, Sender), admitted: Admitted) -> (Envelope, Box<dyn Requester>) {
        let Self { mut request, client, .. } = self;
        let received = request.received.as_mut();
        let (row, shared_row) = match received.and_then(|received| Some((received.edit.take()?, received.is_shared))) {
            Some((edit, true)) => (None, Some(edit)),
            own => (own.map(|(edit, _)| edit), None),
        };
        let (key, id, client_token) = (request.key.clone(), request.id, request.client_token.clone());
        // The opening at the node that is gone does not refuse a will that this one took over.
        let is_of_session = !matches!(request.origin, RequestOrigin::Will { is_adopted: true, .. });
        let may_create = true;
        let envelope =
            Envelope { key, command, author, id, client, is_of_session, client_token, may_create, row, shared_row };
        (envelope, Box::new(Request { admitted: Some(admitted), ..request }))
    }
}

impl ReceivedRequest {
    /// Returns the request and the reason of its refusal. The payload of a request over a quota is parsed all the same,
    /// for its client token and for faults that take precedence, and dropped at once.
    pub(in crate::mqtt) fn refused(refused: RefusedRequest<Self>) -> (Self, Rejection) {
        let RefusedRequest { request: mut received, refusal, is_over_quota } = refused;
        let rejection = if is_over_quota { received.parse().err().unwrap_or(refusal) } else { refusal };
        (received, rejection)
    }

    /// Refuses a request that did not reach the writer, and records the refusal.
    pub(in crate::mqtt) fn refuse(self, service: &Service, rejection: &Rejection) {
        let (Self { request, client, .. }, access) = (&self, self.request.origin.access());
        // Senders without any right on the shadow do not appear in its list of refusals.
        if request.operation != RequestKind::Get && access.admit_any(&request.key, request.operation.into()).is_ok() {
            service.note_refusal(&request.key, access.principal(), client, Via::Mqtt, rejection);
        }
        engine::log_refusal(request.id, &request.key, access.principal().name(), client, rejection);
        self.request.reject(rejection, service.now());
    }
}

impl RequestOrigin {
    /// Returns the rights that the sender has now.
    pub(in crate::mqtt) fn access(&self) -> Access {
        match self {
            Self::Session { outbox, .. } => outbox.access(),
            Self::Will { access, .. } => access.clone(),
        }
    }
}

impl Request {
    /// Returns a request without options.
    pub(in crate::mqtt) fn new(
        events: Arc<Events>,
        origin: RequestOrigin,
        key: ShadowKey,
        operation: RequestKind,
        dialect: Dialect,
    ) -> Self {
        Self {
            events,
            origin,
            id: RequestId::next(),
            key,
            operation,
            dialect,
            client_token: None,
            metadata: true,
            response: None,
            received: None,
            admitted: None,
            private: false,
            reads: Projection::NONE,
        }
    }

    fn prepare(
        &mut self,
        payload: Payload<'_>,
        limits: &DocumentLimits,
    ) -> Result<Option<(Command, Sender)>, Rejection> {
        let parsed = self.parse(payload, limits);
        let access = self.origin.access();
        self.reads = access.projection(&self.key, auth::Operation::Get).unwrap_or(Projection::NONE);
        match (self.operation, parsed) {
            (RequestKind::Get, parsed) => access.admit_get(&self.key).and(parsed.map(|_| None)),
            (_, Ok(mut command)) => {
                let sender = command.as_mut().map(|command| access.admit(&self.key, command)).transpose()?;
                Ok(command.zip(sender))
            }
            // The rights that a deletion needs do not depend on its payload.
            (RequestKind::Delete, Err(rejection)) => {
                access.admit(&self.key, &mut Command::Delete(Delete::default())).and(Err(rejection))
            }
            (operation, Err(rejection)) => access.admit_any(&self.key, operation.into()).and(Err(rejection)),
        }
    }

    fn parse(&mut self, payload: Payload<'_>, limits: &DocumentLimits) -> Result<Option<Command>, Rejection> {
        match self.operation {
            RequestKind::Update => {
                let update = self.take(wire::parse_update(payload, self.dialect, limits))?;
                self.private = update.dry_run;
                Ok(Some(Command::Update(update)))
            }
            RequestKind::Get => self.take(wire::parse_get(payload, self.dialect)).map(|()| None),
            RequestKind::Delete => {
                self.take(wire::parse_delete(payload, self.dialect)).map(|body| Some(Command::Delete(body)))
            }
        }
    }

    fn take<T>(&mut self, parsed: Result<Parsed<T>, Refused>) -> Result<T, Rejection> {
        match parsed {
            Ok(Parsed { body, client_token, metadata }) => {
                (self.client_token, self.metadata) = (client_token, metadata);
                Ok(body)
            }
            Err(Refused { rejection, client_token }) => {
                self.client_token = client_token;
                Err(rejection)
            }
        }
    }

    /// Sends the refusal. A refusal for lack of rights is sent to the requester alone. PROTOCOL section 2.
    fn reject(self, rejection: &Rejection, now: Timestamp) {
        let payload = |dialect, rejection: &Rejection, reader: &Projection| {
            rendering::rejected(dialect, rejection, &self.key, now, reader, self.client_token.as_ref())
        };
        let own = |dialect, reader: &Projection| payload(dialect, &self.for_reader(rejection, reader), reader);
        let (event, to) = (self.operation.rejected(), self.session_id());
        self.events.reply_privately(&self.key, event, to, own);
        if !self.private && !matches!(rejection, Rejection::Forbidden { .. } | Rejection::Unauthorized) {
            self.events.tell_others(&self.key, event, to, |dialect, reader| {
                payload(dialect, &self.for_others(rejection, reader), reader)
            });
        }
        let payload = self.response.as_ref().map(|_| own(self.dialect, &self.reads));
        let result = result(rejection, &self.key, self.id);
        self.answer(payload, result);
    }

    /// Returns `rejection` for a reader. Its etag is a digest of the part that the requester may read, so only readers
    /// of the same part receive it.
    fn for_reader<'a>(&self, rejection: &'a Rejection, reader: &Projection) -> Cow<'a, Rejection> {
        if *reader == self.reads || reader.reads_state() && self.reads.reads_state() {
            return Cow::Borrowed(rejection);
        }
        Cow::Owned(rejection.clone().without_etag())
    }

    /// Returns `rejection` for a reader other than the requester. Only readers of the whole shadow receive names from the
    /// payload.
    fn for_others<'a>(&self, rejection: &'a Rejection, reader: &Projection) -> Cow<'a, Rejection> {
        match self.for_reader(rejection, reader) {
            rejection if *reader == Projection::ALL => rejection,
            rejection => Cow::Owned(rejection.into_owned().without_names()),
        }
    }

    /// Replies to a get with `document`. Returns the bytes of the messages that were rendered.
    pub(in crate::mqtt) fn got(self, document: &Document, now: Timestamp) -> usize {
        if !document.exists() {
            self.reject(&Rejection::NotFound, now);
            return 0;
        }
        let payload = |dialect, reader: &Projection, metadata| {
            rendering::got(dialect, document, now, reader, ReplyOptions { token: self.client_token.as_ref(), metadata })
        };
        let bytes = self.events.reply(&self.key, Event::GetAccepted, self.session_id(), self.metadata, payload);
        let payload = self.response.as_ref().map(|_| payload(self.dialect, &self.reads, self.metadata));
        let bytes = bytes + payload.as_ref().map_or(0, Bytes::len);
        self.answer(payload, AckResult::SUCCESS);
        bytes
    }

    /// Returns the session of the requester; `None` for a will.
    pub(in crate::mqtt) fn session_id(&self) -> Option<SessionId> {
        match &self.origin {
            RequestOrigin::Session { outbox, .. } => Some(outbox.id()),
            RequestOrigin::Will { .. } => None,
        }
    }

    /// Returns the pending acknowledgement.
    pub(in crate::mqtt) fn ack_id(&self) -> Option<AckId> {
        match self.origin {
            RequestOrigin::Session { ack_id, .. } => ack_id,
            RequestOrigin::Will { .. } => None,
        }
    }

    /// Sends `payload` to the response topic if there is one, and the acknowledgement to the requester.
    fn answer(mut self, payload: Option<Bytes>, result: AckResult) {
        // Before the acknowledgement: a client may fill its window, and its next request takes the place of this one.
        self.admitted = None;
        let to = self.session_id();
        let result = match self.dialect {
            Dialect::Native => result,
            // On AWS topics every request has the same reason code. PROTOCOL section 2.
            Dialect::Aws => AckResult { unknown: result.unknown, ..AckResult::SUCCESS },
        };
        if let (Some(ResponseTopic { topic, correlation_data }), Some(payload)) = (self.response, payload) {
            let properties = correlation_data
                .map(|data| Box::new(Properties { correlation_data: Some(data), ..Properties::default() }));
            let reply = Message::new(topic, payload, QoS::AtLeastOnce, false, properties, Instant::now());
            self.events.respond(reply, to);
        }
        if let RequestOrigin::Session { outbox, ack_id: Some(ack_id) } = self.origin {
            outbox.push_ack(ack_id, result);
        }
    }
}

impl Requester for Request {
    fn on_outcome(self: Box<Self>, outcome: Result<AcceptedCommand<'_>, &Rejection>, now: Timestamp) {
        match outcome {
            Err(rejection) => self.reject(rejection, now),
            Ok(AcceptedCommand { command, applied }) => {
                let options = ReplyOptions { token: self.client_token.as_ref(), metadata: self.metadata };
                let accepted = |_| engine::accepted(self.dialect, command, applied, &self.reads, options);
                let payload = self.response.as_ref().map(accepted);
                self.answer(payload, AckResult::SUCCESS);
            }
        }
    }
}

fn with_properties<'a>(payload: &'a [u8], properties: Option<&'a Properties>) -> Payload<'a> {
    Payload { bytes: payload, user: properties.map_or(&[], |properties| &properties.user) }
}

/// Returns the acknowledgement of a refused request. PROTOCOL section 2.
fn result(rejection: &Rejection, key: &ShadowKey, id: RequestId) -> AckResult {
    let reason = match rejection {
        Rejection::Forbidden { .. } | Rejection::Unauthorized => Reason::NOT_AUTHORIZED,
        Rejection::TooManyRequests { .. } => Reason::QUOTA_EXCEEDED,
        Rejection::InvalidJson { .. }
        | Rejection::NotUtf8
        | Rejection::MissingState
        | Rejection::InvalidSection(_)
        | Rejection::InvalidNode { .. }
        | Rejection::InvalidVersion
        | Rejection::InvalidClientToken
        | Rejection::InvalidField { .. }
        | Rejection::TooDeep { .. } => Reason::PAYLOAD_FORMAT_INVALID,
        Rejection::NotFound
        | Rejection::VersionConflict { .. }
        | Rejection::ExpectationFailed { .. }
        | Rejection::TooLarge { .. }
        | Rejection::TooManyLeaves { .. }
        | Rejection::TooManyPaths { .. }
        | Rejection::IdempotencyKeyReused
        | Rejection::Internal
        | Rejection::OutcomeUnknown
        | Rejection::Unavailable(_) => Reason::IMPLEMENTATION_SPECIFIC,
    };
    let mut text = rejection.message(key);
    if let Rejection::VersionConflict { expected: Some(expected), version, .. } = rejection {
        text = format!("version conflict: expected {}, current {}", expected.0, version.0);
    } else if let Rejection::Internal | Rejection::OutcomeUnknown = rejection {
        text = format!("{text} (request {id})"); // its id in the log
    } else if let Some(detail) = rejection.detail() {
        text = format!("{text}: {detail}");
    }
    AckResult { reason, reason_string: Some(text.into()), unknown: *rejection == Rejection::OutcomeUnknown }
}
