//! The devices of a rollout that its creator may change.
//!
//! Only these keep other rollouts from the same paths, so nobody can hold back a rollout to devices that it may not change. The
//! rights are asked again when an update is sent.

use std::{collections::HashSet, sync::Arc, time::Instant};

use tokio::time::sleep;

use crate::{
    admission::work,
    fleet::rollout::Spec,
    rollouts::{Refused, actor::Actor},
    search::FleetSearch,
    shadow::{Command, DeviceId, ShadowKey, Update},
};

/// Steps for the rights on a device, beside those for each path of the change.
const DEVICE_STEPS: usize = 8;

/// Returns `devices`, and those of them whose shadow `actor` may change as `spec` says, whether it exists or not. A dry run needs
/// the right to read as well.
///
/// # Errors
///
/// [`Refused::Internal`].
pub(crate) async fn permitted(
    search: &FleetSearch,
    actor: &Actor,
    spec: &Arc<Spec>,
    devices: Vec<DeviceId>,
    dry_run: bool,
) -> Result<(Vec<DeviceId>, Arc<HashSet<DeviceId>>), Refused> {
    let steps = DEVICE_STEPS + if actor.has_all_rights() { 0 } else { spec.touched.len() };
    pay(search, actor, devices.len().saturating_mul(steps)).await;
    let (actor, spec) = (actor.clone(), spec.clone());
    blocking(move || {
        let mut command = Command::Update(Update { dry_run, ..spec.patch.clone() });
        let mut may_change = |device: &&DeviceId| {
            let key = ShadowKey { device: (*device).clone(), name: spec.shadow.clone() };
            actor.has_all_rights() || actor.authorize(&key, &mut command).is_ok()
        };
        let permitted = devices.iter().filter(|device| may_change(device)).cloned().collect();
        (devices, Arc::new(permitted))
    })
    .await
}

/// Charges `steps` of work that is about to be done to `actor`, and waits until it is within its rate.
pub(super) async fn pay(search: &FleetSearch, actor: &Actor, steps: usize) {
    let units = work::times(steps, 1) / work::STEPS_PER_UNIT;
    let wait = actor.quota(search).charge_work(units, Instant::now());
    sleep(wait.unwrap_or_default()).await;
}

/// Begins `work`, which takes too long for a thread that serves connections, and returns its result. It is done even if nobody
/// waits for it.
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, Refused>> + Send {
    let begun = tokio::task::spawn_blocking(work);
    async move {
        begun.await.map_err(|error| {
            tracing::error!(%error, "work for a rollout failed");
            Refused::Internal
        })
    }
}
