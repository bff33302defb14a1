//! Idempotency keys: repeated requests receive the outcome of the first one.
//!
//! A shadow stores the outcome of each accepted request that carried a key. A repeated request with the same key and
//! principal receives the stored outcome. A different request with that key is refused. The keys are stored beside the
//! document, in its record or tombstone. They depend on the accepted requests alone, so recovery from the journal
//! restores them.
//!
//! A shadow stores at most [`PER_SHADOW_MAX`] keys, and at most [`PER_PRINCIPAL_MAX`] of one principal. A key expires
//! after [`REMEMBERED_SECONDS`] of the store's clock. A clock that jumps forward expires keys earlier, one that jumps
//! back expires them later. A principal at its maximum evicts its own oldest key. In a full shadow, a principal evicts
//! the oldest key of the principal with the most keys, if that one has at least two more than itself. Otherwise it
//! evicts its own oldest key.
//!
//! *Invariant:* with `n` principals, the newest ⌊64/n⌋ keys of each stay, whatever the others send. If 64 principals
//! hold one key each, a further principal is refused rather than evict an only key.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::shadow::{
    command::{
        Command, Delete, EtagCondition, Expected, OnConflict, Patch, Preconditions, SectionPatch, Update,
        rejection::Rejection,
    },
    document::{Document, Timestamp, Version, canonical, etag::Etag},
    pointer::SectionName,
};

/// Most keys stored for a shadow.
pub const PER_SHADOW_MAX: usize = 64;

/// Most keys stored for one principal of a shadow.
pub const PER_PRINCIPAL_MAX: usize = 16;

/// Lifetime of a key, in seconds.
pub const REMEMBERED_SECONDS: u64 = 24 * 3600;

/// The text, 1 to 64 bytes, with which a requester marks a request that it may repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(Arc<str>);

/// The digest of a request in 16 bytes: operation, state and preconditions, whether sent in the payload or in headers.
/// It excludes the client token and the dry-run flag. Part of the store's format.
pub type RequestDigest = [u8; 16];

/// An idempotency key with the digest of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The key.
    pub key: IdempotencyKey,
    /// The digest of the request.
    pub digest: RequestDigest,
}

/// The outcome of an accepted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstOutcome {
    /// The digest of the request.
    pub digest: RequestDigest,
    /// The version that the request made, or found unchanged.
    pub version: Version,
    /// The time at which that version was made.
    pub timestamp: Timestamp,
    /// The etag of that version, as the requester was sent it if `etag_is_own`.
    pub etag: Etag,
    /// True if `etag` digests the part that the requester could read. False for requests remembered by older
    /// programs: `etag` then digests everything, and only readers of everything may be sent it.
    pub etag_is_own: bool,
    /// True if the request made that version.
    pub changed: bool,
    /// True if no shadow existed before the request.
    pub created: bool,
    /// The earlier version that the request was rebased from.
    pub rebased_from: Option<Version>,
}

/// One stored request.
#[derive(Clone, Debug, PartialEq)]
pub struct RememberedKey {
    /// The principal.
    pub by: Arc<str>,
    /// The key.
    pub key: IdempotencyKey,
    /// The time of the decision.
    pub decided: Timestamp,
    /// The outcome.
    pub first: FirstOutcome,
}

/// The stored requests of a shadow, oldest first. Cheap to clone; without allocation when empty, as for most shadows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered(Option<Arc<Vec<Arc<RememberedKey>>>>);

impl IdempotencyKey {
    /// Most bytes of a key.
    pub const BYTES_MAX: usize = 64;

