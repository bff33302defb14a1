//! The way of stored queries to the log of a cluster, and back.
//!
//! A change that a client asks for is broadcast, and every node applies it in the order of the log, to the same queries. The writer of the
//! store commits the edits with the record. Whoever asked waits until this node has applied it.
//!
//! A message begins with its kind ([`KIND`], 1 byte); the rest is JSON. It has the number of the last change of its query that the node of
//! the client had applied ([`QueryOrigin::Stored`]). If there was another since, nothing is done, and the node asks again if its client
//! still waits: one that comes late undoes nothing that was answered since.
//!
//! *Invariant:* what a message makes depends on the stored queries and the message alone, never on the time, the node, its configuration,
//! or the memory that a principal uses there.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    admission::{Charge, Quotas},
    engine::{EncodedRequest, LogRequests, RequestRoom, Service, answered_in_time, nonce},
    search::named::{
        NamedQueries, NotStored, QueryDefinition, QueryName, QueryRights, Revision, StoredQuery, charge,
        registry::{Place, Registry, Stamp},
    },
    shadow::Timestamp,
    store::RowEdit,
};

/// The first byte of a message of named queries. Those of rollouts begin with 0, and those of the broker with a letter.
const KIND: u8 = 1;

/// The log of a cluster, for its stored queries.
#[derive(Debug)]
pub(super) struct QueryLog {
    quotas: Arc<Quotas>,
    requests: LogRequests<Answer>,
}

/// The answer to a message.
#[derive(Debug)]
pub(super) enum Answer {
    /// It was applied to this query.
    Done(StoredQuery),
    /// Nothing was done: the query was changed since.
    Lacking,
    /// It was refused.
    Refused(NotStored),
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    /// A random number, by which the node that sent it knows it again.
    pub(super) request: u64,
    /// The date at the node that sent it.
    pub(super) date: Timestamp,
    /// The number of the last change of the query, as that node knew it; `None` without a query.
    pub(super) known: Option<Revision>,
    pub(super) name: QueryName,
    pub(super) by: QueryRights,
    pub(super) change: Change,
}

/// A change that a client asks for.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// To store this definition.
    Stored { definition: QueryDefinition, is_new_only: bool },
    /// To delete the query.
    Deleted,
}

#[derive(Serialize, Deserialize)]
struct Content {
    request: u64,
    date: u64,
    known: Option<Revision>,
    name: String,
    by: QueryRights,
    change: ChangeContent,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ChangeContent {
    Stored { q: String, description: Option<String>, is_new_only: bool },
    Deleted,
}

impl Message {
    /// Returns the encoded message.
    pub(super) fn encode(&self) -> Bytes {
        let change = match &self.change {
            Change::Stored { definition: QueryDefinition { text, description, .. }, is_new_only } => {
                let (q, description) = (text.clone(), description.clone());
                ChangeContent::Stored { q, description, is_new_only: *is_new_only }
            }
            Change::Deleted => ChangeContent::Deleted,
        };
        let Self { request, date, known, .. } = *self;
        let content =
            Content { request, date: date.0, known, name: self.name.to_string(), by: self.by.clone(), change };
        let mut out = vec![KIND];
        out.extend(serde_json::to_vec(&content).expect("all keys are strings"));
        out.into()
    }

    /// Decodes a message; `None` if it is damaged or of a later program.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let content = serde_json::from_slice(bytes.strip_prefix(&[KIND])?).ok()?;
        let Content { request, date, known, name, by, change } = content;
        let change = match change {
            ChangeContent::Stored { q, description, is_new_only } => {
                Change::Stored { definition: QueryDefinition::read(&q, description.as_deref()).ok()?, is_new_only }
            }
            ChangeContent::Deleted => Change::Deleted,
        };
        Some(Self { request, date: Timestamp(date), known, name: QueryName::new(&name).ok()?, by, change })
    }
}

impl QueryLog {
    pub(super) fn new(quotas: &Arc<Quotas>, room: &Arc<RequestRoom>) -> Self {
        Self { quotas: quotas.clone(), requests: LogRequests::new(room.clone()) }
    }

    /// Returns the requests of this node.
    pub(super) fn requests(&self) -> &LogRequests<Answer> {
        &self.requests
    }

