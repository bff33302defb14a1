//! A cache of verified passwords, which saves hashing when a fleet reconnects after an outage.
//!
//! An entry is a tag: HMAC-SHA256 of user, password and the user's hash, under a random key of this process. Changing
//! or removing a user invalidates its tag, since the hash differs. Each user has at most one tag, so the cache is
//! bounded by the number of users.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ring::{hmac, rand::SystemRandom};

use crate::auth::{PasswordHash, Principal};

/// An HMAC-SHA256 of user, password and hash.
pub(in crate::auth) type CacheTag = [u8; 32];

/// The tags of verified passwords.
pub(in crate::auth) struct PasswordCache {
    key: hmac::Key,
    /// The lifetime of a tag after the last login with it.
    age_max: Duration,
    tags: Mutex<HashMap<Principal, CachedPassword>>,
}

struct CachedPassword {
    tag: CacheTag,
    until: Instant,
}

impl PasswordCache {
    /// Returns an empty cache; `None` if the operating system provides no random bytes.
    pub(in crate::auth) fn new(age_max: Duration) -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        Some(Self { key, age_max, tags: Mutex::default() })
    }

    /// Returns the tag of `password`.
    pub(in crate::auth) fn tag(&self, user: &str, password: &[u8], hash: &PasswordHash) -> CacheTag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user.as_bytes(), hash.to_string().as_bytes(), password] {
            context.update(&(part.len() as u64).to_le_bytes()); // lengths keep different parts distinct
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("an HMAC-SHA256 has 32 bytes")
    }

    /// Returns true if the password of `tag` was verified recently, and extends the life of the tag.
    ///
    /// The comparison is not constant-time; its duration reveals nothing without the key.
    pub(in crate::auth) fn holds(&self, user: &Principal, tag: &CacheTag, now: Instant) -> bool {
        let mut tags = self.tags.lock();
        match tags.get_mut(user) {
            Some(entry) if entry.tag == *tag && entry.until > now => {
                entry.until = now + self.age_max;
                true
            }
            _ => false,
        }
    }

    /// Stores the tag of a verified password.
    pub(in crate::auth) fn keep(&self, user: &Principal, tag: CacheTag, now: Instant) {
        if !self.age_max.is_zero() {
            self.tags.lock().insert(user.clone(), CachedPassword { tag, until: now + self.age_max });
        }
    }

    /// Drops expired tags and those of removed users.
    pub(in crate::auth) fn sweep(&self, is_there: impl Fn(&Principal) -> bool, now: Instant) {
        let mut tags = self.tags.lock();
        tags.retain(|user, entry| entry.until > now && is_there(user));
        tags.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::auth::authn::password::tests::cheap;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_tag_depends_on_each_of_its_parts() {
        let verified = PasswordCache::new(HOUR).unwrap();
        let (hash, other) = (cheap("x"), cheap("x"));
        let tags = [
            verified.tag("user", b"password", &hash),
            verified.tag("user", b"passwore", &hash),
            verified.tag("userp", b"assword", &hash),
            verified.tag("user", b"password", &other),
            verified.tag("user", b"", &hash),
            verified.tag("", b"", &hash),
            PasswordCache::new(HOUR).unwrap().tag("user", b"password", &hash),
        ];
        for (n, tag) in tags.iter().enumerate() {
            assert!(!tags.get(..n).unwrap().contains(tag), "{n}");
        }
        assert_eq!(verified.tag("user", b"password", &hash), tags[0]);
    }

    #[test]
    fn a_tag_expires_some_time_after_its_last_use() {
        let (verified, start) = (PasswordCache::new(HOUR).unwrap(), Instant::now());
        let (lamp, other) = (Principal::named("lamp").unwrap(), Principal::named("other").unwrap());
        let tag = verified.tag("lamp", b"x", &cheap("x"));
        verified.keep(&lamp, tag, start);
        assert!(!verified.holds(&other, &tag, start) && !verified.holds(&lamp, &CacheTag::default(), start));
        for half_hours in 1..10 {
            assert!(verified.holds(&lamp, &tag, start + HOUR / 2 * half_hours), "{half_hours}");
        }
        assert!(!verified.holds(&lamp, &tag, start + HOUR * 6));
    }

    #[test]
    fn a_swept_tag_is_gone() {
        let (verified, start) = (PasswordCache::new(HOUR).unwrap(), Instant::now());
        let users = ["a", "b", "c"].map(|name| Principal::named(name).unwrap());
        for (n, user) in (0..).zip(&users) {
            verified.keep(user, CacheTag::default(), start + HOUR * n);
        }
        verified.sweep(|user| &**user.name() != "c", start + HOUR);
        let held = users.each_ref().map(|user| verified.holds(user, &CacheTag::default(), start + HOUR));
        assert_eq!(held, [false, true, false]);
        assert_eq!(verified.tags.lock().len(), 1);
    }

    #[test]
    fn a_lifetime_of_zero_disables_the_cache() {
        let verified = PasswordCache::new(Duration::ZERO).unwrap();
        let user = Principal::named("a").unwrap();
        verified.keep(&user, CacheTag::default(), Instant::now());
        assert!(!verified.holds(&user, &CacheTag::default(), Instant::now()));
        assert!(verified.tags.lock().is_empty());
    }
}
