//! One rollout with its login, its rows and its followers.
//!
//! *Invariant:* rows follow the state: whoever changes it sends the edits under the same lock ([`Slot::update`]).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::{
    admission::{Charge, Quotas},
    auth::{Access, AuthContext, Authority, LoginRecord},
    fleet::{
        Rollout,
        rollout::{Control, DeviceEntry, NotPossible, State},
    },
    rollouts::{
        RolloutController,
        actor::Actor,
        rows::{self, HeadRow},
    },
    shadow::{DeviceId, ShadowKey, Timestamp},
    store::RowEdit,
    wire,
};

/// A rollout.
pub(crate) struct Slot {
    /// Its number, in the keys of its rows.
    pub(super) number: u64,
    pub(crate) id: Arc<str>,
    /// A random number, part of the idempotency keys of its updates.
    pub(super) nonce: u64,
    pub(super) is_bulk: bool,
    pub(crate) created_by: Arc<str>,
    pub(crate) created_at: Timestamp,
    /// The description as it was sent, without `devices`.
    pub(crate) description: Map<String, Value>,
    /// The name of the client in the histories of devices.
    pub(super) client: Arc<str>,
    /// The approximate memory of an update, and of the description.
    pub(super) weight: usize,
    description_weight: usize,
    inner: Mutex<Inner>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

struct Inner {
    rollout: Rollout,
    updated_at: Timestamp,
    creator: Login,
    /// The login that restores former values.
    restorer: Option<Login>,
    /// The indexes of the rows with ids.
    id_rows: Vec<usize>,
    charge: Charge,
    /// True if its creator has no memory left for the values that it replaces.
    lacks_memory: bool,
    is_removed: bool,
}

/// A login and its record.
pub(super) struct Login {
    record: LoginRecord,
    /// `None` if it was revoked while the server was down, or this node of a cluster does not know it yet.
    context: Option<Arc<AuthContext>>,
    since: Instant,
    /// True once this node has acted with it: if it can no more, it was revoked.
    was_known: bool,
}

/// The parts of a new slot.
pub(super) struct NewSlot {
    pub(super) number: u64,
    pub(super) id: Arc<str>,
    pub(super) nonce: u64,
    pub(super) is_bulk: bool,
    pub(super) created_by: Arc<str>,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
    pub(super) description: Map<String, Value>,
    pub(super) creator: Login,
    pub(super) restorer: Option<Login>,
    pub(super) rollout: Rollout,
    pub(super) charge: Charge,
    /// The indexes of the rows with ids, as the store has them.
    pub(super) id_rows: Option<Vec<usize>>,
}

/// The time for which a node of a cluster may not know a login that another has accepted: it may read its files later.
const LOGIN_WAIT: Duration = Duration::from_secs(60);
/// The reason of a rollout that needs more memory than its creator may use.
pub(super) const NO_MEMORY: &str = "the memory of its creator is used up";

/// Returns the approximate memory of a description, which is kept as JSON and parsed.
pub(crate) fn description_weight(description: &Map<String, Value>) -> usize {
    2 * wire::weight(Value::Object(description.clone()).to_string().as_bytes())
}

/// The login of an action was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Revoked;

impl Login {
    /// Returns the login of `actor`.
    pub(super) fn of(actor: &Actor) -> Self {
        let context = actor.login();
        Self { record: context.record(), context: Some(context.clone()), since: Instant::now(), was_known: true }
    }

    /// Returns the login of `record`.
    pub(super) fn restored(record: LoginRecord, authority: &Authority) -> Self {
        Self { context: authority.restore(&record), record, since: Instant::now(), was_known: false }
    }

    /// Returns the context, looked for again if it was not known.
    pub(super) fn context(&mut self, authority: &Authority) -> Option<Arc<AuthContext>> {
        self.context = self.context.take().or_else(|| authority.restore(&self.record));
        self.context.clone()
    }
}

impl Inner {
    /// Returns the login with which the rollout acts.
    fn acting(&mut self) -> &mut Login {
        let restorer = self.restorer.as_mut().filter(|_| self.rollout.state() == State::RollingBack);
        restorer.unwrap_or(&mut self.creator)
    }

