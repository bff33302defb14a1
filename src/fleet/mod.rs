//! The fleet as one thing: queries over devices, and rollouts of a change to them.
//!
//! [`query`] parses a query and evaluates it for one [`Device`]: a pure function of the device's documents, its presence
//! and the time, without I/O, clock, lock or async. [`order`] keeps the first matches of an order, [`aggregate`] counts and
//! statistics of a field. [`rollout`] decides which device is changed when, and what its state is; it is pure as well.
//!
//! *Invariant:* a [`Device`] has only what its reader may see. Its documents were cut to the readable paths, and its
//! delta and drift made from these, so neither a predicate nor its negation depends on a hidden value.
//!
//! The scan of the store is in [`crate::engine`], searches on behalf of a reader in [`crate::search`].

pub mod aggregate;
pub mod device;
pub mod order;
pub mod query;
pub mod rollout;

pub use aggregate::{Aggregate, Aggregation};
pub use device::{Device, Presence, Shadow};
pub use query::{Query, QueryError, field::Field, needs::Needs, needs::ShadowNeeds};
pub use rollout::Rollout;
