//! Named queries: those of the configuration, and those that clients have stored.
//!
//! A query of the configuration hides a stored one with its name. A stored one belongs to its creator: only the creator, and
//! who has all rights, may change or delete it. Each counts as memory of its creator, and is a row of the store ([`rows`]).
//!
//! Every query can be followed: it is one that [`super::live::parse`] accepts.

mod name;
mod rows;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use self::rows::QueryRow;
pub use self::{name::QueryName, rows::QueryRows};
use crate::{
    admission::{Charge, PrincipalQuota, work},
    auth::{Access, DeviceRange, Operation},
    config::{Config, ConfigError, RoleLimits},
    engine::Service,
    fleet::Query,
    search::live,
    shadow::{Rejection, Timestamp},
};

/// Most stored queries, of all principals and of one.
const STORED_MAX: usize = 1_000;
const STORED_BY_ONE_MAX: usize = 100;
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
}

#[derive(Debug, Default)]
struct Registry {
    configured: BTreeMap<QueryName, Arc<NamedQuery>>,
    stored: BTreeMap<QueryName, Arc<NamedQuery>>,
}

/// A query with a name.
#[derive(Debug)]
pub struct NamedQuery {
    pub(crate) name: QueryName,
    pub(crate) definition: QueryDefinition,
    pub(crate) origin: QueryOrigin,
    charge: Option<Charge>,
}

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
        found.push(NamedQuery { name, definition, origin: QueryOrigin::Configuration, charge: None });
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
    /// Returns true if a client with `access` may see the definition: its creator, and who may read every device. Everybody
    /// may follow it, and sees the devices that it may read.
    pub(crate) fn is_visible_to(&self, access: &Access) -> bool {
        self.is_of(access) || reads_every_device(access)
    }

    /// Returns true if a client with `access` may change it.
    fn is_of(&self, access: &Access) -> bool {
        access.is_everything()
            || matches!(&self.origin, QueryOrigin::Stored { created_by, .. } if created_by == access.principal().name())
    }

    fn created_by(&self) -> Option<&Arc<str>> {
        match &self.origin {
            QueryOrigin::Configuration => None,
            QueryOrigin::Stored { created_by, .. } => Some(created_by),
        }
    }

    /// Returns the row, if it is a stored one.
    fn row(&self) -> Option<QueryRow> {
        let QueryOrigin::Stored { created_by, created_at, updated_at } = &self.origin else { return None };
        Some(QueryRow {
            q: self.definition.text.clone(),
            description: self.definition.description.clone(),
            created_by: created_by.clone(),
            created_at: created_at.0,
            updated_at: updated_at.0,
        })
    }
}

/// Returns true if a client with `access` may read some part of every device.
fn reads_every_device(access: &Access) -> bool {
    access.devices(Operation::Get, usize::MAX).is_none()
}

/// Returns true if a client with `access` may store queries: if it may read more than single devices.
pub(crate) fn may_store(access: &Access) -> bool {
    let devices = access.devices(Operation::Get, usize::MAX);
    devices.is_none_or(|ranges| ranges.iter().any(|range| matches!(range, DeviceRange::Prefix(_))))
}

impl NamedQueries {
    /// Returns the queries `configured`, and those of `rows`.
    #[must_use]
    pub fn restore(rows: QueryRows, configured: Vec<NamedQuery>, service: &Service) -> Self {
        let mut stored = BTreeMap::new();
        for (name, row) in rows.0 {
            let definition = match QueryDefinition::read(&row.q, row.description.as_deref()) {
                Ok(definition) => definition,
                Err((_, reason)) => {
                    tracing::error!(query = %name, reason, "a named query cannot be read; it is kept and ignored");
                    continue;
                }
            };
            // The limits of its roles are known when it connects.
            let principals = &service.quotas().principals;
            let quota = principals.of(&row.created_by, &RoleLimits::UNLIMITED, Instant::now());
            let charge = Some(Charge::new(quota, definition.memory()));
            let origin = QueryOrigin::Stored {
                created_by: row.created_by,
                created_at: Timestamp(row.created_at),
                updated_at: Timestamp(row.updated_at),
            };
            stored.insert(name.clone(), Arc::new(NamedQuery { name, definition, origin, charge }));
        }
        let queries = Self {
            registry: Mutex::new(Registry { configured: BTreeMap::new(), stored }),
            changes: watch::Sender::new(0),
        };
        queries.configure(configured);
        queries
    }

    /// Replaces the queries of the configuration.
    pub fn configure(&self, configured: Vec<NamedQuery>) {
        let mut registry = self.registry.lock();
        let former = std::mem::take(&mut registry.configured);
        for query in configured {
            if registry.stored.contains_key(&query.name) {
                tracing::warn!(query = %query.name, "the configuration hides a stored query with the same name");
            }
            // What did not change is not begun again by those who follow it.
            let same = former.get(&query.name).filter(|former| former.definition.is_same(&query.definition));
            let query = same.cloned().unwrap_or_else(|| Arc::new(query));
            registry.configured.insert(query.name.clone(), query);
        }
        self.changed();
    }

