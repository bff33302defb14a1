//! The outcomes of the requests in records that are applied.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    observability::request_id::RequestId,
    shadow::{Disposition, Rejection, Scope, Sender, SenderLogin},
    store::{
        batch::{Applied, DecideContext, Envelope, Outcome, QueuedCommand},
        changes::Changes,
        purging::PurgedTombstones,
        replication::{
            batch_record::SentCommand,
            member::{Broadcast, Member, purges},
            openings::too_late,
            replay::{ReplayedChange, ReplayedRequests},
            requests::{OwnRequest, RequestNumber},
        },
        rows::{edit::RowEdit, sent::OnDurable},
    },
};

/// Outcomes for clients and for those who follow the changes, with the queue bytes of the requests.
pub(super) struct Answered<C> {
    pub(super) outcomes: Vec<Outcome<C>>,
    /// The edits of rows that are not committed, each with the number of its record. A broadcast is here without one, too: a start
    /// must not receive it again.
    rows: Vec<(u64, Option<RowEdit>)>,
    pub(super) broadcasts: Vec<Broadcast>,
    /// The calls for own broadcasts and barriers.
    pub(super) calls: Vec<OnDurable>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl<C> Default for Answered<C> {
    fn default() -> Self {
        let (outcomes, rows, broadcasts, calls) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { outcomes, rows, broadcasts, calls, permit: None }
    }
}

/// Makes the outcomes of the requests in records that are replayed.
pub(super) struct Answers<'a, C> {
    pub(super) member: &'a mut Member<C>,
    /// The record, and the number of its requests so far.
    pub(super) position: (u64, usize),
}

impl<C> Answers<'_, C> {
    /// Takes the next request of the record. Returns true if its outcome was made before a commit failed.
    fn is_answered(&mut self) -> bool {
        self.position.1 += 1;
        let is_answered = self.position <= self.member.answered;
        self.member.answered = self.member.answered.max(self.position);
        is_answered
    }
}

impl<C> ReplayedRequests for Answers<'_, C> {
    fn begin(&mut self, number: u64) {
        self.position = (number, 0);
    }

    fn changed(&mut self, request: RequestNumber, sent: SentCommand, replayed: ReplayedChange) {
        if self.is_answered() {
            return;
        }
        let ReplayedChange { entry, before, after } = replayed;
        let SentCommand { command, client_token, row } = sent;
        self.member.hold_row(self.position.0, row);
        let rebased_from = command.rebased_from(&before);
        let applied = Applied {
            seq: Some(entry.seq),
            journal_bytes: entry.bytes,
            record_bytes: 0,
            before,
            after,
            changes: entry.changes,
            rebased_from,
            disposition: Disposition::Applied,
        };
        let (envelope, context) = match self.member.client(request) {
            Some((QueuedCommand { mut envelope, context }, permit)) => {
                self.member.held.add(&mut envelope, permit, Some(self.position.0));
                (Envelope { command, ..envelope }, Some(context))
            }
            None => {
                // The rights of the author were checked by its node; events are cut for their readers.
                let author = Sender { by: entry.principal, scope: Scope::ALL, login: SenderLogin::default() };
                let (key, id, client) = (entry.key, RequestId::next(), entry.client);
                (Envelope { client_token, ..Envelope::new(key, command, author, id, client) }, None)
            }
        };
        self.member.held.outcomes.push(Outcome { envelope, context, result: Ok(applied), against: None });
    }

    fn unchanged(
        &mut self,
        request: RequestNumber,
        is_accepted: bool,
        changes: &mut Changes,
        context: &mut DecideContext<'_>,
    ) {
        if self.is_answered() {
            return;
        }
        let Some((queued, permit)) = self.member.client(request) else { return };
        let QueuedCommand { mut envelope, context: client } = queued;
        self.member.held.add(&mut envelope, permit, is_accepted.then_some(self.position.0));
        let (result, against) = changes.decide_again(&mut envelope, context, is_accepted);
        self.member.held.outcomes.push(Outcome { envelope, context: Some(client), result, against });
    }

    fn stale(&mut self, request: RequestNumber) {
        if self.is_answered() {
            return;
        }
        if let Some((queued, permit)) = self.member.client(request) {
            let refusal = too_late(&queued.envelope);
            self.member.held.add_refused(queued, permit, refusal);
        }
    }

    fn broadcast(&mut self, request: RequestNumber, bytes: Bytes) {
        if !self.is_answered() {
            let record = self.position.0;
            self.member.hold_broadcast(record, request, bytes);
        }
    }

    fn purged(&mut self, request: RequestNumber, purged: PurgedTombstones) {
        if !self.is_answered() {
            self.member.hold_purged(request, purged);
        }
    }

    fn rows(&self, up_to: u64) -> Option<Vec<RowEdit>> {
        self.member.held.rows_to_commit(up_to)
    }

    fn committed(&mut self, up_to: u64) {
        self.member.held.committed(up_to);
    }
}

