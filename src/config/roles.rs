//! The conversion of written rules and grants to the policy.

use std::sync::Arc;

use super::{
    check::Section,
    error::{Problem, UnlocatedError},
    raw::{RawConfig, RawGrant, RawRule},
    units::{List, Text},
};
use crate::auth::{
    Operation, Policy,
    authz::{
        policy::{GrantText, PolicyError},
        rule::{RuleError, RuleText},
    },
};

/// Returns the policy of all rules and grants; `place` returns the location of each.
pub(super) fn policy(raw: &RawConfig, place: impl Fn(&str) -> String) -> Result<Policy, UnlocatedError> {
    let rules = raw.rule.iter().enumerate().map(|(index, rule)| rule_text(rule, place(&format!("rule[{index}]"))));
    let rules: Vec<_> = rules.collect();
    let grants: Vec<_> = raw.grant.iter().map(grant_text).collect();
    Policy::read(&rules, &grants).map_err(|PolicyError { list, index, error: RuleError { key, problem } }| {
        UnlocatedError::new(format!("{list}[{index}].{key}"), Problem::Invalid(problem))
    })
}

/// Returns the role that `key` of a listener names; `None` if the value is empty.
pub(super) fn role(at: &Section, key: &str, text: &Text, policy: &Policy) -> Result<Option<Arc<str>>, UnlocatedError> {
    match text.0.as_str() {
        "" => Ok(None),
        name if policy.has_role(name) => Ok(Some(name.into())),
        name => {
            let known = policy.roles().collect::<Vec<_>>().join(", ");
            Err(at.invalid(key, format!("is {name:?}, but must be one of the roles that there are: {known}")))
        }
    }
}

fn rule_text(raw: &RawRule, origin: String) -> RuleText {
    let all = || Operation::NAMED.map(|(name, _)| name.to_owned()).to_vec();
    let or = |texts: &Option<List>, otherwise: Vec<String>| texts.as_ref().map_or(otherwise, |texts| texts.0.clone());
    RuleText {
        role: raw.role.0.clone(),
        origin,
        devices: raw.devices.0.clone(),
        names: or(&raw.names, vec!["*".to_owned()]),
        operations: or(&raw.operations, all()),
        read: raw.read.0.clone(),
        write: raw.write.0.clone(),
        publish: raw.publish.0.clone(),
        subscribe: raw.subscribe.0.clone(),
    }
}

fn grant_text(raw: &RawGrant) -> GrantText {
    GrantText {
        role: raw.role.0.clone(),
        principals: raw.principals.0.clone(),
        by: raw.by.0.clone(),
        devices: raw.devices.0.clone(),
    }
}
