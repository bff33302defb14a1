//! Who asks, and what they may: the one place where a request's access is obtained.
//!
//! A client is known by its certificate, by `Authorization` (Basic, Bearer, or a signature on AWS's paths), by the
//! cookie of its session where it sends no `Authorization`, or not at all where its listener takes such clients. What
//! was found out is kept with the connection, so that a password or a token is checked once and not for each request.
//!
//! Who is answered later, or again and again, or writes after a wait, is looked at each time: [`Caller::renew`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use parking_lot::Mutex;

use crate::{
    auth::{
        self, Access, AuthContext, LoginRequest, Method, Principal, Projection,
        authn::login::{AuthenticationError, Credentials},
    },
    http::{
        api::{
            Api,
            problem::{Problem, status},
            query::{BadParameter, bad},
        },
        auth::sessions::SignedIn,
    },
    net::Peer,
    shadow::{Command, DeviceId, Rejection, Sender, ShadowKey},
    wire::Via,
};

/// Who makes a request.
#[derive(Clone, Debug)]
pub(in crate::http) struct Caller {
    access: Access,
    client: Arc<str>,
    /// What it was let in on; `None`: by its signature, which each request carries.
    auth_context: Option<Arc<AuthContext>>,
    /// The session whose cookie it showed, if that is what it is known by.
    session: Option<SignedIn>,
    /// Of the rules that `access` was made by.
    generation: u64,
}

/// The caller that a connection's last request had. The server puts one for each connection into the extensions of its
/// requests.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct LastCaller(Arc<Mutex<Option<Last>>>);

/// What was in `Authorization`, and who that was.
type Last = (Option<HeaderValue>, Caller);

/// Names the client in histories, and among the anonymous; it proves nothing.
pub(in crate::http) const CLIENT_HEADER: &str = "umbra-client";

/// What the names of the dashboard's pages begin with.
const DASHBOARD: &[u8] = b"dashboard";

/// What a client that gives no name is called.
const NAMELESS: &str = "http";

const CLIENT_BYTES_MAX: usize = 128;

impl Caller {
    /// The caller that signed a request as `principal`, if that has a role.
    pub(in crate::http) fn signed(principal: &Principal, api: &Api) -> Option<Self> {
        let (client, generation) = (Arc::<str>::from("aws"), api.authority.generation());
        let access = signer(principal, &client, api)?;
        Some(Self { access, client, auth_context: None, session: None, generation })
    }

    /// Who is signed in with the cookie of the request; `None`: nobody is, or not any more.
    fn signed_in(parts: &Parts, client: &str, api: &Api) -> Option<Self> {
        let listener = &parts.extensions.get::<Peer>()?.listener;
        let session = api.sessions.find(&parts.headers, listener, Instant::now())?;
        let (client, generation) = (Arc::<str>::from(client), api.authority.generation());
        let auth_context = session.auth_context.as_client(&client);
        let access = api.authority.review(&auth_context)?;
        Some(Self { access, client, auth_context: Some(Arc::new(auth_context)), session: Some(session), generation })
    }

    /// Finds out who makes a request.
    async fn find(parts: &Parts, api: &Api) -> Result<Self, Problem> {
        let client = client(&parts.headers, api)?;
        let authorization =
            authorization(&parts.headers).map_err(|bad| Problem::parameter(&bad.name, &bad.reason, api.now()))?;
        if authorization.is_none()
            && let Some(caller) = Self::signed_in(parts, client, api)
        {
            return Ok(caller);
        }
        let last = parts.extensions.get::<LastCaller>();
        if let Some(caller) = last.and_then(|last| last.get(authorization, client, api)) {
            return Ok(caller);
        }
        let peer = parts.extensions.get::<Peer>().ok_or_else(|| unauthorized(&parts.headers, api))?;
        let sent = AuthorizationHeader::read(authorization);
        let shown = LoginRequest {
            address: peer.address.ip(),
            listener: &peer.listener,
            proof: &peer.proof,
            credentials: sent.credentials(),
        };
        let (client, generation) = (Arc::<str>::from(client), api.authority.generation());
        let authenticate = api.authority.authenticate(shown, &client).await;
        let (auth_context, access) = authenticate.map_err(|denied| denied_as(denied, &parts.headers, api))?;
        let caller = Self { access, client, auth_context: Some(Arc::new(auth_context)), session: None, generation };
        if let Some(last) = last {
            last.keep(authorization.cloned(), &caller);
        }
        Ok(caller)
    }

    /// How it is known, and its roles.
    pub(in crate::http) fn auth_context(&self, api: &Api) -> (Method, Vec<Arc<str>>) {
        match &self.auth_context {
            Some(auth_context) => (auth_context.identity.method, api.authority.roles(auth_context)),
            None => (Method::AccessKey, Vec::new()),
        }
    }

