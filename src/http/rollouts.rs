//! Rollouts: the registry, and the driver that carries them out.
//!
//! [`crate::fleet::rollout`] decides what is done when, without I/O. A [`slot`] is one rollout with its login, [`rows`] is its form in the
//! store. The [`driver`] is one task for all rollouts: it begins the work of each, and reports outcomes, changes of
//! devices and the time to it. [`write`] sends an update or restores former values through the engine, [`check`] finds out
//! which devices have succeeded. [`rights`] and [`overlap`] decide which devices a rollout may claim.
//!
//! *Invariant:* the lock of the registry is held for a look at each rollout, not to compare their devices.
//!
//! A rollout acts with the login of its creator, or of who rolls it back. The login is asked before each step, so a rollout
//! stops when it is revoked. A token that has merely expired does not stop it: only its connections end.

mod check;
mod driver;
mod overlap;
mod rights;
mod rows;
mod slot;
mod write;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value};
use tokio::sync::{Notify, oneshot};

pub(in crate::http) use self::{
    check::find,
    rights::{blocking, permitted},
    slot::{Slot, description_weight},
};
pub use self::{driver::run, rows::RolloutRows};
use self::{
    overlap::{Comparison, Overlap},
    rights::pay,
    rows::HeadRow,
    slot::{Login, NewSlot},
};
use crate::{
    admission::Charge,
    auth::{Authority, LoginRecord},
    config::RoleLimits,
    engine::Service,
    fleet::{
        Rollout,
        rollout::{Control, DeviceEntry, DeviceState, Head, Moment, NotPossible, Spec, State},
    },
    http::{api::Api, auth::caller::Caller},
    observability::metrics::MetricsPage,
    shadow::{DeviceId, DocumentLimits, Pointer, Timestamp},
    wire,
};

/// Most rollouts that are kept, of all principals and of one.
const KEPT_MAX: usize = 1_000;
const KEPT_BY_ONE_MAX: usize = 100;
/// Most rollouts that have not ended, of all principals and of one.
const ACTIVE_MAX: usize = 100;
const ACTIVE_BY_ONE_MAX: usize = 16;
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
}

#[derive(Default)]
struct Registry {
    by_id: BTreeMap<Arc<str>, Arc<Slot>>,
    last_number: u64,
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
    /// It failed, which is logged.
    Internal,
}

impl Rollouts {
    /// Restores the rollouts of `rows`.
    pub(in crate::http) fn restore(mut rows: RolloutRows, service: &Service, authority: &Authority) -> Self {
        service.write_rows(rows.orphans(), None);
        let last_number = rows.numbers.last().copied().unwrap_or_default();
        let mut registry = Registry { by_id: BTreeMap::new(), last_number };
        for (number, head) in std::mem::take(&mut rows.heads) {
            let ids = rows.ids.remove(&number).unwrap_or_default();
            let devices = rows.devices.remove(&number).unwrap_or_default();
            let id = head.id.clone();
            match restored(number, head, ids, devices, service, authority) {
                Some(slot) => _ = registry.by_id.insert(id, Arc::new(slot)),
                None => tracing::error!(rollout = %id, "a rollout cannot be read; it is kept and ignored"),
            }
        }
        let (count, ran_ms) = (registry.by_id.len(), rows.running_ms);
        if count > 0 {
            let active = registry.by_id.values().filter(|slot| !slot.state().is_final()).count();
            tracing::info!(count, active, "restored rollouts");
        }
        Self { registry: Mutex::new(registry), wake: Notify::new(), ran_ms, started: service.running() }
    }

    /// Returns the present time for rollouts.
    pub(in crate::http) fn moment(&self, service: &Service) -> Moment {
        let ran = service.running().saturating_sub(self.started);
        let ran_ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
        Moment { running_ms: self.ran_ms.saturating_add(ran_ms), date: service.now() }
    }

    /// Returns the rollout `id`.
    pub(in crate::http) fn get(&self, id: &str) -> Option<Arc<Slot>> {
        self.registry.lock().by_id.get(id).cloned()
    }

