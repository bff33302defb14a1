//! Authentication and authorization of clients, shared by MQTT and HTTP.
//!
//! The result of a login is the client's [`AuthContext`]. After users, keys, certificates, bans, roles and grants are
//! reloaded, each session is reviewed by it: it continues with its present rights, or ends.
//!
//! A login is *revoked* when its credentials are withdrawn: the user is removed or has another password, the key of the
//! token or the access key is removed, the certificate is not accepted any more or has expired, the principal is banned
//! or has no role left. Its sessions, wills, streams and queued commands ([`login_state`]) end with it. A token that
//! expires is not revoked: only its connection ends.

mod login_record;
mod login_state;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::RwLock;
use tokio::sync::watch;

pub use self::login_record::LoginRecord;
use self::login_state::LoginState;
use crate::{
    auth::{
        Access, FileError, Method, Policy, Principal,
        authn::{
            access_keys::{AccessKey, AccessKeys},
            certificate::{CertificateTrust, PeerCertificate},
            identity::CredentialOrigin,
            login::{AuthenticationError, Credentials, Identity, Login, LoginError},
        },
        ban_list::BanList,
    },
    clock::Clock,
    config::{Config, ListenerConfig},
};

/// The authority on all listeners.
pub struct Authority {
    state: Arc<AuthorityState>,
    access_keys_file: Option<PathBuf>,
    bans_file: Option<PathBuf>,
    /// The authorities for client certificates of each listener that has them, by the listener's name.
    certificate_trust: HashMap<String, Arc<dyn CertificateTrust>>,
    /// The number of reloads, for tasks that wait for one.
    reloads: watch::Sender<u64>,
}

/// The state that logins refer to. Each lock is replaced as a whole by a reload.
struct AuthorityState {
    login: Login,
    rules: RwLock<Arc<Rules>>,
    access_keys: RwLock<Arc<AccessKeys>>,
    bans: RwLock<Arc<BanList>>,
    /// The number of reloads.
    generation: AtomicU64,
}

/// The rules apart from users and keys.
struct Rules {
    policy: Arc<Policy>,
    listeners: HashMap<String, ListenerAuthPolicy>,
}

/// The authentication policy of a listener.
#[derive(Clone)]
struct ListenerAuthPolicy {
    /// The listener's address, for which the configuration check allowed this policy.
    bind: SocketAddr,
    anonymous: bool,
    anonymous_role: Option<Arc<str>>,
    certificate_role: Option<Arc<str>>,
}

/// The result of a login: identity, listener and client id.
#[derive(Clone, Debug)]
pub struct AuthContext {
    /// The identity of the client.
    pub identity: Identity,
    listener: Arc<str>,
    client: Arc<str>,
}

/// The credentials of a client and their origin.
#[derive(Clone, Copy)]
pub struct LoginRequest<'a> {
    /// The client's address.
    pub address: IpAddr,
    /// The name of the listener.
    pub listener: &'a Arc<str>,
    /// The client's certificate.
    pub proof: &'a PeerCertificate,
    /// The credentials sent.
    pub credentials: Credentials<'a>,
}

impl AuthContext {
    /// Returns true if the login was at this listener.
    #[must_use]
    pub fn is_of(&self, listener: &str) -> bool {
        *self.listener == *listener
    }

    /// Returns the same login under another client id.
    #[must_use]
    pub fn as_client(&self, client: &Arc<str>) -> Self {
        Self { client: client.clone(), ..self.clone() }
    }

    /// Returns the login of the client `client` at `listener` by the signature of an access key.
    #[must_use]
    pub fn of_access_key(key: &Arc<AccessKey>, listener: Arc<str>, client: Arc<str>) -> Self {
        Self { identity: Identity::by_access_key(key), listener, client }
    }

