//! Sign-in, sign-out and the current session for web pages: `POST`, `DELETE` and `GET /session`.
//!
//! `POST` authenticates a client once, as `Authorization` does; afterwards the cookie identifies it. Foreign pages
//! cannot send these requests (`guard`), and browsers do not add the cookie to their other requests
//! (`SameSite=Strict`).

use std::{sync::Arc, time::Instant};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use crate::{
    auth::{
        LoginRequest, Method,
        authn::login::{AuthenticationError, Credentials},
    },
    http::{
        api::{
            history::no_store,
            payload::{self, BodyError},
        },
        auth::{
            caller::{Caller, login_problem},
            sessions::{AGE_MAX, PLAIN_COOKIE, SECURE_COOKIE, Secure},
        },
        problem::Problem,
        state::Api,
    },
    net::Peer,
    wire,
};

/// The body of `POST /session`.
#[derive(Deserialize)]
#[serde(untagged)]
enum SignIn {
    Password(UserAndPassword),
    Token(OnlyToken),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserAndPassword {
    user: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlyToken {
    token: String,
}

/// `POST /session`
pub(in crate::http) async fn begin(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    Extension(secure): Extension<Secure>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = payload::read(&headers, body, BODY_BYTES_MAX, &api).await.map_err(|unread| match unread {
        BodyError::Rejected(_) => {
            let message = format!("The body exceeds {BODY_BYTES_MAX} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", &message, api.now())
        }
        BodyError::Failed(problem) => problem,
    })?;
    let sent: SignIn = serde_json::from_slice(&body).map_err(|_| {
        let message = "The body must be {\"user\":…,\"password\":…} or {\"token\":…}";
        Problem::new(StatusCode::BAD_REQUEST, "invalid-json", message, api.now())
    })?;
    let credentials = match &sent {
        SignIn::Password(sent) => Credentials::of(Some(&sent.user), Some(sent.password.as_bytes())),
        SignIn::Token(sent) => Credentials::Bearer(&sent.token),
    };
    let login = LoginRequest { address: peer.address.ip(), listener: &peer.listener, proof: &peer.proof, credentials };
    let authenticated = api.authority.authenticate(login, &"".into()).await;
    let (auth_context, _) = authenticated.map_err(|error| login_problem(error, &headers, &api))?;
    // A client with a certificate, or an anonymous one, needs no session; the credentials sent were not checked.
    if !matches!(auth_context.identity.method, Method::Password | Method::Token) {
        return Err(login_problem(AuthenticationError::Bad, &headers, &api));
    }
    api.sessions.end(&headers);
    let secure = secure.is_for(&headers);
    let id = api.sessions.begin(auth_context, secure, Instant::now()).ok_or_else(|| Problem::internal(api.now()))?;
    Ok(answer(&id, AGE_MAX.as_secs(), secure))
}

/// `DELETE /session`
pub(in crate::http) async fn end(
    State(api): State<Arc<Api>>,
    Extension(secure): Extension<Secure>,
    headers: HeaderMap,
) -> Response {
    api.sessions.end(&headers);
    answer("", 0, secure.is_for(&headers))
}

/// `GET /session`
pub(in crate::http) async fn get(State(api): State<Arc<Api>>, caller: Caller) -> Response {
    let (method, roles) = caller.auth_context(&api);
    let method = Method::NAMED.into_iter().find(|(_, named)| *named == method).map_or("", |(name, _)| name);
    let sees_cluster = caller.has_all_rights() && api.service.is_in_cluster();
    no_store(wire::session(caller.principal().name(), method, roles.iter().map(|role| &**role), sees_cluster))
}

/// Returns a response that sets the cookie to `id` for `seconds`.
fn answer(id: &str, seconds: u64, secure: bool) -> Response {
    let (name, secure) = if secure { (SECURE_COOKIE, "; Secure") } else { (PLAIN_COOKIE, "") };
    let cookie = format!("{name}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let cookie = HeaderValue::try_from(cookie).expect("base64 is valid in a header");
    let headers = [(header::SET_COOKIE, cookie), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Most bytes of a sign-in body. The longest accepted token fits.
const BODY_BYTES_MAX: usize = 16 * 1024;
