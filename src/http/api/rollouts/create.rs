//! `PUT /v1/rollouts/{rollout}` and `POST /v1/bulk`: the creation of a rollout, or a dry run of it.
//!
//! The set of devices is found by a scan before the rollout is stored, with the rights of its creator. A dry run decides the update
//! against each document, as the writer would now, and stores nothing.
//!
//! The same request again returns the rollout as it is: the id of a bulk change is made of its idempotency key.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{THING, answer, refusal};
use crate::{
    admission::{Charge, work},
    auth::{self, DeviceRange},
    engine::{nonce, scan::ScanPiece},
    fleet::rollout::{
        Spec,
        spec::{DEVICES_MAX, Selection},
    },
    http::{
        api::{
            conditional::Conditions,
            history::no_store,
            payload::{self, BodyError},
            query::Query,
            replicated::{confirmed, reach_log_end},
            search::{too_long, unread},
            writes::idempotency_key,
        },
        auth::caller::Caller,
        operation::{IF_NONE_MATCH, Operation, ROLLOUT, ROLLOUT_DRY_RUN},
        parameter::{Kind, bad},
        problem::{Problem, status},
        state::Api,
    },
    observability::logging::limited,
    rollouts::{DEVICE_BYTES, NewRollout, Refused, Slot, description_weight, find, permitted},
    shadow::{
        Command, Decision, DeviceId, Document, DocumentLimits, Rejection, ShadowKey, SizeLimit, Timestamp, Update,
        decide, selection,
    },
    store::{PartDecoder, ScannedShadows},
    wire,
};

/// The time for finding the devices.
const SELECT_TIME: Duration = Duration::from_secs(20);
/// The reason for which nothing is created, in a cluster whose log cannot be asked.
const MAY_LACK: &str = "this node may not know all devices and rollouts";
/// The prefix of the ids of bulk changes.
const BULK_PREFIX: &str = "bulk-";
/// Devices in the answer to a dry run.
const SAMPLE: usize = 100;
/// Devices whose documents are read at once in a dry run.
const PIECE: usize = 256;
/// Most bytes of a description, beside twice those of a shadow.
const DESCRIPTION_BYTES: usize = 16 << 10;

/// A parsed request.
struct ParsedRequest {
    /// The description as it was sent, without `devices`.
    description: Map<String, Value>,
    spec: Arc<Spec>,
    dry_run: bool,
}

/// The rollout of a request.
enum Ensured {
    Created(Arc<Slot>),
    /// It was created by the same request before.
    Repeated(Arc<Slot>),
    /// Another one has the id.
    Other,
}

/// The numbers of devices in a dry run.
#[derive(Clone, Copy, Debug, Default)]
struct DryCounts {
    would_change: usize,
    unchanged: usize,
    conflicts: usize,
    forbidden: usize,
    refused: usize,
}

/// `PUT /v1/rollouts/{rollout}`
pub(in crate::http) async fn put(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    check_id(&id, &api)?;
    Conditions::read(&headers).map_err(|bad| api.invalid(&bad))?;
    let request = ParsedRequest::read(&api, &caller, Operation::PutRollout, &uri, &headers, body).await?;
    if request.dry_run {
        return request.dry_run(&api, &mut caller, &headers).await;
    }
    let creates = headers.get(IF_NONE_MATCH.name).is_some_and(|value| value.as_bytes() == b"*");
    if !creates {
        let message = "A rollout is created with If-None-Match: *, and cannot be changed";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition-required", message, api.now()));
    }
    match request.ensure(&api, &mut caller, &headers, &id, false).await? {
        Ensured::Created(slot) => answer(StatusCode::CREATED, &slot, &caller, &api).await,
        Ensured::Repeated(slot) => answer(StatusCode::OK, &slot, &caller, &api).await,
        Ensured::Other => Err(refusal(&Refused::Exists(id.as_str().into()), &api)),
    }
}

