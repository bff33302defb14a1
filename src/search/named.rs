//! Named queries: those of the configuration, and those that clients have stored.
//!
//! A query of the configuration hides a stored one with its name. A stored one belongs to its creator: only the creator, and
//! who has all rights, may change or delete it. Each counts as memory of its creator, and is a row of the store ([`rows`]). The
//! [`registry`] has all of them and their limits.
//!
//! In a cluster, stored queries change by the log alone, at all nodes alike ([`log`]).
//!
//! Every query can be followed: it is one that [`super::live::parse`] accepts.

mod log;
mod name;
mod registry;
mod rights;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use self::rights::{QueryRights, may_store};
use self::{
    log::QueryLog,
    registry::{Registry, Stamp},
    rows::QueryRow,
};
pub use self::{name::QueryName, rows::QueryRows};
use crate::{
    admission::{Charge, Quotas, work},
    auth::Access,
    config::{Config, ConfigError},
    engine::Service,
    fleet::Query,
    search::live,
    shadow::{Rejection, Timestamp},
};

/// Most characters of a description.
pub(crate) const DESCRIPTION_CHARS_MAX: usize = 1_024;
/// Approximate memory of a query beside its texts.
const QUERY_BYTES: usize = 1_024;

/// All named queries.
#[derive(Debug)]
pub struct NamedQueries {
    registry: Mutex<Registry>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
    /// The log of a cluster, by which stored queries change.
    log: OnceLock<QueryLog>,
}

/// A query with a name.
#[derive(Debug)]
pub struct NamedQuery {
    pub(crate) name: QueryName,
    pub(crate) definition: QueryDefinition,
    pub(crate) origin: QueryOrigin,
    /// The memory of a stored one.
    _charge: Option<Charge>,
}

/// The number of a change in the log of a cluster; 0 for one on a single node.
type Revision = u64;

/// A query that was stored, and true if it is new.
pub(crate) type StoredQuery = (Arc<NamedQuery>, bool);

/// The content of a named query.
#[derive(Clone, Debug)]
pub(crate) struct QueryDefinition {
    /// The query as it was written.
    pub(crate) text: String,
    pub(crate) query: Arc<Query>,
    pub(crate) description: Option<String>,
}

/// The place where a named query is defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueryOrigin {
    /// The configuration.
    Configuration,
    /// The store.
    Stored {
        /// The principal that created it.
        created_by: Arc<str>,
        /// The time of the creation.
        created_at: Timestamp,
        /// The time of the last change.
        updated_at: Timestamp,
        /// The last change.
        revision: Revision,
    },
}

/// The reason that a named query is not stored or deleted.
#[derive(Debug)]
pub(crate) enum NotStored {
    /// The configuration has one with this name.
    Configured,
    /// Another principal's has this name, or the request is for a new one.
    Exists,
    /// There is none with this name that the caller may see.
    NotFound,
    /// There are too many. The text says which, and how many there may be.
    TooMany(String),
    /// There is no memory for it.
    Memory(Rejection),
    /// The log of the cluster has not confirmed it in time.
    Unconfirmed,
}

/// Returns the queries of the configuration.
///
/// # Errors
///
/// A [`ConfigError`] for the first one that is invalid.
pub fn configured(config: &Config) -> Result<Vec<NamedQuery>, ConfigError> {
    let mut found: Vec<NamedQuery> = Vec::new();
    for (index, written) in config.queries.iter().enumerate() {
        let invalid = |key: &str, problem: String| config.invalid(format!("query[{index}].{key}"), problem);
        let name = QueryName::new(&written.name).map_err(|error| invalid("name", format!("is invalid: {error}")))?;
        if found.iter().any(|other| other.name == name) {
            return Err(invalid("name", format!("is '{name}', as that of another query")));
        }
        let definition = QueryDefinition::read(&written.q, Some(&written.description));
        let definition = definition.map_err(|(key, reason)| invalid(key, format!("is invalid: {reason}")))?;
        found.push(NamedQuery { name, definition, origin: QueryOrigin::Configuration, _charge: None });
    }
    Ok(found)
}