    /// Under which identity.
    pub(in crate::http) fn principal(&self) -> &Principal {
        self.access.principal()
    }

    /// Its rights.
    pub(in crate::http) fn access(&self) -> &Access {
        &self.access
    }

    /// Whether it may do everything, as who operates the service.
    pub(in crate::http) fn may_everything(&self) -> bool {
        self.access.is_everything()
    }

    /// By which client, for the history.
    pub(in crate::http) fn client(&self) -> &Arc<str> {
        &self.client
    }

    /// What it may see of `key` on request; `None`: nothing, not even whether it is there.
    pub(in crate::http) fn projection(&self, key: &ShadowKey) -> Option<Projection> {
        self.projection_of(key, auth::Operation::Get)
    }

    /// What it may see of `key` by `operation`.
    pub(in crate::http) fn projection_of(&self, key: &ShadowKey, operation: auth::Operation) -> Option<Projection> {
        self.access.projection(key, operation)
    }

    /// Whether it may know if `device` is connected: who may follow anything of the classic shadow, as over MQTT.
    pub(in crate::http) fn is_told_presence(&self, device: &DeviceId) -> bool {
        self.projection_of(&ShadowKey::classic(device.clone()), auth::Operation::Subscribe).is_some()
    }

    /// Checks that it may do `command`; every command passes here before it is submitted.
    pub(in crate::http) fn authorize(&self, key: &ShadowKey, command: &mut Command) -> Result<Sender, Rejection> {
        self.access.admit(key, command)
    }

    /// What it may see of `key`, and that there is none for who may see nothing.
    pub(in crate::http) fn read_projection(&self, key: &ShadowKey, api: &Api) -> Result<Projection, Problem> {
        self.projection(key).ok_or_else(|| self.refused(&Rejection::NotFound, key, api))
    }

    /// What it may see of the past of `key`. Only who may not see either what is there now is told that there is none.
    pub(in crate::http) fn history_projection(&self, key: &ShadowKey, api: &Api) -> Result<Projection, Problem> {
        self.access.admit_history(key).or_else(|refusal| {
            self.read_projection(key, api)?;
            Err(self.refused(&refusal, key, api))
        })
    }

    /// Remembers that it was refused; unless it has no business with `key` at all, which is no news to those who have.
    pub(in crate::http) fn note_refusal(&self, key: &ShadowKey, rejection: &Rejection, api: &Api) {
        if self.access.admit_any(key, auth::Operation::Update).is_ok() {
            api.service.note_refusal(key, self.principal(), &self.client, Via::Http, rejection);
        }
    }

    /// `rejection` as this caller is told of it.
    pub(in crate::http) fn refused(&self, rejection: &Rejection, key: &ShadowKey, api: &Api) -> Problem {
        let projection = self.projection(key).unwrap_or(Projection::NONE);
        Problem::rejection(rejection, status(rejection), key, api.now(), &projection, None)
    }

    /// Takes over the rights that it has now; false: it has none any more.
    pub(in crate::http) fn renew(&mut self, api: &Api) -> bool {
        if self.session.as_ref().is_some_and(|session| session.is_over(Instant::now())) {
            return false;
        }
        let generation = api.authority.generation();
        let is_over = self.auth_context.as_ref().is_some_and(|auth_context| api.authority.is_over(auth_context));
        if generation == self.generation && !is_over {
            return true;
        }
        let access = match &self.auth_context {
            Some(auth_context) => api.authority.review(auth_context),
            None => signer(self.principal(), &self.client, api),
        };
        let Some(access) = access else { return false };
        (self.access, self.generation) = (access, generation);
        true
    }

    /// As [`Self::renew`], for an answer to the request with `headers`.
    pub(in crate::http) fn renew_for(&mut self, headers: &HeaderMap, api: &Api) -> Result<(), Problem> {
        if self.renew(api) { Ok(()) } else { Err(unauthorized(headers, api)) }
    }

    /// Waits until [`Self::renew`] may find otherwise: the session that it is known by has ended, or rules and users
    /// were read anew.
    pub(in crate::http) async fn in_question(&self, api: &Api) {
        let signed_out = async {
            match &self.session {
                Some(session) => session.clone().ended().await,
                None => std::future::pending().await,
            }
        };
        let read_anew = async {
            match &self.auth_context {
                Some(_) => api.authority.read_anew(self.generation).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signed_out => {}
            () = read_anew => {}
        }
    }
}

/// What `principal` may do that signs as `client`; `None`: nothing.
fn signer(principal: &Principal, client: &Arc<str>, api: &Api) -> Option<Access> {
    Some(api.authority.access(principal, Method::AccessKey, client)).filter(Access::is_any)
}

impl LastCaller {
    /// The caller, if a request with this `authorization` and client is made by the same as the one before.
    fn get(&self, authorization: Option<&HeaderValue>, client: &str, api: &Api) -> Option<Caller> {
        let mut last = self.0.lock();
        let (shown, caller) = last.as_mut()?;
        let same = shown.as_ref() == authorization && *caller.client == *client;
        (same && caller.renew(api)).then(|| caller.clone())
    }