/// `POST /v1/bulk`
pub(in crate::http) async fn bulk(
    State(api): State<Arc<Api>>,
    mut caller: Caller,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers).map_err(|bad| api.invalid(&bad))?;
    let request = ParsedRequest::read(&api, &caller, Operation::PostBulk, &uri, &headers, body).await?;
    if request.dry_run {
        return request.dry_run(&api, &mut caller, &headers).await;
    }
    let key = key.map_or_else(|| format!("{:016x}", nonce()), |key| format!("key {}", key.as_str()));
    let digest = Sha256::digest(format!("{}\0{key}", caller.principal()));
    let id = digest.iter().take(12).fold(BULK_PREFIX.to_owned(), |id, byte| format!("{id}{byte:02x}"));
    let slot = match request.ensure(&api, &mut caller, &headers, &id, true).await? {
        Ensured::Created(slot) | Ensured::Repeated(slot) => slot,
        Ensured::Other => {
            let rejection = Rejection::IdempotencyKeyReused;
            let message = "Idempotency key was used with another request";
            return Err(Problem::new(status(&rejection), rejection.error(), message, api.now()));
        }
    };
    let mut response = answer(StatusCode::ACCEPTED, &slot, &caller, &api).await?;
    if let Ok(location) = HeaderValue::try_from(format!("/v1/rollouts/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Checks the id of a rollout that a client names.
fn check_id(id: &str, api: &Api) -> Result<(), Problem> {
    if id.starts_with(BULK_PREFIX) {
        return Err(Problem::forbidden(
            "ids of rollouts must not begin with 'bulk-', as those of bulk changes do",
            api.now(),
        ));
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":._-".contains(&byte);
    if (1..=64).contains(&id.len()) && id.bytes().all(is_allowed) {
        return Ok(());
    }
    debug_assert!(matches!(ROLLOUT.kind, Kind::Text(_)), "the description has the same pattern");
    Err(api.invalid(&bad(ROLLOUT.name, "must be 1 to 64 characters of A-Z a-z 0-9 : . _ -")))
}

impl ParsedRequest {
    async fn read(
        api: &Api,
        caller: &Caller,
        operation: Operation,
        uri: &Uri,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Self, Problem> {
        caller.admit(work::PAGE, api)?;
        let query = Query::read(uri.query(), operation.parameters()).map_err(|bad| api.invalid(&bad))?;
        let dry_run = query.flag(&ROLLOUT_DRY_RUN).map_err(|bad| api.invalid(&bad))?.unwrap_or(false);
        if caller.access().devices(auth::Operation::Update, 1).is_some_and(|devices| devices.is_empty()) {
            return Err(Problem::forbidden("this needs the right to update shadows", api.now()));
        }
        payload::check_encoding(headers, api)?;
        let body = payload::read(headers, body, api.body_bytes_max, api).await.map_err(|unread| match unread {
            BodyError::Rejected(rejection) => rejected(&rejection, api),
            BodyError::Failed(problem) => problem,
        })?;
        caller.admit(work::bytes(body.len()) + work::parsed(wire::weight(&*body)), api)?;
        let (mut description, patch) = wire::parse_rollout(&body, &api.document).map_err(|it| rejected(&it, api))?;
        check_size(&description, &api.document).map_err(|it| rejected(&it, api))?;
        let parsed = match operation {
            Operation::PostBulk => Spec::parse_bulk(&description, patch),
            _ => Spec::parse(&description, patch),
        };
        let spec = parsed
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "invalid-field", &error.to_string(), api.now()))?;
        description.remove("devices"); // they are in `spec`
        Ok(Self { description, spec: Arc::new(spec), dry_run })
    }

    /// Returns true if `slot` is the rollout of this request.
    fn is_of(&self, slot: &Slot, caller: &Caller) -> bool {
        let spec = slot.read(|rollout, _| rollout.spec().clone());
        slot.created_by == *caller.principal().name()
            && slot.description == self.description
            && spec.selection == self.spec.selection
    }

    /// Creates the rollout `id` unless it is there, and waits until it is on disk.
    async fn ensure(
        self,
        api: &Arc<Api>,
        caller: &mut Caller,
        headers: &HeaderMap,
        id: &str,
        is_bulk: bool,
    ) -> Result<Ensured, Problem> {
        reach_log_end(MAY_LACK, api).await?;
        if api.rollouts.get(id).is_none() {
            match self.create(api, caller, headers, id, is_bulk).await? {
                Ok(slot) => {
                    confirmed(THING, api).await?;
                    return Ok(Ensured::Created(slot));
                }
                // The same request may have come at the same time.
                Err(Refused::Exists(_)) => {}
                Err(refused) => return Err(refusal(&refused, api)),
            }
        }
        let Some(slot) = api.rollouts.get(id).filter(|slot| self.is_of(slot, caller)) else {
            return Ok(Ensured::Other);
        };
        // The former request may not have waited for the disk, and not even sent the rows.
        api.rollouts.write_again(&slot).await.map_err(|refused| refusal(&refused, api))?;
        confirmed(THING, api).await?;
        Ok(Ensured::Repeated(slot))
    }

    /// Stores the rollout. It is on disk somewhat later.
    async fn create(
        &self,
        api: &Arc<Api>,
        caller: &mut Caller,
        headers: &HeaderMap,
        id: &str,
        is_bulk: bool,
    ) -> Result<Result<Arc<Slot>, Refused>, Problem> {
        if !api.service.may_add_rows() {
            let message = "Unavailable: the disk is nearly full, or too much waits for it";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message, api.now()));
        }
        let (devices, charge) = self.select(api, caller, headers).await?;
        let (description, spec, count) = (self.description.clone(), self.spec.clone(), devices.len());
        let new = NewRollout { id: id.into(), is_bulk, description, spec, devices };
        let created = api.rollouts.create(&caller.actor(), new, charge).await;
        if created.is_ok() {
            let by = caller.principal();
            limited!(info, caller.quota(api).lines(), rollout = id, %by, devices = count, "rollout created");
        }
        Ok(created)
    }

    /// Returns the devices, and the charge for their memory.
    async fn select(
        &self,
        api: &Arc<Api>,
        caller: &mut Caller,
        headers: &HeaderMap,
    ) -> Result<(Vec<DeviceId>, Charge), Problem> {
        let devices = match &self.spec.selection {
            Selection::Devices(devices) => devices.clone(),
            Selection::Query(query) => {
                let found = find(&api.search, caller, query, SELECT_TIME).await;
                let found = found.map_err(|failure| unread(&failure, headers, api))?;
                found.ok_or_else(|| too_long("select fewer devices", api))?
            }
        };
        if devices.len() > DEVICES_MAX {
            let message = format!("The query is true for more than {DEVICES_MAX} devices; select fewer");
            return Err(Problem::new(StatusCode::BAD_REQUEST, "too-many-matches", &message, api.now()));
        }
        let mut charge = Charge::new(caller.quota(api), 0);
        let memory = DEVICE_BYTES * devices.len() + description_weight(&self.description);
        let grown = api.service.quotas().grow(&mut charge, memory);
        grown.map_err(|rejection| Problem::general(&rejection, api.now()))?;
        Ok((devices, charge))
    }

    /// Returns the devices and what would change.
    async fn dry_run(self, api: &Arc<Api>, caller: &mut Caller, headers: &HeaderMap) -> Result<Response, Problem> {
        reach_log_end(MAY_LACK, api).await?;
        let (devices, _charge) = self.select(api, caller, headers).await?;
        let mut counts = DryCounts::default();
        let until = Instant::now() + SELECT_TIME;
        let permitted = permitted(&api.search, &caller.actor(), &self.spec, devices, true).await;
        let (devices, permitted) = permitted.map_err(|refused| refusal(&refused, api))?;
        counts.forbidden = devices.len() - permitted.len();
        let mut permitted: Vec<_> = permitted.iter().cloned().collect();
        permitted.sort_unstable();
        for part in permitted.chunks(PIECE) {
            counts = self.count(api, caller, headers, part, counts).await?;
            if Instant::now() > until {
                return Err(too_long("select fewer devices", api));
            }
        }
        let DryCounts { would_change, unchanged, conflicts, forbidden, refused } = counts;
        let absent = devices.len() - would_change - unchanged - conflicts - forbidden - refused;
        let sample: Vec<_> = devices.iter().take(SAMPLE).map(DeviceId::as_str).collect();
        let body = json!({
            "dryRun": true,
            "devices": devices.len(),
            "sample": sample,
            "wouldChange": would_change,
            "unchanged": unchanged,
            "conflicts": conflicts,
            "forbidden": forbidden,
            "refused": refused,
            "absent": absent,
            "waves": self.spec.wave_sizes(devices.len()),
        });
        Ok(no_store(body.to_string().into()))
    }

    /// Adds the devices of `part`, which are in order, to `counts`.
    async fn count(
        &self,
        api: &Arc<Api>,
        caller: &mut Caller,
        headers: &HeaderMap,
        part: &[DeviceId],
        mut counts: DryCounts,
    ) -> Result<DryCounts, Problem> {
        let mut after = None;
        loop {
            let turn = caller.read_turn(api).await;
            caller.renew_for(headers, api)?;
            let ranges = Some(part.iter().cloned().map(DeviceRange::One).collect());
            let piece = ScanPiece { ranges, after, limit: 2 * PIECE };
            let (reader, spec, now, limits) = (caller.clone(), self.spec.clone(), api.now(), api.document);
            let visit = move |shadows: &ScannedShadows| {
                let (everything, mut decoder) = (selection::Selection::everything(), PartDecoder::default());
                for (index, key) in shadows.keys().enumerate().filter(|(_, key)| key.name == spec.shadow) {
                    if let Some(document) = shadows.document(index, &everything, &mut decoder) {
                        counts.add(&reader, key, &document, spec.patch.clone(), now, &limits);
                    }
                }
                counts
            };
            let scanned = api.service.scan(piece, turn, visit).await;
            let scanned = scanned.map_err(|rejection| Problem::general(&rejection, api.now()))?;
            counts = scanned.visited;
            let work = work::times(scanned.read, work::SCANNED_SHADOW + work::COMMAND);
            let wait = caller.quota(api).charge_work(work, Instant::now()).unwrap_or_default();
            tokio::time::sleep(wait).await;
            match scanned.next {
                None => return Ok(counts),
                next => after = next,
            }
        }
    }
}

