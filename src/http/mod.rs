//! The HTTP door: the native API, the AWS-compatible one, and what they share.
//!
//! `operation` has the table of what there is; `router` makes routes of it, `openapi` the description, `query` checks
//! parameters against it. A request passes `caller` (who asks, what they may), then a handler: `shadows` reads,
//! `writes` changes, the rest is named after what it answers. `conditional` and `patch` are pure. Whatever is refused
//! leaves as a [`problem`].
//!
//! Commands go through [`crate::service`], as those of MQTT do, and are announced there as well.

pub mod api;
mod aws;
mod caller;
mod conditional;
mod devices;
mod events;
mod history;
mod openapi;
mod operation;
mod patch;
mod payload;
mod problem;
mod query;
mod router;
mod shadows;
pub mod sigv4;
mod submit;
mod target;
mod wait;
mod writes;

pub use self::{api::Api, caller::Known, router::router};
