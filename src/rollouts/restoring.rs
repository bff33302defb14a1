//! Rollouts that are made: of the rows of the store, and of a request.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    admission::{Charge, Quotas},
    auth::Authority,
    engine::nonce,
    fleet::{
        Rollout,
        rollout::{
            DeviceEntry, Head, Spec,
            spec::{DEVICES_MAX, Selection},
        },
    },
    rollouts::{
        FORBIDDEN, NewRollout, RolloutController, Slot,
        actor::Actor,
        rows::{HeadRow, Staged},
        slot::{Login, NewSlot},
    },
    shadow::{DeviceId, DocumentLimits, Timestamp},
    wire,
};

/// Returns a rollout of `actor` in which the devices that are not `permitted` are skipped.
pub(super) fn new_slot(
    controller: &RolloutController,
    actor: &Actor,
    number: u64,
    new: NewRollout,
    permitted: &HashSet<DeviceId>,
    charge: Charge,
) -> Slot {
    let NewRollout { id, is_bulk, description, spec, devices } = new;
    let forbidden = forbidden(&devices, permitted);
    let mut rollout = Rollout::new(spec, devices);
    rollout.skip(forbidden, &FORBIDDEN.into(), controller.moment());
    Slot::new(NewSlot {
        number,
        id,
        nonce: nonce(),
        is_bulk,
        created_by: actor.principal().name().clone(),
        created_at: controller.now(),
        updated_at: controller.now(),
        description,
        creator: Login::of(actor),
        restorer: None,
        rollout,
        charge,
        id_rows: None,
    })
}

/// Returns the indexes of the devices that are not `permitted`.
pub(super) fn forbidden(devices: &[DeviceId], permitted: &HashSet<DeviceId>) -> Vec<usize> {
    let is_forbidden = |(index, device)| (!permitted.contains(device)).then_some(index);
    devices.iter().enumerate().filter_map(is_forbidden).collect()
}

/// Returns the rollout of these rows; `None` if they are damaged.
pub(super) fn restored(
    (number, head, parts): (u64, HeadRow, Staged),
    quotas: &Quotas,
    authority: &Authority,
    is_replicated: bool,
) -> Option<Slot> {
    let HeadRow { id, nonce, bulk, created_by, created_at, updated_at, login, restorer, spec, .. } = head;
    let HeadRow { state, reason, wave, planned, commands, rollbacks, .. } = head;
    let Staged { ids, records, id_rows, .. } = parts;
    let parsed = parsed(&spec, bulk, &ids)?;
    let mut devices: Vec<_> = ids.into_iter().map(DeviceEntry::queued).collect();
    for (index, record) in records {
        let device = devices.get_mut(index)?;
        *device = DeviceEntry::read(device.id.clone(), &record)?;
    }
    let head = Head { state, reason, wave, planned, commands, rollbacks };
    let mut rollout = Rollout::restored(Arc::new(parsed), head, devices);
    if is_replicated {
        rollout = rollout.replicated();
        // Every start makes the same of the rows, and only the log changes them.
        rollout.take_edits();
    }
    let quota = quotas.of_absent(&created_by);
    Some(Slot::new(NewSlot {
        number,
        id,
        nonce,
        is_bulk: bulk,
        created_by,
        created_at: Timestamp(created_at),
        updated_at: Timestamp(updated_at),
        description: spec,
        creator: Login::restored(login, authority),
        restorer: restorer.map(|record| Login::restored(record, authority)),
        rollout,
        charge: Charge::new(quota, 0),
        id_rows: Some(id_rows),
    }))
}

/// Parses a description from the store, whose `devices` are in rows of their own. The limits of a document may have changed since.
fn parsed(description: &Map<String, Value>, bulk: bool, ids: &[DeviceId]) -> Option<Spec> {
    let mut description = description.clone();
    let is_query = description.contains_key("query");
    if !is_query {
        if ids.is_empty() || ids.len() > DEVICES_MAX {
            return None;
        }
        // The others need not be parsed again.
        let first = ids.iter().take(1).map(|id| id.as_str().into()).collect();
        description.insert("devices".to_owned(), Value::Array(first));
    }
    let limits = DocumentLimits { depth_max: 64, ..DocumentLimits::default() };
    let (members, patch) = wire::parse_rollout(Value::Object(description).to_string().as_bytes(), &limits).ok()?;
    let parsed = if bulk { Spec::parse_bulk(&members, patch) } else { Spec::parse(&members, patch) };
    let mut spec = parsed.ok()?;
    if !is_query {
        spec.selection = Selection::Devices(ids.to_vec());
    }
    Some(spec)
}
