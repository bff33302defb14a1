//! Finding out which devices have succeeded, and which match a query by now.
//!
//! Both see a device as the creator of the rollout may see it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    admission::Charge,
    auth::{Access, DeviceRange},
    fleet::{
        Device, Needs, Query,
        rollout::{
            Spec,
            convergence::{has_converged, has_value},
            spec::{DEVICES_MAX, Selection, Success},
        },
    },
    rollouts::{
        RolloutController,
        actor::Actor,
        slot::{Revoked, Slot},
    },
    search::{
        FleetSearch, Reader,
        scan::{DeviceScan, DeviceVisitor, ScanEnd, ScanFailure, Scanned, scan},
        visible::is_match,
    },
    shadow::{DeviceId, Pointer, Projection, Rejection, Timestamp, pointer::SectionName},
};

/// The time for a scan of the devices of a check, and of all devices.
const CHECK_TIME: Duration = Duration::from_secs(60);
const FIND_TIME: Duration = Duration::from_secs(600);
/// The wait before what could not be read is read again.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Approximate memory of a device that is found, until the rollout has it.
pub(crate) const DEVICE_BYTES: usize = 160;

/// Returns those of the devices `checked` that have succeeded; `None` if they could not be read for now. A damaged shadow has not
/// succeeded.
pub(super) async fn succeeded(
    controller: &RolloutController,
    slot: &Slot,
    checked: &[usize],
) -> Result<Option<HashSet<usize>>, Revoked> {
    let mut actor = slot.actor(controller)?;
    let (spec, devices) = slot.read(|rollout, _| {
        let id = |index: &usize| Some((rollout.devices().get(*index)?.id.clone(), *index));
        (rollout.spec().clone(), checked.iter().filter_map(id).collect::<HashMap<DeviceId, usize>>())
    });
    match &spec.success {
        Success::Accepted => Ok(Some(devices.into_values().collect())),
        Success::Query(query) => {
            let ranges: BTreeSet<_> = devices.keys().collect();
            let ranges = ranges.into_iter().cloned().map(DeviceRange::One).collect();
            match find_in(&controller.search, &mut actor, query, Some(ranges), CHECK_TIME).await {
                Ok(found) => {
                    let indexes = |found: Vec<_>| found.iter().filter_map(|id| devices.get(id).copied()).collect();
                    Ok(found.map(indexes))
                }
                Err(failure) => unread(failure).await.map(|()| None),
            }
        }
        Success::Converged => converged(controller, slot, &actor, &spec, devices).await,
    }
}

/// Returns those of `devices` that have converged on the paths that the rollout changed, as [`succeeded`] does.
async fn converged(
    controller: &RolloutController,
    slot: &Slot,
    actor: &Actor,
    spec: &Spec,
    devices: HashMap<DeviceId, usize>,
) -> Result<Option<HashSet<usize>>, Revoked> {
    let mut converged = HashSet::new();
    for (device, index) in devices {
        actor.pay_command(&controller.search).await;
        let key = slot.key(device);
        let stored = match actor.read(&key, &controller.search).await {
            Ok(stored) => stored,
            Err(Rejection::Internal) => continue,
            Err(rejection) => return unread(ScanFailure::Rejected(rejection)).await.map(|()| None),
        };
        let Some(projection) = actor.projection(&key).filter(|projection| sees_convergence(projection, spec)) else {
            continue;
        };
        let (document, delta) = (&stored.document, projection.delta(&stored.document).unwrap_or_default());
        let is_met = |path| has_value(document, &spec.patch, path) && has_converged(&delta, path);
        if document.exists() && spec.desired_paths().all(is_met) {
            converged.insert(index);
        }
    }
    Ok(Some(converged))
}

