//! Operations outside the table of [`super::super::operation`]: browser sessions and operators' tools.

use serde_json::{Map, Value, json};

use crate::http::{
    api::{principals::KEEP_SESSIONS, purge, roles},
    parameter::Parameter,
};

/// Returns the paths with their operations.
pub(super) fn paths() -> Map<String, Value> {
    let text = |about: &str| answer(about, "text/plain", json!({ "type": "string" }));
    let problem = |about: &str| answer(about, "application/problem+json", reference("Problem"));
    let health = |id: &str, summary: &str, responses: Value| json!({ "get": { "operationId": id, "summary": summary, "security": [{}], "responses": responses } });
    let alive = json!({
        "200": text("The server is alive"),
        "503": problem("A write to the store failed, and the store is not open again yet"),
    });
    let alive = health("getHealth", "Liveness of the server; any Host", alive);
    let ready = json!({
        "200": text("The server accepts updates"),
        "503": problem("The server accepts no updates; the message has the reason"),
    });
    let ready = health("getReadiness", "Readiness for updates; any Host", ready);
    let metrics = json!({ "get": {
        "operationId": "getMetrics",
        "summary": "Metrics in the Prometheus text format; needs all rights, unless the listener has metrics = true",
        "responses": { "200": text("The metrics"), "401": problem("Not authenticated"), "403": problem("Not allowed") },
    } });
    let file = answer("The backup", "application/octet-stream", json!({ "type": "string", "format": "binary" }));
    let backup = json!({ "post": {
        "operationId": "takeBackup",
        "summary": "Take a backup of the store; needs all rights",
        "responses": {
            "200": file,
            "401": problem("Not authenticated"),
            "403": problem("Not allowed"),
            "429": problem("Another backup is being taken"),
        },
    } });
    let all = [
        ("/session", session()),
        ("/healthz", alive),
        ("/readyz", ready),
        ("/metrics", metrics),
        ("/v1/backup", backup),
        ("/v1/cluster", cluster()),
        ("/v1/purge", purge_shadows()),
        (
            "/v1/users",
            operators_list(
                "listUsers",
                "The users of the file, with the roles that grants give them",
                "Users",
                &roles::PARAMETERS,
            ),
        ),
        ("/v1/roles", operators_list("listRoles", "The roles in use: their limits, rules and grants", "Roles", &[])),
        ("/v1/principals/{name}", principal()),
        ("/v1/principals/{name}/connections", connections()),
    ];
    all.into_iter().map(|(path, item)| (path.to_owned(), item)).collect()
}

/// Returns the operation that reads the state of the cluster.
fn cluster() -> Value {
    let problem = |about: &str| answer(about, "application/problem+json", reference("Problem"));
    json!({ "get": {
        "operationId": "getCluster",
        "summary": "The nodes of the cluster as this one knows them; needs all rights",
        "responses": {
            "200": answer("The cluster", "application/json", reference("Cluster")),
            "401": problem("Not authenticated"),
            "403": problem("Not allowed"),
            "404": problem("This server is a single node"),
        },
    } })
}

