//! Operations outside the table of [`super::super::operation`]: signing in, and those of an operator's tools.

use serde_json::{Map, Value, json};

/// Returns their paths.
pub(super) fn paths() -> Map<String, Value> {
    let text = |about: &str| answer(about, "text/plain", json!({ "type": "string" }));
    let problem = |about: &str| answer(about, "application/problem+json", reference("Problem"));
    let health = |id: &str, summary: &str, responses: Value| json!({ "get": { "operationId": id, "summary": summary, "security": [{}], "responses": responses } });
    let alive = health("getHealth", "Whether the server is alive; under any host", json!({ "200": text("It is") }));
    let ready = json!({ "200": text("They are"), "503": problem("They are not; says why") });
    let ready = health("getReadiness", "Whether updates are taken; under any host", ready);
    let metrics = json!({ "get": {
        "operationId": "getMetrics",
        "summary": "Metrics in the text format of Prometheus, for who may do everything, or for all by configuration",
        "responses": { "200": text("The metrics"), "401": problem("Nobody that is known"), "403": problem("Not allowed") },
    } });
    let file = answer("The backup", "application/octet-stream", json!({ "type": "string", "format": "binary" }));
    let backup = json!({ "post": {
        "operationId": "takeBackup",
        "summary": "A backup of the store as of now, for who may do everything",
        "responses": {
            "200": file,
            "401": problem("Nobody that is known"),
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
    ];
    all.into_iter().map(|(path, item)| (path.to_owned(), item)).collect()
}

/// The sessions of browsers, which a cookie names.
fn session() -> Value {
    let problem = |about: &str| answer(about, "application/problem+json", reference("Problem"));
    let session = answer("The principal, its method and its roles", "application/json", reference("Session"));
    let body = json!({ "required": true, "content": { "application/json": { "schema": reference("SignIn") } } });
    let cookie = json!({ "Set-Cookie": { "schema": { "type": "string" } } });
    json!({
        "get": {
            "operationId": "getSession",
            "summary": "Who asks",
            "responses": { "200": session, "401": problem("Nobody that is known") },
        },
        "post": {
            "operationId": "signIn",
            "summary": "Sign in with a password or a token; the answer sets a cookie",
            "security": [{}],
            "requestBody": body,
            "responses": {
                "204": { "description": "Signed in", "headers": cookie },
                "400": problem("The body is not what it must be"),
                "401": problem("User name, password or token is wrong"),
                "403": problem("Known, but without a role"),
                "413": problem("The body is too large"),
                "429": problem("Too many logins have failed"),
                "503": problem("Too many passwords are being looked at"),
            },
        },
        "delete": {
            "operationId": "signOut",
            "summary": "End the session",
            "responses": { "204": { "description": "Signed out", "headers": cookie } },
        },
    })
}

/// Returns the ways in which a client may prove who it is, besides a TLS client certificate.
pub(super) fn security_schemes() -> Value {
    json!({
        "basic": { "type": "http", "scheme": "basic" },
        "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
        "session": { "type": "apiKey", "in": "cookie", "name": "umbra-session" },
        "sigv4": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "AWS Signature Version 4 by an access key that the operator has mapped, or a presigned URL",
        },
    })
}

fn answer(about: &str, media: &str, schema: Value) -> Value {
    json!({ "description": about, "content": { media: { "schema": schema } } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