    /// Applies broadcast `number`. Returns the answer, and the edit that is committed with the record.
    fn applied(&self, registry: &mut Registry, number: u64, message: Message) -> (Answer, Option<RowEdit>) {
        let Message { date, known, name, by, change, .. } = message;
        if registry.stored(&name).map(|query| query.revision()) != known {
            return (Answer::Lacking, None);
        }
        let done = match change {
            Change::Stored { definition, is_new_only } => {
                // The node of the client has checked it.
                let charge = |owner: &Arc<str>, bytes| Ok(Charge::new(self.quotas.of_absent(owner), bytes));
                registry.store(&by, (name, definition), is_new_only, Stamp { date, revision: number }, charge)
            }
            Change::Deleted => registry.delete(&by, &name).map(|(query, row)| ((query, false), Some(row))),
        };
        match done {
            Ok((query, row)) => (Answer::Done(query), row),
            Err(refused) => (Answer::Refused(refused), None),
        }
    }
}

impl NamedQueries {
    /// Returns true for a broadcast of named queries.
    #[must_use]
    pub fn is_message(bytes: &[u8]) -> bool {
        bytes.first() == Some(&KIND)
    }

    /// Applies broadcast `number`. Returns the edits that it makes.
    #[must_use]
    pub fn apply(&self, number: u64, bytes: &Bytes) -> Vec<RowEdit> {
        let Some(log) = self.log.get() else { return Vec::new() };
        let Some(message) = Message::decode(bytes) else {
            tracing::error!("a change of a named query cannot be read; it is of a later version");
            return Vec::new();
        };
        let (request, by) = (message.request, message.by.principal.clone());
        let (answer, row) = log.applied(&mut self.registry.lock(), number, message);
        if row.is_some() {
            self.changed();
        }
        let is_own = log.requests.answer(request, answer);
        // Those who follow queries are woken at each node.
        if row.is_some()
            && !is_own
            && let Some(quota) = log.quotas.principals.known(&by)
        {
            let _before_its_next_request = quota.charge_work(self.work_of_change(), Instant::now());
        }
        row.into_iter().collect()
    }

    /// Stores a query in the log, as [`NamedQueries::store`] does.
    pub(super) async fn store_by_log(
        &self,
        service: &Service,
        log: &QueryLog,
        by: QueryRights,
        (name, definition): (QueryName, QueryDefinition),
        is_new_only: bool,
    ) -> Result<StoredQuery, NotStored> {
        // This node may know less than the log, which decides about everything but the memory.
        let place = {
            let registry = self.registry.lock();
            registry.check_hidden(&name)?;
            registry.place(&by, (&name, &definition), is_new_only)
        };
        let _until_it_is_stored = match place {
            Ok(Place::Free { created_by, .. }) => Some(charge(service.quotas(), &created_by, definition.memory())?),
            Ok(Place::Same(_)) | Err(_) => None,
        };
        self.ask(service, log, by, name, Change::Stored { definition, is_new_only }).await
    }

    /// Deletes a query in the log, as [`NamedQueries::delete`] does.
    pub(super) async fn delete_by_log(
        &self,
        service: &Service,
        log: &QueryLog,
        by: QueryRights,
        name: &QueryName,
    ) -> Result<(), NotStored> {
        self.registry.lock().check_configured(&by, name)?;
        self.ask(service, log, by, name.clone(), Change::Deleted).await.map(|_deleted| ())
    }

    /// Sends a change, again while others came first that this node did not know, and waits until this node has applied it.
    async fn ask(
        &self,
        service: &Service,
        log: &QueryLog,
        by: QueryRights,
        name: QueryName,
        change: Change,
    ) -> Result<StoredQuery, NotStored> {
        let mut message = Message { request: 0, date: service.now(), known: None, name, by, change };
        let asked = async {
            loop {
                message.request = nonce();
                message.known = self.registry.lock().stored(&message.name).map(|query| query.revision());
                let (bytes, by) = (message.encode(), Some(&message.by.principal));
                let request = EncodedRequest { number: message.request, bytes: &bytes, by, may_expire: true };
                match log.requests.ask(service, request).await? {
                    Answer::Lacking => {}
                    Answer::Done(query) => return Some(Ok(query)),
                    Answer::Refused(refused) => return Some(Err(refused)),
                }
            }
        };
        answered_in_time(asked).await.unwrap_or(Err(NotStored::Unconfirmed))
    }
}
