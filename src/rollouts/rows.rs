//! The rows of rollouts in the store.
//!
//! | key | value |
//! |---|---|
//! | `o`, number | a rollout in JSON: its description, login, state and wave; of one that is being created in a cluster, its creator |
//! | `g`, number, index | ids of devices, separated by line ends: those of this index and after |
//! | `d`, number, index | the state of a device in JSON ([`DeviceEntry::record`]), once it is not queued any more |
//! | `u` | the time for which the server ran while there were rollouts, in milliseconds (8 bytes); in a cluster also its driver (8 bytes) |
//!
//! A number has 8 bytes and an index 4, big-endian. A rollout that has its row has all its devices, since they are written at
//! once; rows of devices without a rollout are left over from a deletion, and removed at the next start. In a cluster, the devices of
//! a rollout come before it, since they may be more than a record of the log has room for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    admission::{Charge, Quotas},
    auth::LoginRecord,
    fleet::rollout::{DeviceEntry, DeviceState, State},
    shadow::DeviceId,
    store::{RowEdit, RowKey},
};

const HEAD: u8 = b'o';
const IDS: u8 = b'g';
const DEVICE: u8 = b'd';
const CLOCK: u8 = b'u';

/// Ids in a row.
pub(super) const IDS_PER_ROW: usize = 500;
/// The approximate memory of a device of a rollout that is being created, beside its id.
const STAGED_ID_BYTES: usize = 32;

/// The row of a rollout. Fields of newer versions are ignored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct HeadRow {
    pub(super) id: Arc<str>,
    /// A random number, part of the idempotency keys of its updates.
    pub(super) nonce: u64,
    #[serde(default)]
    pub(super) bulk: bool,
    pub(super) created_by: Arc<str>,
    pub(super) created_at: u64,
    pub(super) updated_at: u64,
    pub(super) login: LoginRecord,
    /// The login that restores former values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) restorer: Option<LoginRecord>,
    /// The description as it was sent, without `devices`.
    pub(super) spec: Map<String, Value>,
    pub(super) state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Arc<str>>,
    pub(super) wave: usize,
    /// The number of devices at the creation, of which the waves are parts.
    pub(super) planned: usize,
    /// The number of commands, and of rollbacks among them.
    #[serde(default)]
    pub(super) commands: u64,
    #[serde(default)]
    pub(super) rollbacks: u64,
}

/// The row of a rollout that is being created in a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StagedRow {
    pub(super) staged_by: Arc<str>,
    /// The time for which the cluster had run when it began.
    pub(super) begun_ms: u64,
}

/// The devices of a rollout that is being created in a cluster, as their rows have them.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) row: Option<StagedRow>,
    pub(super) ids: Vec<DeviceId>,
    pub(super) records: Vec<(usize, Bytes)>,
    pub(super) id_rows: Vec<usize>,
    /// The charge for their memory, to the creator.
    pub(super) charge: Option<Charge>,
}

impl Staged {
    /// Returns the removals of its rows.
    pub(super) fn removals(&self, number: u64) -> Vec<RowEdit> {
        let mut edits = remove_parts(number, self.records.iter().map(|(index, _)| *index), &self.id_rows);
        edits.extend(self.row.as_ref().map(|_| remove_head(number)));
        edits
    }

    /// Charges the memory of its devices from the first `from` on to the creator.
    pub(super) fn charge(&mut self, from: usize, quotas: &Quotas) {
        let Some(row) = &self.row else { return };
        let added = self.ids.iter().skip(from).map(|id| STAGED_ID_BYTES + id.as_str().len()).sum::<usize>();
        let charge = self.charge.get_or_insert_with(|| Charge::new(quotas.of_absent(&row.staged_by), 0));
        charge.resize(charge.bytes() + added);
    }

    /// Returns true if the principal `name` creates it.
    pub(super) fn is_of(&self, name: &Arc<str>) -> bool {
        self.row.as_ref().is_some_and(|row| row.staged_by == *name)
    }
}

