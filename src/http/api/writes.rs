//! Writes of a shadow: PUT, PATCH and DELETE.
//!
//! A write is checked in this order, and the first failure is the response: right to see the shadow (404), parameters
//! and headers (400), presence of a precondition (428), media type and encoding (415), quota (429), body (413, 400).
//! The engine checks the rest atomically with the write: preconditions (412), and applicability (409, 413, 422).

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    http::{
        api::{
            conditional::Conditions,
            payload::{self, BodyError},
            query::Query,
            shadows::{JSON, WEAK},
            submit::{self, Accepted, Parsed, Refusal},
            target::Target,
        },
        auth::caller::Caller,
        operation::{BASE_VERSION, DRY_RUN, IDEMPOTENCY_KEY, ON_CONFLICT, Operation, UPSERT},
        parameter::{BadParameter, bad},
        problem::{Problem, etag_value, status},
        state::Api,
    },
    shadow::{
        Command, Delete, Disposition, DocumentLimits, IdempotencyKey, Keyed, OnConflict, Patch, Preconditions,
        Projection, Rejection, ShadowKey, Update, Version,
    },
    wire::{self, Dialect},
};

/// A write of an authorized caller.
struct Write<'a> {
    api: &'a Api,
    caller: Caller,
    key: ShadowKey,
    projection: Projection,
    asked: ParsedWrite,
}

/// The parameters and headers of a write.
#[derive(Clone, Debug)]
struct ParsedWrite {
    preconditions: Preconditions,
    dry_run: bool,
    idempotency_key: Option<IdempotencyKey>,
    prefer: Option<Prefer>,
    /// True if `If-Match` has a weak tag, which cannot match.
    weak: bool,
}

/// The media types of PATCH. RFC 5789 section 3.1.
pub(in crate::http) const ACCEPT_PATCH: HeaderValue =
    HeaderValue::from_static("application/merge-patch+json, application/json-patch+json");

/// The preferred response to an accepted write. RFC 7240 section 4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefer {
    Minimal,
    Representation,
}

/// `PUT S`
pub(in crate::http) async fn put(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Target(key): Target,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut write = Write::admit(&api, caller, key, Operation::PutShadow, &uri, &headers)?;
    payload::check_encoding(&headers, &api)?;
    if let Some(other) = payload::media_type(&headers).filter(|media_type| media_type != "application/json") {
        return Err(unsupported(&other, "send application/json", &api).with(header::ACCEPT, JSON));
    }
    let body = write.body(&headers, body).await?;
    let parse = |asked: &ParsedWrite, body: &[u8]| {
        let update = wire::parse_state(body, &api.document)?;
        Ok(asked.update(Update { replace: true, ..update }))
    };
    let accepted = write.submit(&headers, &body, parse).await?;
    Ok(write.answer(&accepted, &uri))
}

/// `PATCH S`
pub(in crate::http) async fn patch(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Target(key): Target,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut write = Write::admit(&api, caller, key, Operation::PatchShadow, &uri, &headers)?;
    payload::check_encoding(&headers, &api)?;
    let media_type = payload::media_type(&headers);
    let parse: fn(&ParsedWrite, &[u8], &DocumentLimits) -> Result<Command, Rejection> = match media_type.as_deref() {
        Some("application/merge-patch+json") => {
            |asked, body, limits| Ok(asked.update(wire::parse_state(body, limits)?))
        }
        Some("application/json-patch+json") => ParsedWrite::json_patch,
        other => {
            let problem = unsupported(other.unwrap_or("none"), "Accept-Patch lists the supported ones", &api);
            // RFC 5789 section 2.2.
            return Err(problem.with(header::HeaderName::from_static("accept-patch"), ACCEPT_PATCH));
        }
    };
    let body = write.body(&headers, body).await?;
    let accepted = write.submit(&headers, &body, |asked, body| parse(asked, body, &api.document)).await?;
    Ok(write.answer(&accepted, &uri))
}

/// Returns the refusal of a body of the type `media_type`. `instead` names what is supported.
fn unsupported(media_type: &str, instead: &str, api: &Api) -> Problem {
    let message = format!("Unsupported media type '{media_type:.64}'; {instead}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", &message, api.now())
}

/// `DELETE S`
pub(in crate::http) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Target(key): Target,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut write = Write::admit(&api, caller, key, Operation::DeleteShadow, &uri, &headers)?;
    let accepted = write.submit(&headers, &[], |asked, _| Ok(asked.deletion())).await?;
    Ok(accepted.mark_replay(StatusCode::NO_CONTENT.into_response()))
}

