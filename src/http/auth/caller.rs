//! Authentication of requests: the only place where a request obtains its rights.
//!
//! A client authenticates by certificate, by `Authorization` (Basic, Bearer, or a signature on AWS's paths), or,
//! without `Authorization`, by the cookie of its session. Listeners may also accept anonymous clients. The connection
//! keeps the last result, so that a password or token is checked once and not for each request.
//!
//! Waits, event streams and writes whose body took time renew their rights before each response: [`Caller::renew`].

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::HttpBody,
    extract::FromRequestParts,
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use parking_lot::Mutex;

use crate::{
    admission::{Charge, PrincipalQuota, Streaming, work},
    auth::{
        self, Access, AuthContext, Authority, LoginRequest, Method, Principal,
        authn::{
            access_keys::AccessKey,
            login::{AuthenticationError, Credentials},
        },
    },
    http::{
        auth::{kicks::Kick, sessions::SignedIn},
        parameter::{BadParameter, bad},
        problem::{CHALLENGE, PAGE_CHALLENGE, Problem, status},
        state::Api,
    },
    net::Peer,
    rollouts::Actor,
    search::{ReadPermit, Reader, StreamPermit},
    shadow::{Command, Projection, Rejection, Sender, ShadowKey},
    store::StoredShadow,
    wire::Via,
};

/// The client that makes a request, with its rights.
#[derive(Clone, Debug)]
pub(in crate::http) struct Caller {
    access: Access,
    client: Arc<str>,
    /// The login; of a signed request, that of its access key.
    auth_context: Arc<AuthContext>,
    /// The session, if the client authenticated by its cookie.
    session: Option<SignedIn>,
    /// The signal that ends the stream or wait of the request, if it is one.
    kick: Option<Kick>,
    /// The generation of the rules from which `access` was made.
    generation: u64,
}

/// The reason that a request has no caller.
#[derive(Debug)]
pub(in crate::http) enum NoCaller {
    /// A header that concerns the caller is invalid.
    Header(BadParameter),
    /// The login is refused, or missing.
    Login(AuthenticationError),
}

/// The caller of a connection's last request. The server adds it to the extensions of all requests of a connection.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct LastCaller(Arc<Mutex<Last>>);

#[derive(Debug, Default)]
struct Last {
    /// The value of `Authorization` and its caller.
    caller: Option<(Option<HeaderValue>, Caller)>,
    /// The memory of the connection, charged to the principal of the last request.
    charge: Option<Charge>,
    /// True if the work of the present request was charged to a principal.
    is_paid: bool,
}

/// The header with the client's name for histories, which also distinguishes anonymous clients. It proves nothing.
pub(in crate::http) const CLIENT_HEADER: &str = "umbra-client";

/// The prefix of the client names of dashboard pages.
const DASHBOARD: &[u8] = b"dashboard";

/// The name of a client that sends none.
const DEFAULT_CLIENT: &str = "http";

const CLIENT_BYTES_MAX: usize = 128;

impl Caller {
    /// Returns the caller of a request signed with `key`.
    ///
    /// # Errors
    ///
    /// The principal of the key is banned or has no role.
    pub(in crate::http) fn signed(key: &Arc<AccessKey>, parts: &Parts, api: &Api) -> Result<Self, AuthenticationError> {
        let (client, generation) = (Arc::<str>::from("aws"), api.authority.generation());
        let listener = parts.extensions.get::<Peer>().map_or_else(|| "".into(), |peer| peer.listener.clone());
        let auth_context = Arc::new(AuthContext::of_access_key(key, listener, client.clone()));
        if api.authority.is_banned(&auth_context) {
            return Err(AuthenticationError::Banned);
        }
        let access = api.authority.review(&auth_context).ok_or(AuthenticationError::NoRole)?;
        Ok(Self { access, client, auth_context, session: None, kick: None, generation })
    }

