//! Browser sessions, named by a cookie.
//!
//! A page must not keep a password where its scripts can read it. It sends the password once and receives an `HttpOnly`
//! cookie of 256 random bits. The server stores their digest with the client's [`AuthContext`]. Each use reviews the
//! context, as users, keys and rights may have been reloaded since.
//!
//! *Invariant:* the number of sessions is bounded, in total and per principal. A new session replaces the least
//! recently used one. Only an authenticated client gets a session, so an attacker needs at least a valid password.
//!
//! WebSockets, event streams and waits of a session end with it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use tokio::{sync::watch, time::sleep_until};

use crate::auth::AuthContext;

/// True if the listener has TLS, so that its cookies are marked `Secure`.
#[derive(Clone, Copy)]
pub(in crate::http) struct Secure(pub(in crate::http) bool);

impl Secure {
    /// Returns true if the page was loaded over HTTPS, perhaps from a proxy in front of a listener without TLS. Then its
    /// `Origin` says so: a browser sets it in each request that changes something, and no page can choose it.
    pub(in crate::http) fn is_for(self, headers: &HeaderMap) -> bool {
        self.0 || headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
    }
}

/// The name of the cookie of a page that was loaded over plain HTTP.
pub(in crate::http) const PLAIN_COOKIE: &str = "umbra-session";
/// The name of the cookie of a page that was loaded over HTTPS. Its prefix makes browsers take it only with `Secure` and
/// only from this host, so neither plain HTTP nor another subdomain can set it.
pub(in crate::http) const SECURE_COOKIE: &str = "__Host-umbra-session";

/// Time after which an unused session ends.
pub(in crate::http) const IDLE_MAX: Duration = Duration::from_secs(8 * 3600);
/// Time after which a session ends, even if used.
pub(in crate::http) const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

const SESSIONS_MAX: usize = 4_096;
const SESSIONS_OF_ONE_MAX: usize = 32;

/// Bytes of a session id.
const ID_BYTES: usize = 32;

/// The sessions of all listeners. A session is valid at the listener where it began.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<Digest, Session>>);

/// The key of a session: the digest of its id, so that the time of a lookup reveals nothing about an id.
type Digest = [u8; 32];

struct Session {
    auth_context: Arc<AuthContext>,
    /// True if its cookie is the secure one.
    secure: bool,
    made: Instant,
    used: Instant,
    /// Dropped with the session, which notifies the receivers.
    ended: watch::Sender<()>,
}

/// A client that signed in with a browser or a presigned URL.
#[derive(Clone, Debug)]
pub(in crate::http) struct SignedIn {
    pub(in crate::http) auth_context: Arc<AuthContext>,
    /// The latest end of the session.
    until: Instant,
    ended: watch::Receiver<()>,
    /// The sender of `ended` for a presigned URL, which has no session.
    _open: Option<Arc<watch::Sender<()>>>,
}

impl Sessions {
    /// Begins a session for `auth_context`, whose cookie is the secure one or not. Returns its id; `None` if the operating system has no random bytes.
    pub(in crate::http) fn begin(&self, auth_context: Arc<AuthContext>, secure: bool, now: Instant) -> Option<String> {
        let mut id = [0; ID_BYTES];
        SystemRandom::new().fill(&mut id).ok()?;
        let session = Session { auth_context, secure, made: now, used: now, ended: watch::Sender::new(()) };
        let mut sessions = self.0.lock();
        sessions.retain(|_, session| session.is_alive(now));
        let principal = &session.auth_context.identity.principal;
        let same = |other: &Session| other.auth_context.identity.principal == *principal;
        if sessions.values().filter(|session| same(session)).count() >= SESSIONS_OF_ONE_MAX {
            remove_oldest(&mut sessions, same);
        } else if sessions.len() >= SESSIONS_MAX {
            remove_oldest(&mut sessions, |_| true);
        }
        sessions.insert(digest_of(&id), session);
        Some(BASE64_URL_SAFE_NO_PAD.encode(id))
    }