    /// Returns the rollouts after `after` in the order of their ids for which `is_wanted` is true; at most `limit`.
    pub(in crate::http) fn list(
        &self,
        after: Option<&str>,
        limit: usize,
        is_wanted: impl Fn(&Slot) -> bool,
    ) -> Vec<Arc<Slot>> {
        let registry = self.registry.lock();
        let wanted = registry.by_id.values().filter(|slot| after.is_none_or(|after| &*slot.id > after));
        wanted.filter(|slot| is_wanted(slot)).take(limit).cloned().collect()
    }

    /// Returns the metrics, to be appended to the page.
    pub(in crate::http) fn metrics(&self, service: &Service) -> String {
        let slots: Vec<_> = self.registry.lock().by_id.values().cloned().collect();
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
        self.registry.lock().by_id.values().filter(is_active).cloned().collect()
    }

    /// Wakes the driver.
    pub(in crate::http) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Wakes the driver and all followers, when the server ends.
    pub(in crate::http) fn close(&self) {
        self.registry.lock().by_id.values().for_each(|slot| slot.wake_followers());
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
        let number = self.registry.lock().begin(&new.id, caller)?;
        let (devices, permitted) = permitted(api, caller, &new.spec, new.devices, false).await?;
        let mut comparison = Comparison::new(new.spec.clone(), permitted.clone(), None);
        let new = NewRollout { devices, ..new };
        let (of, by) = (api.clone(), caller.clone());
        let slot = blocking(move || Arc::new(new_slot(&of, &by, number, new, &permitted, charge))).await?;
        loop {
            let others = self.registry.lock().lacking(&comparison);
            if let Err(refused) = compare_all(api, caller, &mut comparison, &others).await {
                // The same request may have come at the same time and be the other one.
                return Err(if self.get(&slot.id).is_some() { Refused::Exists(slot.id.clone()) } else { refused });
            }
            let inserted = self.registry.lock().insert(caller, &slot, &comparison)?;
            if let Some(displaced) = inserted {
                // Begun at once, so that it is done even if the client goes away meanwhile.
                let written = written(api.clone(), slot.clone(), displaced);
                written.await?;
                return Ok(slot);
            }
        }
    }

    /// Applies a command of `caller`.
    ///
    /// # Errors
    ///
    /// [`Refused::State`], [`Refused::Overlaps`], [`Refused::TooMany`], [`Refused::Internal`].
    pub(in crate::http) async fn control(
        &self,
        api: &Arc<Api>,
        caller: &Caller,
        slot: &Arc<Slot>,
        control: Control,
    ) -> Result<(), Refused> {
        match control {
            Control::RollBack => self.roll_back(api, caller, slot).await?,
            control => slot.update(api, |rollout| rollout.control(control)).map_err(Refused::State)?,
        }
        self.wake();
        Ok(())
    }

    /// Begins to restore former values. A rollout that has ended becomes active by it.
    async fn roll_back(&self, api: &Api, caller: &Caller, slot: &Arc<Slot>) -> Result<(), Refused> {
        let mut comparison = None;
        while !self.registry.lock().roll_back(api, caller, slot, comparison.as_ref())? {
            let comparison = match &mut comparison {
                Some(comparison) => comparison,
                none => none.insert(Comparison::of(api, caller, slot).await?),
            };
            let others = self.registry.lock().lacking(comparison);
            compare_all(api, caller, comparison, &others).await?;
        }
        Ok(())
    }

    /// Has the devices `found` join the last wave of a rollout, except those that its creator may not change, and those whose paths
    /// another rollout changes.
    async fn join(
        &self,
        api: &Arc<Api>,
        caller: &Caller,
        slot: &Arc<Slot>,
        found: Vec<DeviceId>,
    ) -> Result<(), Refused> {
        let (spec, count) = slot.read(|rollout, _| (rollout.spec().clone(), rollout.devices().len()));
        pay(api, caller, count).await;
        let own = slot.clone();
        let found = blocking(move || own.read(|rollout, _| rollout.unknown(found)));
        let (mut found, allowed) = permitted(api, caller, &spec, found.await?, false).await?;
        found.retain(|device| allowed.contains(device));
        let mut comparison = Comparison::new(spec, allowed, Some(slot.number));
        loop {
            let others = self.registry.lock().lacking(&comparison);
            for other in others {
                if let Some(overlap) = comparison.compare(api, caller, &other).await? {
                    let taken: HashSet<_> = overlap.devices.into_iter().collect();
                    found.retain(|device| !taken.contains(device));
                }
            }
            let registry = self.registry.lock();
            if registry.lacking(&comparison).is_empty() {
                slot.update(api, |rollout| rollout.on_later(Some(found)));
                return Ok(());
            }
        }
    }

