//! The cursors of a search.
//!
//! In the order of the device ids, a cursor is the last device, sealed if its reader may not see it. In another order, it
//! is the place of the last match: a value that its reader has seen, and the device.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::{
    fleet::order::{Order, Place},
    http::{api::devices::INVALID_CURSOR, auth::caller::Caller, cursor, state::Api},
    shadow::DeviceId,
};

/// The prefix of a place, which no device id contains.
const PREFIX: char = '.';

/// Returns the cursor after `place`.
pub(super) fn of_place(place: &Place) -> String {
    let parts = serde_json::json!([place.value(), place.device().as_str()]);
    format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(parts.to_string()))
}

/// Parses a cursor of a search in this order.
pub(super) fn read(text: &str, order: &Order, caller: &Caller, api: &Api) -> Result<Place, String> {
    if !order.is_natural() {
        return place(text, order).ok_or_else(|| "is not a 'next' of a search in this order".to_owned());
    }
    let device = match cursor::is_sealed(text) {
        false => DeviceId::new(text).map_err(|error| error.to_string())?,
        true => api.cursors.open(text, caller.principal()).ok_or_else(|| INVALID_CURSOR.to_owned())?,
    };
    Ok(order.place_of(None, device))
}

fn place(text: &str, order: &Order) -> Option<Place> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
    let (value, device) = serde_json::from_slice::<(Value, String)>(&bytes).ok()?;
    Some(order.place_of(Some(&value), DeviceId::new(&device).ok()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use serde_json::json;

    use super::*;

    #[test]
    fn places_come_back_from_their_cursor() {
        let order: Order = "-reported.x".parse().unwrap();
        for value in [json!(null), json!(1.5), json!("Text é"), json!(true)] {
            let found = order.place_of(Some(&value), DeviceId::new("lamp:1").unwrap());
            assert_eq!(place(&of_place(&found), &order), Some(found), "{value}");
        }
        for nonsense in ["", ".", "lamp", ".AAAA", ".WzFd", ".!"] {
            assert_eq!(place(nonsense, &order), None, "{nonsense}");
        }
    }
}