/// The rows of rollouts at the start of the server.
#[derive(Debug, Default)]
pub struct RolloutRows {
    pub(super) heads: BTreeMap<u64, HeadRow>,
    /// The numbers of the rollouts, unreadable ones among them.
    pub(super) numbers: BTreeSet<u64>,
    /// The devices of each rollout, in order.
    pub(super) ids: BTreeMap<u64, Vec<DeviceId>>,
    /// The records of devices.
    pub(super) devices: BTreeMap<u64, Vec<(usize, Bytes)>>,
    /// The indexes of the rows with ids.
    pub(super) id_rows: BTreeMap<u64, Vec<usize>>,
    /// The rollouts that are being created in a cluster.
    staged: BTreeMap<u64, StagedRow>,
    /// The keys of all rows except the heads.
    parts: BTreeMap<u64, Vec<RowKey>>,
    pub(super) running_ms: u64,
    /// The driver of a cluster's rollouts; 0 for none.
    pub(super) driver: u64,
}

impl RolloutRows {
    /// Takes a row. Returns false for one of another kind, or a damaged one.
    pub fn take(&mut self, key: &[u8], value: Bytes) -> bool {
        self.read(key, value).is_some()
    }

    fn read(&mut self, key: &[u8], value: Bytes) -> Option<()> {
        let (kind, rest) = key.split_first()?;
        match *kind {
            CLOCK => {
                let (running_ms, driver) = value.split_first_chunk::<8>()?;
                self.running_ms = u64::from_be_bytes(*running_ms);
                self.driver = if driver.is_empty() { 0 } else { u64::from_be_bytes(driver.try_into().ok()?) };
            }
            HEAD => {
                let number = u64::from_be_bytes(rest.try_into().ok()?);
                if let Ok(staged) = serde_json::from_slice(&value) {
                    self.staged.insert(number, staged);
                    return Some(());
                }
                self.numbers.insert(number);
                self.heads.insert(number, serde_json::from_slice(&value).ok()?);
            }
            IDS | DEVICE => {
                let (number, index) = rest.split_first_chunk::<8>()?;
                let number = u64::from_be_bytes(*number);
                let index = usize::try_from(u32::from_be_bytes(index.try_into().ok()?)).ok()?;
                match *kind {
                    IDS => {
                        self.read_ids(number, index, &value)?;
                        self.id_rows.entry(number).or_default().push(index);
                    }
                    _ => self.devices.entry(number).or_default().push((index, value)),
                }
                self.parts.entry(number).or_default().push(key.into());
            }
            _ => return None,
        }
        Some(())
    }

    /// Adds ids, which follow those of the rows before.
    fn read_ids(&mut self, number: u64, index: usize, value: &[u8]) -> Option<()> {
        let ids = self.ids.entry(number).or_default();
        let read = ids_of(std::str::from_utf8(value).ok()?)?;
        (ids.len() == index).then(|| ids.extend(read))
    }

    /// Removes and returns the devices of a rollout.
    pub(super) fn take_parts(&mut self, number: u64) -> Staged {
        let (ids, records) = (self.ids.remove(&number), self.devices.remove(&number));
        let id_rows = self.id_rows.remove(&number).unwrap_or_default();
        let row = self.staged.remove(&number);
        Staged { row, ids: ids.unwrap_or_default(), records: records.unwrap_or_default(), id_rows, charge: None }
    }

    /// Removes and returns the devices of the rollouts that are being created in a cluster.
    pub(super) fn staged(&mut self) -> BTreeMap<u64, Staged> {
        let numbers = self.ids.keys().chain(self.devices.keys()).chain(self.staged.keys());
        let numbers: BTreeSet<u64> = numbers.copied().collect();
        let staged = numbers.into_iter().filter(|number| !self.numbers.contains(number)).collect::<Vec<_>>();
        staged.into_iter().map(|number| (number, self.take_parts(number))).collect()
    }

    /// Returns the removals of rows of rollouts that are not there any more.
    pub(super) fn orphans(&mut self) -> Vec<RowEdit> {
        let Self { numbers, parts, .. } = self;
        let lost = parts.extract_if(.., |number, _| !numbers.contains(number));
        lost.flat_map(|(_, keys)| keys).map(RowEdit::Remove).collect()
    }
}

/// Returns the edit of the row of a rollout.
pub(super) fn put_head(number: u64, head: &HeadRow) -> RowEdit {
    let value = serde_json::to_vec(head).expect("all keys are strings");
    RowEdit::Put(key(HEAD, number, None), value.into())
}

/// Returns the edit of the row of a rollout that is being created.
pub(super) fn put_staged(number: u64, row: &StagedRow) -> RowEdit {
    let value = serde_json::to_vec(row).expect("all keys are strings");
    RowEdit::Put(key(HEAD, number, None), value.into())
}