/// Returns an operation that reads a list and needs all rights.
fn operators_list(id: &str, about: &str, schema: &str, parameters: &[&'static Parameter]) -> Value {
    let problem = |about: &str| answer(about, "application/problem+json", reference("Problem"));
    let parameters: Vec<_> = parameters.iter().map(|parameter| super::parameter(parameter)).collect();
    json!({ "get": {
        "operationId": id,
        "summary": format!("{about}; needs all rights"),
        "parameters": parameters,
        "responses": {
            "200": answer(about, "application/json", reference(schema)),
            "400": problem("A parameter is invalid"),
            "401": problem("Not authenticated"),
            "403": problem("Not allowed"),
            "429": problem("Too many requests"),
        },
    } })
}

/// Returns the operation that reads the use of a principal.
fn principal() -> Value {
    let problem = |about: &str| answer(about, "application/problem+json", reference("Problem"));
    json!({
        "parameters": [principal_name()],
        "get": {
            "operationId": "getPrincipal",
            "summary": "The use that a principal makes of its limits; of another one needs all rights",
            "responses": {
                "200": answer("Use and limits", "application/json", reference("PrincipalUse")),
                "401": problem("Not authenticated"),
                "403": problem("Not allowed"),
                "404": problem("The principal has used nothing lately"),
                "429": problem("Too many requests"),
            },
        },
    })
}

/// Returns the path parameter that names a principal.
fn principal_name() -> Value {
    json!({
        "name": "name",
        "in": "path",
        "required": true,
        "schema": { "type": "string", "minLength": 1 },
        "description": "The principal; of an anonymous client, anonymous%2F and its client id",
    })
}

/// Returns the operation that ends the connections of a principal.
fn connections() -> Value {
    let problem = |about: &str| answer(about, "application/problem+json", reference("Problem"));
    let ended =
        answer("The numbers of what ended, which is on disk", "application/json", reference("EndedConnections"));
    json!({
        "parameters": [principal_name()],
        "delete": {
            "operationId": "endConnections",
            "summary": "End all connections, event streams, browser sessions and MQTT sessions of a principal; needs all rights",
            "parameters": [super::parameter(&KEEP_SESSIONS)],
            "responses": {
                "200": ended,
                "400": problem("A parameter is invalid"),
                "401": problem("Not authenticated"),
                "403": problem("Not allowed"),
                "429": problem("Too many requests"),
                "503": problem("The disk, or a node of the cluster, has not confirmed it in time"),
            },
        },
    })
}

/// Returns the operation that purges shadows.
fn purge_shadows() -> Value {
    let problem = |about: &str| answer(about, "application/problem+json", reference("Problem"));
    let parameters: Vec<_> = purge::PARAMETERS.iter().map(|parameter| super::parameter(parameter)).collect();
    json!({ "post": {
        "operationId": "purgeShadows",
        "summary": "Delete the shadows of some devices, or drop tombstones: a part, and the cursor of the next; needs all rights",
        "parameters": parameters,
        "responses": {
            "200": answer("The numbers of this part", "application/json", reference("PurgeStep")),
            "400": problem("A parameter is invalid"),
            "401": problem("Not authenticated"),
            "403": problem("Not allowed"),
            "429": problem("Too many requests"),
            "500": problem("A shadow cannot be read or written"),
            "503": problem("The store takes no writes, or not all of its pages are known to be sound"),
        },
    } })
}

/// Returns the operations of browser sessions, which a cookie identifies.
fn session() -> Value {
    let problem = |about: &str| answer(about, "application/problem+json", reference("Problem"));
    let session = answer("The principal, its method and its roles", "application/json", reference("Session"));
    let body = json!({ "required": true, "content": { "application/json": { "schema": reference("SignIn") } } });
    let cookie = json!({ "Set-Cookie": { "schema": { "type": "string" } } });
    json!({
        "get": {
            "operationId": "getSession",
            "summary": "The authenticated principal",
            "responses": { "200": session, "401": problem("Not authenticated") },
        },
        "post": {
            "operationId": "signIn",
            "summary": "Sign in with a password or a token; the response sets a cookie",
            "security": [{}],
            "requestBody": body,
            "responses": {
                "204": { "description": "Signed in", "headers": cookie },
                "400": problem("The body is malformed"),
                "401": problem("User name, password or token is wrong"),
                "403": problem("Authenticated, but no role assigned"),
                "413": problem("The body is too large"),
                "429": problem("Too many logins have failed"),
                "503": problem("Too many password checks are waiting"),
            },
        },
        "delete": {
            "operationId": "signOut",
            "summary": "End the session",
            "responses": { "204": { "description": "Signed out", "headers": cookie } },
        },
    })
}

/// Returns the authentication methods besides TLS client certificates.
pub(super) fn security_schemes() -> Value {
    json!({
        "basic": { "type": "http", "scheme": "basic" },
        "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "__Host-umbra-session",
            "description": "Over plain HTTP the name is umbra-session",
        },
        "sigv4": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "AWS Signature Version 4 with a mapped access key, in the header or in a presigned URL",
        },
    })
}

fn answer(about: &str, media: &str, schema: Value) -> Value {
    json!({ "description": about, "content": { media: { "schema": schema } } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