impl QueryDefinition {
    /// Checks a definition. An empty description counts as none.
    ///
    /// # Errors
    ///
    /// The member that is invalid, and the reason.
    pub(crate) fn read(text: &str, description: Option<&str>) -> Result<Self, (&'static str, String)> {
        let query = Arc::new(live::parse(text).map_err(|reason| ("q", reason))?);
        let description = description.filter(|description| !description.is_empty()).map(str::to_owned);
        let length = description.as_ref().map_or(0, |description| description.chars().count());
        if length > DESCRIPTION_CHARS_MAX {
            return Err(("description", format!("{length} characters, allowed are {DESCRIPTION_CHARS_MAX}")));
        }
        Ok(Self { text: text.to_owned(), query, description })
    }

    fn is_same(&self, other: &Self) -> bool {
        self.text == other.text && self.description == other.description
    }

    /// Returns the approximate memory: the text is kept as such and parsed.
    fn memory(&self) -> usize {
        QUERY_BYTES + 8 * self.text.len() + self.description.as_ref().map_or(0, String::len)
    }
}

impl NamedQuery {
    /// Returns true if a client with these rights may see the definition: its creator, and who may read every device. Everybody
    /// may follow it, and sees the devices that it may read.
    pub(crate) fn is_visible_to(&self, rights: &QueryRights) -> bool {
        self.is_of(rights) || rights.reads_every_device
    }

    /// Returns true if a client with these rights may change it, unless it is of the configuration.
    fn is_of(&self, rights: &QueryRights) -> bool {
        rights.is_everything || self.created_by() == Some(&rights.principal)
    }

    /// Returns the principal that created it, and when.
    fn created(&self) -> Option<(&Arc<str>, Timestamp)> {
        match &self.origin {
            QueryOrigin::Configuration => None,
            QueryOrigin::Stored { created_by, created_at, .. } => Some((created_by, *created_at)),
        }
    }

    fn created_by(&self) -> Option<&Arc<str>> {
        self.created().map(|(by, _)| by)
    }

    /// Returns its last change.
    fn revision(&self) -> Revision {
        match self.origin {
            QueryOrigin::Configuration => 0,
            QueryOrigin::Stored { revision, .. } => revision,
        }
    }

    /// Returns the row, if it is a stored one.
    fn row(&self) -> Option<QueryRow> {
        let QueryOrigin::Stored { created_by, created_at, updated_at, revision } = &self.origin else { return None };
        Some(QueryRow {
            q: self.definition.text.clone(),
            description: self.definition.description.clone(),
            created_by: created_by.clone(),
            created_at: created_at.0,
            updated_at: updated_at.0,
            revision: Some(*revision).filter(|revision| *revision > 0),
        })
    }
}

impl NamedQueries {
    /// Returns no queries.
    #[must_use]
    pub fn empty() -> Self {
        Self { registry: Mutex::default(), changes: watch::Sender::new(0), log: OnceLock::new() }
    }

    /// Adds the queries of `rows` and those of the configuration. Called once, before the first record of a cluster's log is applied.
    pub fn restore(&self, rows: QueryRows, configured: Vec<NamedQuery>, service: &Service) {
        let is_replicated = service.health().member.is_some();
        self.restore_rows(rows, service.quotas());
        if is_replicated {
            self.join(QueryLog::new(service.quotas(), service.request_room()));
        }
        self.configure(configured);
    }

    fn restore_rows(&self, rows: QueryRows, quotas: &Quotas) {
        let mut registry = self.registry.lock();
        for (name, row) in rows.0 {
            let definition = match QueryDefinition::read(&row.q, row.description.as_deref()) {
                Ok(definition) => definition,
                Err((_, reason)) => {
                    tracing::error!(query = %name, reason, "a named query cannot be read; it is kept and ignored");
                    continue;
                }
            };
            // The limits of its roles are known when it connects.
            let _charge = Some(Charge::new(quotas.of_absent(&row.created_by), definition.memory()));
            let origin = QueryOrigin::Stored {
                created_by: row.created_by,
                created_at: Timestamp(row.created_at),
                updated_at: Timestamp(row.updated_at),
                revision: row.revision.unwrap_or_default(),
            };
            registry.restore(NamedQuery { name, definition, origin, _charge });
        }
    }

