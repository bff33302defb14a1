//! A member that decides: it claims when nobody does, decides requests, and appends their records.

use std::{collections::HashMap, mem, time::Duration};

use crate::store::{
    batch::{Batch, DecideContext, Envelope, Outcome, QueuedCommand},
    changes::Changes,
    replication::{
        batch_record::{DecidedRequest, RequestDecision, SentCommand},
        member::{
            ANSWER_WITHIN, CLAIM_AFTER, DecidedBatch, HEARTBEAT, Member, RECORD_BYTES, RESEND_AFTER, answers::Answered,
        },
        openings::too_late,
        record::{Claim, RecordContent},
        replica::Action,
        requests::{RequestContent, RequestNumber, RequestToDecide, too_large},
    },
    state::names::NameCounts,
    writer::{QueueReservation, Writer},
};

impl<C> Writer<C> {
    pub(super) fn claim_or_decide(&mut self, member: &mut Member<C>) {
        if member.replica.action().is_some() {
            return;
        }
        if member.replica.short().is_some() {
            return member.compare_again();
        }
        if member.is_deciding() {
            // Requests that come while this node ends are for the next decider.
            if member.has_ended_own() {
                return;
            }
            // Another node claims if this one cannot write.
            if self.refusal().is_none() {
                self.decide_some(member);
            }
            return;
        }
        if member.silence() >= member.claim_after && member.closing.is_none() && self.refusal().is_none() {
            member.last_record = member.now;
            let is_beginning = member.began_empty && member.replica.chain().position.number == 0;
            let action = if is_beginning { member.replica.begin() } else { member.replica.claim(self.progress.head) };
            action.into_iter().for_each(|action| member.link.carry_out(action));
            return;
        }
        let Some(decider) = member.decider() else { return };
        if member.own.is_stalled(member.now.saturating_sub(RESEND_AFTER)) {
            member.own.restart(member.now);
        }
        let epoch = member.replica.chain().epoch;
        let sender = (member.origin, member.replica.chain().position.number);
        while let Some(message) = member.own.message(epoch, sender, member.record_bytes_max) {
            member.link.send(decider, message.encode());
        }
        let mut refused = Answered::default();
        for (queued, permit) in member.own.take_too_large() {
            refused.add_refused(queued, permit, too_large(member.record_bytes_max));
        }
        self.deliver(refused.outcomes, QueueReservation::of(refused.permit));
    }

    /// Decides some requests, and appends their record.
    fn decide_some(&mut self, member: &mut Member<C>) {
        let mut most = self.options.batch_commands_max.max(1);
        loop {
            let Some(batch) = self.decide_requests(member, most) else {
                if member.now.saturating_sub(member.last_append) >= HEARTBEAT {
                    let changes = self.no_changes();
                    let _always_fits = self.append_decided(member, changes, Vec::new());
                }
                return;
            };
            let Batch { changes, outcomes, .. } = batch;
            let requests: Vec<_> = changes.record.requests.iter().map(|decided| decided.request).collect();
            let Err(outcomes) = self.append_decided(member, changes, outcomes) else {
                self.shared.commits.batches.observe(requests.len() as u64);
                return;
            };
            self.names = NameCounts::new(self.options.shadow_names_max);
            if let [request] = *requests {
                // It is in the log that nothing came of it.
                let mut changes = self.no_changes();
                changes.record.requests = vec![DecidedRequest { request, decision: RequestDecision::Refused }];
                let max = member.record_bytes_max;
                let refused = |outcome| Outcome { result: Err(too_large(max)), against: None, ..outcome };
                let _always_fits = self.append_decided(member, changes, outcomes.into_iter().map(refused).collect());
                return;
            }
            member.restart_requests();
            most = requests.len() / 2;
        }
    }

