//! The notifier thread: it publishes decided commands in the order of the journal, then answers their requesters.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use crate::{
    admission::work,
    clock::Clock,
    engine::{
        conflict_base::{ConflictBaseLookup, PendingRefusal},
        refusals::{Refusals, refused_entry},
        submission::{AcceptedCommand, PendingReply, Requester, log_refusal},
    },
    observability::metrics::{Label, OutcomeCounters},
    shadow::{Command, Disposition, Rejection, Timestamp},
    store::{self, Applied, Broadcast, CommitReport, Envelope, HistoryReader},
};

/// A receiver of decided commands, such as the fan-out to MQTT subscribers.
pub trait Notifier: Send {
    /// Called for every decided command in the order of the journal, including no-ops and refusals. Returns the bytes of the
    /// messages that were rendered.
    fn notify(&mut self, outcome: Outcome<'_>, requester: &dyn Requester) -> usize;

    /// Called for every broadcast of a cluster, in the same order on all nodes.
    fn broadcast(&mut self, _broadcast: &Broadcast) {}
}

/// Calls the first, then the second.
impl<A: Notifier, B: Notifier> Notifier for (A, B) {
    fn notify(&mut self, outcome: Outcome<'_>, requester: &dyn Requester) -> usize {
        self.0.notify(outcome, requester) + self.1.notify(outcome, requester)
    }

    fn broadcast(&mut self, broadcast: &Broadcast) {
        self.0.broadcast(broadcast);
        self.1.broadcast(broadcast);
    }
}

/// A decided command: accepted and durable, or refused without effect.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The command with its address and its author.
    pub envelope: &'a Envelope,
    /// The effect, or the reason of the refusal.
    pub result: Result<&'a Applied, &'a Rejection>,
}

/// The results of one commit.
pub(super) type Batch = CommitReport<PendingReply>;

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
    pub fn notify(self, mut notifier: impl Notifier) {
        let Self { batches, clock, past, refusals, outcomes } = self;
        thread::scope(|scope| {
            let conflict_base = ConflictBaseLookup::start(scope, &past, &clock);
            // The queue memory of a batch is released after its outcomes are delivered.
            for CommitReport { outcomes: batch, durable, broadcasts, reservation: _reservation } in batches {
                let now = clock.now();
                broadcasts.iter().for_each(|broadcast| notifier.broadcast(broadcast));
                durable.into_iter().for_each(|on_durable| on_durable());
                let answered = batch.iter().filter(|outcome| outcome.context.is_some());
                outcomes.count(&answered.map(label).collect::<Vec<_>>());
                for store::Outcome { envelope, context, result, against } in batch {
                    let Some(PendingReply { requester, principal }) = context else {
                        notifier.notify(Outcome { envelope: &envelope, result: result.as_ref() }, &AnsweredBefore);
                        continue;
                    };
                    if let Err(rejection) = &result {
                        let Envelope { key, command, author, id, client, .. } = &envelope;
                        log_refusal(*id, key, &author.by, client, rejection);
                        if !command.is_dry_run() {
                            let entry = refused_entry(key, &author.by, client, requester.via(), rejection, now);
                            refusals.note(key, entry);
                        }
                    }
                    let rendered =
                        notifier.notify(Outcome { envelope: &envelope, result: result.as_ref() }, &*requester);
                    match (result, against) {
                        (Ok(applied), _) => {
                            let written = work::journaled(applied.journal_bytes) + work::recorded(applied.record_bytes);
                            let units = written + work::rendered_messages(rendered);
                            if units > 0 {
                                let _throttles_its_connection = principal.quota().charge_work(units, Instant::now());
                            }
                            if applied.disposition == Disposition::Applied && applied.is_created() {
                                principal.quota().count_new_shadow(Instant::now());
                            }
                            let accepted = AcceptedCommand { command: &envelope.command, applied: &applied };
                            requester.on_outcome(Ok(accepted), now);
                        }
                        (Err(rejection), None) => requester.on_outcome(Err(&rejection), now),
                        (Err(rejection), Some(against)) => {
                            let Envelope { key, command, .. } = envelope;
                            let refusal =
                                PendingRefusal { key, rejection, against, requester, quota: principal.quota().clone() };
                            conflict_base.complete(refusal, &command, now);
                        }
                    }
                }
            }
        });
    }
}

/// The requester of a change whose outcome was reported as unknown, and that was found on the disk later.
struct AnsweredBefore;

impl Requester for AnsweredBefore {
    fn on_outcome(self: Box<Self>, _: Result<AcceptedCommand<'_>, &Rejection>, _: Timestamp) {}
}

/// Returns the operation and its end, as labels for metrics.
fn label<C>(outcome: &store::Outcome<C>) -> Label {
    let operation = match outcome.envelope.command {
        Command::Update(_) | Command::Patch(_) => "update",
        Command::Delete(_) => "delete",
    };
    let ended = match &outcome.result {
        Err(rejection) => rejection.error(),
        Ok(applied) => match applied.disposition {
            Disposition::Replayed(_) => "replayed",
            Disposition::DryRun => "dry-run",
            Disposition::Applied if applied.is_changed() => "accepted",
            Disposition::Applied => "unchanged",
        },
    };
    (operation, ended)
}
