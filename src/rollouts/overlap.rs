//! The comparison of a rollout with the others that have not ended: no two change the same path of a device.
//!
//! Comparing two large rollouts takes milliseconds. So it is done without the lock of the registry, and charged to who causes it.
//! Under the lock, only those are looked for that were not compared yet ([`Compared::lacks`]).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    fleet::rollout::{DeviceEntry, Spec},
    rollouts::{
        Refused, Slot,
        actor::Actor,
        rights::{blocking, pay},
    },
    search::FleetSearch,
    shadow::{DeviceId, Pointer},
};

/// Devices that are looked at under the lock of their rollout at once.
const CHUNK: usize = 1_000;

/// A rollout that is compared with others.
pub(super) struct Comparison {
    spec: Arc<Spec>,
    /// The devices that it is to change.
    devices: Arc<HashSet<DeviceId>>,
    pub(super) compared: Compared,
}

/// The rollouts with which one was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Compared {
    /// Its own number if it is in the registry.
    own: Option<u64>,
    /// The number of devices of each of the others. None loses devices, so one with as many has the same.
    counts: BTreeMap<u64, usize>,
}

/// A path that another rollout changes as well, with the devices of both.
pub(super) struct Overlap {
    pub(super) path: Pointer,
    pub(super) devices: Vec<DeviceId>,
}

impl Comparison {
    pub(super) fn new(spec: Arc<Spec>, devices: Arc<HashSet<DeviceId>>, own: Option<u64>) -> Self {
        Self { spec, devices, compared: Compared { own, counts: BTreeMap::new() } }
    }

    /// Returns the comparison of a rollout that has ended, and may restore its devices.
    pub(super) async fn of(search: &FleetSearch, actor: &Actor, slot: &Arc<Slot>) -> Result<Self, Refused> {
        let (spec, count) = slot.read(|rollout, _| (rollout.spec().clone(), rollout.devices().len()));
        pay(search, actor, count).await;
        let own = slot.clone();
        let devices = blocking(move || Arc::new(claimed(&own, |_| true).into_iter().collect())).await?;
        Ok(Self::new(spec, devices, Some(slot.number)))
    }

    /// Compares with `other`, on behalf of `actor`.
    pub(super) async fn compare(
        &mut self,
        search: &FleetSearch,
        actor: &Actor,
        other: &Arc<Slot>,
    ) -> Result<Option<Overlap>, Refused> {
        let (spec, count) = other.read(|rollout, _| (rollout.spec().clone(), rollout.devices().len()));
        self.compared.counts.insert(other.number, count);
        if spec.shadow != self.spec.shadow {
            return Ok(None);
        }
        pay(search, actor, self.spec.touched.len().saturating_mul(spec.touched.len())).await;
        let own = self.spec.clone();
        let Some(path) = blocking(move || own.overlap(&spec).cloned()).await? else { return Ok(None) };
        pay(search, actor, count).await;
        let (other, own) = (other.clone(), self.devices.clone());
        let devices = blocking(move || claimed(&other, |device| own.contains(device))).await?;
        Ok((!devices.is_empty()).then_some(Overlap { path, devices }))
    }
}

impl Compared {
    /// Returns true if `other` has not ended, and has devices that were not compared.
    pub(super) fn lacks(&self, other: &Slot) -> bool {
        let compared = self.counts.get(&other.number).copied();
        let is_new =
            || other.read(|rollout, _| !rollout.state().is_final() && compared != Some(rollout.devices().len()));
        self.own != Some(other.number) && is_new()
    }
}

/// Returns those of `found` that are not in the rollout.
pub(super) fn unknown(slot: &Slot, mut found: Vec<DeviceId>) -> Vec<DeviceId> {
    let known: HashSet<_> = ids(slot, |_| true).into_iter().collect();
    found.retain(|device| !known.contains(device));
    found
}

/// Returns the devices that `slot` may still change or restore and for which `is_wanted` is true.
fn claimed(slot: &Slot, is_wanted: impl Fn(&DeviceId) -> bool) -> Vec<DeviceId> {
    ids(slot, |device| device.state.is_claimed() && is_wanted(&device.id))
}

/// Returns the devices of `slot` for which `is_wanted` is true.
fn ids(slot: &Slot, is_wanted: impl Fn(&DeviceEntry) -> bool) -> Vec<DeviceId> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let has_more = slot.read(|rollout, _| {
            let rest = rollout.devices().get(from..).unwrap_or_default();
            let part = rest.iter().take(CHUNK);
            let wanted = part.filter(|device| is_wanted(device));
            found.extend(wanted.map(|device| device.id.clone()));
            rest.len() > CHUNK
        });
        if !has_more {
            return found;
        }
        from += CHUNK;
    }
}
