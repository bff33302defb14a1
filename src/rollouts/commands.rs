//! The commands of clients: they create, control and remove rollouts. The driver has devices join one.

use std::{collections::HashSet, sync::Arc};

use crate::{
    admission::Charge,
    fleet::rollout::{Control, NotPossible},
    observability::request_id::RequestId,
    rollouts::{
        NewRollout, Refused, RolloutController, Slot,
        actor::Actor,
        event::Event,
        log,
        overlap::{self, Comparison, Overlap},
        restoring::new_slot,
        rights::{blocking, pay, permitted},
    },
    search::{FleetSearch, Reader as _},
    shadow::DeviceId,
};

impl RolloutController {
    /// Creates a rollout of `actor`. It goes on at once, and is on disk somewhat later.
    ///
    /// # Errors
    ///
    /// A [`Refused`].
    pub(crate) async fn create(
        self: &Arc<Self>,
        actor: &Actor,
        new: NewRollout,
        charge: Charge,
    ) -> Result<Arc<Slot>, Refused> {
        let number = {
            let mut registry = self.rollouts.registry.lock();
            registry.room(&new.id, actor.principal().name())?;
            registry.next_number()
        };
        let (devices, permitted) = permitted(&self.search, actor, &new.spec, new.devices, false).await?;
        let mut comparison = Comparison::new(new.spec.clone(), permitted.clone(), None);
        let new = NewRollout { devices, ..new };
        let (of, by, id) = (self.clone(), actor.clone(), new.id.clone());
        if self.rollouts.is_replicated() {
            let draft = blocking(move || log::Draft::new(&of, &by, new, &permitted)).await?;
            return create_by_log(self, actor, (draft, comparison), charge).await;
        }
        let slot = blocking(move || Arc::new(new_slot(&of, &by, number, new, &permitted, charge))).await?;
        loop {
            let others = self.rollouts.registry.lock().lacking(&comparison.compared);
            if let Err(refused) = compare_all(&self.search, actor, &mut comparison, &others).await {
                // The same request may have come at the same time and be the other one.
                return Err(if self.get(&id).is_some() { Refused::Exists(id) } else { refused });
            }
            let displaced = {
                let mut registry = self.rollouts.registry.lock();
                let place = registry.place(&slot.id, actor.principal().name(), &comparison.compared)?;
                let Some(displaced) = place else { continue };
                displaced.iter().for_each(|displaced| registry.remove(displaced));
                registry.add(&slot);
                displaced
            };
            // Begun at once, so that it is done even if the client goes away meanwhile.
            let written = written(self.clone(), slot.clone(), displaced);
            written.await?;
            return Ok(slot);
        }
    }

    /// Creates the rollout of a draft, as soon as it is compared with all others.
    async fn publish_compared(
        &self,
        actor: &Actor,
        draft: &mut log::Draft,
        comparison: &mut Comparison,
    ) -> Result<Arc<Slot>, Refused> {
        loop {
            let others = self.rollouts.registry.lock().lacking(&comparison.compared);
            if let Err(refused) = compare_all(&self.search, actor, comparison, &others).await {
                // The same request may have come at the same time and be the other one.
                let exists = self.get(draft.id()).map(|_| Refused::Exists(draft.id().clone()));
                return Err(exists.unwrap_or(refused));
            }
            if self.publish(actor, draft, &comparison.compared).await? {
                return self.rollouts.of_draft(draft).ok_or(Refused::Removed);
            }
        }
    }

    /// Applies a command of `actor`.
    ///
    /// # Errors
    ///
    /// [`Refused::State`], [`Refused::Overlaps`], [`Refused::TooMany`], [`Refused::Removed`], [`Refused::Unconfirmed`],
    /// [`Refused::Internal`].
    pub(crate) async fn control(&self, actor: &Actor, slot: &Arc<Slot>, control: Control) -> Result<(), Refused> {
        match control {
            Control::RollBack => self.roll_back(actor, slot).await?,
            control if self.rollouts.is_replicated() => {
                self.command(actor, slot, |commands| Event::Controlled { control, commands }).await?;
            }
            control => slot.update(self, |rollout| rollout.control(control)).map_err(Refused::State)?,
        }
        self.rollouts.wake();
        Ok(())
    }

    /// Begins to restore former values. A rollout that has ended becomes active by it.
    async fn roll_back(&self, actor: &Actor, slot: &Arc<Slot>) -> Result<(), Refused> {
        let mut comparison = None;
        while !self.begin_to_roll_back(actor, slot, comparison.as_ref()).await? {
            let comparison = match &mut comparison {
                Some(comparison) => comparison,
                none => none.insert(Comparison::of(&self.search, actor, slot).await?),
            };
            let others = self.rollouts.registry.lock().lacking(&comparison.compared);
            compare_all(&self.search, actor, comparison, &others).await?;
        }
        Ok(())
    }

