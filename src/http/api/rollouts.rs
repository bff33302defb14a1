//! Rollouts over HTTP: lists, one rollout, its devices, and the commands of an operator.
//!
//! `create` makes them, also as bulk changes, `render` has their JSON, `events` follows one. A rollout is seen and
//! commanded by its creator and by clients with all rights; for others it does not exist.

pub(in crate::http) mod create;
pub(in crate::http) mod events;
mod render;

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use self::render::{Part, rollout};
use crate::{
    admission::work,
    fleet::rollout::{Control, DeviceState, NotPossible, State as RolloutState},
    http::{
        api::{
            devices::{limit, without_cursor},
            history::{link, no_store},
            query::Query,
            replicated::{confirmed, find_applied, unconfirmed_by_log},
            text_cursor,
        },
        auth::caller::Caller,
        operation::{Operation, ROLLOUT_DEVICE_STATE, ROLLOUT_STATE},
        parameter::{BadParameter, bad},
        problem::Problem,
        state::Api,
    },
    observability::logging::limited,
    rollouts::{Refused, Slot, blocking},
    shadow::excerpt,
};

/// The subject of these operations.
const THING: &str = "rollout";
/// Most devices that a page of them looks at.
const EXAMINED_MAX: usize = 20_000;
/// Devices that it looks at under the lock of the rollout at once.
const EXAMINED_AT_ONCE: usize = 1_000;

/// `GET /v1/rollouts`
pub(in crate::http) async fn list(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let (limit, after, state) = page(&uri).map_err(|bad| api.invalid(&bad))?;
    let is_wanted =
        |slot: &Slot| slot.is_visible_to(caller.access()) && state.is_none_or(|state| state == slot.state());
    let mut found = api.rollouts.list(after.as_deref(), limit + 1, is_wanted);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|slot| text_cursor::encode(&slot.id));
    let rollouts: Vec<Value> = found.iter().map(|slot| rollout(slot, Part::WithoutDevices)).collect();
    Ok(answer_page("rollouts", rollouts, next.as_deref(), &caller, &api, &uri))
}

/// `GET /v1/rollouts/{rollout}`
pub(in crate::http) async fn get(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::read(uri.query(), Operation::GetRollout.parameters()).map_err(|bad| api.invalid(&bad))?;
    let slot = found(&api, &caller, &id).await?;
    answer(StatusCode::OK, &slot, &caller, &api).await
}

/// `GET /v1/rollouts/{rollout}/devices`
pub(in crate::http) async fn devices(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let (limit, after, state) = device_page(&uri).map_err(|bad| api.invalid(&bad))?;
    let slot = found(&api, &caller, &id).await?;
    let (mut page, mut from, end) = (Vec::new(), after, after.saturating_add(EXAMINED_MAX));
    let next = loop {
        // Some at a time, since what the log has for the rollout waits for its lock.
        let (is_over, next) = slot.read(|rollout, _| {
            let rest = rollout.devices().iter().enumerate().skip(from);
            for (index, device) in rest.take(EXAMINED_AT_ONCE) {
                if page.len() == limit || index == end {
                    return (true, Some(index));
                }
                if state.is_none_or(|state| state == device.state) {
                    page.push(render::device(device, rollout.wave_of(index)));
                }
            }
            from = from.saturating_add(EXAMINED_AT_ONCE);
            (from >= rollout.devices().len(), None)
        });
        if is_over {
            break next;
        }
    };
    let next = next.map(|index| text_cursor::encode(&index.to_string()));
    Ok(answer_page("devices", page, next.as_deref(), &caller, &api, &uri))
}

/// `POST /v1/rollouts/{rollout}/pause`
pub(in crate::http) async fn pause(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    control(api, caller, &id, &uri, Control::Pause).await
}

/// `POST /v1/rollouts/{rollout}/resume`
pub(in crate::http) async fn resume(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    control(api, caller, &id, &uri, Control::Resume).await
}

/// `POST /v1/rollouts/{rollout}/cancel`
pub(in crate::http) async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    control(api, caller, &id, &uri, Control::Cancel).await
}

/// `POST /v1/rollouts/{rollout}/rollback`
pub(in crate::http) async fn roll_back(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    control(api, caller, &id, &uri, Control::RollBack).await
}

async fn control(api: Arc<Api>, caller: Caller, id: &str, uri: &Uri, control: Control) -> Result<Response, Problem> {
    Query::read(uri.query(), Operation::PauseRollout.parameters()).map_err(|bad| api.invalid(&bad))?;
    let slot = found(&api, &caller, id).await?;
    let done = api.rollouts.control(&caller.actor(), &slot, control).await;
    done.map_err(|refused| refusal(&refused, &api))?;
    let by = caller.principal();
    limited!(info, caller.quota(&api).lines(), rollout = %slot.id, %by, ?control, "rollout commanded");
    confirmed(THING, &api).await?;
    answer(StatusCode::OK, &slot, &caller, &api).await
}

