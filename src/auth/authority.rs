//! Authentication and authorization of clients, shared by MQTT and HTTP.
//!
//! The result of a login is the client's [`AuthContext`]. After users, keys, roles and grants are reloaded, each open
//! session is reviewed by it: it continues with its present rights, or ends.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{
    auth::{
        Access, FileError, Method, Policy, Principal,
        authn::{
            access_keys::AccessKeys,
            certificate::PeerCertificate,
            login::{AuthenticationError, Credentials, Identity, Login, LoginError},
        },
    },
    clock::Clock,
    config::{Config, ListenerConfig},
};

/// The authority on all listeners.
pub struct Authority {
    login: Login,
    /// The rules; replaced as a whole by a reload.
    rules: RwLock<Arc<Rules>>,
    access_keys: RwLock<Arc<AccessKeys>>,
    access_keys_file: Option<PathBuf>,
    /// The number of reloads.
    generation: watch::Sender<u64>,
}

/// The rules apart from users and keys.
struct Rules {
    policy: Policy,
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

    /// Returns the login of a client at `listener` that is known by the signature of an access key.
    #[must_use]
    pub fn of_access_key(principal: Principal, listener: Arc<str>) -> Self {
        Self { identity: Identity::lasting(principal, Method::AccessKey), listener, client: "".into() }
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
        Ok(Self {
            login,
            rules: RwLock::new(Arc::new(Rules::of(config, policy))),
            access_keys: RwLock::new(Arc::new(access_keys)),
            access_keys_file,
            generation: watch::Sender::new(0),
        })
    }

    /// Replaces the roles and grants by the policy of `config`, if given, and the policies of existing listeners. Reads
    /// users and keys again, blocking. Every session must be reviewed afterwards ([`Authority::review`]).
    ///
    /// Returns the errors of unusable files; their old content stays in use.
    #[must_use]
    pub fn reload(&self, config: Option<(&Config, Policy)>) -> Vec<FileError> {
        if let Some((config, policy)) = config {
            let rules = self.rules().renewed(config, policy);
            *self.rules.write() = Arc::new(rules);
        }
        let mut faults = self.login.reload();
        if let Some(path) = &self.access_keys_file {
            match AccessKeys::read(path) {
                Ok(keys) => *self.access_keys.write() = Arc::new(keys),
                Err(error) => faults.push(error),
            }
        }
        self.generation.send_modify(|generation| *generation += 1);
        faults
    }

    /// Returns a number that changes with each reload.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Waits for the first reload after `generation`.
    pub async fn read_anew(&self, generation: u64) {
        let read = self.generation.subscribe().wait_for(|current| *current != generation).await.is_ok();
        debug_assert!(read, "the sender is here");
    }

    /// Returns the AWS access keys.
    #[must_use]
    pub fn access_keys(&self) -> Arc<AccessKeys> {
        self.access_keys.read().clone()
    }

    /// Returns the rights that grants give to `principal` as the client `client`.
    #[must_use]
    pub fn access(&self, principal: &Principal, method: Method, client: &Arc<str>) -> Access {
        self.rules().policy.access(principal, method, None, client)
    }

    /// Returns true if the authentication has expired.
    #[must_use]
    pub fn is_over(&self, auth_context: &AuthContext) -> bool {
        auth_context.identity.until.is_some() && !self.login.still_valid(&auth_context.identity)
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
    ) -> Result<(AuthContext, Access), AuthenticationError> {
        let anonymous = self.rules().takes_anonymous(login.listener).then_some(&**client);
        let identity = self.login.identify(login.address, login.proof, login.credentials, anonymous).await?;
        let auth_context = AuthContext { identity, listener: login.listener.clone(), client: client.clone() };
        if let Some(access) = self.rules().access(&auth_context) {
            return Ok((auth_context, access));
        }
        if auth_context.identity.method == Method::Anonymous {
            return Err(AuthenticationError::Missing); // the client may still authenticate
        }
        self.login.note(login.address, AuthenticationError::NoRole, Some(&auth_context.identity.principal));
        Err(AuthenticationError::NoRole)
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
    ) -> Result<(AuthContext, Access), AuthenticationError> {
        match signed_in {
            // AWS's SDKs send a user name that names nobody beside a signed URL.
            Some(auth_context)
                if matches!(login.credentials, Credentials::None)
                    || auth_context.identity.method == Method::AccessKey =>
            {
                let auth_context = auth_context.as_client(client);
                let access = self.review(&auth_context).ok_or(AuthenticationError::Missing)?;
                Ok((auth_context, access))
            }
            _ => self.authenticate(login, client).await,
        }
    }

    /// Returns the present roles of a logged-in client that have rules.
    #[must_use]
    pub fn roles(&self, auth_context: &AuthContext) -> Vec<Arc<str>> {
        self.rules().roles(auth_context)
    }

    /// Returns the present rights of a logged-in client; `None` if its session must end.
    #[must_use]
    pub fn review(&self, auth_context: &AuthContext) -> Option<Access> {
        self.rules()
            .access(auth_context)
            .filter(|_| self.login.still_valid(&auth_context.identity) && self.has_key(auth_context))
    }

    /// Returns the present rights of a disconnected client. It must log in again to return, so a changed password or an
    /// expired token does not matter. `None` if it may not return.
    #[must_use]
    pub fn review_absent(&self, auth_context: &AuthContext) -> Option<Access> {
        self.rules().access(auth_context).filter(|_| self.login.still_known(&auth_context.identity))
    }

    /// Returns the counters of refused logins by cause.
    #[must_use]
    pub fn counters(&self) -> &crate::observability::metrics::LoginCounters {
        self.login.counters()
    }

    /// True unless `auth_context` is by an access key of a principal that has none any more.
    fn has_key(&self, auth_context: &AuthContext) -> bool {
        let Identity { principal, method, .. } = &auth_context.identity;
        *method != Method::AccessKey || self.access_keys().stand_for(principal)
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }
}

impl Rules {
    fn of(config: &Config, policy: Policy) -> Self {
        let listeners =
            config.listeners.iter().map(|listener| (listener.name.clone(), ListenerAuthPolicy::of(listener)));
        Self { policy, listeners: listeners.collect() }
    }

    /// Returns the policies of `config` for existing listeners. A listener that is missing in it, or has another
    /// address, keeps its policy.
    fn renewed(&self, config: &Config, policy: Policy) -> Self {
        let renewed = self.listeners.iter().map(|(name, policy_of_listener)| {
            let mut now =
                config.listeners.iter().filter(|now| now.name == *name && now.bind == policy_of_listener.bind);
            (name.clone(), now.next().map_or_else(|| policy_of_listener.clone(), ListenerAuthPolicy::of))
        });
        Self { policy, listeners: renewed.collect() }
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