    fn roll_back(&mut self, login: Login) -> Result<(), NotPossible> {
        self.rollout.control(Control::RollBack)?;
        self.restorer = Some(login);
        Ok(())
    }
}

impl Slot {
    /// Returns a rollout. Its rows are written by the first [`Slot::update`].
    pub(super) fn new(new: NewSlot) -> Self {
        let patch = new.description.get("patch").map(Value::to_string).unwrap_or_default();
        let id_rows = new.id_rows.unwrap_or_else(|| rows::id_rows(0, new.rollout.devices().len()).collect());
        let description_weight = description_weight(&new.description);
        let NewSlot { updated_at, creator, restorer, rollout, mut charge, .. } = new;
        charge.resize(rollout.memory() + description_weight);
        let (lacks_memory, is_removed) = (false, false);
        let inner = Inner { rollout, updated_at, creator, restorer, id_rows, charge, lacks_memory, is_removed };
        Self {
            number: new.number,
            client: format!("rollout:{}", new.id).into(),
            id: new.id,
            nonce: new.nonce,
            is_bulk: new.is_bulk,
            created_by: new.created_by,
            created_at: new.created_at,
            description: new.description,
            weight: wire::weight(patch.as_bytes()),
            description_weight,
            inner: Mutex::new(inner),
            changes: watch::Sender::new(0),
        }
    }

    /// Returns the shadow of a device.
    pub(super) fn key(&self, device: DeviceId) -> ShadowKey {
        ShadowKey { device, name: self.read(|rollout, _| rollout.spec().shadow.clone()) }
    }

    /// Calls `read` with the rollout and the date of its last change.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Rollout, Timestamp) -> T) -> T {
        let inner = self.inner.lock();
        read(&inner.rollout, inner.updated_at)
    }

    /// Returns the state.
    pub(crate) fn state(&self) -> State {
        self.inner.lock().rollout.state()
    }

    /// Returns the number of commands that it was given.
    pub(super) fn commands(&self) -> u64 {
        self.inner.lock().rollout.head().commands
    }

    /// Changes the rollout, sends the edits of its rows, and wakes its followers.
    pub(super) fn update<T>(&self, controller: &RolloutController, change: impl FnOnce(&mut Rollout) -> T) -> T {
        self.change(controller, |inner| change(&mut inner.rollout))
    }

    /// Sends the edits of its rows that were not sent yet.
    pub(super) fn write(&self, controller: &RolloutController) {
        self.update(controller, |_| ());
    }

    fn change<T>(&self, controller: &RolloutController, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock();
        let (result, rows) = self.edit(&mut inner, controller.service().quotas(), controller.now(), change);
        if !rows.is_empty() {
            debug_assert!(!inner.rollout.is_replicated(), "its rows change by the log");
            controller.service().write_rows(rows, None);
        }
        result
    }

    /// Changes the rollout at `date`, as the log of a cluster says, and wakes its followers. Returns the edits of its rows.
    pub(super) fn apply<T>(
        &self,
        quotas: &Quotas,
        date: Timestamp,
        change: impl FnOnce(&mut Rollout) -> T,
    ) -> (T, Vec<RowEdit>) {
        self.edit(&mut self.inner.lock(), quotas, date, |inner| change(&mut inner.rollout))
    }

    fn edit<T>(
        &self,
        inner: &mut Inner,
        quotas: &Quotas,
        date: Timestamp,
        change: impl FnOnce(&mut Inner) -> T,
    ) -> (T, Vec<RowEdit>) {
        let counts = *inner.rollout.counts();
        let result = change(inner);
        self.charge(quotas, inner);
        let edits = inner.rollout.take_edits();
        if edits.head || counts != *inner.rollout.counts() {
            inner.updated_at = date;
            self.wake_followers();
        }
        let mut rows = Vec::new();
        if let Some(added_after) = edits.added_after {
            let end = inner.rollout.devices().len();
            inner.id_rows.retain(|index| *index < added_after);
            inner.id_rows.extend(rows::id_rows(added_after, end));
            rows.extend(rows::put_ids(self.number, inner.rollout.devices(), added_after));
        }
        for index in edits.devices {
            let device = inner.rollout.devices().get(index);
            rows.extend(device.map(|device| rows::put_device(self.number, index, device)));
        }
        if edits.head {
            rows.push(rows::put_head(self.number, &self.head_row(inner)));
        }
        if inner.is_removed {
            rows.clear();
        }
        (result, rows)
    }

    /// Charges the memory of the rollout. It ends when its creator has none left for the values that it replaces.
    fn charge(&self, quotas: &Quotas, inner: &mut Inner) {
        let memory = inner.rollout.memory() + self.description_weight;
        inner.lacks_memory = quotas.grow(&mut inner.charge, memory).is_err();
        if inner.lacks_memory {
            inner.charge.follow(memory);
            // In a cluster, its driver ends it.
            if inner.rollout.state() == State::Running && !inner.rollout.is_replicated() {
                inner.rollout.stop(NO_MEMORY);
            }
        }
    }

    /// Returns true if it runs, and its creator has no memory left for the values that it replaces.
    pub(super) fn lacks_memory(&self) -> bool {
        let inner = self.inner.lock();
        inner.lacks_memory && inner.rollout.state() == State::Running
    }