impl<'a> Write<'a> {
    /// Checks the right to see the shadow, and parses the request, which must have a precondition.
    fn admit(
        api: &'a Api,
        caller: Caller,
        key: ShadowKey,
        operation: Operation,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Self, Problem> {
        let projection = caller.read_projection(&key, api)?;
        let asked = ParsedWrite::read(operation, uri, headers);
        let asked = asked.map_err(|bad| api.invalid(&bad))?;
        let asked = asked.ok_or_else(|| {
            let message = "A write must say what it expects: If-Match with the ETag that was read, If-Match: * for \
                           whatever is there, If-None-Match: * to create, upsert=true to create or change, or on_conflict=rebase with \
                           base_version";
            Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition-required", message, api.now())
        })?;
        Ok(Self { api, caller, key, projection, asked })
    }

    /// Reads the body of the write. The write is counted only after that, so a slow body delays no other request.
    async fn body(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
        let body = payload::read(headers, body, self.api.body_bytes_max, self.api).await;
        body.map_err(|unread| match unread {
            BodyError::Rejected(rejection) => self.not_tried(&rejection),
            BodyError::Failed(problem) => problem,
        })
    }

    /// Passes the write to the engine. The rights of the caller are renewed before the body is parsed, since rules may
    /// have been reloaded or a page signed out while the body arrived or the write waited for memory.
    async fn submit(
        &mut self,
        headers: &HeaderMap,
        body: &[u8],
        parse: impl Fn(&ParsedWrite, &[u8]) -> Result<Command, Rejection>,
    ) -> Result<Accepted, Problem> {
        let Self { api, caller, key, projection, asked } = self;
        let submitted = submit::submit(api, caller, key, body, Dialect::Native, |caller, body| {
            caller.renew_for(headers, api).map_err(Refusal::Answered)?;
            *projection = caller.read_projection(key, api).map_err(Refusal::Answered)?;
            Ok(Parsed { command: parse(asked, body)?, client_token: None, projection: projection.clone() })
        });
        submitted.await.map_err(|refusal| match refusal {
            Refusal::NotTried(rejection) => self.not_tried(&rejection),
            Refusal::Refused(rejection) => self.refused(&rejection).by_engine(),
            Refusal::Answered(problem) => problem,
        })
    }

    /// Returns the answer to a write that the engine did not decide, and records the refusal.
    fn not_tried(&self, rejection: &Rejection) -> Problem {
        self.caller.note_refusal(&self.key, rejection, self.api);
        self.refused(rejection)
    }

    fn refused(&self, rejection: &Rejection) -> Problem {
        let rebases = self.asked.preconditions.on_conflict == OnConflict::Rebase;
        let status = match rejection {
            // A path that a rebased patch tests or reads has changed since its base version.
            Rejection::ExpectationFailed { .. } if rebases => StatusCode::PRECONDITION_FAILED,
            rejection => status(rejection),
        };
        let note = (self.asked.weak && status == StatusCode::PRECONDITION_FAILED).then_some(WEAK);
        Problem::rejection(rejection, status, &self.key, self.api.now(), &self.projection, note)
    }

    fn answer(&self, accepted: &Accepted, uri: &Uri) -> Response {
        let status = if accepted.created { StatusCode::CREATED } else { StatusCode::OK };
        let dry = accepted.disposition == Disposition::DryRun;
        let prefer = self.asked.prefer.filter(|prefer| match prefer {
            Prefer::Minimal => !dry,
            // A replay must not present a later version as its own result.
            Prefer::Representation => !dry && accepted.document.exists() && !accepted.is_outdated(),
        });
        let (status, body, etag) = match prefer {
            None => (status, accepted.body.clone(), accepted.etag),
            Some(Prefer::Minimal) if accepted.created => (status, Bytes::new(), accepted.etag),
            Some(Prefer::Minimal) => (StatusCode::NO_CONTENT, Bytes::new(), accepted.etag),
            Some(Prefer::Representation) => {
                let document = &accepted.document;
                (status, wire::get_accepted(document, &self.projection, None), Some(self.projection.etag(document)))
            }
        };
        let has_body = !body.is_empty();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if has_body {
            headers.insert(header::CONTENT_TYPE, JSON);
        }
        // The result of a dry run is not a representation of the shadow.
        if let Some(etag) = etag.filter(|_| !dry) {
            headers.insert(header::ETAG, etag_value(etag));
        }
        if let Some(prefer) = prefer {
            headers.insert("preference-applied", HeaderValue::from_static(prefer.as_str()));
        }
        if prefer == Some(Prefer::Representation)
            && let Ok(location) = HeaderValue::try_from(uri.path())
        {
            headers.insert(header::CONTENT_LOCATION, location);
        }
        accepted.mark_replay(response)
    }
}

impl ParsedWrite {
    /// Returns `update` under the conditions of the request.
    fn update(&self, update: Update) -> Command {
        let Self { preconditions, dry_run, idempotency_key, .. } = self.clone();
        let update = Update { preconditions, dry_run, ..update };
        let keyed = idempotency_key.map(|key| Keyed::update(key, &update));
        Command::Update(Update { keyed, ..update })
    }

