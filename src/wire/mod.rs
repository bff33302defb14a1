//! The JSON of MQTT payloads and HTTP bodies: parsing of requests, rendering of replies and events.
//!
//! `request` parses a payload into a typed command or a rejection; `strict` is its JSON reader, and that of
//! `request/json_patch`. `native` renders messages in the native dialect, [`aws`] in the AWS dialect. Each message takes
//! the [`Projection`](crate::shadow::Projection) of its reader and contains nothing beyond it.
//!
//! Not here: topics and headers (`mqtt`, `http`), and the effect of a command (`shadow`).

pub mod aws;
mod native;
mod reply_options;
mod request;
#[cfg(test)]
mod tests;
mod write;

pub use crate::wire::native::history::{
    ChangeEntry, HistoryEnd, RefusedEntry, Via, change_entry, followed_refusals, history, refusals,
};
pub use crate::wire::native::listing::{
    DeviceDetail, DeviceEntry, EndedConnections, FoundDevice, MqttAddress, PrincipalUse, PurgeStep, Seen, ShadowEntry,
    Used, device, devices, ended_connections, found_devices, mqtt_listeners, names, presence, principal_use,
    purge_step, session, shadows,
};
pub use crate::wire::native::problem::{Problem, problem, rejection_problem};
pub use crate::wire::native::selection::{Selection, former, get_selected};
pub use crate::wire::native::sessions::{
    GrantedFilter, RetainedEntry, SessionDetail, SessionEntry, mqtt_session, mqtt_sessions, retained,
};
pub use crate::wire::native::{
    Accepted, changed_lean_delta, delete_accepted, delete_outcome, get_accepted, lean_delta, rejected, update_accepted,
    update_delta, update_documents, update_outcome,
};
pub use crate::wire::request::given::Payload;
pub use crate::wire::request::json_patch::{json_patch, parse_operations};
pub use crate::wire::request::rollout::parse_rollout;
pub use crate::wire::request::weight::weight;
pub use reply_options::{Dialect, ReplyOptions};
pub use request::{Parsed, Refused, parse_delete, parse_get, parse_state, parse_update};
