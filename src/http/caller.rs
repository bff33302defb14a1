//! Who asks, and what they may: the one place where a request's access is obtained.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
};

use crate::{
    auth::{Access, Principal, Projection},
    http::{
        api::Api,
        problem::{Problem, status},
    },
    shadow::{Command, Rejection, ShadowKey},
};

/// What the listener knows of a client; it puts one into the extensions of each request.
#[derive(Clone, Debug)]
pub struct Known {
    /// Who its certificate says it is.
    pub certified: Option<Principal>,
    /// Whether it may come without proof.
    pub anonymous: bool,
}

/// Who makes a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    access: Access,
    client: Arc<str>,
}

/// Names the client in histories, and among the anonymous; it proves nothing.
pub(super) const CLIENT_HEADER: &str = "umbra-client";

const CLIENT_BYTES_MAX: usize = 128;

impl Caller {
    /// The caller that `principal` is.
    pub(super) fn of(principal: Principal, client: Arc<str>) -> Self {
        Self { access: Access::admin(principal), client }
    }

    /// Under which identity.
    pub(super) fn principal(&self) -> &Principal {
        self.access.principal()
    }

    /// By which client, for the history.
    pub(super) fn client(&self) -> &Arc<str> {
        &self.client
    }

    /// What it may see of `key`; `None`: nothing, not even whether it is there.
    pub(super) fn projection(&self, _key: &ShadowKey) -> Option<Projection> {
        // Everybody who is known may do everything, so far.
        Some(Projection::ALL)
    }

    /// Checks that it may do `command`; every command passes here before it is submitted.
    pub(super) fn authorize(&self, _key: &ShadowKey, _command: &mut Command) -> Result<(), Rejection> {
        Ok(())
    }

    /// What it may see of `key`, and that there is none for who may see nothing.
    pub(super) fn sight(&self, key: &ShadowKey, api: &Api) -> Result<Projection, Problem> {
        self.projection(key).ok_or_else(|| self.refused(&Rejection::NotFound, key, api))
    }

    /// `rejection` as this caller is told of it.
    pub(super) fn refused(&self, rejection: &Rejection, key: &ShadowKey, api: &Api) -> Problem {
        let projection = self.projection(key).unwrap_or(Projection::NONE);
        Problem::rejection(rejection, status(rejection), key, api.now(), projection, None)
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let client = client(&parts.headers, api)?;
        match parts.extensions.get::<Known>() {
            Some(Known { certified: Some(principal), .. }) => {
                Ok(Self::of(principal.clone(), client.unwrap_or_else(|| api.nobody.1.clone())))
            }
            Some(Known { anonymous: true, .. }) => Ok(match client {
                None => Self { access: api.nobody.0.clone(), client: api.nobody.1.clone() },
                Some(client) => Self::of(Principal::anonymous(&client), client),
            }),
            Some(Known { anonymous: false, .. }) | None => Err(unauthorized(api)),
        }
    }
}

fn unauthorized(api: &Api) -> Problem {
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", api.now());
    problem.with(header::WWW_AUTHENTICATE, super::problem::CHALLENGE)
}

/// The name in the header, if there is one.
fn client(headers: &HeaderMap, api: &Api) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = headers.get(CLIENT_HEADER) else { return Ok(None) };
    let fits = |name: &&str| (1..=CLIENT_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    match value.to_str().ok().filter(fits) {
        Some(name) => Ok(Some(name.into())),
        None => Err(Problem::parameter("Umbra-Client", "must be 1 to 128 visible characters of ASCII", api.now())),
    }
}
