//! Lets clients in, and says what they may do; the one place that both doors ask.
//!
//! What a client was let in on is its [`Standing`]. When users, keys, roles and grants are read anew, every open
//! session is reviewed on it: it goes on with the rights that it has now, or ends.

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
        access_keys::AccessKeys,
        certificate::Proof,
        login::{Credentials, Denied, Identity, Login, LoginError},
    },
    clock::Clock,
    config::{Config, ListenerConfig},
};

/// Who decides. One for all listeners.
pub struct Authority {
    login: Login,
    /// Replaced as a whole when it is read anew.
    rules: RwLock<Arc<Rules>>,
    access_keys: RwLock<Arc<AccessKeys>>,
    access_keys_file: Option<PathBuf>,
    /// How often everything has been read.
    generation: watch::Sender<u64>,
}

/// What is decided by, but for users and keys.
struct Rules {
    policy: Policy,
    listeners: HashMap<String, Terms>,
}

/// On which terms a listener takes clients.
#[derive(Clone)]
struct Terms {
    /// Where it listens, which a check of the configuration allowed these terms for.
    bind: SocketAddr,
    anonymous: bool,
    anonymous_role: Option<Arc<str>>,
    certificate_role: Option<Arc<str>>,
}

/// What a client was let in on.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Who it is.
    pub identity: Identity,
    listener: Arc<str>,
    client: Arc<str>,
}

/// What a client shows.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Where it is.
    pub address: IpAddr,
    /// The listener it came to, by name.
    pub listener: &'a Arc<str>,
    /// Its certificate.
    pub proof: &'a Proof,
    /// What it sent.
    pub credentials: Credentials<'a>,
}

impl Standing {
    /// Whether the client was let in at this listener.
    #[must_use]
    pub fn is_of(&self, listener: &str) -> bool {
        *self.listener == *listener
    }

    /// It, known as another client of the same principal.
    #[must_use]
    pub fn as_client(&self, client: &Arc<str>) -> Self {
        Self { client: client.clone(), ..self.clone() }
    }

    /// That of a user at `listener`.
    #[cfg(test)]
    pub(crate) fn of_user(principal: Principal, listener: &str) -> Self {
        let identity = Identity::lasting(principal, Method::Password);
        Self { identity, listener: listener.into(), client: "".into() }
    }
}

impl Authority {
    /// Reads users and keys.
    ///
    /// # Errors
    ///
    /// Those of [`Login::open`].
    pub fn open(config: &Config, clock: Clock) -> Result<Self, LoginError> {
        let login = Login::open(&config.auth, clock)?;
        let access_keys_file = config.auth.aws_keys.clone();
        let access_keys = access_keys_file.as_deref().map(AccessKeys::read).transpose()?.unwrap_or_default();
        Ok(Self {
            login,
            rules: RwLock::new(Arc::new(Rules::of(config))),
            access_keys: RwLock::new(Arc::new(access_keys)),
            access_keys_file,
            generation: watch::Sender::new(0),
        })
    }

    /// Takes over the roles and grants of `config`, if there is one, and the terms of the listeners that there are, and
    /// reads users and keys again. Blocks while it reads. Every session is to be reviewed then ([`Authority::review`]).
    ///
    /// Returns what is wrong with each file that cannot be used; what was read of it before stays.
    #[must_use]
    pub fn reload(&self, config: Option<&Config>) -> Vec<FileError> {
        if let Some(config) = config {
            let rules = self.rules().renewed(config);
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

    /// Changes each time that everything has been read anew.
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Waits until everything has been read anew since `generation`.
    pub async fn read_anew(&self, generation: u64) {
        let read = self.generation.subscribe().wait_for(|current| *current != generation).await.is_ok();
        debug_assert!(read, "the sender is here");
    }

    /// The access keys of AWS's kind.
    #[must_use]
    pub fn access_keys(&self) -> Arc<AccessKeys> {
        self.access_keys.read().clone()
    }

    /// What `principal` may do as the client `client`, by what grants give it.
    #[must_use]
    pub fn access(&self, principal: &Principal, method: Method, client: &Arc<str>) -> Access {
        self.rules().policy.access(principal, method, None, client)
    }

    /// Whether the time of what a client was let in on is over.
    #[must_use]
    pub fn is_over(&self, standing: &Standing) -> bool {
        standing.identity.until.is_some() && !self.login.still_valid(&standing.identity)
    }

    /// Finds out who a client is and what it may do; `client` is its client id, empty over HTTP. A refusal takes a
    /// while.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub async fn let_in(&self, shown: Shown<'_>, client: &Arc<str>) -> Result<(Standing, Access), Denied> {
        let anonymous = self.rules().takes_anonymous(shown.listener).then_some(&**client);
        let identity = self.login.identify(shown.address, shown.proof, shown.credentials, anonymous).await?;
        let standing = Standing { identity, listener: shown.listener.clone(), client: client.clone() };
        if let Some(access) = self.rules().access(&standing) {
            return Ok((standing, access));
        }
        if standing.identity.method == Method::Anonymous {
            return Err(Denied::Missing); // it may still say who it is
        }
        self.login.note(shown.address, Denied::NoRole, Some(&standing.identity.principal));
        Err(Denied::NoRole)
    }

    /// As [`Self::let_in`], for a client that signed in before, as `signed_in`: if it shows nothing now, it is still
    /// that.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub async fn let_in_again(
        &self,
        signed_in: Option<&Standing>,
        shown: Shown<'_>,
        client: &Arc<str>,
    ) -> Result<(Standing, Access), Denied> {
        match signed_in {
            Some(standing) if matches!(shown.credentials, Credentials::None) => {
                let standing = standing.as_client(client);
                let access = self.review(&standing).ok_or(Denied::Missing)?;
                Ok((standing, access))
            }
            _ => self.let_in(shown, client).await,
        }
    }

