//! The loads: clients on raw sockets, polled by one thread.
//!
//! Each kind of client is a set with state ([`Clients`]); the one loop that polls them, warms up, measures and finds lost
//! requests is [`event_loop`].
//!
//! - [`devices`]: one connection per device, each with its own shadow, in a closed or an open loop
//! - [`gateways`]: connections that act for many devices, several requests in flight each
//! - [`dashboards`]: subscribers of the updates of all devices
//! - [`pairs`]: publishers and subscribers of ordinary messages
//! - [`web`]: readers and writers over HTTP; [`readers`]: readers of server-sent events
//! - [`keys`]: writers of the keys of a NATS key-value bucket
//!
//! A request that is rejected, answered wrongly or not answered fails the measurement.

pub(crate) mod dashboards;
mod device;
pub(crate) mod devices;
pub(crate) mod event_loop;
pub(crate) mod gateways;
pub(crate) mod http;
pub(crate) mod keys;
pub(crate) mod message;
pub(crate) mod nats;
pub(crate) mod pairs;
pub(crate) mod readers;
mod schedule;
pub(crate) mod searches;
mod socket;
pub(crate) mod tally;
pub(crate) mod visitor;
pub(crate) mod web;
