//! The rows of rollouts in the store.
//!
//! | key | value |
//! |---|---|
//! | `o`, number | a rollout in JSON: its description, login, state and wave |
//! | `g`, number, index | ids of devices, separated by line ends: those of this index and after |
//! | `d`, number, index | the state of a device in JSON ([`DeviceEntry::record`]), once it is not queued any more |
//! | `u` | the time for which the server ran while there were rollouts, in milliseconds (8 bytes) |
//!
//! A number has 8 bytes and an index 4, big-endian. A rollout that has its row has all its devices, since they are written at
//! once; rows of devices without a rollout are left over from a deletion, and removed at the next start.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
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
const IDS_PER_ROW: usize = 500;

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
    /// The keys of all rows except the heads.
    parts: BTreeMap<u64, Vec<RowKey>>,
    pub(super) running_ms: u64,
}

impl RolloutRows {
    /// Takes a row. Returns false for one of another kind, or a damaged one.
    pub fn take(&mut self, key: &[u8], value: Bytes) -> bool {
        self.read(key, value).is_some()
    }

    fn read(&mut self, key: &[u8], value: Bytes) -> Option<()> {
        let (kind, rest) = key.split_first()?;
        match *kind {
            CLOCK => self.running_ms = u64::from_be_bytes(value.as_ref().try_into().ok()?),
            HEAD => {
                let number = u64::from_be_bytes(rest.try_into().ok()?);
                self.numbers.insert(number);
                self.heads.insert(number, serde_json::from_slice(&value).ok()?);
            }
            IDS | DEVICE => {
                let (number, index) = rest.split_first_chunk::<8>()?;
                let number = u64::from_be_bytes(*number);
                let index = usize::try_from(u32::from_be_bytes(index.try_into().ok()?)).ok()?;
                match *kind {
                    IDS => self.read_ids(number, index, &value)?,
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
        let read = std::str::from_utf8(value).ok()?.lines().map(|id| DeviceId::new(id).ok());
        let read: Vec<_> = read.collect::<Option<_>>()?;
        (ids.len() == index).then(|| ids.extend(read))
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

/// Returns the edits of the rows with the ids of `devices` after the first `added_after`, which are a multiple of the ids in a row or
/// follow complete rows.
pub(super) fn put_ids(number: u64, devices: &[DeviceEntry], added_after: usize) -> Vec<RowEdit> {
    let added = devices.get(added_after..).unwrap_or_default();
    let row = |(part, devices): (usize, &[DeviceEntry])| {
        let ids: Vec<_> = devices.iter().map(|device| device.id.as_str()).collect();
        RowEdit::Put(key(IDS, number, Some(added_after + part * IDS_PER_ROW)), ids.join("\n").into())
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

/// Returns the removals of all rows of a rollout. `id_rows` are the indexes of its rows with ids.
pub(super) fn remove(number: u64, devices: &[DeviceEntry], id_rows: &[usize]) -> Vec<RowEdit> {
    let changed = devices.iter().enumerate().filter(|(_, device)| device.state != DeviceState::Queued);
    let mut edits: Vec<_> = changed.map(|(index, _)| RowEdit::Remove(key(DEVICE, number, Some(index)))).collect();
    edits.extend(id_rows.iter().map(|index| RowEdit::Remove(key(IDS, number, Some(*index)))));
    edits.push(RowEdit::Remove(key(HEAD, number, None)));
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
