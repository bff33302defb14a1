//! The store of the server, by its configuration.

use std::sync::Arc;

use crate::{
    admission::Quotas,
    clock::Clock,
    config::{Config, Limits, StoreConfig},
    engine::{Outcomes, Service},
    server::ServeError,
    store::{self, LogPlace, MemberOptions, StoreOptions},
};

pub(super) fn open(config: &Config, member: Option<MemberOptions>) -> Result<(Service, Outcomes), ServeError> {
    let options = store_options(&config.store, &config.limits);
    let quotas = Arc::new(Quotas::new(&config.limits));
    let opened = match member {
        None => Service::open(options, quotas, Clock::system()),
        Some(member) => Service::open_member(options, member, quotas, Clock::system()),
    };
    opened.map_err(|error| ServeError::Store { path: config.store.path.clone(), error })
}

/// Returns the place of the store in the cluster's log; `None` if there is no store.
pub(super) fn log_place(config: &Config) -> Result<Option<LogPlace>, ServeError> {
    if !config.store.path.exists() {
        return Ok(None);
    }
    let place = store::log_place(&store_options(&config.store, &config.limits));
    place.map(Some).map_err(|error| ServeError::Store { path: config.store.path.clone(), error })
}

pub(crate) fn store_options(store: &StoreConfig, limits: &Limits) -> StoreOptions {
    StoreOptions {
        create: store.create,
        page_cache_bytes: store.page_cache_bytes,
        document_cache_bytes: store.document_cache_bytes,
        journal_bytes_max: store.journal_bytes_max,
        journal_age_max: store.journal_age_max,
        lag_entries_max: store.lag_entries_max,
        lag_bytes_max: store.lag_bytes_max,
        free_disk_min: store.free_disk_min,
        shadow_names_max: limits.shadow_names_max,
        document: limits.document(),
        indexed: Arc::clone(&store.indexed),
        ..StoreOptions::new(&store.path)
    }
}