    /// Returns the caller of the session named by the request's cookie. `None` if there is no such session, or its
    /// login is no longer valid.
    fn signed_in(parts: &Parts, client: &str, api: &Api) -> Option<Self> {
        let listener = &parts.extensions.get::<Peer>()?.listener;
        let session = api.sessions.find(&parts.headers, listener, Instant::now())?;
        let (client, generation) = (Arc::<str>::from(client), api.authority.generation());
        let auth_context = Arc::new(session.auth_context.as_client(&client));
        let access = api.authority.review(&auth_context)?;
        Some(Self { access, client, auth_context, session: Some(session), kick: None, generation })
    }

    /// Authenticates a request.
    async fn authenticate(parts: &Parts, api: &Api) -> Result<Self, NoCaller> {
        let client = client(&parts.headers).map_err(NoCaller::Header)?;
        let authorization = authorization(&parts.headers).map_err(NoCaller::Header)?;
        if authorization.is_none()
            && let Some(caller) = Self::signed_in(parts, client, api)
        {
            return Ok(caller);
        }
        let last = parts.extensions.get::<LastCaller>();
        if let Some(caller) = last.and_then(|last| last.get(authorization, client, api)) {
            return Ok(caller);
        }
        let peer = parts.extensions.get::<Peer>().ok_or(NoCaller::Login(AuthenticationError::Missing))?;
        let sent = AuthorizationHeader::read(authorization);
        let login = LoginRequest {
            address: peer.address.ip(),
            listener: &peer.listener,
            proof: &peer.proof,
            credentials: sent.credentials(),
        };
        let (client, generation) = (Arc::<str>::from(client), api.authority.generation());
        let authenticated = api.authority.authenticate(login, &client).await;
        let (auth_context, access) = authenticated.map_err(NoCaller::Login)?;
        let caller = Self { access, client, auth_context, session: None, kick: None, generation };
        if let Some(last) = last {
            last.keep(authorization.cloned(), &caller);
        }
        Ok(caller)
    }

    /// Returns the client as the actor of a rollout, which goes on without its connection. Its rights are those of the last renewal.
    pub(in crate::http) fn actor(&self) -> Actor {
        Actor::new(self.access.clone(), self.auth_context.clone(), self.generation)
    }

    /// Authenticates a request, and has its body count against the budget of its principal. Charges no work.
    pub(in crate::http) async fn known(parts: &Parts, api: &Api) -> Result<Self, NoCaller> {
        let caller = Self::authenticate(parts, api).await?;
        if let Some(peer) = parts.extensions.get::<Peer>() {
            match has_body(&parts.headers) {
                true => peer.preauth_permit.know(&caller.quota(api)),
                false => peer.preauth_permit.settle(),
            }
        }
        Ok(caller)
    }

    /// Returns the authentication method and the roles.
    pub(in crate::http) fn auth_context(&self, api: &Api) -> (Method, Vec<Arc<str>>) {
        (self.auth_context.identity.method, api.authority.roles(&self.auth_context))
    }

    /// Returns the principal.
    pub(in crate::http) fn principal(&self) -> &Principal {
        self.access.principal()
    }

    /// Returns the quota of the principal.
    pub(in crate::http) fn quota(&self, api: &Api) -> Arc<PrincipalQuota> {
        api.search.quota(&self.access)
    }

    /// Charges the work of a request with these `extensions`, and the memory of its connection, to the principal.
    pub(in crate::http) fn admit_request(&self, extensions: &Extensions, api: &Api) -> Result<(), Rejection> {
        let last = extensions.get::<LastCaller>();
        if let Some(last) = last {
            last.charge(&self.quota(api), api)?;
        }
        self.charge(work::HTTP_REQUEST, api)?;
        if let Some(last) = last {
            last.0.lock().is_paid = true;
        }
        Ok(())
    }

    /// Charges `units` of work to the principal. The error is the response if it is above its rate.
    pub(in crate::http) fn admit(&self, units: u64, api: &Api) -> Result<(), Problem> {
        self.charge(units, api).map_err(|rejection| Problem::general(&rejection, api.now()))
    }

    /// Charges `units` of work as [`Self::admit`] does.
    pub(in crate::http) fn charge(&self, units: u64, api: &Api) -> Result<(), Rejection> {
        api.service.quotas().admit_http(&self.quota(api), units, Instant::now())
    }

