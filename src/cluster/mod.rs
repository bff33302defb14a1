//! Several nodes: the engine that stores their log, and the bus between them.
//!
//! [`nats::NatsLog`] is the log on NATS JetStream: a record is appended under the condition that the log ends at an expected
//! number, which is what [`crate::store`] needs to have one decider at a time (decision 0016). The same servers carry
//! messages between nodes, which may be lost. What records and messages mean is not known here. A node without a store receives
//! that of another over the same servers ([`seeding`]).
//!
//! *Invariant:* an append that was reported as stored is on the disks of a majority of the servers. That holds only if they sync
//! before they answer and the stream has three replicas, so a node refuses others at its start (decision 0021).

mod error;
pub(crate) mod membership;
pub(crate) mod nats;
pub(crate) mod seeding;

pub(crate) use error::{ClusterError, LogUnavailable};