    /// Removes a rollout that has ended. Returns false if it has not.
    pub(in crate::http) fn remove(&self, api: &Api, slot: &Arc<Slot>) -> bool {
        let mut registry = self.registry.lock();
        if !slot.is_removable() {
            return false;
        }
        if registry.has(slot) {
            registry.by_id.remove(&slot.id);
        }
        drop(registry);
        slot.remove(api);
        true
    }
}

impl Registry {
    /// Checks that `caller` may create a rollout `id`, and returns its number.
    fn begin(&mut self, id: &Arc<str>, caller: &Caller) -> Result<u64, Refused> {
        self.room(id, caller)?;
        self.last_number += 1;
        Ok(self.last_number)
    }

    /// Adds a rollout of `caller`, unless it is still to be compared with others (`None`). Returns the rollouts that it displaced,
    /// whose rows are to be removed.
    fn insert(
        &mut self,
        caller: &Caller,
        slot: &Arc<Slot>,
        comparison: &Comparison,
    ) -> Result<Option<Option<Arc<Slot>>>, Refused> {
        if !self.lacking(comparison).is_empty() {
            return Ok(None);
        }
        let displaced = self.room(&slot.id, caller)?;
        if let Some(displaced) = &displaced {
            self.by_id.remove(&displaced.id);
        }
        self.by_id.insert(slot.id.clone(), slot.clone());
        Ok(Some(displaced))
    }

    /// Begins to restore the former values of `slot` on behalf of `caller`. Returns false if it has ended and is still to be compared
    /// with others.
    fn roll_back(
        &self,
        api: &Api,
        caller: &Caller,
        slot: &Arc<Slot>,
        comparison: Option<&Comparison>,
    ) -> Result<bool, Refused> {
        if !self.has(slot) {
            return Err(Refused::State(NotPossible(slot.state())));
        }
        if slot.state().is_final() {
            self.check_active(caller.principal().name())?;
            if comparison.is_none_or(|comparison| !self.lacking(comparison).is_empty()) {
                return Ok(false);
            }
        }
        slot.roll_back(api, caller).map(|()| true).map_err(Refused::State)
    }

    /// Returns true if `slot` was not removed.
    fn has(&self, slot: &Arc<Slot>) -> bool {
        self.by_id.get(&slot.id).is_some_and(|found| Arc::ptr_eq(found, slot))
    }

    /// Returns the rollouts with which a rollout is still to be compared.
    fn lacking(&self, comparison: &Comparison) -> Vec<Arc<Slot>> {
        self.by_id.values().filter(|other| comparison.lacks(other)).cloned().collect()
    }

    /// Checks that `caller` may have another rollout, with this id. At the limit, returns its oldest bulk change that has ended,
    /// which is to be removed for it.
    fn room(&self, id: &Arc<str>, caller: &Caller) -> Result<Option<Arc<Slot>>, Refused> {
        if self.by_id.contains_key(id) {
            return Err(Refused::Exists(id.clone()));
        }
        let name = caller.principal().name();
        self.check_active(name)?;
        let own = self.by_id.values().filter(|slot| slot.created_by == *name);
        let (count, oldest) = own.fold((0, None::<&Arc<Slot>>), |(count, oldest), slot| {
            let is_older = |oldest: &Arc<Slot>| slot.number < oldest.number;
            let is_candidate = slot.is_bulk && slot.is_removable() && oldest.is_none_or(is_older);
            (count + 1, if is_candidate { Some(slot) } else { oldest })
        });
        if count < KEPT_BY_ONE_MAX && self.by_id.len() < KEPT_MAX {
            return Ok(None);
        }
        match oldest {
            Some(oldest) => Ok(Some(oldest.clone())),
            None if count >= KEPT_BY_ONE_MAX => Err(Refused::TooMany(format!(
                "'{name}' has {count}, the most that are kept; delete some that have ended"
            ))),
            None => Err(Refused::TooMany(format!("the server keeps {KEPT_MAX}; delete some that have ended"))),
        }
    }

