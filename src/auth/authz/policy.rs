//! The roles and their assignment to clients.
//!
//! A client has the role of its listener, if it has no credentials or a certificate, and the roles that grants give to
//! its principal. A client without a role may do nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    auth::{
        Method, Principal,
        authz::{
            access::{Access, GrantedRule, Rights},
            pattern::{Pattern, PatternError, PlaceholderValues},
            rule::{GRANTED, Rule, RuleError, device_pattern},
        },
    },
    config::{Config, ConfigError, GrantConfig, RoleConfig, RoleLimits, RuleConfig},
};

/// Roles and grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    roles: BTreeMap<Arc<str>, Vec<Arc<Rule>>>,
    grants: Vec<Grant>,
    /// The limits of each role.
    limits: BTreeMap<Arc<str>, Arc<RoleLimits>>,
    /// The limits of roles without limits of their own.
    default_limits: Arc<RoleLimits>,
    /// The rules and grants as written.
    written: Arc<(Vec<RuleConfig>, Vec<GrantConfig>)>,
}

/// A role as written.
#[derive(Clone, Debug)]
pub struct DescribedRole<'a> {
    /// Its name.
    pub name: &'a str,
    /// The limits of a principal that has it.
    pub limits: RoleLimits,
    /// Its rules.
    pub rules: Vec<&'a RuleConfig>,
    /// The grants that give it.
    pub grants: Vec<&'a GrantConfig>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    role: Arc<str>,
    principals: Vec<Pattern>,
    by: Vec<Method>,
    devices: Arc<[Pattern]>,
}

/// The error of a refused rule or grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// `rule` or `grant`.
    pub list: &'static str,
    /// Its index, from 0.
    pub index: usize,
    /// The error.
    pub error: RuleError,
}

impl Policy {
    /// Compiles the rules and grants of `config`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the first invalid one, with its location.
    pub fn of(config: &Config) -> Result<Self, ConfigError> {
        let policy = Self::read(&config.rules, &config.grants).map_err(
            |PolicyError { list, index, error: RuleError { key, problem } }| {
                config.invalid(format!("{list}[{index}].{key}"), problem)
            },
        )?;
        Ok(policy.with_limits(&config.roles))
    }

    /// Returns the policy with the limits of `roles`. Other roles have those of the first one.
    #[must_use]
    pub fn with_limits(mut self, roles: &[RoleConfig]) -> Self {
        let limits = |role: &RoleConfig| (role.role.as_str().into(), Arc::new(role.limits));
        self.default_limits = roles.first().map_or_else(Arc::default, |first| Arc::new(first.limits));
        self.limits = roles.iter().map(limits).collect();
        self
    }

    /// Compiles rules and grants.
    ///
    /// # Errors
    ///
    /// The first invalid one, or one that names an unknown role.
    pub fn read(rules: &[RuleConfig], grants: &[GrantConfig]) -> Result<Self, PolicyError> {
        let mut policy = Self { written: Arc::new((rules.to_vec(), grants.to_vec())), ..Self::default() };
        for (index, text) in rules.iter().enumerate() {
            let rule = Rule::read(text).map_err(|error| PolicyError { list: "rule", index, error })?;
            policy.roles.entry(rule.role.clone()).or_default().push(Arc::new(rule));
        }
        for (index, text) in grants.iter().enumerate() {
            let grant = policy.grant(text).map_err(|error| PolicyError { list: "grant", index, error })?;
            policy.grants.push(grant);
        }
        Ok(policy)
    }

    /// Returns true if there is a role of this name.
    #[must_use]
    pub fn has_role(&self, name: &str) -> bool {
        self.roles.contains_key(name)
    }

