//! The shadows that are newer than the state table, for readers.
//!
//! The writer changes the dirty set ([`super::dirty_set`]) while it makes a commit, before the commit is on disk. Readers need
//! the shadows that the *snapshot* they read lacks. So a key that leaves the dirty set stays here until the commit that flushes
//! its document is on disk, and a key enters before its document is published.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{
    shadow::{ShadowKey, name::DeviceId},
    store::scan::DeviceSpan,
};

/// The stale devices that are copied under the lock at once.
const STALE_AT_ONCE: usize = 256;

/// The shadows that are newer than the state table. Only the writer changes them.
#[derive(Default)]
pub(in crate::store) struct UnflushedShadows(RwLock<Unflushed>);

/// The content of [`UnflushedShadows`].
#[derive(Default)]
pub(in crate::store) struct Unflushed {
    /// The dirty set: the approximate bytes of the records of the documents.
    pub(in crate::store) dirty: BTreeMap<ShadowKey, u32>,
    /// The shadows whose record is in the commit under way.
    flushing: BTreeSet<ShadowKey>,
    /// The shadows among both whose entries in the index may be outdated.
    stale: BTreeSet<ShadowKey>,
}

impl UnflushedShadows {
    pub(in crate::store) fn read(&self) -> RwLockReadGuard<'_, Unflushed> {
        self.0.read()
    }

    pub(in crate::store) fn write(&self) -> RwLockWriteGuard<'_, Unflushed> {
        self.0.write()
    }

    /// Forgets the shadows whose records are on disk now.
    pub(in crate::store) fn flushed<'a>(&self, keys: impl Iterator<Item = &'a ShadowKey>) {
        let mut unflushed = self.0.write();
        unflushed.flushing.clear();
        if !unflushed.stale.is_empty() {
            keys.for_each(|key| _ = unflushed.stale.remove(key));
        }
    }

    /// Adds shadows whose entries in the index may be outdated, before their documents are published.
    pub(in crate::store) fn add_stale(&self, keys: Vec<ShadowKey>) {
        if !keys.is_empty() {
            self.0.write().stale.extend(keys);
        }
    }

    /// Returns, for each of `keys`, true if its entries in the index may be outdated.
    pub(in crate::store) fn are_stale<'a>(&self, keys: impl Iterator<Item = &'a ShadowKey>) -> Vec<bool> {
        let unflushed = self.0.read();
        keys.map(|key| unflushed.stale.contains(key)).collect()
    }

    /// Returns all shadows, and those whose entries in the index may be outdated.
    #[cfg(test)]
    pub(in crate::store) fn of_test(&self) -> (BTreeSet<ShadowKey>, BTreeSet<ShadowKey>) {
        let unflushed = self.0.read();
        (unflushed.dirty.keys().chain(&unflushed.flushing).cloned().collect(), unflushed.stale.clone())
    }

    /// Returns the first `limit` devices after `after` in `spans` with a shadow whose entries in the index may be outdated. The
    /// lock is held for a few of them at once, since the writer needs it. One that becomes outdated meanwhile may be
    /// missing: its change was answered after the call began.
    pub(in crate::store) fn stale_devices(
        &self,
        spans: &[DeviceSpan],
        after: Option<&DeviceId>,
        limit: usize,
    ) -> BTreeSet<DeviceId> {
        let mut devices = BTreeSet::new();
        for span in spans.iter().filter(|span| after.is_none_or(|after| !span.ends_by(after))) {
            let mut after = after.filter(|after| span.has(after)).cloned();
            while devices.len() < limit {
                let found = self.0.read().stale_of(span, after.as_ref(), STALE_AT_ONCE.min(limit - devices.len()));
                let Some(last) = found.last().cloned() else { break };
                devices.extend(found);
                after = Some(last);
            }
        }
        devices
    }

    /// Returns the shadows of the devices in `spans` after `after`, in key order. If they are `limit` or more, only those up to
    /// a device are returned, and then also the last one of it.
    pub(in crate::store) fn within(
        &self,
        spans: &[DeviceSpan],
        after: Option<&ShadowKey>,
        limit: usize,
    ) -> (Vec<ShadowKey>, Option<ShadowKey>) {
        let unflushed = self.0.read();
        let mut found: Vec<ShadowKey> = Vec::new();
        for span in spans {
            let mut keys = unflushed.of_span(span, after).peekable();
            while let Some(key) = keys.next() {
                found.push(key.clone());
                if found.len() >= limit && keys.peek().is_none_or(|next| next.device != key.device) {
                    return (found, Some(key.clone()));
                }
            }
        }
        (found, None)
    }
}

