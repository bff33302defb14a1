//! Rollouts: the registry, and the driver that carries them out.
//!
//! [`RolloutController`] is the entry for the front end ([`commands`]) and the server.
//! [`crate::fleet::rollout`] decides what is done when, without I/O. A [`slot`] is one rollout with its login, [`rows`] is its
//! form in the store. The [`driver`] is one task for all rollouts: it begins the work of each, and reports outcomes, changes of
//! devices and the time to it. The [`registry`] has all of them, and their limits. [`write`] sends an update or restores former
//! values through the engine, [`check`] finds out which devices have succeeded. [`rights`] and [`overlap`] decide which devices a
//! rollout may claim.
//!
//! In a cluster, rollouts change by the log alone, at all nodes alike ([`log`], [`event`], [`applying`]), and one node at a time is
//! the driver ([`duty`]).
//!
//! *Invariant:* the lock of the registry is held for a look at each rollout, not to compare their devices.
//!
//! A rollout acts with the login of its creator, or of who rolls it back ([`actor`]). The login is asked before each step, so a rollout
//! stops when it is revoked. A token that has merely expired does not stop it: only its connections end.

mod actor;
mod applying;
mod check;
mod commands;
mod driver;
mod duty;
mod event;
mod log;
mod overlap;
mod registry;
mod reporting;
mod restoring;
mod rights;
mod rows;
mod slot;
#[cfg(test)]
mod tests;
mod write;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::Notify;

pub(crate) use self::{
    actor::Actor,
    check::{DEVICE_BYTES, find},
    rights::{blocking, permitted},
    slot::{Slot, description_weight},
};
pub use self::{driver::run, log::RolloutBroadcasts, rows::RolloutRows};
use self::{log::RolloutLog, registry::Registry, restoring::restored};
use crate::{
    admission::Quotas,
    auth::Authority,
    engine::Service,
    fleet::rollout::{DeviceState, Moment, NotPossible, Spec, State},
    observability::metrics::MetricsPage,
    search::FleetSearch,
    shadow::{DeviceId, DocumentLimits, Pointer, Timestamp},
};

/// The reason of a device that the creator may not change.
const FORBIDDEN: &str = "forbidden";

/// The rollouts of a server, and the parts of it with which they are carried out.
pub struct RolloutController {
    rollouts: Arc<Rollouts>,
    /// The searches of the fleet, with the engine, the change feed and the presence.
    search: Arc<FleetSearch>,
    /// The limits of a shadow.
    document: DocumentLimits,
    /// Set once, when the server ends.
    is_closed: AtomicBool,
}

/// All rollouts, without the engine: its store has them apply what the log of a cluster has ([`RolloutBroadcasts`]).
struct Rollouts {
    registry: Mutex<Registry>,
    /// Wakes the driver.
    wake: Notify,
    /// The running time at the start of the server, and the time of the clock then.
    ran_ms: u64,
    started: Duration,
    /// The log of a cluster, by which they change.
    log: Option<RolloutLog>,
}

/// A rollout to create.
pub(crate) struct NewRollout {
    pub(crate) id: Arc<str>,
    pub(crate) is_bulk: bool,
    /// The description as it was sent, without `devices`.
    pub(crate) description: Map<String, Value>,
    pub(crate) spec: Arc<Spec>,
    pub(crate) devices: Vec<DeviceId>,
}

/// The reason that a rollout is not created, or not made active again.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There is one with this id.
    Exists(Arc<str>),
    /// Another active one changes this path of a device of both. It has its id if the actor may see it.
    Overlaps(Option<Arc<str>>, Pointer),
    /// There are too many. The text says which, and how many there may be.
    TooMany(String),
    /// Its state does not allow it.
    State(NotPossible),
    /// It was removed meanwhile.
    Removed,
    /// The log of the cluster has not confirmed it in time.
    Unconfirmed,
    /// It failed, which is logged.
    Internal,
}

impl RolloutController {
    /// Returns the rollouts of `rows`, on the fleet that `search` searches. Its shadows have the limits `document`.
    #[must_use]
    pub fn new(rows: RolloutRows, search: Arc<FleetSearch>, document: DocumentLimits) -> Self {
        let rollouts = Arc::new(Rollouts::restore(rows, &search.service, &search.authority));
        Self { rollouts, search, document, is_closed: AtomicBool::new(false) }
    }

