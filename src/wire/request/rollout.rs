//! Parsing of the description of a rollout or a bulk change, as far as it has a shadow's values.

use serde_json::{Map, Value};

use super::{fields, patches, strict};
use crate::{
    shadow::{DocumentLimits, Rejection, Update},
    wire::{Dialect, request::strict::Object},
};

/// Parses `payload`, an object whose member `patch` is a merge patch of the state and whose member `expect` has the
/// conditions of an update. Returns all members, and the update with its conditions.
///
/// # Errors
///
/// A rejection of code 400 or 415. Depth is limited here, size on each resulting document.
pub fn parse_rollout(payload: &[u8], limits: &DocumentLimits) -> Result<(Map<String, Value>, Update), Rejection> {
    // `patch` and its section are two levels more than a section's values.
    let Object { members, refusal, null_in } = strict::read_object(payload, limits.depth_max + 2, |_| true);
    match refusal {
        Some(Rejection::TooDeep { .. }) => return Err(Rejection::TooDeep { max: limits.depth_max }),
        Some(rejection) => return Err(rejection),
        None => {}
    }
    let state = match members.get("patch") {
        None => return Err(fields::invalid("patch", "is needed")),
        Some(state @ Value::Object(_)) => state.clone(),
        Some(_) => return Err(fields::invalid("patch", "must be an object with 'desired', 'tags' or both")),
    };
    let mut update = patches(state, Dialect::Native)?;
    update.preconditions.expect = fields::expectations(&members)?;
    match null_in {
        Some(key) => Err(Rejection::InvalidNode { key }),
        None => Ok((members, update)),
    }
}
