//! The floor of a device: the version from which its shadows without a record go on.
//!
//! A purge removes the tombstones of deleted names ([`super::purge`]), and with them the versions of those shadows. The
//! floor is the highest of these versions. Every shadow of the device that has no record begins above it, so a version
//! never decreases if a purged name comes back. A name that never existed begins there too.
//!
//! *Invariant:* a floor is written in the commit that removes the records, and never decreases.

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableError};

use crate::{
    shadow::{DeviceId, Version},
    store::{
        codec::{DecodeError, put_u64},
        database::AbortCause,
        error::StoreError,
        frame,
        journal::entry::Seq,
        schema::FLOORS_TABLE,
    },
};

/// The name of the table, part of each checksum.
pub(in crate::store) const FLOORS: &str = "floors";

/// The table of floors in a snapshot.
pub(in crate::store) type FloorsTable = ReadOnlyTable<&'static str, &'static [u8]>;

/// The floor of one device; all zero if none of its names was purged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct DeviceFloor {
    /// The highest version of a purged tombstone.
    pub(in crate::store) version: Version,
    /// The newest entry of a purged tombstone.
    pub(in crate::store) last_entry: Seq,
}

impl DeviceFloor {
    /// Raises this floor to `other`.
    pub(in crate::store) fn raise(&mut self, other: Self) {
        self.version = self.version.max(other.version);
        self.last_entry = self.last_entry.max(other.last_entry);
    }

    /// Returns the framed value for the device of `key`.
    pub(in crate::store) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        frame::begin(&mut out);
        put_u64(&mut out, self.version.0);
        put_u64(&mut out, self.last_entry.0);
        frame::finish(&mut out, FLOORS, key);
        out
    }

    /// Decodes the framed value found under `key`.
    pub(in crate::store) fn decode(key: &[u8], framed: &[u8]) -> Result<Self, DecodeError> {
        let mut payload = frame::open(framed, FLOORS, key)?;
        let floor = Self { version: Version(payload.u64()?), last_entry: Seq(payload.u64()?) };
        frame::no_extensions(payload)?;
        match floor.version > Version(0) && floor.last_entry > Seq(0) {
            true => Ok(floor),
            false => Err(DecodeError::Invalid("a floor")),
        }
    }
}

/// Returns the table of floors in this snapshot; `None` if no name was ever purged.
pub(in crate::store) fn table(transaction: &ReadTransaction) -> Result<Option<FloorsTable>, AbortCause> {
    match transaction.open_table(FLOORS_TABLE) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(Some(table?)),
    }
}

/// Returns the floor of `device` in this snapshot.
pub(in crate::store) fn of(transaction: &ReadTransaction, device: &DeviceId) -> Result<DeviceFloor, AbortCause> {
    table(transaction)?.map_or(Ok(DeviceFloor::default()), |table| get(&table, device))
}

/// Raises the floor of `device` to `floor`; true if it had none before.
pub(in crate::store) fn raise(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    device: &DeviceId,
    floor: DeviceFloor,
) -> Result<bool, AbortCause> {
    let mut raised = get(table, device)?;
    raised.raise(floor);
    let name = device.as_str();
    let former = table.insert(name, raised.encode(name.as_bytes()).as_slice())?;
    Ok(former.is_none())
}

fn get(table: &impl ReadableTable<&'static str, &'static [u8]>, device: &DeviceId) -> Result<DeviceFloor, AbortCause> {
    let name = device.as_str();
    match table.get(name)? {
        None => Ok(DeviceFloor::default()),
        Some(value) => Ok(DeviceFloor::decode(name.as_bytes(), value.value())
            .map_err(|error| StoreError::record(FLOORS, name, &error))?),
    }
}
