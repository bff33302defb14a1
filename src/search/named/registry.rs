//! The registry: all named queries, and how many may be stored.
//!
//! The effect of a change depends on the stored queries and the change alone, so all nodes of a cluster make the same.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use crate::{
    admission::Charge,
    search::named::{
        NamedQuery, NotStored, QueryDefinition, QueryName, QueryOrigin, QueryRights, Revision, StoredQuery, rows,
    },
    shadow::Timestamp,
    store::RowEdit,
};

/// Most stored queries, of all principals and of one.
const STORED_MAX: usize = 1_000;
const STORED_BY_ONE_MAX: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Registry {
    configured: BTreeMap<QueryName, Arc<NamedQuery>>,
    stored: BTreeMap<QueryName, Arc<NamedQuery>>,
}

/// The place of a definition among the stored queries.
pub(super) enum Place {
    /// The query has it.
    Same(Arc<NamedQuery>),
    /// It is for a query of this creator, which is new without a date.
    Free { created_by: Arc<str>, created_at: Option<Timestamp> },
}

/// The moment of a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) date: Timestamp,
    pub(super) revision: Revision,
}

impl Registry {
    /// Adds a query that the store has.
    pub(super) fn restore(&mut self, query: NamedQuery) {
        self.stored.insert(query.name.clone(), Arc::new(query));
    }

    /// Replaces the queries of the configuration.
    pub(super) fn configure(&mut self, configured: Vec<NamedQuery>) {
        let former = std::mem::take(&mut self.configured);
        for query in configured {
            if self.stored.contains_key(&query.name) {
                tracing::warn!(query = %query.name, "the configuration hides a stored query with the same name");
            }
            // What did not change is not begun again by those who follow it.
            let same = former.get(&query.name).filter(|former| former.definition.is_same(&query.definition));
            let query = same.cloned().unwrap_or_else(|| Arc::new(query));
            self.configured.insert(query.name.clone(), query);
        }
    }

    pub(super) fn get(&self, name: &QueryName) -> Option<&Arc<NamedQuery>> {
        self.configured.get(name).or_else(|| self.stored.get(name))
    }

    /// Returns all queries that are not hidden.
    pub(super) fn all(&self) -> BTreeMap<QueryName, Arc<NamedQuery>> {
        let mut all = self.stored.clone();
        all.extend(self.configured.iter().map(|(name, query)| (name.clone(), query.clone())));
        all
    }

    /// Returns the stored query `name`, also if it is hidden.
    pub(super) fn stored(&self, name: &QueryName) -> Option<&Arc<NamedQuery>> {
        self.stored.get(name)
    }

    /// Checks that a stored query `name` would not be hidden by the configuration.
    pub(super) fn check_hidden(&self, name: &QueryName) -> Result<(), NotStored> {
        if self.configured.contains_key(name) { Err(NotStored::Configured) } else { Ok(()) }
    }

    /// Checks that a client with these rights does not mean a query of the configuration.
    pub(super) fn check_configured(&self, rights: &QueryRights, name: &QueryName) -> Result<(), NotStored> {
        match self.configured.get(name) {
            Some(query) if query.is_visible_to(rights) => Err(NotStored::Configured),
            Some(_) => Err(NotStored::NotFound),
            None => Ok(()),
        }
    }

    /// Returns the place for a definition that a client with these rights stores.
    pub(super) fn place(
        &self,
        rights: &QueryRights,
        (name, definition): (&QueryName, &QueryDefinition),
        is_new_only: bool,
    ) -> Result<Place, NotStored> {
        match self.stored.get(name) {
            Some(former) if is_new_only || !former.is_of(rights) => Err(NotStored::Exists),
            Some(former) if former.definition.is_same(definition) => Ok(Place::Same(former.clone())),
            Some(former) => {
                let (created_by, created_at) = former.created().unzip();
                let created_by = created_by.unwrap_or(&rights.principal).clone();
                Ok(Place::Free { created_by, created_at })
            }
            None => {
                self.check_count(&rights.principal)?;
                Ok(Place::Free { created_by: rights.principal.clone(), created_at: None })
            }
        }
    }

    /// Stores a query on behalf of a client with these rights. Returns it, and the edit of its row unless it was the same before.
    /// `charge` charges its memory to its creator.
    pub(super) fn store(
        &mut self,
        rights: &QueryRights,
        (name, definition): (QueryName, QueryDefinition),
        is_new_only: bool,
        Stamp { date, revision }: Stamp,
        charge: impl FnOnce(&Arc<str>, usize) -> Result<Charge, NotStored>,
    ) -> Result<(StoredQuery, Option<RowEdit>), NotStored> {
        let (created_by, created_at) = match self.place(rights, (&name, &definition), is_new_only)? {
            Place::Same(query) => return Ok(((query, false), None)),
            Place::Free { created_by, created_at } => (created_by, created_at),
        };
        let _charge = Some(charge(&created_by, definition.memory())?);
        let (is_new, created_at) = (created_at.is_none(), created_at.unwrap_or(date));
        let origin = QueryOrigin::Stored { created_by, created_at, updated_at: date, revision };
        let query = Arc::new(NamedQuery { name: name.clone(), definition, origin, _charge });
        let row = query.row().map(|row| rows::put(&name, &row));
        self.stored.insert(name, query.clone());
        Ok(((query, is_new), row))
    }

    /// Deletes a query on behalf of a client with these rights. Returns it, and the removal of its row.
    pub(super) fn delete(
        &mut self,
        rights: &QueryRights,
        name: &QueryName,
    ) -> Result<(Arc<NamedQuery>, RowEdit), NotStored> {
        match self.stored.entry(name.clone()) {
            Entry::Occupied(found) if found.get().is_of(rights) => Ok((found.remove(), rows::remove(name))),
            Entry::Occupied(found) if found.get().is_visible_to(rights) => Err(NotStored::Exists),
            _ => Err(NotStored::NotFound),
        }
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
