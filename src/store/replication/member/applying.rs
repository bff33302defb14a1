//! A member's work after each batch of events: it applies the records that were read, answers their requests, and goes on.

use std::{mem, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;

use crate::{
    shadow::Rejection,
    store::{
        error::StoreError,
        health::Pages,
        replication::{
            applied_position::AppliedPosition,
            batch_record::{DecidedRequest, RequestDecision},
            chain::ReadRecord,
            member::{
                ANSWER_WITHIN, DecidedBatch, Member, MemberOptions, OPENING_WITHIN, ReceivedRecord,
                answers::{Answered, Answers},
            },
            openings::superseded,
            requests::{BusMessage, OwnRequest},
        },
        rows::tables,
        writer::{QueueReservation, Writer},
    },
};

impl<C> Writer<C> {
    /// Makes this store a member of a cluster, or a single node.
    pub(in crate::store) fn join(&mut self, options: Option<MemberOptions>) -> Result<(), StoreError> {
        match (options, &self.applied_position) {
            (None, Some(_)) => Err(StoreError::OfCluster { path: self.options.path.clone() }),
            (None, None) => Ok(()),
            (Some(mut options), position) => {
                let database = self.shared.database.get()?;
                tables::each(&database, &self.dirty_rows, |key, value| options.rows.restore(key, value))?;
                drop(database);
                let is_copy = position.as_ref().is_some_and(|position| position.node != options.node);
                self.shared.has_foreign_rows.store(is_copy, Ordering::Relaxed);
                let node = options.node;
                let began_empty = self.progress.is_empty();
                self.member = Some(Member::new(options, position.as_ref(), self.clock.now().date, began_empty));
                self.node = Some(node);
                self.set_applied_position(self.applied_position.clone());
                self.report();
                Ok(())
            }
        }
    }

    /// Sets the position as the file has it. The file is that of this node from the next commit on.
    pub(in crate::store) fn set_applied_position(&mut self, position: Option<AppliedPosition>) {
        self.applied_position = position;
        if let Some(node) = self.node {
            self.applied_position.get_or_insert_default().node = node;
        }
    }

    /// Does what a member of a cluster has to do after it took some events.
    pub(in crate::store) fn take_part(&mut self) {
        let Some(mut member) = self.member.take() else { return };
        self.is_deciding = member.is_deciding();
        if !self.is_failed() && member.latched.is_none() {
            self.apply_records(&mut member);
        }
        if member.latched.is_some() {
            member.give_up();
            self.deliver_held(&mut member);
        }
        self.end_superseded(&mut member);
        self.expire(&mut member);
        member.send_status(self.clock.now().date);
        if !self.is_failed() && member.latched.is_none() && member.records.is_empty() {
            self.claim_or_decide(&mut member);
        }
        if member.is_ending() {
            if member.is_deciding() {
                let message = BusMessage::HandOver(member.replica.chain().epoch);
                member.link.send_to_all(message.encode());
            }
            self.queue.close();
        }
        self.member = Some(member);
        self.report();
    }

    /// Applies the records that were read, and answers the requests that they decide.
    pub(super) fn apply_records(&mut self, member: &mut Member<C>) {
        if member.behind_at.is_some() && !self.read_again(member) {
            return;
        }
        if member.records.is_empty() || self.must_verify_first(&member.records) {
            return;
        }
        let mut records = mem::take(&mut member.records);
        member.unapplied.extend(records.iter_mut().filter_map(|record| record.permit.take()));
        self.unsynced.add_records(records.iter().map(|record| record.bytes).sum());
        let applied = match member.decided.take() {
            Some(decided) if records.first().is_some_and(|first| first.chain.position.number == decided.number) => {
                let own = records.remove(0);
                self.apply_decided(member, decided, own)
            }
            decided => {
                member.decided = decided;
                Ok(())
            }
        };
        let applied = applied.and_then(|()| {
            if records.is_empty() {
                return Ok(());
            }
            let followed = records.into_iter().map(|record| (record.chain, record.read));
            self.follow(followed.collect::<Vec<_>>(), &mut Answers { member, position: (0, 0) })
        });
        match applied {
            Ok(()) => self.deliver_held(member),
            Err(error) => {
                self.notice_failed_read();
                // The file is opened again, and says how far it is.
                if !self.is_failed() {
                    member.latch(error.to_string());
                }
            }
        }
    }

    /// Returns true if `records` purge tombstones while the pages of the file are not verified yet: they wait for that.
    fn must_verify_first(&self, records: &[ReceivedRecord]) -> bool {
        let purges =
            |record: &ReceivedRecord| matches!(&record.read, ReadRecord::Batch(batch) if !batch.purged.is_empty());
        let health = self.shared.database.pages().map_or(Pages::Sound, |pages| pages.health());
        health == Pages::Unverified && records.iter().any(purges)
    }

    /// Applies the batch that this node decided and the log has.
    fn apply_decided(
        &mut self,
        member: &mut Member<C>,
        decided: DecidedBatch,
        record: ReceivedRecord,
    ) -> Result<(), StoreError> {
        let DecidedBatch { number, mut changes, outcomes } = decided;
        if let ReadRecord::Batch(batch) = record.read {
            changes.record = *batch;
        }
        self.note_decided(&changes.record);
        self.applied_position.get_or_insert_default().chain = record.chain;
        let mut outcomes = outcomes.into_iter().peekable();
        for DecidedRequest { request, decision } in &changes.record.requests {
            if let RequestDecision::Broadcast(bytes) = decision {
                member.hold_broadcast(number, *request, bytes.clone());
                continue;
            }
            if let RequestDecision::Purged(purged) = decision {
                member.hold_purged(*request, *purged);
                continue;
            }
            if let RequestDecision::Changed(sent) = decision {
                member.hold_row(number, sent.row.clone());
            }
            match outcomes.next_if(|outcome| outcome.context == Some(*request)) {
                Some(outcome) => member.hold_outcome(number, outcome),
                // It had no content that could be decided, or is a purge that is refused.
                None => drop(member.client(*request)),
            }
        }
        member.answered = (number, usize::MAX);
        self.apply_with_rows(changes, member.held.rows_to_commit(number))?;
        member.held.committed(number);
        Ok(())
    }

    /// Reads the records again that follow those in the file, after it was opened again. Returns false if the node no longer
    /// keeps them.
    fn read_again(&mut self, member: &mut Member<C>) -> bool {
        let mut chain = self.applied_position.as_ref().map(|applied| applied.chain).unwrap_or_default();
        let mut records = Vec::new();
        while chain.position.number < member.replica.chain().position.number {
            let number = chain.position.number + 1;
            let kept = member.replica.kept().record(number);
            let bytes = kept.map_or(0, Bytes::len);
            let Some(Ok(read)) = kept.map(|record| chain.read(record)) else {
                member.latch(format!("record {number} is to be applied again, and is not kept: start the node again"));
                return false;
            };
            records.push(ReceivedRecord { chain, read, bytes, permit: None });
        }
        member.records = records;
        member.behind_at = None;
        if member.records.is_empty() {
            self.deliver_held(member);
        }
        true
    }

    fn deliver_held(&mut self, member: &mut Member<C>) {
        member.unapplied.clear();
        let Answered { outcomes, calls, broadcasts, permit, .. } = mem::take(&mut member.held);
        self.durable.extend(calls);
        self.broadcasts.extend(broadcasts);
        self.deliver(outcomes, QueueReservation::of(permit));
    }

    /// Refuses requests of sessions whose clients have opened one at another node since, and withdraws openings that came to nothing before. No node decides them any more.
    fn end_superseded(&mut self, member: &mut Member<C>) {
        let moved = member.openings.take_moved();
        if moved.is_empty() {
            return;
        }
        let mut ended = Answered::default();
        for request in member.own.withdraw(&moved, member.now.saturating_sub(OPENING_WITHIN)) {
            match request {
                OwnRequest::Command(queued, permit) => ended.add_refused(*queued, permit, superseded()),
                OwnRequest::Broadcast(opening) => member.openings.waits_no_more(opening.opens.as_ref()),
                OwnRequest::Purge(..) | OwnRequest::Barrier(_) | OwnRequest::Withdrawn => {}
            }
        }
        self.deliver(ended.outcomes, QueueReservation::of(ended.permit));
    }

    /// Ends requests that have waited for too long.
    fn expire(&mut self, member: &mut Member<C>) {
        let mut expired = Answered::default();
        let before = if member.latched.is_some() { Duration::MAX } else { member.now.saturating_sub(ANSWER_WITHIN) };
        while let Some((queued, permit)) = member.own.expired(before) {
            expired.add_refused(queued, permit, Rejection::OutcomeUnknown);
        }
        self.deliver(expired.outcomes, QueueReservation::of(expired.permit));
    }
}