    /// The roles that a client has now that was let in as `standing`, without those that no rule tells of.
    #[must_use]
    pub fn roles(&self, standing: &Standing) -> Vec<Arc<str>> {
        self.rules().roles(standing)
    }

    /// What a client may do now that was let in as `standing`; `None`: nothing any more.
    #[must_use]
    pub fn review(&self, standing: &Standing) -> Option<Access> {
        self.rules().access(standing).filter(|_| self.login.still_valid(&standing.identity))
    }

    /// What a client without a connection may do now that was let in as `standing` when it was here. It has to be let
    /// in again, so a password that has changed and a token that has ended do not matter; `None`: it is not to come
    /// back.
    #[must_use]
    pub fn review_absent(&self, standing: &Standing) -> Option<Access> {
        self.rules().access(standing).filter(|_| self.login.still_known(&standing.identity))
    }

    /// Logins that were refused so far, by cause.
    #[must_use]
    pub fn counters(&self) -> &crate::metrics::LoginCounters {
        self.login.counters()
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }
}

impl Rules {
    fn of(config: &Config) -> Self {
        let listeners = config.listeners.iter().map(|listener| (listener.name.clone(), Terms::of(listener)));
        Self { policy: config.policy.clone(), listeners: listeners.collect() }
    }

    /// Those of `config` for the listeners that there are: one that is not in it, or elsewhere, keeps its terms.
    fn renewed(&self, config: &Config) -> Self {
        let renewed = self.listeners.iter().map(|(name, terms)| {
            let mut now = config.listeners.iter().filter(|now| now.name == *name && now.bind == terms.bind);
            (name.clone(), now.next().map_or_else(|| terms.clone(), Terms::of))
        });
        Self { policy: config.policy.clone(), listeners: renewed.collect() }
    }

    /// What a client may do; `None`: nothing, or its listener does not take such clients.
    fn access(&self, standing: &Standing) -> Option<Access> {
        let Standing { identity, client, listener } = standing;
        let access = self.policy.access(&identity.principal, identity.method, self.role_here(standing), client);
        let taken = identity.method != Method::Anonymous || self.takes_anonymous(listener);
        (taken && access.is_any()).then_some(access)
    }

    fn takes_anonymous(&self, listener: &str) -> bool {
        self.listeners.get(listener).is_some_and(|terms| terms.anonymous)
    }

    fn roles(&self, standing: &Standing) -> Vec<Arc<str>> {
        let Standing { identity, client, .. } = standing;
        let roles = self.policy.roles_of(&identity.principal, identity.method, self.role_here(standing), client);
        roles.into_iter().map(Arc::from).collect()
    }

    /// The role that the client has by its listener.
    fn role_here(&self, standing: &Standing) -> Option<&str> {
        let terms = self.listeners.get(&*standing.listener)?;
        match standing.identity.method {
            Method::Anonymous => terms.anonymous_role.as_deref(),
            Method::Certificate => terms.certificate_role.as_deref(),
            Method::Password | Method::Token | Method::AccessKey => None,
        }
    }
}

impl Terms {
    fn of(listener: &ListenerConfig) -> Self {
        Self {
            bind: listener.bind,
            anonymous: listener.anonymous,
            anonymous_role: listener.anonymous_role.clone(),
            certificate_role: listener.certificate_role.clone(),
        }
    }
}
