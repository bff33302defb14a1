//! A client of the shadows that an Umbra broker keeps.
//!
//! Several writers of one shadow do not lose each other's updates when each writes under the version it has read, and
//! starts over when that is no longer the current one. [`Shadow::update`] does this: it is given a function from the
//! document to what should change, and calls it again on what others have made of it meanwhile.
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
//!     Some(accepted) => println!("brighter, as version {}", accepted.version),
//!     None => println!("as bright as it gets"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - [`Client`]: the connection, made again whenever it breaks. [`Options`] say where to, an [`Observer`] hears how.
//! - [`ConnectOptions`]: the same from flags or a file, with TLS: `mqtt://`, `mqtts://`, `ws://` and `wss://` URLs, an
//!   authority, a client certificate, a password or a token.
//! - [`Shadow`]: read, update, delete and watch one shadow. [`WriteOptions`] say how to update: `rebase` leaves it to
//!   the service to carry a write over changes of other fields, `keyed` whether a retry is recognised.
//! - [`Watch`]: deltas for devices, documents for dashboards, changes for everybody else.
//! - [`Client::publish`] and [`Client::subscribe`]: ordinary topics.
//! - [`merge`]: three-way merge of documents, for people who edited while others did.
//! - [`Error`] and [`Rejection`]: why not, and which paths collided.
//!
//! *Invariant:* this crate never depends on the server's. Firmware and back ends build it without a storage engine,
//! and it knows the wire and nothing else, so an error in the server's encoding cannot cancel itself out here.

mod address;
mod backoff;
mod client;
mod connect_options;
mod connection;
mod document;
mod equality;
mod error;
mod merge;
mod messages;
mod names;
mod observer;
mod options;
pub mod patch;
mod rejection;
mod shadow;
mod subscriptions;
mod throttled;
mod tls;
mod watch;
mod write;

pub use address::{Address, InvalidAddress, Transport};
pub use backoff::Backoff;
pub use client::Client;
pub use connect_options::{ConnectOptions, ConnectOptionsError, Credentials};
pub use document::{Accepted, Change, Delta, Document, Version};
pub use equality::same_value;
pub use error::Error;
pub use merge::{Collision, merge};
pub use messages::{Message, Messages, Qos};
pub use names::{DeviceId, InvalidName, ShadowId};
pub use observer::{Attempt, Observer};
pub use options::Options;
pub use rejection::{Conflict, Reason, Rejection};
pub use shadow::Shadow;
pub use tls::{Tls, TlsError};
pub use watch::{News, Scope, Topic, Watch};
pub use write::{Update, WriteOptions};

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