    /// Returns the session named by the cookie in `headers`, if it is valid at the listener.
    pub(in crate::http) fn find(&self, headers: &HeaderMap, listener: &str, now: Instant) -> Option<SignedIn> {
        let mut sessions = self.0.lock();
        for (secure, digest) in cookie_digests(headers) {
            let is_of_cookie =
                |session: &&mut Session| session.secure == secure && session.auth_context.is_of(listener);
            let Some(session) = sessions.get_mut(&digest).filter(is_of_cookie) else { continue };
            if !session.is_alive(now) {
                sessions.remove(&digest);
                continue;
            }
            session.used = now;
            let (auth_context, ended) = (session.auth_context.clone(), session.ended.subscribe());
            return Some(SignedIn { auth_context, until: session.made + AGE_MAX, ended, _open: None });
        }
        None
    }

    /// Ends all sessions of `principal`. Returns their number.
    pub(in crate::http) fn end_of(&self, principal: &str) -> usize {
        let mut sessions = self.0.lock();
        let before = sessions.len();
        sessions.retain(|_, session| **session.auth_context.identity.principal.name() != *principal);
        before - sessions.len()
    }

    /// Ends the session named by the cookie in `headers`.
    pub(in crate::http) fn end(&self, headers: &HeaderMap) {
        let mut sessions = self.0.lock();
        for (_, digest) in cookie_digests(headers) {
            sessions.remove(&digest);
        }
    }
}

impl Session {
    fn is_alive(&self, now: Instant) -> bool {
        now.duration_since(self.used) < IDLE_MAX && now.duration_since(self.made) < AGE_MAX
    }
}

impl SignedIn {
    /// Returns the client of a presigned URL. It cannot sign out; it lasts for the longest time of a session.
    pub(in crate::http) fn by_url(auth_context: Arc<AuthContext>, now: Instant) -> Self {
        let open = watch::Sender::new(());
        Self { auth_context, until: now + AGE_MAX, ended: open.subscribe(), _open: Some(Arc::new(open)) }
    }

    /// Returns true if the session has ended.
    pub(in crate::http) fn is_over(&self, now: Instant) -> bool {
        // The sender never sends. An error means that it was dropped.
        now >= self.until || self.ended.has_changed().is_err()
    }

    /// Waits for the end of the session.
    pub(in crate::http) async fn ended(mut self) {
        tokio::select! {
            () = sleep_until(self.until.into()) => {}
            // The sender never sends, so this resolves when it is dropped.
            _ = self.ended.changed() => {}
        }
    }
}

fn remove_oldest(sessions: &mut HashMap<Digest, Session>, matches: impl Fn(&Session) -> bool) {
    let oldest = sessions.iter().filter(|(_, session)| matches(session)).min_by_key(|(_, session)| session.used);
    if let Some(digest) = oldest.map(|(digest, _)| *digest) {
        sessions.remove(&digest);
    }
}

/// Returns the digests of the ids in the cookies, that in the secure one, which is marked with true, first.
fn cookie_digests(headers: &HeaderMap) -> impl Iterator<Item = (bool, Digest)> {
    [(true, SECURE_COOKIE), (false, PLAIN_COOKIE)].into_iter().filter_map(|(secure, cookie)| {
        let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
        let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, id) = pairs.find(|(name, _)| *name == cookie)?;
        let id = BASE64_URL_SAFE_NO_PAD.decode(id).ok().filter(|id| id.len() == ID_BYTES)?;
        Some((secure, digest_of(&id)))
    })
}