    /// Reads `key`. Reads from disk take turns with the principal's other ones.
    pub(in crate::http) async fn read(&self, key: &ShadowKey, api: &Api) -> Result<StoredShadow, Rejection> {
        api.service.read_for(key, &self.quota(api)).await
    }

    /// Charges the work of rendering `response` to the principal.
    pub(in crate::http) fn charge_rendered(&self, response: &Response, api: &Api) {
        let bytes = response.body().size_hint().lower();
        let _delays_the_next = self.quota(api).charge_work(work::rendered(bytes), Instant::now());
    }

    /// Returns the rights.
    pub(in crate::http) fn access(&self) -> &Access {
        &self.access
    }

    /// Returns true if the caller has all rights, like an operator.
    pub(in crate::http) fn has_all_rights(&self) -> bool {
        self.access.is_everything()
    }

    /// Checks that the caller has all rights. The error is the response, for the reason given.
    pub(in crate::http) fn require_all_rights(&self, reason: &str, api: &Api) -> Result<(), Problem> {
        if self.has_all_rights() { Ok(()) } else { Err(Problem::forbidden(reason, api.now())) }
    }

    /// Returns the client name for the history.
    pub(in crate::http) fn client(&self) -> &Arc<str> {
        &self.client
    }

    /// Returns the projection of `key` that the caller may get. `None` if it may not even know that `key` exists.
    pub(in crate::http) fn projection(&self, key: &ShadowKey) -> Option<Projection> {
        self.projection_of(key, auth::Operation::Get)
    }

    /// Returns the projection of `key` that `operation` gives to the caller.
    pub(in crate::http) fn projection_of(&self, key: &ShadowKey, operation: auth::Operation) -> Option<Projection> {
        self.access.projection(key, operation)
    }

    /// Checks the rights for `command`. Every command of a request passes here before it is submitted.
    pub(in crate::http) fn authorize(&self, key: &ShadowKey, command: &mut Command) -> Result<Sender, Rejection> {
        self.access.admit(key, command)
    }

    /// Returns the projection of `key` that the caller may get. Without any right, the error is "not found".
    pub(in crate::http) fn read_projection(&self, key: &ShadowKey, api: &Api) -> Result<Projection, Problem> {
        self.projection(key).ok_or_else(|| self.refused(&Rejection::NotFound, key, api))
    }

    /// Returns the projection of the history of `key`. The error is "not found" only if the caller may not see the
    /// current version either.
    pub(in crate::http) fn history_projection(&self, key: &ShadowKey, api: &Api) -> Result<Projection, Problem> {
        self.access.admit_history(key).or_else(|refusal| {
            self.read_projection(key, api)?;
            Err(self.refused(&refusal, key, api))
        })
    }

    /// Records a refusal, unless the caller has no right to update any part of `key`.
    pub(in crate::http) fn note_refusal(&self, key: &ShadowKey, rejection: &Rejection, api: &Api) {
        if self.access.admit_any(key, auth::Operation::Update).is_ok() {
            api.service.note_refusal(key, self.principal(), &self.client, Via::Http, rejection);
        }
    }

    /// Returns the problem for `rejection`, projected for this caller.
    pub(in crate::http) fn refused(&self, rejection: &Rejection, key: &ShadowKey, api: &Api) -> Problem {
        let projection = self.projection(key).unwrap_or(Projection::NONE);
        Problem::rejection(rejection, status(rejection), key, api.now(), &projection, None)
    }

    /// Updates the caller to its present rights. Returns false if it has none any more.
    pub(in crate::http) fn renew(&mut self, api: &Api) -> bool {
        Reader::renew(self, &api.authority)
    }

    /// Updates the rights as [`Self::renew`] does. The error is the response to the request with `headers`.
    pub(in crate::http) fn renew_for(&mut self, headers: &HeaderMap, api: &Api) -> Result<(), Problem> {
        if self.renew(api) { Ok(()) } else { Err(unauthorized(headers, api)) }
    }

    /// Waits for a permit for a range read.
    pub(in crate::http) async fn read_turn(&self, api: &Api) -> ReadPermit {
        api.search.read_turn(&self.quota(api)).await
    }