/// Returns the removal of the row of a rollout.
pub(super) fn remove_head(number: u64) -> RowEdit {
    RowEdit::Remove(key(HEAD, number, None))
}

/// Returns the edits of the rows with the ids of `devices` after the first `added_after`, which are a multiple of the ids in a row or
/// follow complete rows.
pub(super) fn put_ids(number: u64, devices: &[DeviceEntry], added_after: usize) -> Vec<RowEdit> {
    let added = devices.get(added_after..).unwrap_or_default();
    let row = |(part, devices): (usize, &[DeviceEntry])| {
        let ids = text_of(devices.iter().map(|device| &device.id));
        put_id_text(number, added_after + part * IDS_PER_ROW, ids)
    };
    added.chunks(IDS_PER_ROW).enumerate().map(row).collect()
}

/// Returns the edit of the row of a device.
pub(super) fn put_device(number: u64, index: usize, device: &DeviceEntry) -> RowEdit {
    RowEdit::Put(key(DEVICE, number, Some(index)), device.record().into())
}

/// Returns the edit of the time for which the server ran.
pub(super) fn put_clock(running_ms: u64) -> RowEdit {
    RowEdit::Put([CLOCK].into(), Bytes::copy_from_slice(&running_ms.to_be_bytes()))
}

/// Returns the edit of the time, and of the driver of a cluster's rollouts.
pub(super) fn put_driver(running_ms: u64, driver: u64) -> RowEdit {
    RowEdit::Put([CLOCK].into(), [running_ms.to_be_bytes(), driver.to_be_bytes()].concat().into())
}

/// Returns the ids in `text`, separated by line ends; `None` if one is invalid.
pub(super) fn ids_of(text: &str) -> Option<Vec<DeviceId>> {
    text.lines().map(|id| DeviceId::new(id).ok()).collect()
}

/// Returns `ids`, separated by line ends.
pub(super) fn text_of<'a>(ids: impl Iterator<Item = &'a DeviceId>) -> String {
    ids.map(DeviceId::as_str).collect::<Vec<_>>().join("\n")
}

/// Returns the edit of a row with the ids from `index` on.
pub(super) fn put_id_text(number: u64, index: usize, ids: String) -> RowEdit {
    RowEdit::Put(key(IDS, number, Some(index)), ids.into())
}

/// Returns true for the key of a row of rollouts.
pub(super) fn is_of_rollouts(key: &[u8]) -> bool {
    key.first().is_some_and(|kind| [HEAD, IDS, DEVICE, CLOCK].contains(kind))
}

/// Returns the rollout and the index of a device of which `key` is the row; `None` for another kind of row.
pub(super) fn device_of(key: &[u8]) -> Option<(u64, usize)> {
    let (number, index) = key.strip_prefix(&[DEVICE])?.split_first_chunk::<8>()?;
    let index = u32::from_be_bytes(index.try_into().ok()?);
    Some((u64::from_be_bytes(*number), usize::try_from(index).ok()?))
}

/// Returns the removals of all rows of a rollout. `id_rows` are the indexes of its rows with ids.
pub(super) fn remove(number: u64, devices: &[DeviceEntry], id_rows: &[usize]) -> Vec<RowEdit> {
    let changed = devices.iter().enumerate().filter(|(_, device)| device.state != DeviceState::Queued);
    let mut edits = remove_parts(number, changed.map(|(index, _)| index), id_rows);
    edits.push(remove_head(number));
    edits
}

/// Returns the removals of the rows of the devices with these indexes, and of those with ids.
pub(super) fn remove_parts(number: u64, devices: impl Iterator<Item = usize>, id_rows: &[usize]) -> Vec<RowEdit> {
    let mut edits: Vec<_> = devices.map(|index| RowEdit::Remove(key(DEVICE, number, Some(index)))).collect();
    edits.extend(id_rows.iter().map(|index| RowEdit::Remove(key(IDS, number, Some(*index)))));
    edits
}

/// Returns the indexes of the rows that [`put_ids`] writes for devices up to `end`.
pub(super) fn id_rows(added_after: usize, end: usize) -> impl Iterator<Item = usize> {
    (added_after..end).step_by(IDS_PER_ROW)
}

fn key(kind: u8, number: u64, index: Option<usize>) -> RowKey {
    let mut key = vec![kind];
    key.extend_from_slice(&number.to_be_bytes());
    if let Some(index) = index {
        key.extend_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes());
    }
    key.into()
}