    /// Returns the bytes of the certificates that the login keeps.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        match &self.identity.origin {
            CredentialOrigin::Certificate(certificate) => certificate.chain_bytes(),
            _ => 0,
        }
    }

    /// Returns the time at which a certificate expires and the login is revoked.
    #[must_use]
    pub fn revoked_at(&self) -> Option<Instant> {
        match self.identity.origin {
            CredentialOrigin::Certificate(_) => self.identity.until.map(|until| until.deadline),
            _ => None,
        }
    }

    /// Returns the login of a user at `listener`.
    #[cfg(test)]
    pub(crate) fn of_user(principal: Principal, listener: &str) -> Self {
        let identity = Identity::lasting(principal, Method::Password);
        Self { identity, listener: listener.into(), client: "".into() }
    }
}

impl Authority {
    /// Reads users and keys. `policy` is that of `config`.
    ///
    /// # Errors
    ///
    /// Errors of [`Login::open`].
    pub fn open(config: &Config, policy: Policy, clock: Clock) -> Result<Self, LoginError> {
        let login = Login::open(&config.auth, clock)?;
        let access_keys_file = config.auth.aws_keys.clone();
        let access_keys = access_keys_file.as_deref().map(AccessKeys::read).transpose()?.unwrap_or_default();
        let bans_file = config.auth.banned.clone();
        let bans = bans_file.as_deref().map(BanList::read).transpose()?.unwrap_or_default();
        let state = AuthorityState {
            login,
            rules: RwLock::new(Arc::new(Rules::of(config, policy))),
            access_keys: RwLock::new(Arc::new(access_keys)),
            bans: RwLock::new(Arc::new(bans)),
            generation: AtomicU64::new(0),
        };
        let (certificate_trust, reloads) = (HashMap::new(), watch::Sender::new(0));
        Ok(Self { state: Arc::new(state), access_keys_file, bans_file, certificate_trust, reloads })
    }

    /// Sets the authorities for client certificates of `listener`, which verify restored logins
    /// ([`Authority::restore`]).
    pub fn set_certificate_trust(&mut self, listener: &str, trust: Arc<dyn CertificateTrust>) {
        self.certificate_trust.insert(listener.to_owned(), trust);
    }

    /// Replaces the roles and grants by the policy of `config`, if given, and the policies of existing listeners. Reads
    /// users and keys again, blocking. Every session must be reviewed afterwards ([`Authority::review`]).
    ///
    /// Returns the errors of unusable files; their old content stays in use.
    #[must_use]
    pub fn reload(&self, config: Option<(&Config, Policy)>) -> Vec<FileError> {
        if let Some((config, policy)) = config {
            let rules = self.state.rules().renewed(config, policy);
            *self.state.rules.write() = Arc::new(rules);
        }
        let mut faults = self.state.login.reload();
        if let Some(path) = &self.access_keys_file {
            match AccessKeys::read(path) {
                Ok(keys) => *self.state.access_keys.write() = Arc::new(keys),
                Err(error) => faults.push(error),
            }
        }
        if let Some(path) = &self.bans_file {
            match BanList::read(path) {
                Ok(bans) => *self.state.bans.write() = Arc::new(bans),
                Err(error) => faults.push(error),
            }
        }
        let generation = self.state.generation.fetch_add(1, Ordering::Release) + 1;
        self.reloads.send_replace(generation);
        faults
    }

    /// Returns the digests of the files in use, by the keys of the configuration that name them.
    #[must_use]
    pub fn digests(&self) -> Vec<(&'static str, [u8; 32])> {
        let access_keys = self.access_keys_file.as_ref().map(|_| ("auth.aws_keys", self.access_keys().digest()));
        let bans = self.bans_file.as_ref().map(|_| ("auth.banned", self.state.bans.read().digest()));
        self.state.login.digests().chain(access_keys).chain(bans).collect()
    }

