//! The JSON that stands in MQTT payloads and HTTP bodies: requests in, envelopes out.
//!
//! `request` turns a payload into a typed command, or into the rejection that answers it; `strict` is the JSON reader
//! under it, and under `json_patch`. `envelope` writes the messages in their native shape, [`aws`] in that of AWS. What
//! a reader may see is decided by the [`Projection`](crate::auth::Projection) each envelope takes.
//!
//! Not here: topics and headers (`mqtt`, `http`), and what a command does (`shadow`).

pub mod aws;
mod client_token;
mod dialect;
mod native;
mod request;
#[cfg(test)]
mod tests;
mod write;

pub use crate::wire::native::history::{
    ChangeEntry, HistoryEnd, RefusedEntry, Via, change_entry, followed_refusals, history, refusals,
};
pub use crate::wire::native::listing::{
    DeviceDetail, DeviceEntry, MqttAddress, Seen, ShadowEntry, device, devices, mqtt_listeners, names, presence,
    session, shadows,
};
pub use crate::wire::native::problem::{Problem, problem, rejection_problem};
pub use crate::wire::native::selection::{Selection, former, get_selected};
pub use crate::wire::native::{
    Accepted, changed_lean_delta, delete_accepted, delete_outcome, get_accepted, lean_delta, rejected, update_accepted,
    update_delta, update_documents, update_outcome,
};
pub use crate::wire::request::given::Payload;
pub use crate::wire::request::json_patch::{json_patch, parse_operations};
pub use crate::wire::request::weight::weight;
pub use client_token::{ClientToken, ReplyOptions};
pub use dialect::Dialect;
pub use request::{Parsed, Refused, parse_delete, parse_get, parse_state, parse_update};
