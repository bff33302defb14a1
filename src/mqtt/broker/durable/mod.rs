//! The part of the broker's state that survives a restart, as rows of the store ([`crate::store::RowEdit`]).
//!
//! | key | value |
//! |---|---|
//! | `f`, session, filter | a subscription ([`subscription_row`]) |
//! | `i`, session, packet identifier | a received QoS 2 packet identifier ([`received_row`]) |
//! | `m`, number | a message that waits for sessions ([`queue_row`]) |
//! | `p`, device | the presence of a device ([`presence_row`]); in a cluster, `p`, device, 0, node |
//! | `q`, session, number | a message that waits for a session, or for its acknowledgement ([`queue_row`]) |
//! | `r`, topic | a retained message and its publisher ([`retained_row`]) |
//! | `s`, session | a session that outlives its connection, or has a will ([`session_row`]) |
//! | `v`, node, filter | in a cluster, the number of members of a group that have no rows ([`group_row`]) |
//! | `t` | the date and the progress of connected sessions ([`clock_row`]); in a cluster, `t`, node |
//!
//! Rows follow the state in memory: whoever changes one sends the edit to the [`Recorder`] under the same lock, so the
//! edits of a row are in the order of its changes. A publisher is answered when the edits of its message are on disk
//! ([`Recorder::after_commit`]), a client without a session when the end of a former one is ([`removals`]). In a cluster, the rows of sessions and presence go through the log instead, to all nodes ([`row_log`]).

pub(in crate::mqtt::broker) mod clock_row;
pub(in crate::mqtt) mod group_row;
pub(in crate::mqtt) mod message_row;
pub(in crate::mqtt) mod presence_row;
pub(in crate::mqtt) mod queue_row;
pub(in crate::mqtt) mod received_row;
mod recorder;
mod removals;
pub(in crate::mqtt::broker) mod restore;
pub(in crate::mqtt) mod retained_row;
pub(in crate::mqtt::broker) mod row_log;
pub(in crate::mqtt) mod session_row;
mod sessions;
pub(in crate::mqtt) mod subscription_row;

pub(in crate::mqtt) use self::recorder::DURABLE_TIMEOUT;
pub use self::recorder::Recorder;
pub(in crate::mqtt) use self::removals::Removal;