    /// Returns the key `text`; `None` if it is empty or too long.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (1..=Self::BYTES_MAX).contains(&text.len()).then(|| Self(text.into()))
    }

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Remembered {
    /// Returns the set of these requests, oldest first.
    #[must_use]
    pub fn of(keys: Vec<RememberedKey>) -> Self {
        Self((!keys.is_empty()).then(|| Arc::new(keys.into_iter().map(Arc::new).collect())))
    }

    /// Returns the stored requests, oldest first; some may have expired.
    #[must_use]
    pub fn keys(&self) -> &[Arc<RememberedKey>] {
        self.0.as_ref().map_or(&[], |keys| keys.as_slice())
    }

    /// Returns the outcome of the request with `key` from `by`, if it has not expired at `now`.
    #[must_use]
    pub fn find(&self, by: &str, key: &IdempotencyKey, now: Timestamp) -> Option<&FirstOutcome> {
        let fits = |known: &&Arc<RememberedKey>| known.key == *key && *known.by == *by && known.is_valid(now);
        self.keys().iter().rev().find(fits).map(|known| &known.first)
    }

    /// Returns the first time at which none of the keys is valid; `None` if there are no keys.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        let newest = self.keys().iter().map(|known| known.decided.0).max()?;
        Some(Timestamp(newest.saturating_add(REMEMBERED_SECONDS + 1)))
    }

    /// Returns a copy that includes `new`, after eviction of the keys that make room for it.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooManyRequests`]: all keys belong to different other principals.
    pub fn with(&self, new: RememberedKey) -> Result<Self, Rejection> {
        let now = new.decided;
        let mut keys = Vec::with_capacity(self.keys().len() + 1);
        keys.extend(self.keys().iter().filter(|known| known.is_valid(now)).cloned());
        let own = keys.iter().filter(|known| known.by == new.by).count();
        let victim = match () {
            () if own >= PER_PRINCIPAL_MAX => Some(new.by.clone()),
            () if keys.len() < PER_SHADOW_MAX => None,
            () => Some(fair_victim(&keys, &new.by, own).ok_or_else(|| full(&keys, now))?),
        };
        if let Some(victim) = victim
            && let Some(oldest) = keys.iter().position(|known| known.by == victim)
        {
            keys.remove(oldest);
        }
        keys.push(Arc::new(new));
        Ok(Self(Some(Arc::new(keys))))
    }
}

impl RememberedKey {
    fn is_valid(&self, now: Timestamp) -> bool {
        now.0.saturating_sub(self.decided.0) <= REMEMBERED_SECONDS
    }
}

/// Returns the principal whose oldest key is evicted from a full shadow for a key of `by`, which has `own` keys.
fn fair_victim(keys: &[Arc<RememberedKey>], by: &Arc<str>, own: usize) -> Option<Arc<str>> {
    let mut counts: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    keys.iter().for_each(|known| *counts.entry(&known.by).or_default() += 1);
    let most = counts.values().max().copied().unwrap_or_default();
    if most >= own + 2 {
        keys.iter().map(|known| &known.by).find(|by| counts.get(by) == Some(&most)).cloned()
    } else {
        (own > 0).then(|| by.clone())
    }
}

fn full(keys: &[Arc<RememberedKey>], now: Timestamp) -> Rejection {
    let oldest = keys.iter().map(|known| known.decided.0).min().unwrap_or(now.0);
    let seconds = (oldest + REMEMBERED_SECONDS + 1).saturating_sub(now.0);
    let quota = "the shadow remembers the idempotency keys of as many principals as it can".to_owned();
    Rejection::TooManyRequests { quota, retry_after_ms: Some(seconds.saturating_mul(1000)) }
}

impl Keyed {
    /// Returns `key` with the digest of `update`.
    #[must_use]
    pub fn update(key: IdempotencyKey, update: &Update) -> Self {
        let mut form = vec![b'u', u8::from(update.replace), u8::from(update.state_is_null)];
        put_state(&mut form, update);
        put_preconditions(&mut form, &update.preconditions);
        Self { key, digest: digest(&form) }
    }

    /// Returns `key` with the digest of a patch whose canonical form is `edits`, whatever update it resolves to.
    #[must_use]
    pub fn edits(key: IdempotencyKey, edits: &Value, preconditions: &Preconditions) -> Self {
        let mut form = vec![b'p'];
        canonical::write_value(&mut form, edits);
        put_preconditions(&mut form, preconditions);
        Self { key, digest: digest(&form) }
    }

    /// Returns `key` with the digest of `delete`.
    #[must_use]
    pub fn delete(key: IdempotencyKey, delete: &Delete) -> Self {
        let mut form = vec![b'd'];
        put_preconditions(&mut form, &delete.preconditions);
        Self { key, digest: digest(&form) }
    }
}

fn digest(form: &[u8]) -> RequestDigest {
    let mut digest = RequestDigest::default();
    digest.iter_mut().zip(Sha256::digest(form)).for_each(|(to, from)| *to = from);
    digest
}

impl Command {
    /// Returns the idempotency key and digest of the command, if it has one.
    #[must_use]
    pub fn keyed(&self) -> Option<&Keyed> {
        match self {
            Self::Update(update) => update.keyed.as_ref(),
            Self::Delete(delete) => delete.keyed.as_ref(),
            Self::Patch(patch) => patch.keyed.as_ref(),
        }
    }

