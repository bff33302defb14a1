//! Signing in and out, and who one is: `POST`, `DELETE` and `GET /session`, for web pages.
//!
//! To sign in is to be let in as with `Authorization`, once; after that the cookie says it. Pages of elsewhere cannot
//! send these requests (`guard`), and their browsers do not send the cookie with others (`SameSite=Strict`).

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
            Api,
            history::fresh,
            payload::{self, BodyError},
            problem::Problem,
        },
        auth::{
            caller::{Caller, denied_as},
            sessions::{AGE_MAX, COOKIE},
        },
    },
    net::Peer,
    wire,
};

/// Whether the listener has TLS, so that its cookies need never go without.
#[derive(Clone, Copy)]
pub(in crate::http) struct Secure(pub(in crate::http) bool);

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
    Extension(Secure(secure)): Extension<Secure>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = payload::read(&headers, body, BODY_BYTES_MAX, &api).await.map_err(|unread| match unread {
        BodyError::Rejected(_) => {
            let message = format!("The body must have at most {BODY_BYTES_MAX} bytes");
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
    let shown = LoginRequest { address: peer.address.ip(), listener: &peer.listener, proof: &peer.proof, credentials };
    let authenticate = api.authority.authenticate(shown, &"".into()).await;
    let (auth_context, _) = authenticate.map_err(|denied| denied_as(denied, &headers, &api))?;
    // Who is known in another way is so with each request, and whoever says what is not looked at is not known by it.
    if !matches!(auth_context.identity.method, Method::Password | Method::Token) {
        return Err(denied_as(AuthenticationError::Bad, &headers, &api));
    }
    api.sessions.end(&headers);
    let id = api.sessions.begin(auth_context, Instant::now()).ok_or_else(|| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal service failure", api.now())
    })?;
    Ok(answer(&id, AGE_MAX.as_secs(), secure))
}

/// `DELETE /session`
pub(in crate::http) async fn end(
    State(api): State<Arc<Api>>,
    Extension(Secure(secure)): Extension<Secure>,
    headers: HeaderMap,
) -> Response {
    api.sessions.end(&headers);
    answer("", 0, secure)
}

/// `GET /session`
pub(in crate::http) async fn get(State(api): State<Arc<Api>>, caller: Caller) -> Response {
    let (method, roles) = caller.auth_context(&api);
    let method = Method::NAMED.into_iter().find(|(_, named)| *named == method).map_or("", |(name, _)| name);
    fresh(wire::session(caller.principal().name(), method, roles.iter().map(|role| &**role)))
}

/// Sets the cookie to `id` for `seconds`.
fn answer(id: &str, seconds: u64, secure: bool) -> Response {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let cookie = HeaderValue::try_from(cookie).expect("an id in base64 is fit for a header");
    let headers = [(header::SET_COOKIE, cookie), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Bytes that a stranger may send to sign in; the longest token that is looked at fits.
const BODY_BYTES_MAX: usize = 16 * 1024;