    /// Returns a permit for a wait.
    pub(in crate::http) fn wait_permit(&mut self, api: &Api) -> Result<StreamPermit, Problem> {
        check_followed(api)?;
        self.end_when_kicked(api);
        let own = api.service.quotas().admit_stream(&self.quota(api));
        let own: Streaming = own.map_err(|rejection| Problem::general(&rejection, api.now()))?;
        Ok((own, api.try_acquire(&api.waiters, "too many requests wait for changes")?))
    }

    /// Returns a permit for an event stream.
    pub(in crate::http) fn stream_permit(&mut self, api: &Api) -> Result<StreamPermit, Problem> {
        check_followed(api)?;
        self.end_when_kicked(api);
        let permit = api.search.stream_permit(&self.quota(api));
        permit.map_err(|rejection| Problem::general(&rejection, api.now()))
    }

    /// Makes the caller end when an operator ends the connections of its principal.
    fn end_when_kicked(&mut self, api: &Api) {
        self.kick = Some(api.kicks.of(self.principal().name()));
    }

    /// Waits until [`Self::renew`] may have a new result: the caller's session or stream was ended, its token or certificate has
    /// expired, or rules and users were reloaded.
    pub(in crate::http) async fn rights_may_change(&self, api: &Api) {
        Reader::rights_may_change(self, &api.authority).await;
    }
}

impl Reader for Caller {
    fn access(&self) -> &Access {
        &self.access
    }

    fn renew(&mut self, authority: &Authority) -> bool {
        let signed_out = self.session.as_ref().is_some_and(|session| session.is_over(Instant::now()));
        if signed_out || self.kick.as_ref().is_some_and(Kick::is_over) {
            return false;
        }
        let generation = authority.generation();
        if generation == self.generation && !authority.is_over(&self.auth_context) {
            return true;
        }
        let Some(access) = authority.review(&self.auth_context) else { return false };
        (self.access, self.generation) = (access, generation);
        true
    }

    async fn rights_may_change(&self, authority: &Authority) {
        let signed_out = async {
            match &self.session {
                Some(session) => session.clone().ended().await,
                None => std::future::pending().await,
            }
        };
        let kicked = async {
            match &self.kick {
                Some(kick) => kick.ended().await,
                None => std::future::pending().await,
            }
        };
        let expired = async {
            match self.auth_context.identity.until {
                Some(until) => tokio::time::sleep_until(until.deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signed_out => {}
            () = kicked => {}
            () = expired => {}
            () = authority.read_anew(self.generation) => {}
        }
    }
}

impl LastCaller {
    /// Returns the last caller if `authorization` and client are the same and it still has rights.
    fn get(&self, authorization: Option<&HeaderValue>, client: &str, api: &Api) -> Option<Caller> {
        let mut last = self.0.lock();
        let (last_authorization, caller) = last.caller.as_mut()?;
        let same = last_authorization.as_ref() == authorization && *caller.client == *client;
        (same && caller.renew(api)).then(|| caller.clone())
    }

    /// Returns true if the work of the request was charged to a principal. Call it once, when the request is answered.
    pub(in crate::http) fn take_paid(&self) -> bool {
        mem::take(&mut self.0.lock().is_paid)
    }

    fn keep(&self, authorization: Option<HeaderValue>, caller: &Caller) {
        self.0.lock().caller = Some((authorization, caller.clone()));
    }

    /// Charges the memory of the connection to the principal with `quota`.
    fn charge(&self, quota: &Arc<PrincipalQuota>, api: &Api) -> Result<(), Rejection> {
        let charge = &mut self.0.lock().charge;
        if !charge.as_ref().is_some_and(|charge| Arc::ptr_eq(charge.quota(), quota)) {
            *charge = None;
            *charge = Some(api.service.quotas().admit_http_connection(quota)?);
        }
        Ok(())
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let caller = Self::known(parts, api).await.map_err(|refused| match refused {
            NoCaller::Header(bad) => api.invalid(&bad),
            NoCaller::Login(error) => login_problem(error, &parts.headers, api),
        })?;
        let admitted = caller.admit_request(&parts.extensions, api);
        admitted.map_err(|rejection| Problem::general(&rejection, api.now()))?;
        Ok(caller)
    }
}

/// Checks that changes of other nodes come to this one.
fn check_followed(api: &Api) -> Result<(), Problem> {
    let message = "Unavailable: this node has left its cluster; ask another one";
    let left = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message, api.now());
    if api.service.has_left() { Err(left()) } else { Ok(()) }
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

/// Returns the value of `Authorization`, if present. More than one is an error: a proxy may have checked another one
/// than this server would.
pub(in crate::http) fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>, BadParameter> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    match (fields.next(), fields.next()) {
        (first, None) => Ok(first),
        _ => Err(bad("Authorization", "must be present exactly once")),
    }
}

/// The parsed value of `Authorization`.
enum AuthorizationHeader {
    None,
    Basic(String, Vec<u8>),
    Bearer(String),
    /// A malformed value, treated like a wrong password.
    Invalid,
}

impl AuthorizationHeader {
    fn read(header: Option<&HeaderValue>) -> Self {
        let Some(header) = header else { return Self::None };
        let Some((scheme, rest)) = header.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return Self::Invalid;
        };
        let rest = rest.trim();
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => basic(rest).unwrap_or(Self::Invalid),
            "bearer" => Self::Bearer(rest.to_owned()),
            // A signature by an unknown key. The client may still authenticate by certificate or be anonymous.
            "aws4-hmac-sha256" => Self::None,
            _ => Self::Invalid,
        }
    }

    fn credentials(&self) -> Credentials<'_> {
        match self {
            Self::None => Credentials::None,
            Self::Basic(user, password) => Credentials::of(Some(user), Some(password)),
            Self::Bearer(token) => Credentials::Bearer(token),
            Self::Invalid => Credentials::Bearer(""),
        }
    }
}

