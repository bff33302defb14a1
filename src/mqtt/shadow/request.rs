//! A shadow request that came as a PUBLISH, with everything needed to answer it.
//!
//! The answers leave in this order: the `accepted` or `rejected` event, the same payload on the response topic if one
//! was named, then the PUBACK or PUBREC with the result. The acknowledgement goes through the requester's outbox, like
//! the events before it.

use std::{borrow::Cow, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    admission::Admitted,
    auth::{self, Access, Projection},
    engine::{self, AcceptedCommand, Requester, Service, Submission},
    mqtt::{
        broker::{
            outbox::{Outbox, SessionId},
            sessions::SessionKey,
        },
        protocol::{
            message::Message,
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
    shadow::{Command, Delete, Document, DocumentLimits, Rejection, Sender, ShadowKey, Timestamp},
    wire::{self, ClientToken, Dialect, Parsed, Payload, Refused, ReplyOptions, Via},
};

/// A shadow request between its arrival and its answer.
pub(in crate::mqtt) struct Request {
    /// The publisher of its events.
    pub events: Arc<Events>,
    /// The requester; `None` for a will, which nobody waits for.
    pub from: Option<RequestOrigin>,
    /// The id of the request in the log.
    pub id: RequestId,
    /// The shadow that is requested.
    pub key: ShadowKey,
    /// The kind of the request.
    pub operation: RequestKind,
    /// The dialect of its topic.
    pub dialect: Dialect,
    /// The token that correlates the replies.
    pub client_token: Option<ClientToken>,
    /// True if the requester wants metadata in the replies.
    pub metadata: bool,
    /// The requested response topic.
    pub response: Option<ResponseTopic>,
    /// Counts the request until it is decided.
    pub admitted: Option<Admitted>,
    /// True if only the requester receives the reply: a dry run.
    pub private: bool,
    /// The projection of the shadow that the requester may read.
    pub reads: Projection,
}

/// The session that made a request.
pub(in crate::mqtt) struct RequestOrigin {
    /// The outbox of the session.
    pub outbox: Arc<Outbox>,
    /// The acknowledgement to complete, for QoS 1 and 2.
    pub ack_id: Option<AckId>,
}

/// A further topic for the reply, named by the requester.
#[derive(Clone, Debug)]
pub(in crate::mqtt) struct ResponseTopic {
    /// The ordinary topic.
    pub topic: TopicName,
    /// Data that is returned unchanged.
    pub correlation_data: Option<Bytes>,
}

impl Request {
    /// Creates a request without requester, its payload not yet parsed.
    pub(in crate::mqtt) fn new(events: Arc<Events>, key: ShadowKey, operation: RequestKind, dialect: Dialect) -> Self {
        Self {
            events,
            from: None,
            id: RequestId::next(),
            key,
            operation,
            dialect,
            client_token: None,
            metadata: true,
            response: None,
            admitted: None,
            private: false,
            reads: Projection::NONE,
        }
    }

    /// Parses the payload and the user properties, and checks that a sender with `access` may make this request.
    /// Returns `None` for a get, which is no command.
    ///
    /// # Errors
    ///
    /// Returns the rejection of a payload that is invalid or not allowed. Only a sender with rights to the shadow is
    /// shown that the payload is invalid: otherwise anybody could have a `rejected` published to its subscribers. For
    /// the same reason missing rights take precedence over any exceeded quota.
    pub(in crate::mqtt) fn prepare(
        &mut self,
        payload: &[u8],
        properties: Option<&Properties>,
        access: &Access,
        limits: &DocumentLimits,
    ) -> Result<Option<(Command, Sender)>, Rejection> {
        let parsed = self.parse(payload, properties, limits);
        self.reads = access.projection(&self.key, auth::Operation::Get).unwrap_or(Projection::NONE);
        match self.operation {
            RequestKind::Get => access.admit_get(&self.key).and(parsed.map(|_| None)),
            RequestKind::Update | RequestKind::Delete => {
                let mut command = match parsed {
                    Ok(command) => command,
                    Err(rejection) => {
                        match self.operation {
                            // A deletion needs the same rights whatever its payload.
                            RequestKind::Delete => {
                                access.admit(&self.key, &mut Command::Delete(Delete::default())).map(drop)
                            }
                            operation => access.admit_any(&self.key, operation.into()),
                        }?;
                        return Err(rejection);
                    }
                };
                let sender = command.as_mut().map(|command| access.admit(&self.key, command)).transpose()?;
                Ok(command.zip(sender))
            }
        }
    }

    fn parse(
        &mut self,
        payload: &[u8],
        properties: Option<&Properties>,
        limits: &DocumentLimits,
    ) -> Result<Option<Command>, Rejection> {
        let payload = given(payload, properties);
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

    /// Returns the submission to the engine, with `client` as the id of the requester.
    pub(in crate::mqtt) fn submission(self, (command, sender): (Command, Sender), client: &Arc<str>) -> Submission {
        Submission {
            key: self.key.clone(),
            command,
            sender,
            id: self.id,
            client: client.clone(),
            requester: Box::new(self),
        }
    }

    /// Refuses a request of `by` with `access` that never reached the engine, and notes the refusal.
    pub(in crate::mqtt) fn refuse(self, service: &Service, by: &SessionKey, access: &Access, rejection: &Rejection) {
        let SessionKey { principal, client_id } = by;
        // A refused request of a sender without rights here is not listed among the shadow's refusals.
        if self.operation != RequestKind::Get && access.admit_any(&self.key, self.operation.into()).is_ok() {
            service.note_refusal(&self.key, principal, client_id, Via::Mqtt, rejection);
        }
        engine::log_refusal(self.id, &self.key, principal.name(), client_id, rejection);
        self.reject(rejection, service.now());
    }

    /// Refuses the request. Only the requester learns of missing rights. PROTOCOL section 2.
    fn reject(self, rejection: &Rejection, now: Timestamp) {
        let payload = |dialect, rejection: &Rejection, reader: &Projection| {
            rendering::rejected(dialect, rejection, &self.key, now, reader, self.client_token.as_ref())
        };
        let own = |dialect, reader: &Projection| payload(dialect, &self.as_told(rejection, reader), reader);
        let (event, to) = (self.operation.rejected(), self.session_id());
        self.events.reply_privately(&self.key, event, to, own);
        if !self.private && !matches!(rejection, Rejection::Forbidden { .. }) {
            self.events.tell_others(&self.key, event, to, |dialect, reader| {
                payload(dialect, &self.as_told_to_others(rejection, reader), reader)
            });
        }
        let payload = self.response.as_ref().map(|_| own(self.dialect, &self.reads));
        let verdict = verdict(rejection, &self.key, self.id);
        self.answer(payload, verdict);
    }

    /// Returns `rejection` for a reader. Its etag digests the part that the requester may read, so only readers of the
    /// same part receive it.
    fn as_told<'a>(&self, rejection: &'a Rejection, reader: &Projection) -> Cow<'a, Rejection> {
        if *reader == self.reads || reader.reads_state() && self.reads.reads_state() {
            return Cow::Borrowed(rejection);
        }
        Cow::Owned(rejection.clone().without_etag())
    }

    /// Returns `rejection` for a reader that is not the requester. Names from the payload are only sent to readers of
    /// everything.
    fn as_told_to_others<'a>(&self, rejection: &'a Rejection, reader: &Projection) -> Cow<'a, Rejection> {
        match self.as_told(rejection, reader) {
            told if *reader == Projection::ALL => told,
            told => Cow::Owned(told.into_owned().without_names()),
        }
    }

    /// Answers a get with `document`.
    pub(in crate::mqtt) fn got(self, document: &Document, now: Timestamp) {
        if !document.exists() {
            return self.reject(&Rejection::NotFound, now);
        }
        let payload = |dialect, reader: &Projection, metadata| {
            rendering::got(dialect, document, now, reader, ReplyOptions { token: self.client_token.as_ref(), metadata })
        };
        self.events.reply(&self.key, Event::GetAccepted, self.session_id(), self.metadata, payload);
        let payload = self.response.as_ref().map(|_| payload(self.dialect, &self.reads, self.metadata));
        self.answer(payload, AckResult::SUCCESS);
    }

    fn session_id(&self) -> Option<SessionId> {
        self.from.as_ref().map(|from| from.outbox.id())
    }

    /// Sends `payload` to the response topic, if there is one, and `verdict` to the requester.
    fn answer(mut self, payload: Option<Bytes>, verdict: AckResult) {
        // Released before the client can see the answer: a client with a full window sends its next request at once.
        self.admitted = None;
        let to = self.session_id();
        let verdict = match self.dialect {
            Dialect::Native => verdict,
            // Every request on an AWS topic is acknowledged alike. PROTOCOL section 2.
            Dialect::Aws => AckResult { unknown: verdict.unknown, ..AckResult::SUCCESS },
        };
        if let (Some(ResponseTopic { topic, correlation_data }), Some(payload)) = (self.response, payload) {
            let properties = correlation_data
                .map(|data| Box::new(Properties { correlation_data: Some(data), ..Properties::default() }));
            let reply = Message::new(topic, payload, QoS::AtLeastOnce, false, properties, Instant::now());
            self.events.respond(reply, to);
        }
        if let Some(RequestOrigin { outbox, ack_id: Some(ack_id) }) = self.from {
            outbox.push_ack(ack_id, verdict);
        }
    }
}

