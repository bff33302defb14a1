//! The broadcasts in records that are applied: bytes that every node receives, in one order for all, and the rows that they change.

use bytes::Bytes;

use crate::store::{
    batch::Envelope,
    replication::{
        member::{Member, OPENING_WITHIN},
        openings::SessionClient,
        record::Claim,
        requests::{OwnBroadcast, OwnRequest, RequestNumber},
    },
    rows::edit::RowEdit,
};

/// The rows of the store that broadcasts change.
pub trait BroadcastRows: Send {
    /// Takes a row that the store has when it is opened, in the order of the keys.
    fn restore(&mut self, key: &[u8], value: Bytes);

    /// Returns the edits that are committed together with broadcast `number`, so that a start need not receive it again. They
    /// depend on the rows and the broadcasts before alone, so that all nodes make the same.
    fn apply(&mut self, number: u64, bytes: &Bytes) -> Vec<RowEdit>;

    /// Returns the edits that an accepted command makes with this edit, at every node alike.
    fn edit(&mut self, edit: RowEdit) -> Vec<RowEdit>;

    /// Returns true if a command that makes this edit may be accepted now, behind the broadcasts `undecided`, which precede it in the record
    /// that is being made. Asked at the node that decides, where the rows are those of all records before.
    fn permits(&self, edit: &RowEdit, undecided: &[Bytes]) -> bool;
}

/// Bytes that every node of a cluster received, in one order for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// True if this node sent them.
    pub is_own: bool,
    /// Its number, the same at all nodes and higher than that of the one before.
    pub number: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// The kinds of broadcasts that may come too late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BroadcastKind {
    /// It opens a session of this client at its node. It is too late if its node has not followed the log for some seconds, and the
    /// client has opened another one elsewhere since.
    Opening(SessionClient),
    /// Its node takes over what another node had. Only the node that decides may do that.
    Takeover,
    /// It never is.
    Other,
}

impl BroadcastKind {
    /// Returns the client of an opening.
    pub(super) fn opens(self) -> Option<SessionClient> {
        match self {
            Self::Opening(client) => Some(client),
            Self::Takeover | Self::Other => None,
        }
    }
}

impl<C> Member<C> {
    /// Returns true if a broadcast of a node that had `applied` the log came too late to be passed on.
    pub(super) fn is_outdated(&self, kind: &BroadcastKind, origin: Claim, applied: u64) -> bool {
        match kind {
            BroadcastKind::Opening(client) => {
                self.ages.is_older(applied, self.now, OPENING_WITHIN)
                    && self.openings.has_newer(client, origin, applied)
            }
            BroadcastKind::Takeover => origin != self.origin,
            BroadcastKind::Other => false,
        }
    }

    /// Holds the edits of a row that an accepted command of `record` makes.
    pub(super) fn hold_row(&mut self, record: u64, row: Option<RowEdit>) {
        if let Some(edit) = row {
            self.held.add_rows(record, self.rows.edit(edit));
        }
    }

    /// Returns true if the row of a command does not keep it from being accepted.
    pub(super) fn permits(&self, envelope: &Envelope, undecided: &[Bytes]) -> bool {
        envelope.shared_row.as_ref().is_none_or(|edit| self.rows.permits(edit, undecided))
    }

    /// Holds what every node receives with record `record`.
    pub(super) fn hold_broadcast(&mut self, record: u64, request: RequestNumber, bytes: Bytes) {
        let number = (self.last_broadcast + 1).max(record << BROADCAST_BITS);
        self.last_broadcast = number;
        let is_own = request.origin == self.origin;
        if let Some(OwnRequest::Broadcast(OwnBroadcast { on_applied, .. })) = self.own_request(request) {
            self.held.calls.extend(on_applied);
        }
        if let Some(client) = (self.kind_of)(&bytes).opens() {
            self.openings.add(client, request.origin, record, self.now);
        }
        let edits = self.rows.apply(number, &bytes);
        self.held.add_broadcast(record, Broadcast { is_own, number, bytes }, edits);
    }
}

/// The bits of the number of a broadcast that number those of one record. A record has less than 2^16, by its size.
const BROADCAST_BITS: u32 = 16;
