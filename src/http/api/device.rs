//! Reads of a single device: its presence and its shadows.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};

use crate::{
    admission::work,
    http::{
        api::{
            devices::{self, After},
            history::{link, no_store},
            query::Query,
            target::Target,
        },
        auth::caller::Caller,
        operation::Operation,
        problem::Problem,
        state::Api,
    },
    search::visible::presence_of,
    wire::{self, DeviceDetail},
};

/// Most shadows in a response. `/v1/devices/{id}/shadows` lists the others.
const SHADOWS_MAX: usize = 100;

/// `GET /v1/devices/{id}`
///
/// A device exists for a caller that may see one of its shadows, or that may see its presence if it was ever connected.
pub(in crate::http) async fn get(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Target(key): Target,
    uri: Uri,
) -> Result<Response, Problem> {
    caller.admit(work::PAGE, &api)?;
    let query = Query::read(uri.query(), Operation::GetDevice.parameters());
    query.map_err(|bad| api.invalid(&bad))?;
    let permit = caller.read_turn(&api).await;
    let found = devices::of_device(&api, &caller, &key.device, After::Nothing, SHADOWS_MAX).await;
    let (shadows, more) = found.map_err(|rejection| devices::failed(&rejection, &api))?;
    drop(permit);
    let (connected, seen) = presence_of(&key.device, caller.access(), &*api.presence);
    if shadows.is_empty() && seen.is_none() {
        let message = format!("Device '{}' does not exist", key.device.as_str());
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", &message, api.now()));
    }
    let last = devices::next_cursor(&shadows, more);
    let detail = DeviceDetail { id: key.device.as_str(), connected, seen: seen.as_ref(), shadows: &shadows };
    let mut response = no_store(wire::device(&detail, last));
    if let Some(last) = last {
        link(&mut response, &format!("{}/shadows?cursor={last}", uri.path()));
    }
    Ok(response)
}