    /// Restores former values on behalf of `actor`, as [`Slot::update`] does. Nothing changes if that is not possible.
    pub(super) fn roll_back(&self, controller: &RolloutController, actor: &Actor) -> Result<(), NotPossible> {
        self.change(controller, |inner| inner.roll_back(Login::of(actor)))
    }

    /// Restores former values with `login`, as [`Slot::apply`] does.
    pub(super) fn apply_roll_back(
        &self,
        quotas: &Quotas,
        date: Timestamp,
        login: Login,
    ) -> (Result<(), NotPossible>, Vec<RowEdit>) {
        self.edit(&mut self.inner.lock(), quotas, date, |inner| inner.roll_back(login))
    }

    /// Returns the actor on whose behalf the rollout acts now.
    pub(super) fn actor(&self, controller: &RolloutController) -> Result<Actor, Revoked> {
        let context = self.inner.lock().acting().context(controller.authority());
        self.actor_of(context, controller)
    }

    /// Returns the actor on whose behalf the rollout acts, if `is_wanted` is true of it.
    pub(super) fn actor_if(
        &self,
        is_wanted: impl FnOnce(&Rollout) -> bool,
        controller: &RolloutController,
    ) -> Option<Result<Actor, Revoked>> {
        let context = {
            let mut inner = self.inner.lock();
            is_wanted(&inner.rollout).then(|| inner.acting().context(controller.authority()))?
        };
        Some(self.actor_of(context, controller))
    }

    fn actor_of(&self, context: Option<Arc<AuthContext>>, controller: &RolloutController) -> Result<Actor, Revoked> {
        let actor = context.and_then(|context| Actor::of_login(context, controller.authority())).ok_or(Revoked)?;
        self.inner.lock().acting().was_known = true;
        Ok(actor)
    }

    /// Returns true if this node of a cluster does not know the login with which the rollout acts, or not its rights, but may soon. That is
    /// no revocation.
    pub(super) fn awaits_login(&self) -> bool {
        let mut inner = self.inner.lock();
        let login = inner.acting();
        let is_awaited = !login.was_known && login.since.elapsed() < LOGIN_WAIT;
        is_awaited && inner.rollout.is_replicated()
    }

    /// Returns true if a client with `access` may see and command it: its creator, and who has all rights.
    pub(crate) fn is_visible_to(&self, access: &Access) -> bool {
        self.created_by == *access.principal().name() || access.is_everything()
    }

    /// Wakes the followers.
    pub(super) fn wake_followers(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Returns a receiver that wakes at each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns true if it may be removed.
    pub(super) fn is_removable(&self) -> bool {
        self.read(|rollout, _| rollout.is_removable())
    }

    /// Removes the rows. It is not in the registry any more, so nothing begins it again.
    pub(super) fn remove(&self, controller: &RolloutController) {
        let rows = self.take_rows();
        if !rows.is_empty() {
            controller.service().write_rows(rows, None);
        }
    }

    /// Returns the removals of its rows, which it does not write any more.
    pub(super) fn take_rows(&self) -> Vec<RowEdit> {
        let mut inner = self.inner.lock();
        if std::mem::replace(&mut inner.is_removed, true) {
            return Vec::new();
        }
        let rows = rows::remove(self.number, inner.rollout.devices(), &inner.id_rows);
        inner.charge.resize(0);
        self.wake_followers();
        rows
    }

    /// Returns the edit of the row of the rollout itself.
    pub(super) fn head_edit(&self) -> RowEdit {
        let mut inner = self.inner.lock();
        inner.rollout.take_edits();
        rows::put_head(self.number, &self.head_row(&inner))
    }

    /// Returns true once it was removed.
    pub(crate) fn is_removed(&self) -> bool {
        self.inner.lock().is_removed
    }

    /// Returns the edit of the row of a device that is committed with its update.
    pub(super) fn row(&self, index: usize, entry: &DeviceEntry) -> RowEdit {
        rows::put_device(self.number, index, entry)
    }

    fn head_row(&self, inner: &Inner) -> HeadRow {
        let head = inner.rollout.head();
        HeadRow {
            id: self.id.clone(),
            nonce: self.nonce,
            bulk: self.is_bulk,
            created_by: self.created_by.clone(),
            created_at: self.created_at.0,
            updated_at: inner.updated_at.0,
            login: inner.creator.record.clone(),
            restorer: inner.restorer.as_ref().map(|login| login.record.clone()),
            spec: self.description.clone(),
            state: head.state,
            reason: head.reason.clone(),
            wave: head.wave,
            planned: head.planned,
            commands: head.commands,
            rollbacks: head.rollbacks,
        }
    }
}
