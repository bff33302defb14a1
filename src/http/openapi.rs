//! The OpenAPI 3.1 description of the API, built once from the table of operations.
//!
//! Paths, methods and parameters come from `operation`, requests and responses from `exchanges`, and their schemas from
//! `schemas`. `others` has the operations outside the table.

mod exchanges;
mod others;
mod schemas;

use std::sync::Arc;

use axum::{extract::State, http::Method, response::Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use self::exchanges::{Exchange, Media};
use crate::{
    http::{
        api::history::no_store,
        operation::{CLIENT, ID, INDEX, NAME, Operation, PRINCIPAL, QUERY, ROLLOUT, ROUTES, Route, TOPIC},
        parameter::{Kind, Parameter, ParameterLocation},
        state::Api,
    },
    shadow::DocumentLimits,
};

/// `GET /openapi.json`
pub(super) async fn get(State(api): State<Arc<Api>>) -> Response {
    no_store(api.openapi.get_or_init(|| document(&api.document)).clone())
}

/// Returns the description of a server with these limits.
pub(super) fn document(limits: &DocumentLimits) -> Bytes {
    let mut paths: Map<String, Value> =
        ROUTES.iter().map(|route| (route.path.replace("{*", "{"), path(route))).collect();
    paths.extend(others::paths());
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Umbra",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Shadows of devices: their desired state, reported state and tags, with optimistic \
                            concurrency control.",
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": { "schemas": schemas::all(limits), "securitySchemes": others::security_schemes() },
        // Any one of them; none if the listener accepts anonymous clients.
        "security": [{}, { "basic": [] }, { "bearer": [] }, { "session": [] }],
    });
    document.to_string().into()
}

fn path(route: &Route) -> Value {
    let names = [&ID, &NAME, &TOPIC, &PRINCIPAL, &CLIENT, &INDEX, &QUERY, &ROLLOUT].into_iter().filter(|parameter| {
        route.path.contains(&format!("{{{}}}", parameter.name))
            || route.path.contains(&format!("{{*{}}}", parameter.name))
    });
    let mut item = Map::new();
    let parameters: Vec<Value> = names.map(parameter).collect();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), parameters.into());
    }
    for operation in route.operations {
        let named = route.path.contains("{name}");
        item.insert(method(*operation).to_owned(), described(*operation, named));
    }
    item.into()
}

/// Returns true for the operations of AWS's data plane, whose ids begin with a capital.
fn is_of_aws(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_uppercase())
}

fn method(operation: Operation) -> &'static str {
    match operation.method() {
        Method::GET => "get",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::POST => "post",
        _ => "delete",
    }
}

fn described(operation: Operation, named: bool) -> Value {
    let Exchange { id, summary, requests, responses } = exchanges::of(operation);
    let id = if named { format!("{id}Named") } else { id.to_owned() };
    let mut described = json!({
        "operationId": &id,
        "summary": summary,
        "parameters": operation.parameters().iter().map(|shown| parameter(shown)).collect::<Vec<_>>(),
        "responses": responses.iter().map(response).collect::<Map<String, Value>>(),
    });
    if is_of_aws(&id) {
        set(
            &mut described,
            "security",
            json!([{}, { "sigv4": [] }, { "basic": [] }, { "bearer": [] }, { "session": [] }]),
        );
    }
    if !requests.is_empty() {
        // An MQTT message may be empty.
        let required = requests.iter().all(|media| media.schema != "Payload");
        let content: Map<String, Value> = requests.iter().map(content).collect();
        set(&mut described, "requestBody", json!({ "required": required, "content": content }));
    }
    described
}

fn parameter(parameter: &Parameter) -> Value {
    let location = match parameter.location {
        ParameterLocation::Path => "path",
        ParameterLocation::Query => "query",
        ParameterLocation::Header => "header",
    };
    let schema = match parameter.kind {
        Kind::Text("") => json!({ "type": "string" }),
        Kind::Text(pattern) => json!({ "type": "string", "pattern": pattern }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Choice(choices) => json!({ "type": "string", "enum": choices }),
    };
    json!({
        "name": parameter.name,
        "in": location,
        "required": parameter.location == ParameterLocation::Path,
        "description": parameter.about,
        "schema": schema,
    })
}

fn content(media: &Media) -> (String, Value) {
    let schema = json!({ "$ref": format!("#/components/schemas/{}", media.schema) });
    (media.name.to_owned(), json!({ "schema": schema }))
}

fn response(response: &exchanges::Response) -> (String, Value) {
    let mut described = json!({ "description": response.about });
    if let Some(media) = &response.media {
        let (name, value) = content(media);
        set(&mut described, "content", json!({ name: value }));
    }
    let headers: Map<String, Value> = response.headers.iter().map(header).collect();
    if !headers.is_empty() {
        set(&mut described, "headers", headers.into());
    }
    (response.status.to_string(), described)
}

fn header(name: &&'static str) -> (String, Value) {
    let schema = match *name {
        "ETag" => json!({ "type": "string", "pattern": schemas::ETAG }),
        "Idempotent-Replayed" => json!({ "type": "string", "enum": ["true"] }),
        "Umbra-Wait" => json!({ "type": "string", "enum": ["met", "timeout"] }),
        "Retry-After" => json!({ "type": "string", "pattern": "^[0-9]+$" }),
        _ => json!({ "type": "string" }),
    };
    // The other headers are optional.
    let required = matches!(*name, "Allow" | "WWW-Authenticate");
    ((*name).to_owned(), json!({ "required": required, "schema": schema }))
}

/// Sets a member of an object.
fn set(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

    use std::collections::BTreeSet;

    use super::*;

    fn described() -> Value {
        serde_json::from_slice(&document(&DocumentLimits::default())).unwrap()
    }

    #[test]
    fn every_operation_is_described_once() {
        let document = described();
        let mut ids = BTreeSet::new();
        for route in ROUTES {
            let item = document["paths"][route.path.replace("{*", "{")].as_object().unwrap();
            assert_eq!(item.keys().filter(|key| *key != "parameters").count(), route.operations.len());
            for operation in route.operations {
                let described = &item[method(*operation)];
                assert!(ids.insert(described["operationId"].as_str().unwrap().to_owned()), "{described}");
            }
        }
        assert_eq!(document["paths"].as_object().unwrap().len(), ROUTES.len() + others::paths().len());
    }

    #[test]
    fn references_resolve_and_every_schema_is_referenced() {
        fn walk<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
            match value {
                Value::Object(members) => {
                    members.iter().for_each(|(key, value)| match (key.as_str(), value.as_str()) {
                        ("$ref", Some(target)) => _ = found.insert(target),
                        _ => walk(value, found),
                    });
                }
                Value::Array(elements) => elements.iter().for_each(|element| walk(element, found)),
                _ => {}
            }
        }
        let document = described();
        let mut found = BTreeSet::new();
        walk(&document, &mut found);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let names: BTreeSet<String> = schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
        assert_eq!(found, names.iter().map(String::as_str).collect());
    }
}
