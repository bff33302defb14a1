//! Rules and grants as written, which [`crate::auth::Policy`] compiles and checks, and the limits of roles.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{
    error::UnlocatedError,
    limits::{self as hard, KIB},
    raw::{RawConfig, RawGrant, RawRole, RawRule},
    section::{Section, checked},
    units::{List, Size, Text},
};

/// A section `[[rule]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleConfig {
    /// The role.
    pub role: String,
    /// The location of the rule, for explanations.
    pub origin: String,
    /// The patterns of device ids.
    pub devices: Vec<String>,
    /// The patterns of shadow names; the classic shadow has the empty name.
    pub names: Vec<String>,
    /// The names of operations; `None` for all.
    pub operations: Option<Vec<String>>,
    /// The readable paths.
    pub read: Vec<String>,
    /// The writable paths.
    pub write: Vec<String>,
    /// The patterns of ordinary topics for publishing.
    pub publish: Vec<String>,
    /// The patterns of ordinary topics for receiving.
    pub subscribe: Vec<String>,
    /// The names of administrative operations.
    pub administer: Vec<String>,
}

/// A section `[[grant]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantConfig {
    /// The role.
    pub role: String,
    /// The patterns of principals.
    pub principals: Vec<String>,
    /// The names of authentication methods; if empty, all but `anonymous`.
    pub by: Vec<String>,
    /// The patterns of device ids.
    pub devices: Vec<String>,
}

/// A section `[[role]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleConfig {
    /// The name of the role.
    pub role: String,
    /// The limits of a principal that has it.
    pub limits: RoleLimits,
}

/// The limits of one principal, over all its connections and sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleLimits {
    /// Most bytes that the server keeps on its behalf.
    pub memory: usize,
    /// Units of work a second that it may cause; a unit is about a microsecond of processor time.
    pub work: u64,
    /// Most sessions, connected or not, and most event streams and waits over HTTP.
    pub sessions: usize,
    /// Most filters in all its sessions.
    pub filters: usize,
    /// Most shadows that it creates in 24 hours.
    pub new_shadows_per_day: u32,
}

impl fmt::Display for RoleLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, work, sessions, filters, new_shadows_per_day } = self;
        let memory = Size(u64::try_from(*memory).unwrap_or(u64::MAX));
        write!(
            f,
            "memory {memory}, work {work} a second, {sessions} sessions, {filters} filters, {new_shadows_per_day} new \
             shadows a day"
        )
    }
}

impl Default for RoleLimits {
    fn default() -> Self {
        Self::UNLIMITED
    }
}

impl RoleLimits {
    /// The limits of a principal without a role.
    pub const NONE: Self = Self { memory: 64 << 10, work: 1_000, sessions: 0, filters: 0, new_shadows_per_day: 0 };
    /// No limits, for the server itself and for tests.
    pub const UNLIMITED: Self = Self {
        memory: usize::MAX,
        work: hard::WORK_MAX,
        sessions: usize::MAX,
        filters: usize::MAX,
        new_shadows_per_day: u32::MAX,
    };

    /// Returns the larger of each limit, for a principal that has both roles.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            work: self.work.max(other.work),
            sessions: self.sessions.max(other.sessions),
            filters: self.filters.max(other.filters),
            new_shadows_per_day: self.new_shadows_per_day.max(other.new_shadows_per_day),
        }
    }
}

/// Checks the limits of roles, each of which must have rules.
pub(super) fn roles(raw: &RawConfig, rules: &[RuleConfig]) -> Result<Vec<RoleConfig>, UnlocatedError> {
    let checked = raw.role.iter().enumerate().map(|(index, raw)| {
        let at = Section(format!("role[{index}]"));
        at.filled("role", &raw.role)?;
        let name = role(&at, "role", &raw.role, rules)?.unwrap_or_default();
        Ok(RoleConfig { role: name.as_ref().to_owned(), limits: role_limits(&at, raw)? })
    });
    checked.collect()
}

fn role_limits(at: &Section, raw: &RawRole) -> Result<RoleLimits, UnlocatedError> {
    Ok(RoleLimits {
        memory: checked!(at.number(raw.memory, 64 * KIB..=hard::CLIENT_MEMORY_MAX)),
        work: checked!(at.number(raw.work, hard::WORK_MIN..=hard::WORK_MAX)),
        sessions: checked!(at.number(raw.sessions, 1..=hard::SESSIONS_MAX)),
        filters: checked!(at.number(raw.filters, 1..=hard::FILTERS_PER_PRINCIPAL_MAX)),
        new_shadows_per_day: checked!(at.number(raw.new_shadows_per_day, 0..=hard::NEW_SHADOWS_MAX)),
    })
}

/// Returns all rules; `place` returns the location of a key.
pub(super) fn rules(raw: &RawConfig, place: impl Fn(&str) -> String) -> Vec<RuleConfig> {
    raw.rule.iter().enumerate().map(|(index, raw)| rule(raw, place(&format!("rule[{index}]")))).collect()
}

/// Returns all grants.
pub(super) fn grants(raw: &RawConfig) -> Vec<GrantConfig> {
    raw.grant.iter().map(grant).collect()
}

/// Returns the role that `key` of a listener names; `None` if the value is empty.
pub(super) fn role(
    at: &Section,
    key: &str,
    text: &Text,
    rules: &[RuleConfig],
) -> Result<Option<Arc<str>>, UnlocatedError> {
    match text.0.as_str() {
        "" => Ok(None),
        name if rules.iter().any(|rule| rule.role == name) => Ok(Some(name.into())),
        name => {
            let known: BTreeSet<_> = rules.iter().map(|rule| rule.role.as_str()).collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            Err(at.invalid(key, format!("is {name:?}, but must be one of the roles that there are: {known}")))
        }
    }
}

fn rule(raw: &RawRule, origin: String) -> RuleConfig {
    let optional = |texts: &Option<List>| texts.as_ref().map(|texts| texts.0.clone());
    RuleConfig {
        role: raw.role.0.clone(),
        origin,
        devices: raw.devices.0.clone(),
        names: optional(&raw.names).unwrap_or_else(|| vec!["*".to_owned()]),
        operations: optional(&raw.operations),
        read: raw.read.0.clone(),
        write: raw.write.0.clone(),
        publish: raw.publish.0.clone(),
        subscribe: raw.subscribe.0.clone(),
        administer: raw.administer.0.clone(),
    }
}

fn grant(raw: &RawGrant) -> GrantConfig {
    GrantConfig {
        role: raw.role.0.clone(),
        principals: raw.principals.0.clone(),
        by: raw.by.0.clone(),
        devices: raw.devices.0.clone(),
    }
}
