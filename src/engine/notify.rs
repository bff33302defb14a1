//! The notifier thread: it publishes decided commands in the order of the journal, then answers their requesters.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use crate::{
    clock::Clock,
    engine::{
        conflict_base::{ConflictBaseLookup, PendingRefusal},
        refusals::Refusals,
        submission::{AcceptedCommand, PendingReply, Requester, log_refusal},
    },
    observability::metrics::{Label, OutcomeCounters},
    shadow::{Command, Disposition, Rejection, ShadowKey},
    store::{self, Applied, HistoryReader, QueueReservation, QueuedCommand},
};

/// A receiver of decided commands, such as the fan-out to MQTT subscribers.
pub trait Notifier: Send {
    /// Called for every decided command in the order of the journal, including no-ops and refusals.
    fn announce(&mut self, outcome: &Outcome, requester: &dyn Requester);
}

/// Calls the first, then the second.
impl<A: Notifier, B: Notifier> Notifier for (A, B) {
    fn announce(&mut self, outcome: &Outcome, requester: &dyn Requester) {
        self.0.announce(outcome, requester);
        self.1.announce(outcome, requester);
    }
}

/// A decided command: accepted and durable, or refused without effect.
#[derive(Debug)]
pub struct Outcome {
    /// The shadow.
    pub key: ShadowKey,
    /// The command.
    pub command: Command,
    /// The principal of the sender.
    pub by: Arc<str>,
    /// The client of the sender.
    pub client: Arc<str>,
    /// The effect, or the reason of the refusal.
    pub result: Result<Applied, Rejection>,
}

/// The outcomes of one commit, and their reserved queue memory.
pub(super) type Batch = (Vec<store::Outcome<PendingReply>>, QueueReservation);

/// Decided commands on their way to the notifier.
pub struct Outcomes {
    pub(super) batches: mpsc::Receiver<Batch>,
    pub(super) clock: Clock,
    pub(super) past: HistoryReader,
    pub(super) refusals: Arc<Refusals>,
    pub(super) outcomes: Arc<OutcomeCounters>,
}

impl Outcomes {
    /// Publishes outcomes and answers their requesters until the store is closed. Blocks: for a thread of its own.
    pub fn announce(self, mut notifier: impl Notifier) {
        let Self { batches, clock, past, refusals, outcomes } = self;
        thread::scope(|scope| {
            let conflict_base = ConflictBaseLookup::start(scope, &past, &clock);
            // The queue memory of a batch is released after its outcomes are delivered.
            for (batch, _reservation) in batches {
                let now = clock.now();
                outcomes.count(&batch.iter().map(|outcome| label(outcome)).collect::<Vec<_>>());
                for store::Outcome { queued, result, against } in batch {
                    let QueuedCommand { key, command, sender, id, client, context } = queued;
                    let PendingReply { requester, queued: _queued } = context;
                    let outcome = Outcome { key, command, by: sender.by, client, result };
                    if let Err(rejection) = &outcome.result {
                        log_refusal(id, &outcome.key, &outcome.by, &outcome.client, rejection);
                    }
                    if let Err(rejection) = &outcome.result
                        && !outcome.command.is_dry_run()
                    {
                        let Outcome { key, by, client, .. } = &outcome;
                        refusals.note(key, by, client, requester.via(), rejection, now);
                    }
                    notifier.announce(&outcome, &*requester);
                    let Outcome { key, command, result, .. } = outcome;
                    match (result, against) {
                        (Ok(applied), _) => {
                            requester.on_outcome(Ok(AcceptedCommand { command: &command, applied: &applied }), now)
                        }
                        (Err(rejection), None) => requester.on_outcome(Err(&rejection), now),
                        (Err(rejection), Some(against)) => {
                            conflict_base.tell(PendingRefusal { key, rejection, against, requester }, &command, now);
                        }
                    }
                }
            }
        });
    }
}

/// Returns the operation and its end, as labels for metrics.
fn label<C>(outcome: &store::Outcome<C>) -> Label {
    let operation = match outcome.queued.command {
        Command::Update(_) | Command::Patch(_) => "update",
        Command::Delete(_) => "delete",
    };
    let ended = match &outcome.result {
        Err(rejection) => rejection.error(),
        Ok(applied) => match applied.manner {
            Disposition::Replayed(_) => "replayed",
            Disposition::DryRun => "dry-run",
            Disposition::Applied if applied.is_changed() => "accepted",
            Disposition::Applied => "unchanged",
        },
    };
    (operation, ended)
}
