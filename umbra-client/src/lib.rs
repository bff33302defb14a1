//! A client of the shadows that an Umbra broker keeps.
//!
//! Several writers of one shadow do not lose each other's updates if each writes under the version that it has read, and
//! starts over if that is no longer the current one. [`Shadow::update`] does this: it calls a closure with the document,
//! writes the changes that the closure returns, and after a conflict calls it again with the new document.
//!
//! ```no_run
//! use serde_json::json;
//! use umbra_client::{Client, DeviceId, Options};
//!
//! # async fn example() -> Result<(), umbra_client::Error> {
//! let client = Client::connect(Options::new("127.0.0.1:1883", "back-end-1")?).await?;
//! let lamp = client.shadow(DeviceId::new("lamp-1")?);
//! let accepted = lamp
//!     .update(|document| {
//!         let now = document.pointer("/desired/brightness").and_then(|value| value.as_u64()).unwrap_or(50);
//!         (now < 100).then(|| json!({"desired": {"brightness": now + 10}}))
//!     })
//!     .await?;
//! match accepted {
//!     Some(accepted) => println!("brighter, at version {}", accepted.version),
//!     None => println!("at its brightest"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - [`Client`]: a connection that is reopened whenever it breaks; its settings are [`Options`], its callbacks an
//!   [`Observer`].
//! - [`ConnectOptions`]: the settings from flags or a file, with TLS: `mqtt://`, `mqtts://`, `ws://` and `wss://` URLs, an
//!   authority, a client certificate, a password or a token.
//! - [`Shadow`]: reads, updates, deletes and watches one shadow. [`Shadow::report`] and [`Shadow::desire`] write whatever
//!   the version; [`WriteOptions`] tune [`Shadow::update_with`].
//! - [`Watch`]: a stream of deltas for devices, documents for dashboards, changes and presence for back ends.
//! - [`Client::publish`] and [`Client::subscribe`]: ordinary topics; [`Messages`] is a stream, too.
//! - [`HttpClient`]: lists of devices and shadows, histories, backups.
//! - [`merge()`]: a three-way merge, for edited copies of a document.
//! - [`Error`] with its [`ErrorKind`], and [`Rejection`] with the conflicting paths.
//!
//! Every list and watch implements [`Stream`](futures_core::Stream), and has an `async` method for programs that need no
//! combinators.
//!
//! *Invariant:* this crate never depends on the server's. Firmware and back ends build it without a storage engine, and
//! it knows the protocol alone, so an error in the server's encoding cannot cancel itself out here.

mod address;
mod backoff;
mod client;
mod connect_options;
mod connection;
mod credentials;
mod document;
mod equality;
mod error;
mod http_client;
mod merge;
mod messages;
mod names;
mod observer;
mod options;
pub mod patch;
mod rejection;
mod requests;
mod shadow;
mod subscriptions;
mod throttled;
mod tls;
mod update;
mod version;
mod watch;
mod write;

pub use address::{Address, InvalidAddress, Transport};
pub use backoff::Backoff;
pub use client::Client;
pub use connect_options::{ConnectOptions, ConnectOptionsError};
pub use credentials::Credentials;
pub use document::{Accepted, Change, Delta, Document, DryRun, Presence};
pub use equality::same_value;
pub use error::{ConnectionError, Error, ErrorKind};
pub use http_client::{
    AggregateQuery, Body, Changes, DeviceDetail, DeviceEntry, DeviceQuery, EndedConnections, FoundDevice,
    GrantedFilter, HistoryEntry, HistoryQuery, HttpClient, NamedQuery, Pages, PathChange, Progress, PurgeQuery,
    PurgeStep, Rejections, RetainedEntry, Rollout, RolloutCommand, RolloutDevice, RolloutWave, SearchQuery,
    SessionDetail, SessionEntry, SessionQuery, ShadowEntry,
};
pub use merge::{Collision, merge};
pub use messages::{Message, Messages, Qos};
pub use names::{DeviceId, InvalidName, ShadowId};
pub use observer::{Attempt, Observer};
pub use options::Options;
pub use rejection::{Conflict, Reason, Rejection};
pub use shadow::Shadow;
pub use tls::{Tls, TlsError};
pub use update::Update;
pub use version::Version;
pub use watch::{Event, Scope, Topic, Watch};
pub use write::WriteOptions;

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
