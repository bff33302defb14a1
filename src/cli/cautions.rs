//! Warnings of `umbrad check-config`: valid configurations that probably grant more than their author meant.

use std::collections::BTreeSet;

use crate::config::{Config, GrantConfig, ListenerConfig, RuleConfig};

/// Returns a warning for each suspicious setting of `config`.
pub(super) fn cautions(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let takes_certificates =
        |listener: &&ListenerConfig| listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    let certified = config.listeners.iter().filter(takes_certificates).collect::<Vec<_>>();
    let strong = strong_roles(&config.rules);
    for (index, grant) in config.grants.iter().enumerate() {
        let is_strong = strong.contains(&*grant.role) || writes_any_granted(grant, &config.rules);
        if is_strong && grant.by.is_empty() && !grant.principals.is_empty() && !certified.is_empty() {
            found.push(format!(
                "grant[{index}] gives the role '{}', which may write to every device, to {} by any method: so does a \
                 certificate of tls_client_ca with that common name; name the methods, such as by = [\"password\"]",
                grant.role,
                quoted(&grant.principals)
            ));
        }
    }
    for listener in certified {
        if let Some(role) = listener.certificate_role.as_deref().filter(|role| strong.contains(role)) {
            found.push(format!(
                "listener '{}' gives the role '{role}', which may write to every device, to every certificate of \
                 tls_client_ca",
                listener.name
            ));
        }
    }
    let knows_principals =
        config.auth.users.is_some() || config.auth.tokens.is_some() || config.auth.aws_keys.is_some();
    for listener in config.listeners.iter().filter(|listener| listener.anonymous && knows_principals) {
        if let Some(role) = listener.anonymous_role.as_deref().filter(|role| strong.contains(role)) {
            found.push(format!(
                "listener '{}' gives the role '{role}', which may write to every device, to clients without credentials, \
                 although [auth] names users or keys; set anonymous = false, or another anonymous_role",
                listener.name
            ));
        }
    }
    found
}

/// Returns the roles that may write to every device.
fn strong_roles(rules: &[RuleConfig]) -> BTreeSet<&str> {
    let strong = rules.iter().filter(|rule| may_write(rule) && rule.devices.iter().any(|device| device == "*"));
    strong.map(|rule| &*rule.role).collect()
}

/// Returns true if the role may write to the devices of the grant, which are all.
fn writes_any_granted(grant: &GrantConfig, rules: &[RuleConfig]) -> bool {
    let of_grant = |rule: &RuleConfig| {
        rule.role == grant.role && may_write(rule) && rule.devices.iter().any(|device| device == "{devices}")
    };
    grant.devices.iter().any(|device| device == "*") && rules.iter().any(of_grant)
}

fn may_write(rule: &RuleConfig) -> bool {
    let writes = |operation: &String| operation == "update" || operation == "delete";
    !rule.write.is_empty() && rule.operations.as_ref().is_none_or(|operations| operations.iter().any(writes))
}

fn quoted(principals: &[String]) -> String {
    principals.iter().map(|principal| format!("'{principal}'")).collect::<Vec<_>>().join(", ")
}