impl Unflushed {
    /// Removes `key` from the dirty set, since its document is flushed with the next commit. Returns the bytes it had there.
    pub(in crate::store) fn begin_flush(&mut self, key: &ShadowKey) -> Option<u32> {
        let bytes = self.dirty.remove(key)?;
        self.flushing.insert(key.clone());
        Some(bytes)
    }

    /// Replaces all shadows by those of `dirty`, which a start has found, and whose entries may be outdated if something
    /// `is_indexed`: the paths that the journal's entries change are not decoded by a start.
    pub(in crate::store) fn replace(&mut self, dirty: BTreeMap<ShadowKey, u32>, is_indexed: bool) {
        let stale = if is_indexed { dirty.keys().cloned().collect() } else { BTreeSet::new() };
        *self = Self { dirty, flushing: BTreeSet::new(), stale };
    }

    /// Returns the first `limit` devices of `span` after `after` with a shadow whose entries may be outdated.
    fn stale_of(&self, span: &DeviceSpan, after: Option<&DeviceId>, limit: usize) -> Vec<DeviceId> {
        let from = match (after, span) {
            (Some(device), _) | (None, DeviceSpan::One(device) | DeviceSpan::Prefix(device)) => {
                Bound::Included(ShadowKey::classic(device.clone()))
            }
            (None, DeviceSpan::All) => Bound::Unbounded,
        };
        let mut devices: Vec<DeviceId> = Vec::new();
        for key in self.stale.range((from, Bound::Unbounded)).take_while(|key| span.has(&key.device)) {
            if after == Some(&key.device) || devices.last() == Some(&key.device) {
                continue;
            }
            if devices.len() >= limit {
                break;
            }
            devices.push(key.device.clone());
        }
        devices
    }

    /// Returns the shadows of `span` after `after`, in key order.
    fn of_span<'a>(
        &'a self,
        span: &'a DeviceSpan,
        after: Option<&'a ShadowKey>,
    ) -> impl Iterator<Item = &'a ShadowKey> + 'a {
        let first = match span {
            DeviceSpan::All => None,
            DeviceSpan::One(device) | DeviceSpan::Prefix(device) => Some(ShadowKey::classic(device.clone())),
        };
        let from = match (first, after) {
            (Some(first), Some(after)) if *after < first => Bound::Included(first),
            (_, Some(after)) => Bound::Excluded(after.clone()),
            (Some(first), None) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        let range = (from, Bound::Unbounded);
        let dirty = self.dirty.range(range.clone()).map(|(key, _)| key).take_while(|key| span.has(&key.device));
        let flushing = self.flushing.range(range).take_while(|key| span.has(&key.device));
        merged(dirty, flushing)
    }

    /// Returns the dirty shadows of `device`.
    pub(in crate::store) fn of_device<'a>(&'a self, device: &'a DeviceId) -> impl Iterator<Item = &'a ShadowKey> {
        let from = self.dirty.range(ShadowKey::classic(device.clone())..);
        from.map(|(key, _)| key).take_while(|key| key.device == *device)
    }
}

/// Returns the items of two ordered iterators in order, each once.
fn merged<T: Ord>(one: impl Iterator<Item = T>, other: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(first), Some(second)) if first > second => other.next(),
        (Some(first), Some(second)) => {
            if first == second {
                other.next();
            }
            one.next()
        }
        (None, _) => other.next(),
        (_, None) => one.next(),
    })
}
