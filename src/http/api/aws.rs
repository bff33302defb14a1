//! The shadow operations of AWS IoT's data plane: paths, documents and exceptions.
//!
//! The header `x-amzn-ErrorType` names an exception; SDKs raise a typed one from it. A request is signed with SigV4 or
//! authenticated like a native one. A signature by a key that the operator has mapped is always verified.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequestParts, Request as HttpRequest, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    admission::work,
    auth::authn::login::AuthenticationError,
    http::{
        api::{
            devices::{self, After},
            history::PAGE,
            payload::{self, BodyError},
            query::Query,
            shadows::JSON,
            submit::{self, Parsed, Refusal},
            target::Target,
        },
        auth::{
            caller::{self, Caller, NoCaller},
            sigv4::{self, SignatureError, Signed},
        },
        operation::{AWS_NAME, NEXT_TOKEN, Operation, PAGE_SIZE},
        parameter::{BadParameter, bad},
        problem::{CHALLENGE, RefusedByEngine},
        state::Api,
    },
    net::Peer,
    shadow::{ClientToken, Command, Delete, DeviceId, Projection, Rejection, ShadowKey, ShadowName, Timestamp},
    wire::{self, Dialect, Refused, aws},
};

/// A request with its path, query, caller and body.
struct ParsedWrite {
    caller: Caller,
    key: ShadowKey,
    /// The query without the parameters of a presigned URL.
    query: String,
    body: Bytes,
}

/// `GET /things/{id}/shadow`
pub(in crate::http) async fn get(State(api): State<Arc<Api>>, request: HttpRequest) -> Result<Response, Response> {
    let ParsedWrite { caller, key, .. } = asked(&api, request, Operation::AwsGetShadow).await?;
    let refused = |rejection: Rejection| rejected(&rejection, &key, &api, None);
    let projection = projection(&caller, &key).ok_or_else(|| refused(Rejection::NotFound))?;
    let _admitted = api.service.admit(&caller.quota(&api), &key).map_err(refused)?;
    let document = caller.read(&key, &api).await.map_err(refused)?.document;
    if !document.exists() {
        return Err(refused(Rejection::NotFound));
    }
    let response = answer(aws::get_accepted(&document, &projection, api.now(), None));
    caller.charge_rendered(&response, &api);
    Ok(response)
}

/// `POST /things/{id}/shadow`
pub(in crate::http) async fn update(State(api): State<Arc<Api>>, request: HttpRequest) -> Result<Response, Response> {
    let ParsedWrite { caller, key, body, .. } = asked(&api, request, Operation::AwsUpdateShadow).await?;
    command(&api, caller, key, &body, |body| {
        let parsed = wire::parse_update(body, Dialect::Aws, &api.document);
        parsed.map(|wire::Parsed { body, client_token, .. }| (Command::Update(body), client_token))
    })
    .await
}

/// `DELETE /things/{id}/shadow`
pub(in crate::http) async fn delete(State(api): State<Arc<Api>>, request: HttpRequest) -> Result<Response, Response> {
    let ParsedWrite { caller, key, .. } = asked(&api, request, Operation::AwsDeleteShadow).await?;
    command(&api, caller, key, &[], |_| Ok((Command::Delete(Delete::default()), None))).await
}

/// `GET /api/things/shadow/ListNamedShadowsForThing/{id}`
pub(in crate::http) async fn list(State(api): State<Arc<Api>>, request: HttpRequest) -> Result<Response, Response> {
    let ParsedWrite { caller, key, query: text, .. } = asked(&api, request, Operation::AwsListShadows).await?;
    let page = || -> Result<_, BadParameter> {
        let query = Query::read(Some(&text), Operation::AwsListShadows.parameters())?;
        let size = query.integer(&PAGE_SIZE)?.and_then(|size| size.try_into().ok()).unwrap_or(PAGE);
        let after = query.text(&NEXT_TOKEN)?.map(|text| ShadowName::new(&text)).transpose();
        Ok((size, after.map_err(|error| bad(NEXT_TOKEN.name, error.to_string()))?))
    };
    let (size, after) = page().map_err(|bad| invalid(&bad, &api))?;
    caller.charge(work::PAGE, &api).map_err(|rejection| rejected(&rejection, &key, &api, None))?;
    let _turn = caller.read_turn(&api).await;
    let after = after.map_or(After::Classic, After::Named);
    let found = devices::of_device(&api, &caller, &key.device, after, size).await;
    let (entries, more) = found.map_err(|rejection| rejected(&rejection, &key, &api, None))?;
    let names: Vec<_> = entries.iter().filter_map(|entry| entry.name.as_ref()).map(ShadowName::as_str).collect();
    let next = names.last().filter(|_| more).copied();
    Ok(answer(wire::names(names.iter().copied(), next, api.now())))
}