    fn keep(&self, authorization: Option<HeaderValue>, caller: &Caller) {
        *self.0.lock() = Some((authorization, caller.clone()));
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let caller = Self::find(parts, api).await?;
        let principals = &api.service.quotas().principals;
        if let Some(peer) = parts.extensions.get::<Peer>() {
            match has_body(&parts.headers) {
                true => peer.preauth_permit.know(&principals.of(caller.principal().name(), Instant::now())),
                false => peer.preauth_permit.settle(),
            }
        }
        Ok(caller)
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

/// The one `Authorization`, if there is one: of two, whoever is before the server may have looked at the other.
pub(in crate::http) fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>, BadParameter> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    match (fields.next(), fields.next()) {
        (first, None) => Ok(first),
        _ => Err(bad("Authorization", "must be there once")),
    }
}

/// What `Authorization` holds.
enum AuthorizationHeader {
    Nothing,
    Basic(String, Vec<u8>),
    Bearer(String),
    /// What nobody can be known by: as good as a wrong password.
    Nonsense,
}

impl AuthorizationHeader {
    fn read(header: Option<&HeaderValue>) -> Self {
        let Some(header) = header else { return Self::Nothing };
        let Some((scheme, rest)) = header.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return Self::Nonsense;
        };
        let rest = rest.trim();
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => basic(rest).unwrap_or(Self::Nonsense),
            "bearer" => Self::Bearer(rest.to_owned()),
            // A signature of a key that is not known: whatever its listener takes.
            "aws4-hmac-sha256" => Self::Nothing,
            _ => Self::Nonsense,
        }
    }

    fn credentials(&self) -> Credentials<'_> {
        match self {
            Self::Nothing => Credentials::None,
            Self::Basic(user, password) => Credentials::of(Some(user), Some(password)),
            Self::Bearer(token) => Credentials::Bearer(token),
            Self::Nonsense => Credentials::Bearer(""),
        }
    }
}

/// RFC 7617.
fn basic(text: &str) -> Option<AuthorizationHeader> {
    let mut user = BASE64_STANDARD.decode(text).ok()?;
    let colon = user.iter().position(|byte| *byte == b':')?;
    let mut password = user.split_off(colon);
    password.remove(0);
    Some(AuthorizationHeader::Basic(String::from_utf8(user).ok()?, password))
}

fn unauthorized(headers: &HeaderMap, api: &Api) -> Problem {
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", api.now());
    // A browser would ask for a password itself, over the page that is about to.
    let of_page = headers.get(CLIENT_HEADER).is_some_and(|client| client.as_bytes().starts_with(DASHBOARD));
    let challenge =
        if of_page { crate::http::api::problem::PAGE_CHALLENGE } else { crate::http::api::problem::CHALLENGE };
    problem.with(header::WWW_AUTHENTICATE, challenge)
}

pub(in crate::http) fn denied_as(denied: AuthenticationError, headers: &HeaderMap, api: &Api) -> Problem {
    let later = |status, error, wait| Problem::later(status, error, &denied.to_string(), wait, api.now());
    match denied {
        AuthenticationError::Bad | AuthenticationError::Missing => unauthorized(headers, api),
        AuthenticationError::NoRole => {
            Problem::new(StatusCode::FORBIDDEN, "forbidden", &format!("Forbidden: {denied}"), api.now())
        }
        AuthenticationError::TooMany { retry_after } => {
            later(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", retry_after)
        }
        AuthenticationError::Busy => later(StatusCode::SERVICE_UNAVAILABLE, "unavailable", Duration::from_secs(1)),
    }
}

/// The name in the header, if there is one.
fn client<'h>(headers: &'h HeaderMap, api: &Api) -> Result<&'h str, Problem> {
    let Some(value) = headers.get(CLIENT_HEADER) else { return Ok(NAMELESS) };
    let fits = |name: &&str| (1..=CLIENT_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    let name = value.to_str().ok().filter(fits);
    name.ok_or_else(|| Problem::parameter("Umbra-Client", "must be 1 to 128 visible characters of ASCII", api.now()))
}