    /// Begins to restore the former values of `slot` on behalf of `actor`. Returns false if it has ended and is still to be compared
    /// with others, or was given another command.
    async fn begin_to_roll_back(
        &self,
        actor: &Actor,
        slot: &Arc<Slot>,
        comparison: Option<&Comparison>,
    ) -> Result<bool, Refused> {
        let compared = comparison.map(|comparison| &comparison.compared);
        if self.rollouts.is_replicated() {
            let (login, compared) = (Box::new(actor.login().record()), compared.cloned());
            let event = Event::RolledBack { login, compared, commands: slot.commands() };
            return self.request(actor, slot.number, event).await;
        }
        let registry = self.rollouts.registry.lock();
        let may_begin = registry.may_roll_back(slot, actor.principal().name(), compared)?;
        if may_begin {
            slot.roll_back(self, actor).map_err(Refused::State)?;
        }
        Ok(may_begin)
    }

    /// Has the devices `found` join the last wave of a rollout, except those that its creator may not change, and those whose paths
    /// another rollout changes. In a cluster, the `driver` reports them.
    pub(super) async fn join(
        &self,
        actor: &Actor,
        slot: &Arc<Slot>,
        found: Vec<DeviceId>,
        driver: u64,
    ) -> Result<(), Refused> {
        let (spec, count) = slot.read(|rollout, _| (rollout.spec().clone(), rollout.devices().len()));
        pay(&self.search, actor, count).await;
        let found = unknown(slot, found).await?;
        let (mut found, allowed) = permitted(&self.search, actor, &spec, found, false).await?;
        found.retain(|device| allowed.contains(device));
        let mut comparison = Comparison::new(spec, allowed, Some(slot.number));
        loop {
            let others = self.rollouts.registry.lock().lacking(&comparison.compared);
            for other in others {
                if let Some(overlap) = comparison.compare(&self.search, actor, &other).await? {
                    let taken: HashSet<_> = overlap.devices.into_iter().collect();
                    found.retain(|device| !taken.contains(device));
                }
            }
            if self.rollouts.is_replicated() {
                if self.report_joined(slot, driver, &found, &comparison.compared).await {
                    return Ok(());
                }
                found = unknown(slot, found).await?;
                continue;
            }
            let registry = self.rollouts.registry.lock();
            if registry.lacking(&comparison.compared).is_empty() {
                slot.update(self, |rollout| rollout.on_later(Some(found)));
                return Ok(());
            }
        }
    }

    /// Sends the rows of a rollout that its creation may not have sent: its client may have gone away.
    pub(crate) async fn write_again(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<(), Refused> {
        let (controller, slot) = (self.clone(), slot.clone());
        blocking(move || slot.write(&controller)).await
    }

    /// Removes a rollout that has ended.
    ///
    /// # Errors
    ///
    /// [`Refused::State`] if it has not, [`Refused::Unconfirmed`], [`Refused::Internal`].
    pub(crate) async fn remove(self: &Arc<Self>, actor: &Actor, slot: &Arc<Slot>) -> Result<(), Refused> {
        if self.rollouts.is_replicated() {
            return match self.command(actor, slot, |commands| Event::Removed { commands }).await {
                Err(Refused::Removed) => Ok(()),
                removed => removed,
            };
        }
        let (of, slot) = (self.clone(), slot.clone());
        blocking(move || of.remove_own(&slot)).await?
    }

    fn remove_own(&self, slot: &Arc<Slot>) -> Result<(), Refused> {
        let mut registry = self.rollouts.registry.lock();
        if !slot.is_removable() {
            return Err(Refused::State(NotPossible(slot.state())));
        }
        registry.remove(slot);
        drop(registry);
        slot.remove(self);
        Ok(())
    }
}

/// Returns those of `found` that are not in the rollout.
async fn unknown(slot: &Arc<Slot>, found: Vec<DeviceId>) -> Result<Vec<DeviceId>, Refused> {
    let slot = slot.clone();
    blocking(move || overlap::unknown(&slot, found)).await
}

/// Creates the rollout of a draft in the log. It goes on even if the client goes away meanwhile, so that no devices are left of it.
async fn create_by_log(
    controller: &Arc<RolloutController>,
    actor: &Actor,
    (mut draft, mut comparison): (log::Draft, Comparison),
    charge: Charge,
) -> Result<Arc<Slot>, Refused> {
    let (controller, actor) = (controller.clone(), actor.clone());
    let created = tokio::spawn(RequestId::current().scope(async move {
        let _until_it_is_created = charge;
        let created = controller.publish_compared(&actor, &mut draft, &mut comparison).await;
        if created.is_err() {
            controller.withdraw(&draft);
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
    search: &FleetSearch,
    actor: &Actor,
    comparison: &mut Comparison,
    others: &[Arc<Slot>],
) -> Result<(), Refused> {
    for other in others {
        if let Some(Overlap { path, .. }) = comparison.compare(search, actor, other).await? {
            let id = other.is_visible_to(actor.access()).then(|| other.id.clone());
            return Err(Refused::Overlaps(id, path));
        }
    }
    Ok(())
}

/// Begins to send the rows of a new rollout, and the removal of those of `displaced`. The driver is woken after it.
fn written(
    controller: Arc<RolloutController>,
    slot: Arc<Slot>,
    displaced: Option<Arc<Slot>>,
) -> impl Future<Output = Result<(), Refused>> + Send {
    blocking(move || {
        displaced.iter().for_each(|displaced| displaced.remove(&controller));
        slot.write(&controller);
        controller.rollouts.wake();
    })
}