fn digest_of(id: &[u8]) -> Digest {
    digest(&SHA256, id).as_ref().try_into().expect("a SHA-256 digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

    use super::*;
    use crate::auth::Principal;

    fn cookie(id: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, format!("other=1; {PLAIN_COOKIE}={id}").parse().unwrap())])
    }

    fn auth_context(name: &str) -> Arc<AuthContext> {
        Arc::new(AuthContext::of_user(Principal::named(name).unwrap(), "web"))
    }

    #[test]
    fn sessions_expire_when_idle_or_old() {
        let begun = Instant::now();
        let minute = Duration::from_secs(60);
        // times of use after the begin, whether the last use finds the session
        let often = (1..=23).map(|step| IDLE_MAX.mul_f64(0.9) * step).take_while(|after| *after < AGE_MAX);
        let often = often.chain([AGE_MAX - minute]).collect::<Vec<_>>();
        let late = often.iter().copied().chain([AGE_MAX + minute]).collect();
        for (uses, found) in [
            (vec![minute], true),
            (vec![IDLE_MAX - minute], true),
            (vec![IDLE_MAX + minute], false),
            (vec![IDLE_MAX - minute, 2 * (IDLE_MAX - minute)], true),
            (often, true),
            (late, false),
        ] {
            let sessions = Sessions::default();
            let id = sessions.begin(auth_context("app"), false, begun).unwrap();
            let last = uses.iter().map(|after| sessions.find(&cookie(&id), "web", begun + *after).is_some()).last();
            assert_eq!(last, Some(found), "{uses:?}");
        }
    }

    #[test]
    fn a_session_is_found_only_by_its_id_at_its_listener() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let id = sessions.begin(auth_context("app"), false, now).unwrap();
        let other = sessions.begin(auth_context("app"), false, now).unwrap();
        assert_ne!(id, other);
        for (id, listener, found) in [
            (id.as_str(), "web", true),
            (&id, "other", false),
            (&id[1..], "web", false),
            ("", "web", false),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "web", false),
        ] {
            assert_eq!(sessions.find(&cookie(id), listener, now).is_some(), found, "{id:?} at {listener}");
        }
        sessions.end(&cookie(&id));
        assert!(sessions.find(&cookie(&id), "web", now).is_none());
        assert!(sessions.find(&cookie(&other), "web", now).is_some());
    }

    /// The plain cookie of a page over HTTPS may have been set by another subdomain, or over plain HTTP.
    #[test]
    fn a_session_is_found_only_by_its_cookie() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let [secure, plain] = [true, false].map(|secure| sessions.begin(auth_context("app"), secure, now).unwrap());
        for (cookies, found) in [
            (format!("__Host-umbra-session={secure}"), true),
            (format!("umbra-session={plain}"), true),
            (format!("umbra-session={secure}"), false),
            (format!("__Host-umbra-session={plain}"), false),
            (format!("__Host-umbra-session=x; umbra-session={plain}"), true),
        ] {
            let headers = HeaderMap::from_iter([(header::COOKIE, cookies.parse().unwrap())]);
            assert_eq!(sessions.find(&headers, "web", now).is_some(), found, "{cookies}");
        }
    }

    #[test]
    fn a_principal_cannot_displace_sessions_of_others() {
        let (sessions, begun) = (Sessions::default(), Instant::now());
        let other = sessions.begin(auth_context("other"), false, begun).unwrap();
        let ids = (0..=SESSIONS_OF_ONE_MAX)
            .map(|step| sessions.begin(auth_context("app"), false, begun + Duration::from_secs(step as u64)).unwrap());
        let ids = ids.collect::<Vec<_>>();
        let now = begun + Duration::from_secs(60);
        let found = ids.iter().filter(|id| sessions.find(&cookie(id), "web", now).is_some()).count();
        assert_eq!(found, SESSIONS_OF_ONE_MAX);
        assert!(sessions.find(&cookie(&ids[0]), "web", now).is_none(), "the least recently used one");
        assert!(sessions.find(&cookie(&other), "web", now).is_some());
    }

    #[tokio::test]
    async fn the_end_of_a_session_wakes_waiting_tasks() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let id = sessions.begin(auth_context("app"), false, now).unwrap();
        let signed_in = sessions.find(&cookie(&id), "web", now).unwrap();
        let waiting = tokio::spawn(signed_in.clone().ended());
        assert!(!signed_in.is_over(now) && signed_in.is_over(now + AGE_MAX));
        sessions.end(&cookie(&id));
        waiting.await.unwrap();
        assert!(signed_in.is_over(now));
    }
}