    /// Returns the query `name`.
    pub(crate) fn get(&self, name: &QueryName) -> Option<Arc<NamedQuery>> {
        self.registry.lock().get(name).cloned()
    }

    /// Returns the queries after `after` in the order of their names that a client with `access` may see; at most `limit`.
    pub(crate) fn list(&self, after: Option<&str>, limit: usize, access: &Access) -> Vec<Arc<NamedQuery>> {
        let mut all = {
            let registry = self.registry.lock();
            let mut all = registry.stored.clone();
            all.extend(registry.configured.iter().map(|(name, query)| (name.clone(), query.clone())));
            all
        };
        all.retain(|name, _| after.is_none_or(|after| name.as_str() > after));
        let reads_every_device = reads_every_device(access);
        all.into_values().filter(|query| reads_every_device || query.is_of(access)).take(limit).collect()
    }

    /// Returns the work of a change, which wakes everyone who follows a query.
    pub(crate) fn work_of_change(&self) -> u64 {
        work::times(self.changes.receiver_count(), work::DELIVERY)
    }

    /// Returns a receiver that wakes at each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Stores the query `name` on behalf of a client with `access`, and returns it, and true if it is new. It is on disk
    /// somewhat later. An existing one is replaced unless `is_new_only` is set, and keeps its creator.
    ///
    /// # Errors
    ///
    /// A [`NotStored`].
    pub(crate) fn store(
        &self,
        service: &Service,
        access: &Access,
        quota: &Arc<PrincipalQuota>,
        (name, definition): (QueryName, QueryDefinition),
        is_new_only: bool,
    ) -> Result<(Arc<NamedQuery>, bool), NotStored> {
        let mut registry = self.registry.lock();
        if registry.configured.contains_key(&name) {
            return Err(NotStored::Configured);
        }
        let (now, former) = (service.now(), registry.stored.get(&name));
        let origin = match former {
            Some(former) if is_new_only || !former.is_of(access) => return Err(NotStored::Exists),
            Some(former) if former.definition.is_same(&definition) => return Ok((former.clone(), false)),
            Some(former) => former.origin.changed_at(now),
            None => {
                let created_by = access.principal().name().clone();
                registry.check_count(&created_by)?;
                QueryOrigin::Stored { created_by, created_at: now, updated_at: now }
            }
        };
        let is_new = former.is_none();
        let own = former.and_then(|former| former.charge.as_ref()).map_or(quota, Charge::quota);
        let mut charge = Charge::new(own.clone(), 0);
        service.quotas().grow(&mut charge, definition.memory()).map_err(NotStored::Memory)?;
        let query = Arc::new(NamedQuery { name: name.clone(), definition, origin, charge: Some(charge) });
        registry.stored.insert(name.clone(), query.clone());
        service.write_rows(query.row().iter().map(|row| rows::put(&name, row)).collect(), None);
        self.changed();
        Ok((query, is_new))
    }

    /// Deletes the query `name` on behalf of a client with `access`. That is on disk somewhat later.
    ///
    /// # Errors
    ///
    /// [`NotStored::Configured`], [`NotStored::NotFound`].
    pub(crate) fn delete(&self, service: &Service, access: &Access, name: &QueryName) -> Result<(), NotStored> {
        let mut registry = self.registry.lock();
        match registry.get(name) {
            Some(query) if query.is_of(access) && query.created_by().is_some() => {}
            Some(query) if query.is_visible_to(access) && query.created_by().is_none() => {
                return Err(NotStored::Configured);
            }
            Some(query) if query.is_visible_to(access) => return Err(NotStored::Exists),
            _ => return Err(NotStored::NotFound),
        }
        registry.stored.remove(name);
        service.write_rows(vec![rows::remove(name)], None);
        self.changed();
        Ok(())
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

impl QueryOrigin {
    fn changed_at(&self, now: Timestamp) -> Self {
        match self {
            Self::Configuration => Self::Configuration,
            Self::Stored { created_by, created_at, .. } => {
                Self::Stored { created_by: created_by.clone(), created_at: *created_at, updated_at: now }
            }
        }
    }
}

impl Registry {
    fn get(&self, name: &QueryName) -> Option<&Arc<NamedQuery>> {
        self.configured.get(name).or_else(|| self.stored.get(name))
    }

    /// Checks that the principal `by` may have one more query.
    fn check_count(&self, by: &Arc<str>) -> Result<(), NotStored> {
        let own = self.stored.values().filter(|query| query.created_by() == Some(by)).count();
        if own >= STORED_BY_ONE_MAX {
            return Err(NotStored::TooMany(format!("'{by}' has {own}, the most for one principal")));
        }
        match self.stored.len() {
            all if all >= STORED_MAX => Err(NotStored::TooMany(format!("there are {all}, the most"))),
            _ => Ok(()),
        }
    }
}