/// Passes the command that `parse` finds in `body` to the engine, and answers with its outcome.
async fn command(
    api: &Api,
    mut caller: Caller,
    key: ShadowKey,
    body: &[u8],
    parse: impl Fn(&[u8]) -> Result<(Command, Option<ClientToken>), Refused>,
) -> Result<Response, Response> {
    // `None` until the body is parsed.
    let mut token = None;
    let submitted = submit::submit(api, &mut caller, &key, body, Dialect::Aws, |caller, body| {
        if !caller.renew(api) {
            return Err(Refusal::Answered(Rejection::Unauthorized));
        }
        let parsed = parse(body);
        let client_token = token.insert(client_token(&parsed)).clone();
        let (command, _) = parsed.map_err(|refused| refused.rejection)?;
        let projection = projection(caller, &key).unwrap_or(Projection::NONE);
        Ok(Parsed { command, client_token, projection })
    });
    match submitted.await {
        Ok(accepted) => Ok(accepted.mark_replay(answer(accepted.body.clone()))),
        Err(Refusal::NotTried(rejection)) => {
            caller.note_refusal(&key, &rejection, api);
            // A refusal carries the client token, even if the quota was exceeded before the body was parsed.
            let token = token.unwrap_or_else(|| client_token(&parse(body)));
            Err(rejected(&rejection, &key, api, token.as_ref()))
        }
        Err(Refusal::Refused(rejection)) => {
            let mut response = rejected(&rejection, &key, api, token.flatten().as_ref());
            response.extensions_mut().insert(RefusedByEngine);
            Err(response)
        }
        Err(Refusal::Answered(rejection)) => Err(rejected(&rejection, &key, api, None)),
    }
}

fn client_token(parsed: &Result<(Command, Option<ClientToken>), Refused>) -> Option<ClientToken> {
    match parsed {
        Ok((_, token)) | Err(Refused { client_token: token, .. }) => token.clone(),
    }
}

/// Returns the projection of `key` for `caller` without `tags`, which AWS does not have.
fn projection(caller: &Caller, key: &ShadowKey) -> Option<Projection> {
    caller.projection(key).map(|projection| projection.without_tags())
}

/// Parses and authenticates a request, and reads its body.
async fn asked(api: &Arc<Api>, request: HttpRequest, operation: Operation) -> Result<ParsedWrite, Response> {
    let (mut parts, body) = request.into_parts();
    let target = Target::from_request_parts(&mut parts, api).await;
    let Target(mut key) =
        target.map_err(|_| invalid(&bad("thingName", "must be 1 to 128 of A-Z a-z 0-9 : _ -"), api))?;
    let text = sigv4::without_signature(&parts).into_owned();
    let query = Query::read(Some(&text), operation.parameters()).map_err(|bad| invalid(&bad, api))?;
    if operation.parameters().contains(&&AWS_NAME)
        && let Some(name) = query.text(&AWS_NAME).map_err(|bad| invalid(&bad, api))?
    {
        let name = ShadowName::new(&name).map_err(|error| invalid(&bad("shadowName", error.to_string()), api))?;
        key.name = Some(name);
    }
    let (caller, body) = caller(api, &mut parts, body, &key).await?;
    Ok(ParsedWrite { caller, key, query: text, body })
}