impl DryCounts {
    fn add(
        &mut self,
        reader: &Caller,
        key: &ShadowKey,
        document: &Document,
        patch: Update,
        now: Timestamp,
        limits: &DocumentLimits,
    ) {
        let mut command = Command::Update(Update { dry_run: true, ..patch });
        let decided =
            reader.authorize(key, &mut command).and_then(|author| decide(document, &command, &author, now, limits));
        let count = match decided {
            Ok(Decision::Changed { .. }) => &mut self.would_change,
            Ok(Decision::Unchanged) => &mut self.unchanged,
            Err(Rejection::Forbidden { .. }) => &mut self.forbidden,
            Err(Rejection::ExpectationFailed { .. } | Rejection::VersionConflict { .. }) => &mut self.conflicts,
            Err(_) => &mut self.refused,
        };
        *count += 1;
    }
}

/// Checks the size of a description apart from its devices, since it is kept and shown.
fn check_size(description: &Map<String, Value>, limits: &DocumentLimits) -> Result<(), Rejection> {
    let others = description.iter().filter(|(name, _)| *name != "devices");
    let size = others.map(|(name, value)| name.len() + value.to_string().len()).sum();
    let max = DESCRIPTION_BYTES + 2 * (limits.document_bytes_max + limits.tags_bytes_max);
    if size > max { Err(Rejection::TooLarge { what: SizeLimit::Body, size, max }) } else { Ok(()) }
}

/// Returns the problem for a body that was refused.
fn rejected(rejection: &Rejection, api: &Api) -> Problem {
    // None that a body causes names a shadow in its message.
    let any = DeviceId::new("any").map(ShadowKey::classic);
    let message = any.map(|key| rejection.message(&key)).unwrap_or_default();
    let detail = rejection.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    let message = format!("{message}{detail}");
    Problem::new(status(rejection), rejection.error(), &message, api.now())
}