    /// Returns the JSON Patch in `body` under the conditions of the request.
    fn json_patch(&self, body: &[u8], limits: &DocumentLimits) -> Result<Command, Rejection> {
        let json = wire::parse_operations(body, limits)?;
        let Self { preconditions, dry_run, idempotency_key, .. } = self.clone();
        let keyed = idempotency_key.map(|key| Keyed::edits(key, &json, &preconditions));
        let operations = wire::json_patch(json)?;
        Ok(Command::Patch(Patch { operations, preconditions, dry_run, keyed }))
    }

    /// Returns the deletion under the conditions of the request.
    fn deletion(&self) -> Command {
        let delete = Delete { preconditions: self.preconditions.clone(), keyed: None };
        let keyed = self.idempotency_key.clone().map(|key| Keyed::delete(key, &delete));
        Command::Delete(Delete { keyed, ..delete })
    }

    /// Reads query and headers; `None` if the write has no condition.
    fn read(operation: Operation, uri: &Uri, headers: &HeaderMap) -> Result<Option<Self>, BadParameter> {
        let query = Query::read(uri.query(), operation.parameters())?;
        let conditions = Conditions::read(headers)?;
        let idempotency_key = idempotency_key(headers)?;
        let base = query.integer(&BASE_VERSION)?.map(Version);
        let on_conflict = match query.text(&ON_CONFLICT)?.as_deref() {
            None | Some("reject") => OnConflict::Reject,
            Some("rebase") => OnConflict::Rebase,
            Some(_) => return Err(bad(ON_CONFLICT.name, "must be 'reject' or 'rebase'")),
        };
        let upsert = query.flag(&UPSERT)?.unwrap_or(false);
        if upsert && (base.is_some() || conditions.of_write().is_some()) {
            return Err(bad(UPSERT.name, "takes the place of If-Match, If-None-Match and base_version"));
        }
        if upsert && on_conflict == OnConflict::Rebase {
            return Err(bad(BASE_VERSION.name, "is missing: on_conflict=rebase needs it, and upsert has no base"));
        }
        let preconditions = match (conditions.of_write(), base) {
            (None, None) if upsert => Preconditions::default(),
            (Some(_), Some(_)) => return Err(bad(BASE_VERSION.name, "takes the place of If-Match and If-None-Match")),
            (Some(_), None) if on_conflict == OnConflict::Rebase => {
                return Err(bad(ON_CONFLICT.name, "needs base_version, in the place of If-Match and If-None-Match"));
            }
            (Some(preconditions), None) => preconditions,
            (None, Some(version)) => Preconditions { version: Some(version), on_conflict, ..Preconditions::default() },
            (None, None) => return Ok(None),
        };
        Ok(Some(Self {
            preconditions,
            dry_run: query.flag(&DRY_RUN)?.unwrap_or(false),
            idempotency_key,
            prefer: prefer(headers),
            weak: conditions.has_weak_if_match(),
        }))
    }
}

/// Returns the idempotency key, with or without the quotes of a structured field.
pub(in crate::http) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, BadParameter> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY.name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    match IdempotencyKey::new(text).filter(|_| values.next().is_none()) {
        Some(key) => Ok(Some(key)),
        None => Err(bad(IDEMPOTENCY_KEY.name, "must be one key of 1 to 64 characters of ASCII")),
    }
}

/// Returns the first preference for `return`, if its value is known. RFC 7240 section 2.
fn prefer(headers: &HeaderMap) -> Option<Prefer> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let preferences = values.flat_map(|value| value.split(',')).filter_map(|part| part.split(';').next());
    let returns = preferences.filter_map(|preference| preference.trim().split_once('='));
    let mut returns = returns.filter(|(name, _)| name.trim().eq_ignore_ascii_case("return"));
    match returns.next()?.1.trim().trim_matches('"') {
        "minimal" => Some(Prefer::Minimal),
        "representation" => Some(Prefer::Representation),
        _ => None,
    }
}

impl Prefer {
    fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "return=minimal",
            Self::Representation => "return=representation",
        }
    }
}
