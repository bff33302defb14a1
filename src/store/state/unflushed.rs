//! The shadows that are newer than the state table, for readers.
//!
//! The writer changes the dirty set ([`super::dirty_set`]) while it makes a commit, before the commit is on disk. Readers need
//! the shadows that the *snapshot* they read lacks. So a key that leaves the dirty set stays here until the commit that flushes
//! its document is on disk, and a key enters before its document is published.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{
    shadow::{ShadowKey, name::DeviceId},
    store::scan::DeviceSpan,
};

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
}

impl UnflushedShadows {
    pub(in crate::store) fn read(&self) -> RwLockReadGuard<'_, Unflushed> {
        self.0.read()
    }

    pub(in crate::store) fn write(&self) -> RwLockWriteGuard<'_, Unflushed> {
        self.0.write()
    }

    /// Forgets the shadows whose records are on disk now.
    pub(in crate::store) fn flushed(&self) {
        self.0.write().flushing.clear();
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

    /// Replaces all shadows by those of `dirty`.
    pub(in crate::store) fn replace(&mut self, dirty: BTreeMap<ShadowKey, u32>) {
        *self = Self { dirty, flushing: BTreeSet::new() };
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