    /// Returns the earlier version that the command was rebased from; `before` is the document it was decided against.
    #[must_use]
    pub fn rebased_from(&self, before: &Document) -> Option<Version> {
        match self {
            Self::Update(update) => update.preconditions.rebased_from(before),
            Self::Patch(patch) => patch.preconditions.rebased_from(before),
            Self::Delete(_) => None,
        }
    }

    /// Returns true if the command is a dry run.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        matches!(self, Self::Update(Update { dry_run: true, .. }) | Self::Patch(Patch { dry_run: true, .. }))
    }
}

/// Each part begins with its own letter and is canonical JSON, so different requests have different forms.
fn put_state(form: &mut Vec<u8>, update: &Update) {
    for name in SectionName::ALL {
        match update.section(name) {
            SectionPatch::Keep => form.push(b'k'),
            SectionPatch::Clear => form.push(b'c'),
            SectionPatch::Merge(members) => {
                form.push(b'm');
                canonical::write_object_value(form, members);
            }
        }
    }
}

fn put_preconditions(form: &mut Vec<u8>, preconditions: &Preconditions) {
    let mut put = |letter: u8, value: Value| {
        form.push(letter);
        canonical::write_value(form, &value);
    };
    if let Some(version) = preconditions.version {
        put(b'v', version.0.to_string().into());
    }
    match &preconditions.etag {
        None => {}
        Some(EtagCondition::Any) => put(b'*', Value::Null),
        Some(EtagCondition::OneOf(tags)) => put(b'l', tags.iter().map(tag_text).collect()),
        Some(tag) => put(b'e', tag_text(tag)),
    }
    if !preconditions.none_of.is_empty() {
        put(b'n', preconditions.none_of.iter().map(ToString::to_string).collect());
    }
    if preconditions.on_conflict == OnConflict::Rebase {
        put(b'r', Value::Null);
    }
    for expectation in &preconditions.expect {
        put(b'x', expectation.path.to_string().into());
        match &expectation.holds {
            Expected::Version(version) => put(b'v', version.0.to_string().into()),
            Expected::Value(value) => put(b'=', value.clone()),
            Expected::Absent => put(b'a', Value::Null),
        }
    }
}

