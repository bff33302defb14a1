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
    auth::Projection,
    http::{
        api::{
            Api,
            conditional::Conditions,
            payload::{self, BodyError},
            problem::{Problem, etag_value, status},
            query::{BadParameter, Query, bad},
            shadows::{JSON, WEAK},
            submit::{self, Accepted, Admission, Request},
            target::Target,
        },
        auth::caller::Caller,
        operation::{BASE_VERSION, DRY_RUN, IDEMPOTENCY_KEY, ON_CONFLICT, Operation, UPSERT},
        router::ACCEPT_PATCH,
    },
    shadow::{
        Command, Delete, Disposition, IdempotencyKey, Keyed, OnConflict, Patch, Preconditions, Rejection, ShadowKey,
        Update, Version,
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
        let message = format!("Unsupported media type '{other:.64}'; send application/json");
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", &message, api.now());
        return Err(problem.with(header::ACCEPT, JSON));
    }
    let (admitted, body) = write.body(&headers, body).await?;
    let update = write.parsed(wire::parse_state(&body, &api.document))?;
    let update = Update { replace: true, ..update };
    write.update(update, admitted, &uri).await
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
    match media_type.as_deref() {
        Some("application/merge-patch+json") => {
            let (admitted, body) = write.body(&headers, body).await?;
            let update = write.parsed(wire::parse_state(&body, &api.document))?;
            write.update(update, admitted, &uri).await
        }
        Some("application/json-patch+json") => {
            let (admitted, body) = write.body(&headers, body).await?;
            write.edit(&body, admitted, &uri).await
        }
        other => {
            let other = other.unwrap_or("none");
            let message = format!("Unsupported media type '{other:.64}'; Accept-Patch tells which are supported");
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let problem = Problem::new(status, "unsupported-media-type", &message, api.now());
            // RFC 5789 section 2.2.
            Err(problem.with(header::HeaderName::from_static("accept-patch"), ACCEPT_PATCH))
        }
    }
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
    let admitted = write.admitted(&headers, &[]).await?;
    let delete = Delete { preconditions: write.asked.preconditions.clone(), keyed: None };
    let keyed = write.asked.idempotency_key.clone().map(|key| Keyed::delete(key, &delete));
    let command = Command::Delete(Delete { keyed, ..delete });
    match write.submit(command, admitted).await {
        Ok(accepted) => Ok(accepted.mark_replay(StatusCode::NO_CONTENT.into_response())),
        Err(rejection) => Err(write.refused(&rejection).by_engine()),
    }
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
        let asked = asked.map_err(|bad| Problem::parameter(&bad.name, &bad.reason, api.now()))?;
        let asked = asked.ok_or_else(|| {
            let message = "A write must say what it expects: If-Match with the ETag that was read, If-Match: * for \
                           whatever is there, If-None-Match: * to create, upsert=true to create or change, or on_conflict=rebase with \
                           base_version";
            Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition-required", message, api.now())
        })?;
        Ok(Self { api, caller, key, projection, asked })
    }

    /// Counts the write, and renews its caller. While the body arrived and memory was reserved, rights may have been
    /// reloaded, and a page may have signed out.
    async fn admitted(&mut self, headers: &HeaderMap, body: &[u8]) -> Result<Admission, Problem> {
        let admitted = submit::admit(self.api, &self.caller, &self.key, body).await;
        let admitted = admitted.map_err(|rejection| self.not_tried(&rejection))?;
        self.caller.renew_for(headers, self.api)?;
        self.projection = self.caller.read_projection(&self.key, self.api)?;
        Ok(admitted)
    }

    /// Reads the body of the write, then counts the write. A slow body therefore holds no reservation.
    async fn body(&mut self, headers: &HeaderMap, body: Body) -> Result<(Admission, Bytes), Problem> {
        match payload::read(headers, body, self.api.body_bytes_max, self.api).await {
            Ok(body) => Ok((self.admitted(headers, &body).await?, body)),
            Err(BodyError::Rejected(rejection)) => Err(self.not_tried(&rejection)),
            Err(BodyError::Failed(problem)) => Err(problem),
        }
    }

    fn parsed<T>(&self, parsed: Result<T, Rejection>) -> Result<T, Problem> {
        parsed.map_err(|rejection| self.not_tried(&rejection))
    }

    /// Submits `update` with the preconditions of the request. Returns the response.
    async fn update(&self, update: Update, admitted: Admission, uri: &Uri) -> Result<Response, Problem> {
        let ParsedWrite { preconditions, dry_run, idempotency_key, .. } = self.asked.clone();
        let update = Update { preconditions, dry_run, ..update };
        let keyed = idempotency_key.map(|key| Keyed::update(key, &update));
        let command = Command::Update(Update { keyed, ..update });
        self.change(command, admitted, uri).await
    }

    /// Submits the JSON Patch in `body` with the preconditions of the request. Returns the response.
    async fn edit(&self, body: &[u8], admitted: Admission, uri: &Uri) -> Result<Response, Problem> {
        let json = self.parsed(wire::parse_operations(body, &self.api.document))?;
        let ParsedWrite { preconditions, dry_run, idempotency_key, .. } = self.asked.clone();
        let keyed = idempotency_key.map(|key| Keyed::edits(key, &json, &preconditions));
        let operations = self.parsed(wire::json_patch(json))?;
        let command = Command::Patch(Patch { operations, preconditions, dry_run, keyed });
        self.change(command, admitted, uri).await
    }

    async fn change(&self, command: Command, admitted: Admission, uri: &Uri) -> Result<Response, Problem> {
        match self.submit(command, admitted).await {
            Ok(accepted) => Ok(self.answer(&accepted, uri)),
            Err(rejection) => Err(self.refused(&rejection).by_engine()),
        }
    }

    async fn submit(&self, command: Command, admitted: Admission) -> Result<Accepted, Rejection> {
        let key = self.key.clone();
        let request = Request { key, command, dialect: Dialect::Native, client_token: None };
        submit::submit(self.api, &self.caller, request, self.projection.clone(), admitted).await
    }

    /// Records the refusal of a write that did not reach the engine. Returns the response.
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
        let dry = accepted.manner == Disposition::DryRun;
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
    /// Parses query and headers. Returns `None` if the write has no precondition.
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
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, BadParameter> {
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