impl Requester for Request {
    fn session(&self) -> Option<u64> {
        self.session_id().map(|id| id.0)
    }

    fn client_token(&self) -> Option<&ClientToken> {
        self.client_token.as_ref()
    }

    fn wants_metadata(&self) -> bool {
        self.metadata
    }

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

/// Estimates the memory of a request after its payload is parsed.
pub(in crate::mqtt) fn weight(payload: &[u8], properties: Option<&Properties>) -> usize {
    wire::weight(given(payload, properties))
}

fn given<'a>(payload: &'a [u8], properties: Option<&'a Properties>) -> Payload<'a> {
    Payload { bytes: payload, user: properties.map_or(&[], |properties| &properties.user) }
}

/// Returns the acknowledgement of a refused request. PROTOCOL section 2.
fn verdict(rejection: &Rejection, key: &ShadowKey, id: RequestId) -> AckResult {
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
        | Rejection::IdempotencyKeyReused
        | Rejection::Internal
        | Rejection::OutcomeUnknown
        | Rejection::Unavailable(_) => Reason::IMPLEMENTATION_SPECIFIC,
    };
    let mut text = rejection.message(key);
    if let Rejection::VersionConflict { expected: Some(expected), version, .. } = rejection {
        text = format!("version conflict: expected {}, current {}", expected.0, version.0);
    } else if let Rejection::Internal | Rejection::OutcomeUnknown = rejection {
        text = format!("{text} (request {id})"); // as in the log
    } else if let Some(detail) = rejection.detail() {
        text = format!("{text}: {detail}");
    }
    AckResult { reason, reason_string: Some(text.into()), unknown: *rejection == Rejection::OutcomeUnknown }
}
