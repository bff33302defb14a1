//! The names of workloads, servers and loads, as the results have them.

pub(crate) const HOT: &str = "hot";
pub(crate) const FEW: &str = "few";
pub(crate) const FLEET: &str = "fleet";
pub(crate) const KINDS: &str = "kinds";
pub(crate) const COLD: &str = "cold";
pub(crate) const CONTENTION: &str = "contention";
pub(crate) const FAN_OUT: &str = "fan-out";
pub(crate) const STORM: &str = "storm";
pub(crate) const MIXED: &str = "mixed";
pub(crate) const READS: &str = "reads";
pub(crate) const EVENTS: &str = "events";
pub(crate) const MESSAGES: &str = "messages";
pub(crate) const SESSIONS: &str = "sessions";
pub(crate) const SEARCH: &str = "search";
pub(crate) const RAMP_UP: &str = "ramp-up";

pub(crate) const UMBRAD: &str = "umbrad";
pub(crate) const MOSQUITTO: &str = "mosquitto + echo";
pub(crate) const MOSQUITTO_PERSISTENT: &str = "mosquitto, persistence";
pub(crate) const POSTGRES: &str = "mosquitto + PostgreSQL";
pub(crate) const NATS: &str = "NATS key-value";
pub(crate) const NATS_MQTT: &str = "NATS JetStream, MQTT";
pub(crate) const RUMQTTD: &str = "rumqttd + echo";
pub(crate) const DISK: &str = "disk";

pub(crate) const CLOSED: &str = "closed loop";
pub(crate) const OPEN: &str = "open loop, half the rate";
pub(crate) const IN_MEMORY: &str = "closed loop, store in memory";
pub(crate) const COLD_LOAD: &str = "all shadows";
pub(crate) const WARM_LOAD: &str = "10,000 shadows";
pub(crate) const WITH_READERS: &str = "closed loop, with event readers";
pub(crate) const CONNECTED: &str = "connected";
pub(crate) const DISCONNECTED: &str = "disconnected";
pub(crate) const WRITERS_ALONE: &str = "writers";
pub(crate) const WRITERS_BESIDE_SCANS: &str = "writers, beside full scans";
pub(crate) const SCANS_BESIDE_WRITERS: &str = "full scan, beside writers";
pub(crate) const INDEXED_WRITERS: &str = "writers, three indexed paths";
pub(crate) const SCANS_LOAD: &str = "full scan";
pub(crate) const FIRST_PAGES_LOAD: &str = "first page, indexed";
pub(crate) const AGGREGATES_LOAD: &str = "aggregate, indexed";
pub(crate) const STOPPED: &str = "start after a stop";
pub(crate) const KILLED: &str = "start after a kill";

/// Returns one sentence about a workload, for the page of results.
pub(crate) fn about(workload: &str) -> &'static str {
    match workload {
        HOT => {
            "1,000 devices, each with a connection, a shadow and one conditional update in flight; beside it the time of a \
             small append and sync on the same disk."
        }
        FEW => "The same with 100 devices, for the latency.",
        FLEET => "The same with 15,000 devices.",
        KINDS => "The same as hot, by the precondition of the updates.",
        COLD => {
            "Conditional updates of uniformly random shadows over 100 connections that act for many devices, 16 in flight \
             each: of all shadows, which are created first, and of 10,000."
        }
        CONTENTION => "64 writers of one shadow, each with one update in flight, which is repeated after a conflict.",
        FAN_OUT => "100 dashboards that subscribe to the accepted updates of all devices.",
        STORM => {
            "18,000 idle devices with four subscriptions each lose their connections and connect again at once; each is \
             served when its next update is accepted."
        }
        MIXED => "Reads and conditional writes, half of each, over MQTT and HTTP at the same time.",
        READS => "Reads of a shadow over HTTP, with a body and answered by 304.",
        EVENTS => "10,000 devices that update, without and with 1,000 readers of server-sent events.",
        MESSAGES => "Ordinary QoS 1 messages from 200 publishers to persistent sessions of 200 subscribers.",
        SESSIONS => "Persistent sessions: their memory, and the start with many of them and of queued messages.",
        SEARCH => {
            "Searches over many shadows, alone: a full scan, the first page of an indexed predicate, and the terms of an \
             indexed path. Random updates of these shadows, alone, beside full scans one after another, and with three \
             indexed paths that they do not change."
        }
        RAMP_UP => {
            "Accepted updates in the time from the first CONNECT, of 5,000 devices that connect and update at once."
        }
        _ => "",
    }
}