    /// Returns the rollout `id`.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Slot>> {
        self.rollouts.registry.lock().get(id).cloned()
    }

    /// Returns the rollouts after `after` in the order of their ids for which `is_wanted` is true; at most `limit`.
    pub(crate) fn list(&self, after: Option<&str>, limit: usize, is_wanted: impl Fn(&Slot) -> bool) -> Vec<Arc<Slot>> {
        let registry = self.rollouts.registry.lock();
        let wanted = registry.all().filter(|slot| after.is_none_or(|after| &*slot.id > after));
        wanted.filter(|slot| is_wanted(slot)).take(limit).cloned().collect()
    }

    /// Returns the metrics, to be appended to the page.
    pub(crate) fn metrics(&self) -> String {
        let slots: Vec<_> = self.rollouts.registry.lock().all().cloned().collect();
        let mut devices = DeviceState::ALL.map(|state| (state, 0));
        let mut states = State::ALL.map(|state| (state, 0));
        // The dates of changes of devices are not in the store, so none is older than the start.
        let (now, ran) = (self.now(), self.service().running().saturating_sub(self.rollouts.started).as_secs());
        let mut idle = 0;
        for slot in slots {
            slot.read(|rollout, updated_at| {
                if rollout.is_waiting() {
                    idle = idle.max(now.0.saturating_sub(updated_at.0).min(ran));
                }
                states.iter_mut().filter(|(state, _)| *state == rollout.state()).for_each(|(_, count)| *count += 1);
                if !rollout.state().is_final() {
                    devices.iter_mut().for_each(|(state, count)| *count += rollout.counts().of(*state));
                }
            });
        }
        let mut page = MetricsPage::default();
        let mut family = page.gauges("umbra_rollouts", "Rollouts and bulk changes that are kept, by state.");
        states.iter().for_each(|(state, count)| family.sample(&[("state", state.name())], count));
        let about = "Devices of rollouts that have not ended, by state.";
        let mut family = page.gauges("umbra_rollout_devices", about);
        devices.iter().for_each(|(state, count)| family.sample(&[("state", state.name())], count));
        let about =
            "Time since the last change of the running rollout that waits longest for its devices; 0 without one.";
        page.gauge("umbra_rollout_idle_seconds", about, idle);
        page.into_text()
    }

    /// Ends the driver and the waits for the log, and wakes all followers, when the server ends.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.rollouts.registry.lock().all().for_each(|slot| slot.wake_followers());
        if let Some(log) = &self.rollouts.log {
            log.close();
        }
        self.rollouts.wake();
    }

    /// Returns the present time for rollouts.
    fn moment(&self) -> Moment {
        let (rollouts, service) = (&self.rollouts, self.service());
        let running_ms = match &rollouts.log {
            Some(log) => log.running_ms(),
            None => {
                let ran = service.running().saturating_sub(rollouts.started);
                rollouts.ran_ms.saturating_add(u64::try_from(ran.as_millis()).unwrap_or(u64::MAX))
            }
        };
        Moment { running_ms, date: service.now() }
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    fn service(&self) -> &Arc<Service> {
        &self.search.service
    }

    fn authority(&self) -> &Arc<Authority> {
        &self.search.authority
    }

    fn now(&self) -> Timestamp {
        self.service().now()
    }
}

impl std::fmt::Debug for RolloutController {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RolloutController").finish_non_exhaustive()
    }
}

impl Rollouts {
    /// Restores the rollouts of `rows`.
    fn restore(mut rows: RolloutRows, service: &Service, authority: &Arc<Authority>) -> Self {
        let is_replicated = service.health().member.is_some();
        if !is_replicated {
            service.write_rows(rows.orphans(), None);
        }
        let (ran_ms, quotas) = (rows.running_ms, service.quotas());
        let registry = registry_of(rows, quotas, authority, is_replicated);
        let count = registry.all().count();
        if count > 0 {
            let active = registry.all().filter(|slot| !slot.state().is_final()).count();
            tracing::info!(count, active, "restored rollouts");
        }
        let log = is_replicated.then(|| RolloutLog::new(authority, quotas, service.request_room(), ran_ms));
        Self { registry: Mutex::new(registry), wake: Notify::new(), ran_ms, started: service.running(), log }
    }

    /// Returns true if they change by the log of a cluster.
    fn is_replicated(&self) -> bool {
        self.log.is_some()
    }

    /// Returns the rollouts that have not ended, or have work under way.
    fn active(&self) -> Vec<Arc<Slot>> {
        let is_active =
            |slot: &&Arc<Slot>| slot.read(|rollout, _| !rollout.state().is_final() || rollout.is_under_way());
        self.registry.lock().all().filter(is_active).cloned().collect()
    }

    /// Wakes the driver.
    fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until the driver is woken.
    async fn woken(&self) {
        self.wake.notified().await;
    }
}

/// Returns the registry of `rows`.
fn registry_of(mut rows: RolloutRows, quotas: &Quotas, authority: &Authority, is_replicated: bool) -> Registry {
    let mut registry = Registry::after(rows.numbers.last().copied().unwrap_or_default());
    (registry.driver, registry.clock_ms) = (rows.driver, rows.running_ms);
    for (number, head) in std::mem::take(&mut rows.heads) {
        let (id, parts) = (head.id.clone(), rows.take_parts(number));
        match restored((number, head, parts), quotas, authority, is_replicated) {
            Some(slot) => registry.add(&Arc::new(slot)),
            None => tracing::error!(rollout = %id, "a rollout cannot be read; it is kept and ignored"),
        }
    }
    if is_replicated {
        registry.staged = rows.staged();
        registry.staged.values_mut().for_each(|staged| staged.charge(0, quotas));
    }
    registry
}
