//! Rollouts: the registry, and the driver that carries them out.
//!
//! [`crate::fleet::rollout`] decides what is done when, without I/O. A [`slot`] is one rollout with its login, [`rows`] is its form in the
//! store. The [`driver`] is one task for all rollouts: it begins the work of each, and reports outcomes, changes of
//! devices and the time to it. The [`registry`] has all of them, and their limits. [`write`] sends an update or restores former values through the engine, [`check`] finds out
//! which devices have succeeded. [`rights`] and [`overlap`] decide which devices a rollout may claim.
//!
//! In a cluster, rollouts change by the log alone, at all nodes alike ([`log`], [`event`], [`applying`]), and one node at a time is the driver
//! ([`duty`]).
//!
//! *Invariant:* the lock of the registry is held for a look at each rollout, not to compare their devices.
//!
//! A rollout acts with the login of its creator, or of who rolls it back. The login is asked before each step, so a rollout
//! stops when it is revoked. A token that has merely expired does not stop it: only its connections end.

mod applying;
mod check;
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

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::{Notify, oneshot};

pub(in crate::http) use self::{
    check::find,
    rights::{blocking, permitted},
    slot::{Slot, description_weight},
};
pub use self::{driver::run, log::RolloutBroadcasts, rows::RolloutRows};
use self::{
    event::Event,
    log::RolloutLog,
    overlap::{Comparison, Overlap},
    registry::Registry,
    restoring::{new_slot, restored},
    rights::pay,
};
use crate::{
    admission::{Charge, Quotas},
    auth::Authority,
    engine::Service,
    fleet::rollout::{Control, DeviceState, Moment, NotPossible, Spec, State},
    http::{auth::caller::Caller, state::Api},
    observability::{metrics::MetricsPage, request_id::RequestId},
    shadow::{DeviceId, Pointer},
};

/// The reason of a device that the creator may not change.
const FORBIDDEN: &str = "forbidden";
/// The longest wait for the disk.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(10);