    /// Has stored queries change by the log of a cluster.
    fn join(&self, log: QueryLog) {
        let joined = self.log.set(log);
        debug_assert!(joined.is_ok(), "it joins once");
    }

    /// Replaces the queries of the configuration.
    pub fn configure(&self, configured: Vec<NamedQuery>) {
        self.registry.lock().configure(configured);
        self.changed();
    }

    /// Returns the query `name`.
    pub(crate) fn get(&self, name: &QueryName) -> Option<Arc<NamedQuery>> {
        self.registry.lock().get(name).cloned()
    }

    /// Returns the queries after `after` in the order of their names that a client with `access` may see; at most `limit`.
    pub(crate) fn list(&self, after: Option<&str>, limit: usize, access: &Access) -> Vec<Arc<NamedQuery>> {
        let (mut all, rights) = (self.registry.lock().all(), QueryRights::of(access));
        all.retain(|name, _| after.is_none_or(|after| name.as_str() > after));
        all.into_values().filter(|query| query.is_visible_to(&rights)).take(limit).collect()
    }

    /// Returns the work of a change, which wakes everyone who follows a query.
    pub(crate) fn work_of_change(&self) -> u64 {
        work::times(self.changes.receiver_count(), work::DELIVERY)
    }

    /// Returns a receiver that wakes at each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Stores the query `name` on behalf of a client with `access`. A single node has it on disk somewhat later. An existing one is
    /// replaced unless `is_new_only` is set, and keeps its creator.
    ///
    /// # Errors
    ///
    /// A [`NotStored`].
    pub(crate) async fn store(
        &self,
        service: &Service,
        access: &Access,
        (name, definition): (QueryName, QueryDefinition),
        is_new_only: bool,
    ) -> Result<StoredQuery, NotStored> {
        let (rights, quotas) = (QueryRights::of(access), service.quotas());
        if let Some(log) = self.log.get() {
            return self.store_by_log(service, log, rights, (name, definition), is_new_only).await;
        }
        let mut registry = self.registry.lock();
        registry.check_hidden(&name)?;
        let stamp = Stamp { date: service.now(), revision: 0 };
        let charge = |owner: &Arc<str>, bytes| charge(quotas, owner, bytes);
        let (stored, row) = registry.store(&rights, (name, definition), is_new_only, stamp, charge)?;
        if row.is_some() {
            service.write_rows(row.into_iter().collect(), None);
            self.changed();
        }
        Ok(stored)
    }

    /// Deletes the query `name` on behalf of a client with `access`. A single node has that on disk somewhat later.
    ///
    /// # Errors
    ///
    /// [`NotStored::Configured`], [`NotStored::Exists`], [`NotStored::NotFound`], [`NotStored::Unconfirmed`].
    pub(crate) async fn delete(&self, service: &Service, access: &Access, name: &QueryName) -> Result<(), NotStored> {
        let rights = QueryRights::of(access);
        if let Some(log) = self.log.get() {
            return self.delete_by_log(service, log, rights, name).await;
        }
        let mut registry = self.registry.lock();
        registry.check_configured(&rights, name)?;
        let (_, row) = registry.delete(&rights, name)?;
        service.write_rows(vec![row], None);
        self.changed();
        Ok(())
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Ends all waits for the log, when the server ends.
    pub(crate) fn close(&self) {
        if let Some(log) = self.log.get() {
            log.requests().close();
        }
    }
}

/// Charges a query to its creator.
///
/// # Errors
///
/// [`NotStored::Memory`].
fn charge(quotas: &Quotas, owner: &Arc<str>, bytes: usize) -> Result<Charge, NotStored> {
    let mut charge = Charge::new(quotas.of_absent(owner), 0);
    quotas.grow(&mut charge, bytes).map_err(NotStored::Memory)?;
    Ok(charge)
}