    /// Returns a number that changes with each reload.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state.generation()
    }

    /// Waits for the first reload after `generation`.
    pub async fn read_anew(&self, generation: u64) {
        let read = self.reloads.subscribe().wait_for(|current| *current != generation).await.is_ok();
        debug_assert!(read, "the sender is here");
    }

    /// Returns the roles and grants in use.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.state.rules().policy)
    }

    /// Returns at most `limit` users after `after` whose names begin with `prefix`, in their order, with the roles that grants
    /// give them.
    #[must_use]
    pub fn users(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(Principal, Vec<Arc<str>>)> {
        let (rules, client) = (self.state.rules(), "".into());
        let with_roles = |user: Principal| {
            let roles =
                rules.policy.roles_of(&user, Method::Password, None, &client).into_iter().map(Arc::from).collect();
            (user, roles)
        };
        self.state.login.users(prefix, after, limit).into_iter().map(with_roles).collect()
    }

    /// Returns the AWS access keys.
    #[must_use]
    pub fn access_keys(&self) -> Arc<AccessKeys> {
        self.state.access_keys()
    }

    /// Returns true if the authentication has expired.
    #[must_use]
    pub fn is_over(&self, auth_context: &AuthContext) -> bool {
        self.state.login.is_expired(&auth_context.identity)
    }

    /// Returns true if the principal is banned.
    #[must_use]
    pub fn is_banned(&self, auth_context: &AuthContext) -> bool {
        self.state.is_banned(&auth_context.identity.principal)
    }

    /// Authenticates a client and returns its rights; `client` is its client id, empty over HTTP. A refusal is delayed.
    ///
    /// # Errors
    ///
    /// [`AuthenticationError`].
    pub async fn authenticate(
        &self,
        login: LoginRequest<'_>,
        client: &Arc<str>,
    ) -> Result<(Arc<AuthContext>, Access), AuthenticationError> {
        let generation = self.generation();
        let anonymous = self.state.rules().takes_anonymous(login.listener).then_some(&**client);
        let identity = self.state.login.identify(login.address, login.proof, login.credentials, anonymous).await?;
        let auth_context = AuthContext { identity, listener: login.listener.clone(), client: client.clone() };
        let principal = &auth_context.identity.principal;
        let refused = match self.state.rules().access(&auth_context) {
            _ if self.state.is_banned(principal) => AuthenticationError::Banned,
            Some(access) => {
                let auth_context = Arc::new(auth_context);
                let access = self.with_login(access, &auth_context, generation);
                return Ok((auth_context, access));
            }
            // The client may still authenticate.
            None if auth_context.identity.method == Method::Anonymous => return Err(AuthenticationError::Missing),
            None => AuthenticationError::NoRole,
        };
        self.state.login.note(login.address, refused, Some(principal));
        Err(refused)
    }

    /// Counts and logs the refusal of a signed request from `address`.
    pub fn note_refused(&self, address: IpAddr, error: AuthenticationError) {
        self.state.login.note(address, error, None);
    }

    /// Authenticates as [`Self::authenticate`] does, for a client that signed in before as `signed_in`. Without new
    /// credentials, the earlier login counts.
    ///
    /// # Errors
    ///
    /// [`AuthenticationError`].
    pub async fn authenticate_again(
        &self,
        signed_in: Option<&AuthContext>,
        login: LoginRequest<'_>,
        client: &Arc<str>,
    ) -> Result<(Arc<AuthContext>, Access), AuthenticationError> {
        match signed_in {
            // AWS's SDKs send a user name that names nobody beside a signed URL.
            Some(auth_context)
                if matches!(login.credentials, Credentials::None)
                    || auth_context.identity.method == Method::AccessKey =>
            {
                let auth_context = Arc::new(auth_context.as_client(client));
                if self.is_banned(&auth_context) {
                    return Err(AuthenticationError::Banned);
                }
                let access = self.review(&auth_context).ok_or(AuthenticationError::Missing)?;
                Ok((auth_context, access))
            }
            _ => self.authenticate(login, client).await,
        }
    }

    /// Returns the present roles of a logged-in client that have rules.
    #[must_use]
    pub fn roles(&self, auth_context: &AuthContext) -> Vec<Arc<str>> {
        self.state.rules().roles(auth_context)
    }

    /// Returns the present rights of a logged-in client; `None` if its connection must end.
    #[must_use]
    pub fn review(&self, auth_context: &Arc<AuthContext>) -> Option<Access> {
        self.review_absent(auth_context).filter(|_| !self.is_over(auth_context))
    }

    /// Returns the present rights of a client that has no connection, so an expired token does not matter. `None` if
    /// its login is revoked and its session must end.
    #[must_use]
    pub fn review_absent(&self, auth_context: &Arc<AuthContext>) -> Option<Access> {
        let generation = self.generation();
        let expired = auth_context.revoked_at().is_some() && self.is_over(auth_context);
        let access = self.state.access(auth_context).filter(|_| !expired)?;
        Some(self.with_login(access, auth_context, generation))
    }

    /// Returns the counters of refused logins by cause.
    #[must_use]
    pub fn counters(&self) -> &crate::observability::metrics::LoginCounters {
        self.state.login.counters()
    }

    /// Returns `access`, whose commands are refused from the time at which the login is revoked.
    fn with_login(&self, access: Access, auth_context: &Arc<AuthContext>, generation: u64) -> Access {
        access.with_login(Arc::new(LoginState::new(auth_context.clone(), self.state.clone(), generation)))
    }
}

