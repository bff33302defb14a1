//! The users and roles in use, for operators. What the configuration says about them is read with it.
//!
//! As [`super::principals`], they are not in the table of [`crate::http::operation`].

use std::sync::Arc;

use axum::{Router, extract::State, http::Uri, response::Response, routing::get};
use serde_json::{Value, json};

use crate::{
    admission::work,
    config::{GrantConfig, RuleConfig},
    http::{
        api::{cluster::object, devices::limit, history::no_store, query::Query, sessions::prefix, text_cursor},
        auth::caller::Caller,
        operation::{LIMIT, OPAQUE_CURSOR, PRINTABLE},
        parameter::{BadParameter, Kind, Parameter, ParameterLocation},
        problem::Problem,
        state::Api,
    },
};

static USER_PREFIX: Parameter = Parameter {
    name: "prefix",
    location: ParameterLocation::Query,
    kind: Kind::Text(PRINTABLE),
    about: "Only users whose name begins with this prefix",
};

pub(in crate::http) static PARAMETERS: [&Parameter; 3] = [&USER_PREFIX, &LIMIT, &OPAQUE_CURSOR];

pub(in crate::http) fn router() -> Router<Arc<Api>> {
    Router::new().route("/v1/users", get(users)).route("/v1/roles", get(roles))
}

/// `GET /v1/users`
async fn users(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    admit(&caller, &api)?;
    let read = || -> Result<_, BadParameter> {
        let query = Query::read(uri.query(), &PARAMETERS)?;
        Ok((prefix(&query, &USER_PREFIX)?, text_cursor::read(&query)?, limit(&query)?))
    };
    let (prefix, after, limit) = read().map_err(|bad| api.invalid(&bad))?;
    let mut found = api.authority.users(&prefix, after.as_deref(), limit + 1);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let users: Vec<_> = found.iter().map(|(user, roles)| json!({ "user": user.name(), "roles": roles })).collect();
    let next = found.last().filter(|_| has_more).map(|(last, _)| text_cursor::encode(last.name()).into());
    Ok(answer(&object([("users", Some(users.into())), ("next", next)]), &caller, &api))
}

/// `GET /v1/roles`
async fn roles(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, Problem> {
    admit(&caller, &api)?;
    let policy = api.authority.policy();
    let roles: Vec<_> = policy
        .described()
        .map(|role| {
            let limits = role.limits;
            json!({
                "role": role.name,
                "limits": {
                    "memory": limits.memory,
                    "workPerSecond": limits.work,
                    "sessions": limits.sessions,
                    "filters": limits.filters,
                    "newShadows": limits.new_shadows_per_day,
                },
                "rules": role.rules.into_iter().map(rule).collect::<Vec<_>>(),
                "grants": role.grants.into_iter().map(grant).collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok(answer(&json!({ "roles": roles }), &caller, &api))
}

fn rule(rule: &RuleConfig) -> Value {
    object([
        ("origin", Some(json!(rule.origin))),
        ("devices", Some(json!(rule.devices))),
        ("names", Some(json!(rule.names))),
        ("operations", rule.operations.as_ref().map(|operations| json!(operations))),
        ("read", Some(json!(rule.read))),
        ("write", Some(json!(rule.write))),
        ("publish", Some(json!(rule.publish))),
        ("subscribe", Some(json!(rule.subscribe))),
        ("administer", Some(json!(rule.administer))),
    ])
}

fn grant(grant: &GrantConfig) -> Value {
    json!({ "principals": grant.principals, "by": grant.by, "devices": grant.devices })
}

fn admit(caller: &Caller, api: &Api) -> Result<(), Problem> {
    caller.admit(work::PAGE, api)?;
    caller.require_all_rights("to see users and roles needs all rights", api)
}

fn answer(body: &Value, caller: &Caller, api: &Api) -> Response {
    let response = no_store(body.to_string().into());
    caller.charge_rendered(&response, api);
    response
}