    /// Decides at most `most` requests; `None` if there is none.
    fn decide_requests(&mut self, member: &mut Member<C>, most: usize) -> Option<Batch<RequestNumber>> {
        if let Some(purge) = member.next_purge() {
            return Some(self.decide_purge(purge));
        }
        let mut next = Some(member.next_request()?);
        self.names.shrink();
        let now = self.clock.now();
        let mut batch = Batch::new(self.no_changes_at(now), 16);
        let Self { shared, dirty_set, names, options, progress, .. } = self;
        let mut context = DecideContext { shared, dirty_set, names, limits: &options.document, now };
        let mut broadcast_bytes = 0;
        let (mut opened, mut broadcasts) = (HashMap::new(), Vec::new());
        while let Some(RequestToDecide { request, applied, content }) = next {
            let decision = match content {
                Ok(RequestContent::Command(envelope)) => {
                    let queued = QueuedCommand { envelope: *envelope, context: request };
                    let is_late = member.openings.supersede(&queued.envelope, request.origin, applied, &opened);
                    // Its node has withdrawn it, but was cut off: the message waited on the way.
                    let is_old = member.ages.is_older(applied, member.now, ANSWER_WITHIN);
                    if is_late || is_old || !member.permits(&queued.envelope, &broadcasts) {
                        batch.refuse_stale(queued)
                    } else {
                        batch.decide_request(queued, &mut context)
                    }
                }
                Ok(RequestContent::Broadcast(bytes)) => {
                    let kind = (member.kind_of)(&bytes);
                    if member.is_outdated(&kind, request.origin, applied) {
                        tracing::debug!(node = request.origin.node.0, applied, "a broadcast of a node came too late");
                        RequestDecision::Stale
                    } else {
                        opened.extend(kind.opens().map(|client| (client, request.origin)));
                        broadcasts.push(bytes.clone());
                        RequestDecision::Broadcast(bytes)
                    }
                }
                // A purge is decided alone. A barrier needs no decision, only its place in the log.
                Ok(RequestContent::Purge { .. } | RequestContent::None) => RequestDecision::Refused,
                Err(error) => {
                    let node = request.origin.node.0;
                    tracing::error!(node, %error, "a request of another node cannot be read, and is refused");
                    RequestDecision::Refused
                }
            };
            if let RequestDecision::Broadcast(bytes) = &decision {
                broadcast_bytes += bytes.len() as u64;
            }
            let requests = &mut batch.changes.record.requests;
            requests.push(DecidedRequest { request, decision });
            let bytes = batch.changes.head.bytes - progress.head.bytes + broadcast_bytes;
            let is_full = requests.len() >= most || bytes >= RECORD_BYTES || member.is_purge_next();
            next = if is_full { None } else { member.next_request() };
        }
        Some(batch)
    }

    /// Appends the record of `changes`.
    ///
    /// # Errors
    ///
    /// The outcomes, if the record is too large for the log.
    fn append_decided(
        &mut self,
        member: &mut Member<C>,
        mut changes: Changes,
        outcomes: Vec<Outcome<RequestNumber>>,
    ) -> Result<(), Vec<Outcome<RequestNumber>>> {
        let content = RecordContent::Batch(Box::new(mem::take(&mut changes.record)));
        let Some(action) = member.replica.propose(content, member.record_bytes_max) else { return Err(outcomes) };
        member.last_append = member.now;
        if let Action::Append { expected, .. } = &action {
            member.decided = Some(DecidedBatch { number: expected + 1, changes, outcomes });
        }
        member.link.carry_out(action);
        Ok(())
    }
}

impl Batch<RequestNumber> {
    /// Decides `queued` after all earlier ones. Returns the decision for the record.
    fn decide_request(
        &mut self,
        queued: QueuedCommand<RequestNumber>,
        context: &mut DecideContext<'_>,
    ) -> RequestDecision {
        let no_ops = self.changes.record.no_ops.len();
        self.decide(queued, context);
        let is_remembered = self.changes.record.no_ops.len() > no_ops;
        self.outcomes.last().map_or(RequestDecision::Refused, |outcome| decision(outcome, is_remembered))
    }

    /// Refuses a request that came too late. Returns the decision for the record.
    fn refuse_stale(&mut self, queued: QueuedCommand<RequestNumber>) -> RequestDecision {
        let QueuedCommand { envelope, context } = queued;
        let result = Err(too_late(&envelope));
        self.outcomes.push(Outcome { envelope, context: Some(context), result, against: None });
        RequestDecision::Stale
    }
}

/// Returns the decision of `outcome` for the record.
fn decision(outcome: &Outcome<RequestNumber>, is_remembered: bool) -> RequestDecision {
    match &outcome.result {
        Ok(applied) if applied.seq.is_some() => {
            let Envelope { command, client_token, shared_row, .. } = &outcome.envelope;
            let (command, client_token, row) = (command.clone(), client_token.clone(), shared_row.clone());
            let sent = SentCommand { command, client_token, row };
            RequestDecision::Changed(Box::new(sent))
        }
        Ok(_) if is_remembered => RequestDecision::Remembered,
        Ok(_) => RequestDecision::Unchanged,
        Err(_) => RequestDecision::Refused,
    }
}

/// Returns the time without a record after which a node claims, which differs between nodes and times.
pub(super) fn claim_after(origin: Claim, epoch: u64) -> Duration {
    let mixed = (origin.incarnation ^ origin.node.0.rotate_left(32) ^ epoch).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    CLAIM_AFTER + CLAIM_AFTER.mul_f64(f64::from(u32::try_from(mixed >> 32).unwrap_or_default()) / f64::from(u32::MAX))
}