/// Authenticates a request by its signature, or else like a native one, and reads its body. The body of an unsigned
/// request is read only after authentication. A signature covers the body, so a signed one is read before, and counts
/// against the pre-auth budget.
async fn caller(api: &Arc<Api>, parts: &mut Parts, body: Body, key: &ShadowKey) -> Result<(Caller, Bytes), Response> {
    caller::authorization(&parts.headers).map_err(|bad| invalid(&bad, api))?;
    let now = api.now();
    let unverified = |error: SignatureError| {
        note_refused(AuthenticationError::Bad, parts, api);
        refused(StatusCode::FORBIDDEN, error.exception(), &error.to_string(), now)
    };
    let over = |rejection: Rejection| rejected(&rejection, key, api, None);
    let keys = api.authority.access_keys();
    let signed = Signed::of(parts);
    let claimed = signed.as_ref().map(|signed| signed.claims(&keys).map(|()| signed));
    let unknown_key = match claimed {
        Some(Ok(signed)) => {
            let body = read(api, parts, body, key).await?;
            let keys = api.authority.access_keys(); // keys may have been reloaded while the body arrived
            let access_key = signed.verify(&body, &keys, now).map_err(unverified)?;
            let signed_in = Caller::signed(&access_key, parts, api);
            let caller = signed_in.map_err(|error| {
                note_refused(error, parts, api);
                login_refused(error, now)
            })?;
            caller.admit_request(&parts.extensions, api).map_err(over)?;
            return Ok((caller, body));
        }
        // The client may still authenticate by certificate or be anonymous.
        Some(Err(error @ SignatureError::UnknownKey)) => Some(error),
        Some(Err(error)) => return Err(unverified(error)),
        None => None,
    };
    let caller = Caller::known(parts, api).await.map_err(|no_caller| match (no_caller, unknown_key) {
        (NoCaller::Header(bad), _) => invalid(&bad, api),
        (NoCaller::Login(AuthenticationError::Missing), Some(error)) => unverified(error),
        (NoCaller::Login(error), _) => login_refused(error, now),
    })?;
    caller.admit_request(&parts.extensions, api).map_err(over)?;
    let body = read(api, parts, body, key).await?;
    Ok((caller, body))
}

/// Counts and logs a refusal of a signature or of its principal, as other refused logins are.
fn note_refused(error: AuthenticationError, parts: &Parts, api: &Api) {
    if let Some(peer) = parts.extensions.get::<Peer>() {
        api.authority.note_refused(peer.address.ip(), error);
    }
}

/// Returns the response to a refused or missing login. AWS's SDKs raise its exception, and repeat a request after 429 and 503.
fn login_refused(error: AuthenticationError, now: Timestamp) -> Response {
    let (status, exception, message) = match error {
        AuthenticationError::Missing => {
            (StatusCode::FORBIDDEN, "MissingAuthenticationTokenException", "Missing Authentication Token".to_owned())
        }
        AuthenticationError::Bad => (StatusCode::UNAUTHORIZED, "UnauthorizedException", "Unauthorized".to_owned()),
        AuthenticationError::LongToken { .. } => {
            (StatusCode::UNAUTHORIZED, "UnauthorizedException", format!("Unauthorized: {error}"))
        }
        AuthenticationError::Banned | AuthenticationError::NoRole => {
            (StatusCode::FORBIDDEN, "ForbiddenException", format!("Forbidden: {error}"))
        }
        AuthenticationError::TooMany { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "ThrottlingException", error.to_string())
        }
        AuthenticationError::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException", error.to_string())
        }
    };
    let mut response = refused(status, exception, &message, now);
    let headers = response.headers_mut();
    match error {
        AuthenticationError::Bad | AuthenticationError::LongToken { .. } => {
            headers.insert(header::WWW_AUTHENTICATE, CHALLENGE);
        }
        AuthenticationError::TooMany { retry_after } => {
            let seconds = u64::try_from(retry_after.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, seconds.max(1).into());
        }
        AuthenticationError::Busy => _ = headers.insert(header::RETRY_AFTER, 1.into()),
        AuthenticationError::Missing | AuthenticationError::Banned | AuthenticationError::NoRole => {}
    }
    response
}

/// Authenticates a request that concerns no shadow as [`caller`] does.
pub(in crate::http) async fn caller_anywhere(
    api: &Arc<Api>,
    parts: &mut Parts,
    body: Body,
) -> Result<(Caller, Bytes), Response> {
    caller(api, parts, body, &no_shadow()).await
}

async fn read(api: &Api, parts: &Parts, body: Body, key: &ShadowKey) -> Result<Bytes, Response> {
    payload::read(&parts.headers, body, api.body_bytes_max, api).await.map_err(|unread| match unread {
        BodyError::Rejected(rejection) => rejected(&rejection, key, api, None),
        BodyError::Failed(problem) => problem.into_response(),
    })
}