/// Parses the credentials of the Basic scheme. RFC 7617.
fn basic(text: &str) -> Option<AuthorizationHeader> {
    let mut user = BASE64_STANDARD.decode(text).ok()?;
    let colon = user.iter().position(|byte| *byte == b':')?;
    let mut password = user.split_off(colon);
    password.remove(0);
    Some(AuthorizationHeader::Basic(String::from_utf8(user).ok()?, password))
}

/// Returns the problem for a request with `headers` that has no valid login.
pub(in crate::http) fn unauthorized(headers: &HeaderMap, api: &Api) -> Problem {
    unauthorized_for("Unauthorized", headers, api)
}

fn unauthorized_for(message: &str, headers: &HeaderMap, api: &Api) -> Problem {
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", message, api.now());
    // At a Basic challenge the browser would show its own password dialog over the page's sign-in form.
    let is_page = headers.get(CLIENT_HEADER).is_some_and(|client| client.as_bytes().starts_with(DASHBOARD));
    let challenge = if is_page { PAGE_CHALLENGE } else { CHALLENGE };
    problem.with(header::WWW_AUTHENTICATE, challenge)
}

/// Returns the problem for a refused login.
pub(in crate::http) fn login_problem(login_error: AuthenticationError, headers: &HeaderMap, api: &Api) -> Problem {
    let later = |status, error, wait| Problem::later(status, error, &login_error.to_string(), wait, api.now());
    match login_error {
        AuthenticationError::Bad | AuthenticationError::Missing => unauthorized(headers, api),
        AuthenticationError::LongToken { .. } => {
            unauthorized_for(&format!("Unauthorized: {login_error}"), headers, api)
        }
        AuthenticationError::NoRole | AuthenticationError::Banned => {
            Problem::forbidden(&login_error.to_string(), api.now())
        }
        AuthenticationError::TooMany { retry_after } => {
            later(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", retry_after)
        }
        AuthenticationError::Busy => later(StatusCode::SERVICE_UNAVAILABLE, "unavailable", Duration::from_secs(1)),
    }
}

/// Returns the client name in the header, or the default.
fn client(headers: &HeaderMap) -> Result<&str, BadParameter> {
    let Some(value) = headers.get(CLIENT_HEADER) else { return Ok(DEFAULT_CLIENT) };
    let fits = |name: &&str| (1..=CLIENT_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    let name = value.to_str().ok().filter(fits);
    name.ok_or_else(|| bad("Umbra-Client", "must be 1 to 128 visible ASCII characters"))
}
