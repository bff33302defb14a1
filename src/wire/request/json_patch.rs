//! Parsing of JSON Patch (RFC 6902) into operations on a shadow.

use serde_json::{Map, Value};

use crate::{
    shadow::{
        DocumentLimits, JsonPatch, Pointer, Rejection,
        patch::{LEVELS_MAX, OPERATIONS_MAX, PatchOperation},
    },
    wire::request::{
        fields::invalid,
        strict::{self, Any, shown},
    },
};

/// The levels of a body above the content of a section: the array, the operation and the section.
const LEVELS: usize = 3;

/// Parses `payload` as JSON by the rules of requests, with the depth that a shadow may have.
///
/// # Errors
///
/// A rejection of code 400 or 415.
pub fn parse_operations(payload: &[u8], limits: &DocumentLimits) -> Result<Value, Rejection> {
    let Any { value, refusal } = strict::read_value(payload, limits.depth_max + LEVELS);
    match refusal {
        Some(Rejection::TooDeep { .. }) => Err(Rejection::TooDeep { max: limits.depth_max }),
        Some(rejection) => Err(rejection),
        None => Ok(value),
    }
}

/// Returns the patch with the operations in `json`.
///
/// # Errors
///
/// A rejection of code 400 that names the operation, counted from 0.
pub fn json_patch(json: Value) -> Result<JsonPatch, Rejection> {
    let Value::Array(operations) = json else { return Err(invalid("patch", "must be an array of operations")) };
    let too_many = || invalid("patch", &format!("has more than {OPERATIONS_MAX} operations"));
    if operations.len() > OPERATIONS_MAX {
        return Err(too_many());
    }
    let operations = operations.into_iter().enumerate().map(|(index, json)| {
        operation(json).map_err(|fault| match fault {
            OperationError::Reason(reason) => invalid(&format!("operation {index}"), &reason),
            OperationError::Rejected(rejection) => rejection,
        })
    });
    JsonPatch::new(operations.collect::<Result<_, _>>()?).ok_or_else(too_many)
}

/// The fault of one operation.
enum OperationError {
    Reason(String),
    Rejected(Rejection),
}

impl From<String> for OperationError {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

fn operation(json: Value) -> Result<PatchOperation, OperationError> {
    let Value::Object(mut members) = json else { return Err("must be an object".to_owned().into()) };
    let op = members.get("op").and_then(Value::as_str).ok_or_else(|| "'op' must be a string".to_owned())?.to_owned();
    let path = pointer(&members, "path")?;
    let mut value = || members.remove("value").ok_or_else(|| format!("'{op}' needs a 'value'"));
    Ok(match op.as_str() {
        "add" => PatchOperation::Add(path.clone(), storable(&path, value()?)?),
        "replace" => PatchOperation::Replace(path.clone(), storable(&path, value()?)?),
        "test" => PatchOperation::Test(path, value()?),
        "remove" => PatchOperation::Remove(path),
        "move" | "copy" => {
            let from = pointer(&members, "from")?;
            match op.as_str() {
                // RFC 6902 section 4.4.
                "move" if path != from && path.is_within(&from) => {
                    return Err("a value cannot be moved into itself".to_owned().into());
                }
                "move" => PatchOperation::Move { from, to: path },
                _ => PatchOperation::Copy { from, to: path },
            }
        }
        _ => {
            let op = shown(&op);
            return Err(format!("'{op}' is none of add, remove, replace, move, copy and test").into());
        }
    })
}

fn pointer(members: &Map<String, Value>, field: &str) -> Result<Pointer, OperationError> {
    let text = members.get(field).and_then(Value::as_str).ok_or_else(|| format!("'{field}' must be a string"))?;
    let pointer: Pointer =
        text.parse().map_err(|error| OperationError::Reason(format!("'{field}' is '{}', {error}", shown(text))))?;
    if pointer.keys.len() > LEVELS_MAX {
        return Err(format!("'{field}' has more than {LEVELS_MAX} keys").into());
    }
    Ok(pointer)
}

/// Returns `value` if a shadow may hold it at `path`.
fn storable(path: &Pointer, value: Value) -> Result<Value, OperationError> {
    if path.keys.is_empty() && !value.is_object() {
        return Err(OperationError::Rejected(Rejection::InvalidSection(Some(path.section))));
    }
    let key = path.keys.last().map_or(path.section.as_str(), |key| &**key);
    match null_in(key, &value) {
        Some(key) => Err(OperationError::Rejected(Rejection::InvalidNode { key: shown(key) })),
        None => Ok(value),
    }
}

/// Returns the key nearest above the first null in `value`.
fn null_in<'v>(key: &'v str, value: &'v Value) -> Option<&'v str> {
    match value {
        Value::Null => Some(key),
        Value::Array(elements) => elements.iter().find_map(|element| null_in(key, element)),
        Value::Object(members) => members.iter().find_map(|(key, member)| null_in(key, member)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_the_operation_at_fault() {
        let long = "/k".repeat(LEVELS_MAX + 1);
        for (patch, named) in [
            (json!({}), "patch"),
            (json!([1]), "operation 0"),
            (json!([{"op": "remove", "path": "/desired/a"}, {"op": "remove"}]), "operation 1"),
            (json!([{"op": "remove", "path": "desired"}]), "operation 0"),
            (json!([{"op": "move", "path": "/desired/a"}]), "operation 0"),
            (json!([{"op": "move", "from": "/desired/a", "path": "/desired/a/b"}]), "operation 0"),
            (json!([{"op": "remove", "path": "/desired/~2"}]), "operation 0"),
            (json!([{"op": "remove", "path": format!("/desired{long}")}]), "operation 0"),
            (json!([{"path": "/desired/a"}]), "operation 0"),
        ] {
            let field = match json_patch(patch.clone()) {
                Err(Rejection::InvalidField { field, .. }) => Some(field),
                _ => None,
            };
            assert_eq!(field.as_deref(), Some(named), "{patch}");
        }
    }
}