/// `DELETE /v1/rollouts/{rollout}`
pub(in crate::http) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    Query::read(uri.query(), Operation::DeleteRollout.parameters()).map_err(|bad| api.invalid(&bad))?;
    let slot = found(&api, &caller, &id).await?;
    api.rollouts.remove(&caller.actor(), &slot).await.map_err(|refused| match refused {
        Refused::State(NotPossible(state)) => {
            let message = format!("The rollout is {}; only one that has ended can be deleted", state.name());
            Problem::new(StatusCode::CONFLICT, "rollout-state", &message, api.now())
        }
        refused => refusal(&refused, &api),
    })?;
    confirmed(THING, &api).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Returns the rollout `id` if the caller may see it.
async fn found(api: &Api, caller: &Caller, id: &str) -> Result<Arc<Slot>, Problem> {
    let slot = find_applied(THING, || api.rollouts.get(id), api).await?;
    slot.filter(|slot| slot.is_visible_to(caller.access())).ok_or_else(|| unknown(api, id))
}

fn unknown(api: &Api, id: &str) -> Problem {
    let message = format!("There is no rollout '{}'", excerpt(id, 64));
    Problem::new(StatusCode::NOT_FOUND, "not-found", &message, api.now())
}

/// Returns the problem for a refusal by the registry.
fn refusal(refused: &Refused, api: &Api) -> Problem {
    let (error, message) = match refused {
        Refused::Exists(id) => ("rollout-exists", format!("There is another rollout '{id}'")),
        Refused::Overlaps(id, path) => {
            let other = id.as_ref().map_or_else(|| "Another rollout".to_owned(), |id| format!("The rollout '{id}'"));
            ("rollout-conflict", format!("{other}, which has not ended, changes '{path}' of a device as well"))
        }
        Refused::Internal => {
            let message = "Internal service failure";
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, api.now());
        }
        Refused::Unconfirmed => return unconfirmed_by_log(THING, api),
        Refused::Removed => ("rollout-state", "The rollout was deleted meanwhile".to_owned()),
        Refused::TooMany(text) => ("too-many-rollouts", format!("Too many rollouts: {text}")),
        Refused::State(state) => {
            ("rollout-state", format!("The rollout is {}, which does not allow it", state.0.name()))
        }
    };
    Problem::new(StatusCode::CONFLICT, error, &message, api.now())
}

/// Returns a response with the rollout.
async fn answer(status: StatusCode, slot: &Arc<Slot>, caller: &Caller, api: &Api) -> Result<Response, Problem> {
    let shown = slot.clone();
    let text = blocking(move || rollout(&shown, Part::All).to_string()).await;
    let mut response = no_store(text.map_err(|refused| refusal(&refused, api))?.into());
    *response.status_mut() = status;
    caller.charge_rendered(&response, api);
    Ok(response)
}

fn answer_page(name: &str, items: Vec<Value>, next: Option<&str>, caller: &Caller, api: &Api, uri: &Uri) -> Response {
    let mut body = json!({ name: items });
    if let (Some(next), Value::Object(members)) = (next, &mut body) {
        members.insert("next".to_owned(), next.into());
    }
    let mut response = no_store(body.to_string().into());
    caller.charge_rendered(&response, api);
    if let Some(next) = next {
        let kept = uri.query().map(without_cursor).unwrap_or_default();
        link(&mut response, &format!("{}?{kept}cursor={next}", uri.path()));
    }
    response
}

fn page(uri: &Uri) -> Result<(usize, Option<String>, Option<RolloutState>), BadParameter> {
    let query = Query::read(uri.query(), Operation::ListRollouts.parameters())?;
    let state = query.text(&ROLLOUT_STATE)?.map(|name| {
        let state = RolloutState::ALL.into_iter().find(|state| state.name() == name);
        state.ok_or_else(|| bad(ROLLOUT_STATE.name, "must be a state of a rollout, such as running"))
    });
    Ok((limit(&query)?, text_cursor::read(&query)?, state.transpose()?))
}

fn device_page(uri: &Uri) -> Result<(usize, usize, Option<DeviceState>), BadParameter> {
    let query = Query::read(uri.query(), Operation::ListRolloutDevices.parameters())?;
    let state = query.text(&ROLLOUT_DEVICE_STATE)?.map(|name| {
        let state = DeviceState::ALL.into_iter().find(|state| state.name() == name);
        state.ok_or_else(|| bad(ROLLOUT_DEVICE_STATE.name, "must be a state of a device, such as timed-out"))
    });
    let after = text_cursor::read(&query)?.map(|text| text.parse().map_err(|_| text_cursor::unknown())).transpose()?;
    Ok((limit(&query)?, after.unwrap_or_default(), state.transpose()?))
}