impl<C> Member<C> {
    /// Takes the client of a command of this node, if it is not answered. Of other requests there is none: a purge is refused, and a barrier
    /// is passed.
    pub(super) fn client(&mut self, request: RequestNumber) -> Option<(QueuedCommand<C>, OwnedSemaphorePermit)> {
        match self.own_request(request)? {
            OwnRequest::Command(queued, permit) => Some((*queued, permit)),
            OwnRequest::Purge(order, _) => {
                order.answer(Err(purges::refused()));
                None
            }
            OwnRequest::Barrier(barrier) => {
                self.held.calls.push(barrier.on_applied);
                None
            }
            OwnRequest::Broadcast(_) | OwnRequest::Withdrawn => None,
        }
    }

    pub(super) fn own_request(&mut self, request: RequestNumber) -> Option<OwnRequest<C>> {
        let taken = if request.origin == self.origin { self.own.answered(request.number, self.now) } else { None };
        if let Some(OwnRequest::Broadcast(broadcast)) = &taken {
            self.openings.waits_no_more(broadcast.opens.as_ref());
        }
        taken
    }

    /// Holds the outcome of a request that this node decided, if a client waits for it or others follow it.
    pub(super) fn hold_outcome(&mut self, record: u64, outcome: Outcome<RequestNumber>) {
        let Outcome { envelope, context, result, against } = outcome;
        let client = context.and_then(|request| self.client(request));
        let is_change = result.as_ref().is_ok_and(|applied| applied.seq.is_some());
        if client.is_some() || is_change {
            let is_accepted = result.is_ok();
            let context = client.map(|(QueuedCommand { mut envelope, context }, permit)| {
                self.held.add(&mut envelope, permit, is_accepted.then_some(record));
                context
            });
            self.held.outcomes.push(Outcome { envelope, context, result, against });
        }
    }
}

impl<C> Answered<C> {
    /// Returns the rows for the commit of the records up to this one. `None` if no commit is needed for what is held of them.
    pub(super) fn rows_to_commit(&self, up_to: u64) -> Option<Vec<RowEdit>> {
        let mut rows = self.rows.iter().filter(|(record, _)| *record <= up_to).peekable();
        rows.peek()?;
        Some(rows.filter_map(|(_, edit)| edit.clone()).collect())
    }

    /// Notes that the file has the log up to this record. What belongs to it is not committed again: an inserted row would be taken for
    /// new.
    pub(super) fn committed(&mut self, up_to: u64) {
        self.rows.retain(|(record, _)| *record > up_to);
    }

    /// Adds the edits of rows that belong to `record`.
    pub(super) fn add_rows(&mut self, record: u64, edits: impl IntoIterator<Item = RowEdit>) {
        self.rows.extend(edits.into_iter().map(|edit| (record, Some(edit))));
    }

    /// Adds a broadcast of `record`, and the edits of rows that it makes.
    pub(super) fn add_broadcast(&mut self, record: u64, broadcast: Broadcast, edits: Vec<RowEdit>) {
        self.broadcasts.push(broadcast);
        self.rows.push((record, None));
        self.add_rows(record, edits);
    }

    /// Adds a request of this node that is refused without a decision.
    pub(super) fn add_refused(&mut self, queued: QueuedCommand<C>, permit: OwnedSemaphorePermit, rejection: Rejection) {
        let QueuedCommand { mut envelope, context } = queued;
        self.add(&mut envelope, permit, None);
        self.outcomes.push(Outcome { envelope, context: Some(context), result: Err(rejection), against: None });
    }

    /// Adds the queue bytes of a request, and its row if it was accepted in a record.
    pub(super) fn add(&mut self, envelope: &mut Envelope, permit: OwnedSemaphorePermit, accepted_in: Option<u64>) {
        if let (Some(record), row) = (accepted_in, envelope.row.take()) {
            self.add_rows(record, row);
        }
        match &mut self.permit {
            Some(all) => all.merge(permit),
            None => self.permit = Some(permit),
        }
    }
}