/// Returns true if `projection` shows the delta at each path on which a device converges. Where it does not, an empty delta
/// says nothing.
pub(super) fn sees_convergence(projection: &Projection, spec: &Spec) -> bool {
    spec.desired_paths().all(|path| {
        let reported = Pointer { section: SectionName::Reported, keys: path.keys.clone() };
        projection.reads(path) && projection.reads(&reported)
    })
}

/// Returns the devices that match the query of the rollout now; `None` if they could not be read.
pub(super) async fn matching(controller: &RolloutController, slot: &Slot) -> Result<Option<Vec<DeviceId>>, Revoked> {
    let mut actor = slot.actor(controller)?;
    let spec = slot.read(|rollout, _| rollout.spec().clone());
    let Selection::Query(query) = &spec.selection else { return Ok(Some(Vec::new())) };
    match find(&controller.search, &mut actor, query, FIND_TIME).await {
        Ok(Some(found)) => Ok(Some(found)),
        Ok(None) => {
            sleep(RETRY_WAIT).await;
            Ok(None)
        }
        Err(failure) => unread(failure).await.map(|()| None),
    }
}

/// Returns the devices for which `query` is true, at most one more than a rollout may have; `None` if `time` is over.
pub(crate) async fn find(
    search: &Arc<FleetSearch>,
    reader: &mut impl Reader,
    query: &Query,
    time: Duration,
) -> Result<Option<Vec<DeviceId>>, ScanFailure> {
    find_in(search, reader, query, None, time).await
}

/// Returns those of `devices` for which `query` is true, as [`find`] does.
async fn find_in(
    search: &Arc<FleetSearch>,
    reader: &mut impl Reader,
    query: &Query,
    devices: Option<Vec<DeviceRange>>,
    time: Duration,
) -> Result<Option<Vec<DeviceId>>, ScanFailure> {
    let wanted = DeviceScan { query: Some(query), devices, after: None, until: Instant::now() + time };
    let visitor = Matching::new(search, reader.access(), query);
    let Scanned { visitor, end, .. } = scan(search, reader, wanted, visitor).await?;
    match visitor.refused {
        Some(rejection) => Err(ScanFailure::Rejected(rejection)),
        None => Ok((end != ScanEnd::TimeOver).then_some(visitor.found)),
    }
}

async fn unread(failure: ScanFailure) -> Result<(), Revoked> {
    match failure {
        ScanFailure::Unauthorized => Err(Revoked),
        ScanFailure::Rejected(rejection) => {
            let error = rejection.error();
            if !matches!(rejection, Rejection::Unavailable(_)) {
                tracing::warn!(error, "the devices of a rollout cannot be read; it is tried again");
            }
            sleep(RETRY_WAIT).await;
            Ok(())
        }
    }
}

/// The devices for which a query is true.
struct Matching {
    search: Arc<FleetSearch>,
    query: Query,
    now: Timestamp,
    found: Vec<DeviceId>,
    charge: Charge,
    refused: Option<Rejection>,
}

impl Matching {
    fn new(search: &Arc<FleetSearch>, access: &Access, query: &Query) -> Self {
        let charge = Charge::new(search.quota(access), 0);
        let now = search.service.now();
        Self { search: search.clone(), query: query.clone(), now, found: Vec::new(), charge, refused: None }
    }
}

impl DeviceVisitor for Matching {
    fn needs(&self) -> Arc<Needs> {
        Arc::new(Needs::default().with_query(Some(&self.query)))
    }

    fn visit(&mut self, reader: &Access, mut device: Device, _again: &mut dyn FnMut(&Needs) -> Device) {
        if is_match(&self.query, &mut device, reader, &*self.search.presence, self.now) {
            self.found.push(device.id);
            let memory = DEVICE_BYTES * self.found.len();
            self.refused = self.search.service.quotas().grow(&mut self.charge, memory).err();
        }
    }

    fn has_enough(&self) -> bool {
        self.refused.is_some() || self.found.len() > DEVICES_MAX
    }

    fn needs_all(&self) -> bool {
        true
    }
}