    /// Returns the names of the roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(|name| &**name)
    }

    /// Returns the roles as written, in the order of their names.
    pub fn described(&self) -> impl Iterator<Item = DescribedRole<'_>> {
        let (rules, grants) = &*self.written;
        self.roles().map(move |name| DescribedRole {
            name,
            limits: **self.limits.get(name).unwrap_or(&self.default_limits),
            rules: rules.iter().filter(|rule| rule.role == name).collect(),
            grants: grants.iter().filter(|grant| grant.role == name).collect(),
        })
    }

    /// Returns the rights of `principal`, authenticated by `method`, as the client `client`. `role` is that assigned by
    /// its listener, if any.
    #[must_use]
    pub fn access(&self, principal: &Principal, method: Method, role: Option<&str>, client: &Arc<str>) -> Access {
        let who = PlaceholderValues { principal: principal.name(), client };
        let none: Arc<[Pattern]> = Arc::default();
        let of_listener = role.into_iter().map(|role| (role, &none));
        let grants = self.grants.iter().filter(|grant| grant.is_for(method, who));
        let roles = of_listener.chain(grants.map(|grant| (&*grant.role, &grant.devices)));
        let granted = roles.flat_map(|(role, devices)| {
            let rules = self.roles.get(role).into_iter().flatten();
            rules.map(|rule| GrantedRule::new(rule.clone(), devices.clone(), who))
        });
        let rights = Rights::new(granted.collect());
        Access::new(principal.clone(), client.clone(), rights, self.limits_of(principal, method, role, client))
    }

    /// Returns the limits of the roles in [`Self::access`]: of each the largest.
    fn limits_of(
        &self,
        principal: &Principal,
        method: Method,
        role: Option<&str>,
        client: &Arc<str>,
    ) -> Arc<RoleLimits> {
        let roles = self.roles_of(principal, method, role, client);
        let mut limits = roles.into_iter().map(|role| self.limits.get(role).unwrap_or(&self.default_limits));
        let Some(first) = limits.next() else { return Arc::new(RoleLimits::NONE) };
        limits.fold(first.clone(), |all, more| Arc::new(all.or(**more)))
    }

    /// Returns the roles in [`Self::access`], each once.
    #[must_use]
    pub fn roles_of<'a>(
        &'a self,
        principal: &Principal,
        method: Method,
        role: Option<&'a str>,
        client: &Arc<str>,
    ) -> BTreeSet<&'a str> {
        let who = PlaceholderValues { principal: principal.name(), client };
        let grants = self.grants.iter().filter(|grant| grant.is_for(method, who));
        role.into_iter().chain(grants.map(|grant| &*grant.role)).collect()
    }

    fn grant(&self, text: &GrantConfig) -> Result<Grant, RuleError> {
        let refuse = |key| move |problem: String| RuleError { key, problem };
        let devices = text.devices.iter().map(|text| device_pattern(text)).collect::<Result<Vec<_>, _>>();
        if !self.has_role(&text.role) {
            let known = self.roles().collect::<Vec<_>>().join(", ");
            let problem = format!("is '{}', but must be one of the roles that there are: {known}", text.role);
            return Err(RuleError { key: "role", problem });
        }
        let method = |name: &String| {
            let found = Method::NAMED.into_iter().find(|(known, _)| known == name).map(|(_, method)| method);
            found.ok_or_else(|| {
                let known = Method::NAMED.map(|(name, _)| name).join(", ");
                RuleError { key: "by", problem: format!("has '{name}', but must be of {known}") }
            })
        };
        let by = text.by.iter().map(method).collect::<Result<Vec<_>, _>>()?;
        let principals = text.principals.iter().map(|text| principal_pattern(text, &by)).collect::<Result<_, _>>();
        let devices: Arc<[Pattern]> = devices.map_err(refuse("devices"))?.into();
        if !devices.is_empty() && !self.roles.get(&*text.role).into_iter().flatten().any(|rule| rule.has_granted()) {
            let problem = format!("is set, but no rule of the role '{}' has devices = [\"{GRANTED}\"]", text.role);
            return Err(RuleError { key: "devices", problem });
        }
        Ok(Grant {
            role: text.role.as_str().into(),
            principals: principals.map_err(refuse("principals"))?,
            by,
            devices,
        })
    }
}

/// Reads a pattern of names of principals who are known by one of the methods `by`. One that no such name matches is
/// refused: whoever wrote it meant somebody.
fn principal_pattern(text: &str, by: &[Method]) -> Result<Pattern, String> {
    let pattern: Pattern = text.parse().map_err(|error: PatternError| error.to_string())?;
    let anonymous = by.contains(&Method::Anonymous);
    let named = !anonymous || by.len() > 1;
    if (named && pattern.texts().all(Principal::may_hold) && !text.is_empty())
        || (anonymous && Principal::may_be_anonymous(text))
    {
        return Ok(pattern);
    }
    let names = "names are 1 to 128 of A-Z a-z 0-9 . : _ -";
    let anonymous_names = "an anonymous client is anonymous/ and its client id";
    Err(match (anonymous, named) {
        (true, false) => format!("has '{text}', which no such principal is called: {anonymous_names}"),
        (false, _) if Principal::may_be_anonymous(text) => {
            format!("has '{text}', which is an anonymous client, but by does not have \"anonymous\"")
        }
        _ => format!("has '{text}', which no principal can be called: {names}"),
    })
}

impl Grant {
    fn is_for(&self, method: Method, who: PlaceholderValues<'_>) -> bool {
        // An anonymous client chooses its own name, so a grant to anonymous clients must name that method.
        let known = if self.by.is_empty() { method != Method::Anonymous } else { self.by.contains(&method) };
        known && self.principals.iter().any(|pattern| pattern.matches(who.principal, who))
    }
}
