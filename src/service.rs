//! The one entry for a shadow command, whichever door it came through.
//!
//! A command is counted against its quota and queued for the store's writer. Once it is decided and durable, the
//! announcer thread takes it, in the order of the journal: the [`Announcer`] tells the change to whom it concerns,
//! then the requester is answered. So the events of one shadow leave in version order, and an acknowledgement never
//! overtakes the events it acknowledges.
//!
//! Reading goes around all of this: a reader sees the newest committed document at once.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Instant,
};

use parking_lot::Mutex;

use crate::{
    auth::Principal,
    clock::Clock,
    quota::{Rate, RequestQuota},
    shadow::{Command, Document, Rejection, ShadowKey, Timestamp},
    store::{self, Health, Job, Seq, Store, StoreError, StoreOptions},
    wire::ClientToken,
};

/// Who asked for a command and is told of its outcome.
pub trait Requester: Send {
    /// The MQTT session that asked, if one did.
    fn session(&self) -> Option<u64>;

    /// What the request carried to correlate its replies.
    fn client_token(&self) -> Option<&ClientToken>;

    /// Called once, after the outcome is durable and has been announced.
    fn decided(self: Box<Self>, outcome: &Outcome, now: Timestamp);
}

/// Tells accepted commands to those who listen.
pub trait Announcer: Send {
    /// Called for every accepted command, no-ops included, in the order of the journal.
    fn announce(&mut self, outcome: &Outcome, requester: &dyn Requester, now: Timestamp);
}

/// A decided command.
pub type Outcome = store::Outcome;

/// A command on its way to the store.
pub struct Submission {
    /// The shadow.
    pub key: ShadowKey,
    /// What to do.
    pub command: Command,
    /// Under which identity.
    pub principal: Principal,
    /// By which client, for the history.
    pub client: Arc<str>,
    /// Whom to answer.
    pub requester: Box<dyn Requester>,
}

/// How often and how much may be asked.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLimits {
    /// Requests of one principal to one shadow.
    pub requests: Rate,
    /// Undecided requests of one principal to one shadow.
    pub requests_in_flight_max: u32,
}

/// The service.
pub struct Service {
    store: Store<Box<dyn Requester>>,
    quota: Arc<RequestQuota>,
    clock: Clock,
    announcer: Mutex<Option<JoinHandle<()>>>,
}
