//! Commands on their way from a front end to the writer.

use std::{sync::Arc, time::Instant};

use crate::{
    admission::{PrincipalPermit, Quotas},
    clock::Clock,
    engine::unavailable,
    observability::request_id::RequestId,
    shadow::{Command, Rejection, Sender, ShadowKey, Timestamp},
    store::{self, Applied, QueuedCommand},
    wire::{ClientToken, Via},
};

/// The sender of a command, which receives its outcome.
pub trait Requester: Send {
    /// Returns the number of the MQTT session that sent the request, if one did.
    fn session(&self) -> Option<u64>;

    /// Returns the protocol of the request.
    fn via(&self) -> Via {
        Via::Mqtt
    }

    /// Returns the client token of the request.
    fn client_token(&self) -> Option<&ClientToken>;

    /// Returns false if nothing sent to the requester because of this request may contain metadata.
    fn wants_metadata(&self) -> bool {
        true
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

/// A command with everything that the writer and the notifier need.
pub struct Submission {
    /// The shadow.
    pub key: ShadowKey,
    /// The command.
    pub command: Command,
    /// The sender and its rights on the shadow: the result of [`Access::admit`] for `command`.
    ///
    /// [`Access::admit`]: crate::auth::Access::admit
    pub sender: Sender,
    /// The id in the log.
    pub id: RequestId,
    /// The client, for the history.
    pub client: Arc<str>,
    /// The receiver of the outcome.
    pub requester: Box<dyn Requester>,
}

/// Reserved memory in the queue for one submission.
pub struct Permit {
    pub(super) room: store::Permit<PendingReply>,
    pub(super) queued: PrincipalPermit,
    pub(super) quotas: Arc<Quotas>,
    pub(super) clock: Clock,
}

/// The requester of a queued command, and the queue memory charged to its principal.
pub(super) struct PendingReply {
    pub(super) requester: Box<dyn Requester>,
    pub(super) queued: PrincipalPermit,
}

impl Submission {
    /// Answers the requester with `rejection`.
    fn refuse(self, rejection: Rejection, now: Timestamp) {
        log_refusal(self.id, &self.key, &self.sender.by, &self.client, &rejection);
        self.requester.on_outcome(Err(&rejection), now);
    }
}

impl Permit {
    /// Queues `submission` behind all earlier ones. It is refused at once if its shadow exceeds its quota of writes.
    pub fn submit(self, submission: Submission) {
        if let Err(rejection) = self.quotas.admit_write(&submission.key, Instant::now()) {
            return submission.refuse(rejection, self.clock.now());
        }
        let Submission { key, command, sender, id, client, requester } = submission;
        let context = PendingReply { requester, queued: self.queued };
        let queued = QueuedCommand { key, command, sender, id, client, context };
        if let Err(unsent) = self.room.send(queued) {
            let QueuedCommand { key, command, sender, id, client, context: PendingReply { requester, .. } } = *unsent;
            let submission = Submission { key, command, sender, id, client, requester };
            submission.refuse(unavailable(), self.clock.now());
        }
    }
}

/// Logs a refusal: at debug if it is the client's fault, at error if it is ours.
pub(crate) fn log_refusal(id: RequestId, key: &ShadowKey, by: &str, client: &str, rejection: &Rejection) {
    match rejection {
        Rejection::Internal | Rejection::OutcomeUnknown => {
            tracing::error!(request = %id, %key, by, client, error = rejection.error(), "a request failed");
        }
        rejection => {
            tracing::debug!(request = %id, %key, by, client, error = rejection.error(), "a request is refused")
        }
    }
}