fn tag_text(condition: &EtagCondition) -> Value {
    match condition {
        EtagCondition::Tag(tag) => tag.to_string().into(),
        EtagCondition::Other(text) => text.as_str().into(),
        EtagCondition::OneOf(tags) => tags.iter().map(tag_text).collect(),
        EtagCondition::Any => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::json;

    use super::*;
    use crate::shadow::{command::Expectation, tests::written};

    fn known(by: &str, key: &str, decided: u64) -> RememberedKey {
        let document = Document::absent();
        let first = FirstOutcome {
            digest: RequestDigest::default(),
            version: Version(1),
            timestamp: Timestamp(decided),
            etag: document.etag,
            etag_is_own: true,
            changed: true,
            created: false,
            rebased_from: None,
        };
        RememberedKey { by: by.into(), key: IdempotencyKey::new(key).unwrap(), decided: Timestamp(decided), first }
    }

    /// Numbers of principals around those at which a share changes.
    const PRINCIPALS: [usize; 12] = [1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 63, PER_SHADOW_MAX];

    /// Returns the keys after each of `principals` sent `each` of them, in turns.
    fn filled(principals: usize, each: usize) -> Remembered {
        let rounds = (0..each).flat_map(|round| (0..principals).map(move |principal| (round, principal)));
        rounds.fold(Remembered::default(), |remembered, (round, principal)| {
            remembered.with(known(&format!("p{principal}"), &format!("k{round}"), 100 + round as u64)).unwrap()
        })
    }

    fn count(remembered: &Remembered, by: &str) -> usize {
        remembered.keys().iter().filter(|known| &*known.by == by).count()
    }

    #[test]
    fn a_key_has_1_to_64_bytes() {
        for (length, fits) in [(0, false), (1, true), (64, true), (65, false)] {
            assert_eq!(IdempotencyKey::new(&"k".repeat(length)).is_some(), fits, "{length}");
        }
        assert_eq!(IdempotencyKey::new("a b").unwrap().as_str(), "a b");
    }

    /// A key is valid for 24 hours, the last second included, and only for the principal that sent it.
    #[test]
    fn a_key_is_found_until_it_expires() {
        assert_eq!(REMEMBERED_SECONDS, 86_400, "a day, as docs/protocol.md says");
        let remembered = Remembered::of(vec![known("a", "k", 100), known("a", "l", 200)]);
        let [k, l] = ["k", "l"].map(|key| IdempotencyKey::new(key).unwrap());
        let last = 100 + REMEMBERED_SECONDS;
        for (by, key, now, decided) in [
            ("a", &k, 100, Some(100)),
            ("a", &k, 50, Some(100)),
            ("a", &k, last, Some(100)),
            ("a", &k, last + 1, None),
            ("a", &l, last + 1, Some(200)),
            ("b", &k, 100, None),
        ] {
            let found = remembered.find(by, key, Timestamp(now)).map(|first| first.timestamp.0);
            assert_eq!(found, decided, "{by} {key:?} at {now}");
        }
        assert_eq!(remembered.expires_at(), Some(Timestamp(200 + REMEMBERED_SECONDS + 1)));
        assert_eq!(Remembered::default().expires_at(), None);
        assert_eq!(Remembered::of(Vec::new()), Remembered::default());
        // Of two requests with one key, the later one counts: the former had expired when it came.
        let twice = Remembered::of(vec![known("a", "k", 100), known("a", "k", 300)]);
        assert_eq!(twice.find("a", &k, Timestamp(300)).map(|first| first.timestamp.0), Some(300));
    }

    /// A key that is used again for another request is refused, so each part of a request is in its digest.
    #[test]
    fn requests_that_differ_have_different_digests() {
        let etag = |text: &str| EtagCondition::from(text);
        let tag = Document::absent().etag;
        let any = Preconditions::default();
        let conditions = [
            any.clone(),
            Preconditions { version: Some(Version(1)), ..any.clone() },
            Preconditions { version: Some(Version(2)), ..any.clone() },
            Preconditions { version: Some(Version(1)), on_conflict: OnConflict::Rebase, ..any.clone() },
            Preconditions { etag: Some(EtagCondition::Any), ..any.clone() },
            Preconditions { etag: Some(EtagCondition::Tag(tag)), ..any.clone() },
            Preconditions { etag: Some(etag("x")), ..any.clone() },
            Preconditions { etag: Some(etag("y")), ..any.clone() },
            Preconditions { etag: Some(EtagCondition::OneOf(vec![])), ..any.clone() },
            Preconditions { etag: Some(EtagCondition::OneOf(vec![etag("x"), EtagCondition::Any])), ..any.clone() },
            Preconditions { none_of: vec![tag], ..any.clone() },
            Preconditions { expect: vec![expected(Expected::Absent)], ..any.clone() },
            Preconditions { expect: vec![expected(Expected::Version(Version(1)))], ..any.clone() },
            Preconditions { expect: vec![expected(Expected::Value(json!(1)))], ..any.clone() },
            Preconditions { expect: vec![expected(Expected::Value(json!(2)))], ..any.clone() },
        ];
        let key = || IdempotencyKey::new("k").unwrap();
        let merge = |members: Value| SectionPatch::Merge(members.as_object().unwrap().clone());
        let none = Update::default();
        let mut digests = vec![
            Keyed::update(key(), &Update { replace: true, ..none.clone() }).digest,
            Keyed::update(key(), &Update { state_is_null: true, ..none.clone() }).digest,
            Keyed::update(key(), &Update { desired: SectionPatch::Clear, ..none.clone() }).digest,
            Keyed::update(key(), &Update { reported: SectionPatch::Clear, ..none.clone() }).digest,
            Keyed::update(key(), &Update { desired: merge(json!({"a": 1})), ..none.clone() }).digest,
            Keyed::update(key(), &Update { desired: merge(json!({"a": 2})), ..none.clone() }).digest,
            Keyed::update(key(), &Update { tags: merge(json!({"a": 1})), ..none.clone() }).digest,
            Keyed::edits(key(), &json!([1]), &any).digest,
        ];
        for preconditions in conditions {
            digests.push(Keyed::update(key(), &Update { preconditions: preconditions.clone(), ..none.clone() }).digest);
            digests.push(Keyed::edits(key(), &json!([]), &preconditions).digest);
            digests.push(Keyed::delete(key(), &Delete { preconditions, keyed: None }).digest);
        }
        let count = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), count);
        // The same request in another spelling, and as a dry run.
        let spelled = Update { desired: merge(json!({"a": 1.0})), dry_run: true, ..none.clone() };
        let plain = Update { desired: merge(json!({"a": 1})), ..none };
        assert_eq!(Keyed::update(key(), &spelled), Keyed::update(key(), &plain));
    }

    fn expected(holds: Expected) -> Expectation {
        Expectation { path: "/desired/a".parse().unwrap(), holds }
    }

    #[test]
    fn a_command_names_its_key_its_base_and_a_dry_run() {
        let keyed = Some(Keyed { key: IdempotencyKey::new("k").unwrap(), digest: RequestDigest::default() });
        let preconditions =
            Preconditions { version: Some(Version(1)), on_conflict: OnConflict::Rebase, ..Preconditions::default() };
        let before = written(&[json!({"desired": {"a": 1}}), json!({"desired": {"b": 1}})]);
        for dry_run in [false, true] {
            let (preconditions, keyed) = (preconditions.clone(), keyed.clone());
            let patch =
                Patch { dry_run, keyed: keyed.clone(), preconditions: preconditions.clone(), ..Patch::default() };
            let update =
                Update { dry_run, keyed: keyed.clone(), preconditions: preconditions.clone(), ..Update::default() };
            let delete = Command::Delete(Delete { preconditions, keyed: keyed.clone() });
            for command in [Command::Patch(patch), Command::Update(update)] {
                assert_eq!((command.keyed(), command.is_dry_run()), (keyed.as_ref(), dry_run));
                assert_eq!(command.rebased_from(&before), Some(Version(1)));
            }
            assert_eq!(
                (delete.keyed(), delete.is_dry_run(), delete.rebased_from(&before)),
                (keyed.as_ref(), false, None)
            );
        }
        assert_eq!(Command::Update(Update::default()).keyed(), None);
    }

    #[test]
    fn each_principal_keeps_its_newest_keys() {
        let remembered = filled(1, 20);
        assert_eq!(remembered.keys().len(), PER_PRINCIPAL_MAX);
        assert_eq!(remembered.keys().first().map(|known| known.key.as_str()), Some("k4"));
        for principals in PRINCIPALS {
            let remembered = filled(principals, 20);
            assert!(remembered.keys().len() <= PER_SHADOW_MAX);
            for principal in 0..principals {
                let share = (PER_SHADOW_MAX / principals).min(PER_PRINCIPAL_MAX);
                let by = format!("p{principal}");
                for newest in 20 - share..20 {
                    let key = IdempotencyKey::new(&format!("k{newest}")).unwrap();
                    assert!(remembered.find(&by, &key, Timestamp(200)).is_some(), "{by} of {principals}: {newest}");
                }
            }
        }
    }

    /// No principal can evict the fair share of another one, however much it sends.
    #[test]
    fn one_principal_cannot_evict_the_share_of_another() {
        for principals in PRINCIPALS.into_iter().filter(|principals| *principals < PER_SHADOW_MAX) {
            let mut remembered = filled(principals, 16);
            for n in 0..200 {
                remembered = remembered.with(known("flood", &format!("f{n}"), 200)).unwrap();
            }
            let share = PER_SHADOW_MAX / (principals + 1);
            for principal in 0..principals {
                let left = count(&remembered, &format!("p{principal}"));
                assert!(left >= share.min(16), "{principals} principals and a flood: {left} left, {share} fair");
            }
            assert!(count(&remembered, "flood") >= 1);
        }
    }

    #[test]
    fn a_full_shadow_refuses_new_principals_until_a_key_expires() {
        let full = filled(PER_SHADOW_MAX, 1);
        let refused = full.with(known("late", "k", 150)).unwrap_err();
        let after = REMEMBERED_SECONDS + 1 - 50;
        assert!(
            matches!(refused, Rejection::TooManyRequests { retry_after_ms, .. } if retry_after_ms == Some(after * 1000))
        );
        let later = full.with(known("late", "k", 150 + after)).unwrap();
        assert_eq!((later.keys().len(), count(&later, "late")), (1, 1));
        let own = full.with(known("p7", "other", 150)).unwrap();
        assert_eq!((own.keys().len(), count(&own, "p7")), (PER_SHADOW_MAX, 1), "its own oldest goes");
    }
}