/// All rollouts.
pub(in crate::http) struct Rollouts {
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
pub(in crate::http) struct NewRollout {
    pub(in crate::http) id: Arc<str>,
    pub(in crate::http) is_bulk: bool,
    /// The description as it was sent, without `devices`.
    pub(in crate::http) description: Map<String, Value>,
    pub(in crate::http) spec: Arc<Spec>,
    pub(in crate::http) devices: Vec<DeviceId>,
}

/// The reason that a rollout is not created, or not made active again.
#[derive(Debug)]
pub(in crate::http) enum Refused {
    /// There is one with this id.
    Exists(Arc<str>),
    /// Another active one changes this path of a device of both. It has its id if the caller may see it.
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

impl Rollouts {
    /// Restores the rollouts of `rows`.
    pub(in crate::http) fn restore(mut rows: RolloutRows, service: &Service, authority: &Arc<Authority>) -> Self {
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
    pub(in crate::http) fn is_replicated(&self) -> bool {
        self.log.is_some()
    }

    /// Returns the present time for rollouts.
    pub(in crate::http) fn moment(&self, service: &Service) -> Moment {
        let running_ms = match &self.log {
            Some(log) => log.running_ms(),
            None => {
                let ran = service.running().saturating_sub(self.started);
                self.ran_ms.saturating_add(u64::try_from(ran.as_millis()).unwrap_or(u64::MAX))
            }
        };
        Moment { running_ms, date: service.now() }
    }

    /// Returns the rollout `id`.
    pub(in crate::http) fn get(&self, id: &str) -> Option<Arc<Slot>> {
        self.registry.lock().get(id).cloned()
    }

    /// Returns the rollouts after `after` in the order of their ids for which `is_wanted` is true; at most `limit`.
    pub(in crate::http) fn list(
        &self,
        after: Option<&str>,
        limit: usize,
        is_wanted: impl Fn(&Slot) -> bool,
    ) -> Vec<Arc<Slot>> {
        let registry = self.registry.lock();
        let wanted = registry.all().filter(|slot| after.is_none_or(|after| &*slot.id > after));
        wanted.filter(|slot| is_wanted(slot)).take(limit).cloned().collect()
    }

    /// Returns the metrics, to be appended to the page.
    pub(in crate::http) fn metrics(&self, service: &Service) -> String {
        let slots: Vec<_> = self.registry.lock().all().cloned().collect();
        let mut devices = DeviceState::ALL.map(|state| (state, 0));
        let mut states = State::ALL.map(|state| (state, 0));
        // The dates of changes of devices are not in the store, so none is older than the start.
        let (now, ran) = (service.now(), service.running().saturating_sub(self.started).as_secs());
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

    /// Returns the rollouts that have not ended, or have work under way.
    fn active(&self) -> Vec<Arc<Slot>> {
        let is_active =
            |slot: &&Arc<Slot>| slot.read(|rollout, _| !rollout.state().is_final() || rollout.is_under_way());
        self.registry.lock().all().filter(is_active).cloned().collect()
    }

    /// Wakes the driver.
    pub(in crate::http) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Wakes the driver and all followers, when the server ends.
    pub(in crate::http) fn close(&self) {
        self.registry.lock().all().for_each(|slot| slot.wake_followers());
        if let Some(log) = &self.log {
            log.close();
        }
        self.wake();
    }

    /// Waits until the driver is woken.
    async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Creates a rollout of `caller`. It goes on at once; [`durable`] waits until it survives a restart.
    ///
    /// # Errors
    ///
    /// A [`Refused`].
    pub(in crate::http) async fn create(
        &self,
        api: &Arc<Api>,
        caller: &Caller,
        new: NewRollout,
        charge: Charge,
    ) -> Result<Arc<Slot>, Refused> {
        let number = {
            let mut registry = self.registry.lock();
            registry.room(&new.id, caller.principal().name())?;
            registry.next_number()
        };
        let (devices, permitted) = permitted(api, caller, &new.spec, new.devices, false).await?;
        let mut comparison = Comparison::new(new.spec.clone(), permitted.clone(), None);
        let new = NewRollout { devices, ..new };
        let (of, by, id) = (api.clone(), caller.clone(), new.id.clone());
        if self.is_replicated() {
            let draft = blocking(move || log::Draft::new(&of, &by, new, &permitted)).await?;
            return create_by_log(api, caller, (draft, comparison), charge).await;
        }
        let slot = blocking(move || Arc::new(new_slot(&of, &by, number, new, &permitted, charge))).await?;
        loop {
            let others = self.registry.lock().lacking(&comparison.compared);
            if let Err(refused) = compare_all(api, caller, &mut comparison, &others).await {
                // The same request may have come at the same time and be the other one.
                return Err(if self.get(&id).is_some() { Refused::Exists(id) } else { refused });
            }
            let displaced = {
                let mut registry = self.registry.lock();
                let place = registry.place(&slot.id, caller.principal().name(), &comparison.compared)?;
                let Some(displaced) = place else { continue };
                displaced.iter().for_each(|displaced| registry.remove(displaced));
                registry.add(&slot);
                displaced
            };
            // Begun at once, so that it is done even if the client goes away meanwhile.
            let written = written(api.clone(), slot.clone(), displaced);
            written.await?;
            return Ok(slot);
        }
    }

    /// Creates the rollout of a draft, as soon as it is compared with all others.
    async fn publish_compared(
        &self,
        api: &Arc<Api>,
        caller: &Caller,
        draft: &mut log::Draft,
        comparison: &mut Comparison,
    ) -> Result<Arc<Slot>, Refused> {
        loop {
            let others = self.registry.lock().lacking(&comparison.compared);
            if let Err(refused) = compare_all(api, caller, comparison, &others).await {
                // The same request may have come at the same time and be the other one.
                let exists = self.get(draft.id()).map(|_| Refused::Exists(draft.id().clone()));
                return Err(exists.unwrap_or(refused));
            }
            if self.publish(api, caller, draft, &comparison.compared).await? {
                return self.of_draft(draft).ok_or(Refused::Removed);
            }
        }
    }

    /// Applies a command of `caller`.
    ///
    /// # Errors
    ///
    /// [`Refused::State`], [`Refused::Overlaps`], [`Refused::TooMany`], [`Refused::Removed`], [`Refused::Unconfirmed`],
    /// [`Refused::Internal`].
    pub(in crate::http) async fn control(
        &self,
        api: &Arc<Api>,
        caller: &Caller,
        slot: &Arc<Slot>,
        control: Control,
    ) -> Result<(), Refused> {
        match control {
            Control::RollBack => self.roll_back(api, caller, slot).await?,
            control if self.is_replicated() => {
                self.command(api, caller, slot, |commands| Event::Controlled { control, commands }).await?;
            }
            control => slot.update(api, |rollout| rollout.control(control)).map_err(Refused::State)?,
        }
        self.wake();
        Ok(())
    }

    /// Begins to restore former values. A rollout that has ended becomes active by it.
    async fn roll_back(&self, api: &Arc<Api>, caller: &Caller, slot: &Arc<Slot>) -> Result<(), Refused> {
        let mut comparison = None;
        while !self.begin_to_roll_back(api, caller, slot, comparison.as_ref()).await? {
            let comparison = match &mut comparison {
                Some(comparison) => comparison,
                none => none.insert(Comparison::of(api, caller, slot).await?),
            };
            let others = self.registry.lock().lacking(&comparison.compared);
            compare_all(api, caller, comparison, &others).await?;
        }
        Ok(())
    }

    /// Begins to restore the former values of `slot` on behalf of `caller`. Returns false if it has ended and is still to be compared
    /// with others, or was given another command.
    async fn begin_to_roll_back(
        &self,
        api: &Arc<Api>,
        caller: &Caller,
        slot: &Arc<Slot>,
        comparison: Option<&Comparison>,
    ) -> Result<bool, Refused> {
        let compared = comparison.map(|comparison| &comparison.compared);
        if self.is_replicated() {
            let (login, compared) = (Box::new(caller.login().record()), compared.cloned());
            let event = Event::RolledBack { login, compared, commands: slot.commands() };
            return self.request(api, caller, slot.number, event).await;
        }
        let registry = self.registry.lock();
        let may_begin = registry.may_roll_back(slot, caller.principal().name(), compared)?;
        if may_begin {
            slot.roll_back(api, caller).map_err(Refused::State)?;
        }
        Ok(may_begin)
    }

    /// Has the devices `found` join the last wave of a rollout, except those that its creator may not change, and those whose paths
    /// another rollout changes. In a cluster, the `driver` reports them.
    async fn join(
        &self,
        api: &Arc<Api>,
        caller: &Caller,
        slot: &Arc<Slot>,
        found: Vec<DeviceId>,
        driver: u64,
    ) -> Result<(), Refused> {
        let (spec, count) = slot.read(|rollout, _| (rollout.spec().clone(), rollout.devices().len()));
        pay(api, caller, count).await;
        let found = unknown(slot, found).await?;
        let (mut found, allowed) = permitted(api, caller, &spec, found, false).await?;
        found.retain(|device| allowed.contains(device));
        let mut comparison = Comparison::new(spec, allowed, Some(slot.number));
        loop {
            let others = self.registry.lock().lacking(&comparison.compared);
            for other in others {
                if let Some(overlap) = comparison.compare(api, caller, &other).await? {
                    let taken: HashSet<_> = overlap.devices.into_iter().collect();
                    found.retain(|device| !taken.contains(device));
                }
            }
            if self.is_replicated() {
                if self.report_joined(api, slot, driver, &found, &comparison.compared).await {
                    return Ok(());
                }
                found = unknown(slot, found).await?;
                continue;
            }
            let registry = self.registry.lock();
            if registry.lacking(&comparison.compared).is_empty() {
                slot.update(api, |rollout| rollout.on_later(Some(found)));
                return Ok(());
            }
        }
    }

    /// Removes a rollout that has ended.
    ///
    /// # Errors
    ///
    /// [`Refused::State`] if it has not, [`Refused::Unconfirmed`], [`Refused::Internal`].
    pub(in crate::http) async fn remove(
        &self,
        api: &Arc<Api>,
        caller: &Caller,
        slot: &Arc<Slot>,
    ) -> Result<(), Refused> {
        if self.is_replicated() {
            return match self.command(api, caller, slot, |commands| Event::Removed { commands }).await {
                Err(Refused::Removed) => Ok(()),
                removed => removed,
            };
        }
        let (of, slot) = (api.clone(), slot.clone());
        blocking(move || of.rollouts.remove_own(&of, &slot)).await?
    }

    fn remove_own(&self, api: &Api, slot: &Arc<Slot>) -> Result<(), Refused> {
        let mut registry = self.registry.lock();
        if !slot.is_removable() {
            return Err(Refused::State(NotPossible(slot.state())));
        }
        registry.remove(slot);
        drop(registry);
        slot.remove(api);
        Ok(())
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

/// Returns those of `found` that are not in the rollout.
async fn unknown(slot: &Arc<Slot>, found: Vec<DeviceId>) -> Result<Vec<DeviceId>, Refused> {
    let slot = slot.clone();
    blocking(move || overlap::unknown(&slot, found)).await
}

/// Creates the rollout of a draft in the log. It goes on even if the client goes away meanwhile, so that no devices are left of it.
async fn create_by_log(
    api: &Arc<Api>,
    caller: &Caller,
    (mut draft, mut comparison): (log::Draft, Comparison),
    charge: Charge,
) -> Result<Arc<Slot>, Refused> {
    let (api, caller) = (api.clone(), caller.clone());
    let created = tokio::spawn(RequestId::current().scope(async move {
        let _until_it_is_created = charge;
        let created = api.rollouts.publish_compared(&api, &caller, &mut draft, &mut comparison).await;
        if created.is_err() {
            api.rollouts.withdraw(&api, &draft);
        }
        created
    }));
    created.await.unwrap_or_else(|error| {
        tracing::error!(%error, "the creation of a rollout failed");
        Err(Refused::Internal)
    })
}

/// Compares a rollout with `others`. The error is the first that changes a path of one of its devices.
async fn compare_all(
    api: &Api,
    caller: &Caller,
    comparison: &mut Comparison,
    others: &[Arc<Slot>],
) -> Result<(), Refused> {
    for other in others {
        if let Some(Overlap { path, .. }) = comparison.compare(api, caller, other).await? {
            let id = other.is_visible_to(caller).then(|| other.id.clone());
            return Err(Refused::Overlaps(id, path));
        }
    }
    Ok(())
}

/// Begins to send the rows of a new rollout, and the removal of those of `displaced`. The driver is woken after it.
fn written(
    api: Arc<Api>,
    slot: Arc<Slot>,
    displaced: Option<Arc<Slot>>,
) -> impl Future<Output = Result<(), Refused>> + Send {
    blocking(move || {
        displaced.iter().for_each(|displaced| displaced.remove(&api));
        slot.write(&api);
        api.rollouts.wake();
    })
}

/// Waits until all changes of rollouts so far are on disk. Returns false if that takes too long, or the server ends.
pub(in crate::http) async fn durable(api: &Api) -> bool {
    let (done, wait) = oneshot::channel();
    let on_durable = move || {
        let _ = done.send(());
    };
    api.service.write_rows(Vec::new(), Some(Box::new(on_durable)));
    matches!(tokio::time::timeout(DURABLE_TIMEOUT, wait).await, Ok(Ok(())))
}