impl AuthorityState {
    /// Returns the present rights; `None` if the login is revoked. Expiry is not considered.
    fn access(&self, auth_context: &AuthContext) -> Option<Access> {
        let access = self.rules().access(auth_context)?;
        let identity = &auth_context.identity;
        let stays = !self.is_banned(&identity.principal) && self.login.is_in_force(identity, &self.access_keys());
        stays.then_some(access)
    }

    fn is_banned(&self, principal: &Principal) -> bool {
        self.bans.read().has(principal)
    }

    fn access_keys(&self) -> Arc<AccessKeys> {
        self.access_keys.read().clone()
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

impl Rules {
    fn of(config: &Config, policy: Policy) -> Self {
        let listeners =
            config.listeners.iter().map(|listener| (listener.name.clone(), ListenerAuthPolicy::of(listener)));
        Self { policy: Arc::new(policy), listeners: listeners.collect() }
    }

    /// Returns the policies of `config` for existing listeners. A listener that is missing in it, or has another
    /// address, keeps its policy.
    fn renewed(&self, config: &Config, policy: Policy) -> Self {
        let renewed = self.listeners.iter().map(|(name, policy_of_listener)| {
            let mut now =
                config.listeners.iter().filter(|now| now.name == *name && now.bind == policy_of_listener.bind);
            (name.clone(), now.next().map_or_else(|| policy_of_listener.clone(), ListenerAuthPolicy::of))
        });
        Self { policy: Arc::new(policy), listeners: renewed.collect() }
    }

    /// Returns the rights of a client; `None` if it has none, or its listener does not accept it.
    fn access(&self, auth_context: &AuthContext) -> Option<Access> {
        let AuthContext { identity, client, listener } = auth_context;
        let access = self.policy.access(&identity.principal, identity.method, self.role_here(auth_context), client);
        let taken = identity.method != Method::Anonymous || self.takes_anonymous(listener);
        (taken && access.is_any()).then_some(access)
    }

    fn takes_anonymous(&self, listener: &str) -> bool {
        self.listeners.get(listener).is_some_and(|policy_of_listener| policy_of_listener.anonymous)
    }

    fn roles(&self, auth_context: &AuthContext) -> Vec<Arc<str>> {
        let AuthContext { identity, client, .. } = auth_context;
        let roles = self.policy.roles_of(&identity.principal, identity.method, self.role_here(auth_context), client);
        roles.into_iter().map(Arc::from).collect()
    }

    /// Returns the role that the listener assigns to the client.
    fn role_here(&self, auth_context: &AuthContext) -> Option<&str> {
        let policy_of_listener = self.listeners.get(&*auth_context.listener)?;
        match auth_context.identity.method {
            Method::Anonymous => policy_of_listener.anonymous_role.as_deref(),
            Method::Certificate => policy_of_listener.certificate_role.as_deref(),
            Method::Password | Method::Token | Method::AccessKey => None,
        }
    }
}

impl ListenerAuthPolicy {
    fn of(listener: &ListenerConfig) -> Self {
        Self {
            bind: listener.bind,
            anonymous: listener.anonymous,
            anonymous_role: listener.anonymous_role.clone(),
            certificate_role: listener.certificate_role.clone(),
        }
    }
}