    /// Checks that the principal `name` may have another rollout that has not ended.
    fn check_active(&self, name: &Arc<str>) -> Result<(), Refused> {
        let active = self.by_id.values().filter(|slot| !slot.state().is_final());
        let (all, own) = active.fold((0, 0), |(all, own), slot| (all + 1, own + usize::from(slot.created_by == *name)));
        if own >= ACTIVE_BY_ONE_MAX {
            return Err(Refused::TooMany(format!("{own} of '{name}' have not ended, the most at a time")));
        }
        match all >= ACTIVE_MAX {
            true => Err(Refused::TooMany(format!("{all} have not ended, the most at a time"))),
            false => Ok(()),
        }
    }
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

/// Returns a rollout of `caller` in which the devices that are not `permitted` are skipped.
fn new_slot(
    api: &Api,
    caller: &Caller,
    number: u64,
    new: NewRollout,
    permitted: &HashSet<DeviceId>,
    charge: Charge,
) -> Slot {
    let NewRollout { id, is_bulk, description, spec, devices } = new;
    let is_forbidden = |(index, device)| (!permitted.contains(device)).then_some(index);
    let forbidden: Vec<usize> = devices.iter().enumerate().filter_map(is_forbidden).collect();
    let mut rollout = Rollout::new(spec, devices);
    rollout.skip(forbidden, &FORBIDDEN.into(), api.rollouts.moment(&api.service));
    Slot::new(NewSlot {
        number,
        id,
        nonce: nonce(),
        is_bulk,
        created_by: caller.principal().name().clone(),
        created_at: api.now(),
        updated_at: api.now(),
        description,
        creator: Login::of(caller),
        restorer: None,
        rollout,
        charge,
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

/// Returns the rollout of these rows; `None` if they are damaged.
fn restored(
    number: u64,
    head: HeadRow,
    ids: Vec<DeviceId>,
    records: Vec<(usize, Bytes)>,
    service: &Service,
    authority: &Authority,
) -> Option<Slot> {
    let HeadRow { id, nonce, bulk, created_by, created_at, updated_at, login, restorer, spec, .. } = head;
    let HeadRow { state, reason, wave, planned, .. } = head;
    let parsed = parsed(&spec, bulk, &ids)?;
    let mut devices: Vec<_> = ids.into_iter().map(DeviceEntry::queued).collect();
    for (index, record) in records {
        let device = devices.get_mut(index)?;
        *device = DeviceEntry::read(device.id.clone(), &record)?;
    }
    let rollout = Rollout::restored(Arc::new(parsed), Head { state, reason, wave, planned }, devices);
    let restored = |record: LoginRecord| Login { context: authority.restore(&record), record };
    // The limits of its roles are known when it connects.
    let principals = &service.quotas().principals;
    let quota = principals.of(&created_by, &RoleLimits::UNLIMITED, Instant::now());
    Some(Slot::new(NewSlot {
        number,
        id,
        nonce,
        is_bulk: bulk,
        created_by,
        created_at: Timestamp(created_at),
        updated_at: Timestamp(updated_at),
        description: spec,
        creator: restored(login),
        restorer: restorer.map(restored),
        rollout,
        charge: Charge::new(quota, 0),
    }))
}

/// Parses a description from the store, whose `devices` are in rows of their own. The limits of a document may have changed since.
fn parsed(description: &Map<String, Value>, bulk: bool, ids: &[DeviceId]) -> Option<Spec> {
    let mut description = description.clone();
    if !description.contains_key("query") {
        let ids = ids.iter().map(|id| id.as_str().into()).collect();
        description.insert("devices".to_owned(), Value::Array(ids));
    }
    let limits = DocumentLimits { depth_max: 64, ..DocumentLimits::default() };
    let (members, patch) = wire::parse_rollout(Value::Object(description).to_string().as_bytes(), &limits).ok()?;
    if bulk { Spec::parse_bulk(&members, patch).ok() } else { Spec::parse(&members, patch).ok() }
}

/// Returns a random number.
pub(in crate::http) fn nonce() -> u64 {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("an operating system that has started a process has random bytes");
    u64::from_ne_bytes(bytes)
}