pub(in crate::http) fn answer(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

pub(in crate::http) fn invalid(bad: &BadParameter, api: &Api) -> Response {
    let message = format!("Invalid parameter '{}': {}", bad.name, bad.reason);
    refused(StatusCode::BAD_REQUEST, "InvalidRequestException", &message, api.now())
}

/// Returns a refusal of the request with this exception.
pub(in crate::http) fn refused(status: StatusCode, exception: &str, message: &str, now: Timestamp) -> Response {
    let body = aws::refused(status.as_u16(), message, now);
    named(status, exception, body)
}

pub(in crate::http) fn rejected(
    rejection: &Rejection,
    key: &ShadowKey,
    api: &Api,
    token: Option<&ClientToken>,
) -> Response {
    let status = StatusCode::from_u16(rejection.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = named(status, exception(rejection), aws::rejected(rejection, key, api.now(), token));
    if let Rejection::TooManyRequests { retry_after_ms: Some(retry_after_ms), .. } = rejection {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after_ms.div_ceil(1000).max(1).into());
    }
    response
}

/// Returns the refusal of a request that concerns no shadow.
pub(in crate::http) fn rejected_anywhere(rejection: &Rejection, api: &Api) -> Response {
    rejected(rejection, &no_shadow(), api, None)
}

/// Returns a placeholder for rejections that concern no shadow. Only "not found" has the shadow in its text.
fn no_shadow() -> ShadowKey {
    ShadowKey::classic(DeviceId::new("-").expect("a dash is a device id"))
}

fn named(status: StatusCode, exception: &str, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    if let Ok(exception) = HeaderValue::try_from(exception) {
        response.headers_mut().insert("x-amzn-errortype", exception);
    }
    response
}

/// Returns the exception for a rejection in AWS's model of the service.
fn exception(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::InvalidJson { .. }
        | Rejection::MissingState
        | Rejection::InvalidSection(_)
        | Rejection::InvalidNode { .. }
        | Rejection::InvalidVersion
        | Rejection::InvalidClientToken
        | Rejection::TooDeep { .. }
        | Rejection::InvalidField { .. }
        | Rejection::IdempotencyKeyReused => "InvalidRequestException",
        Rejection::Unauthorized => "UnauthorizedException",
        Rejection::Forbidden { .. } => "ForbiddenException",
        Rejection::NotFound => "ResourceNotFoundException",
        Rejection::VersionConflict { .. } | Rejection::ExpectationFailed { .. } => "ConflictException",
        Rejection::TooLarge { .. } | Rejection::TooManyLeaves { .. } | Rejection::TooManyPaths { .. } => {
            "RequestEntityTooLargeException"
        }
        Rejection::NotUtf8 => "UnsupportedDocumentEncodingException",
        Rejection::TooManyRequests { .. } => "ThrottlingException",
        Rejection::Internal | Rejection::OutcomeUnknown => "InternalFailureException",
        Rejection::Unavailable(_) => "ServiceUnavailableException",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Each refused login was once a 403 `MissingAuthenticationTokenException`, which SDKs do not repeat.
    #[test]
    fn each_refused_login_has_its_exception() {
        for (error, status, exception, retry_after, has_challenge) in [
            (AuthenticationError::Missing, 403, "MissingAuthenticationTokenException", None, false),
            (AuthenticationError::Bad, 401, "UnauthorizedException", None, true),
            (AuthenticationError::LongToken { bytes: 9_000 }, 401, "UnauthorizedException", None, true),
            (AuthenticationError::Banned, 403, "ForbiddenException", None, false),
            (AuthenticationError::NoRole, 403, "ForbiddenException", None, false),
            (
                AuthenticationError::TooMany { retry_after: Duration::from_millis(1_001) },
                429,
                "ThrottlingException",
                Some("2"),
                false,
            ),
            (AuthenticationError::Busy, 503, "ServiceUnavailableException", Some("1"), false),
        ] {
            let response = login_refused(error, Timestamp(0));
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            assert_eq!(response.status(), status, "{error:?}");
            assert_eq!(header("x-amzn-errortype"), Some(exception), "{error:?}");
            assert_eq!(header("retry-after"), retry_after, "{error:?}");
            assert_eq!(header("www-authenticate").is_some(), has_challenge, "{error:?}");
        }
    }
}
