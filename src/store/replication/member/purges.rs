//! The purge of tombstones that an operator asks for, in a cluster: a request that the node that decides answers with a record of its own.
//!
//! The record names the tombstones and the floors of their devices, so every node removes the same at the same place of the log, and a
//! node that was away does when it reads the record. It is decided apart from other requests, since it removes what the store has before them.

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    shadow::Rejection,
    store::{
        batch::Batch,
        purging::{PurgeOrder, PurgedTombstones},
        replication::{
            batch_record::{DecidedRequest, RequestDecision},
            member::Member,
            requests::{OwnRequest, RequestContent, RequestNumber, RequestToDecide},
        },
        writer::Writer,
    },
};

impl<C> Member<C> {
    /// Adds the order of an operator at this node.
    pub(in crate::store) fn add_purge(&mut self, order: PurgeOrder, permit: OwnedSemaphorePermit) {
        self.own.add(OwnRequest::Purge(order, permit), self.now);
    }

    /// Returns true if the next request of this node's clients, or of others, is a purge.
    pub(super) fn is_purge_next(&self) -> bool {
        self.own.is_purge_next() || self.received.is_purge_next()
    }

    /// Takes the next request if it is a purge.
    pub(super) fn next_purge(&mut self) -> Option<RequestToDecide> {
        if self.own.is_purge_next() {
            self.next_own()
        } else if self.received.is_purge_next() {
            self.received.next()
        } else {
            None
        }
    }

    /// Holds the answer to a purge, if this node was asked for it.
    pub(super) fn hold_purged(&mut self, request: RequestNumber, purged: PurgedTombstones) {
        if let Some(OwnRequest::Purge(order, permit)) = self.own_request(request) {
            self.held.calls.push(Box::new(move || {
                order.answer(Ok(purged));
                drop(permit);
            }));
        }
    }
}

impl<C> Writer<C> {
    /// Decides `purge` alone.
    pub(super) fn decide_purge(&mut self, purge: RequestToDecide) -> Batch<RequestNumber> {
        let RequestToDecide { request, content, .. } = purge;
        let now = self.clock.now();
        let purgeable = match content {
            Ok(RequestContent::Purge { keys, dry_run }) => self.purgeable(&keys, now).map(|found| (found, dry_run)),
            _ => Err(refused()),
        };
        let (mut changes, decision) = match purgeable {
            Ok(((purges, done), dry_run)) => {
                let is_empty = dry_run || purges.is_empty();
                let changes = if is_empty { self.no_changes_at(now) } else { self.purging(purges, done, now) };
                (changes, RequestDecision::Purged(done))
            }
            Err(rejection) => {
                tracing::warn!(?rejection, node = request.origin.node.0, "a purge of tombstones is refused");
                (self.no_changes_at(now), RequestDecision::Refused)
            }
        };
        changes.record.requests.push(DecidedRequest { request, decision });
        Batch::new(changes, 0)
    }
}

/// Returns the refusal of a purge by the node that decides.
pub(super) fn refused() -> Rejection {
    Rejection::Unavailable(
        "the node of the cluster that decides refuses the purge: it has not verified all pages of its store yet, some are damaged, or \
         its version does not know the request; nothing is removed until then"
            .to_owned(),
    )
}
