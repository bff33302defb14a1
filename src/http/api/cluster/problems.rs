//! The problems of a cluster in sentences: one place for the page, the commands and scripts.

use std::time::Duration;

use crate::store::{LogServer, LogStatus, MemberHealth, OtherNode, SeedingStatus};

/// The time without a record, of which there are two each second, that is not normal. A change of the decider takes about as long.
const SILENCE_MIN: Duration = Duration::from_secs(3);
/// The records by which a node may be behind others that apply hundreds each second.
const LAG_MAX: u64 = 5_000;
/// The seconds by which the clocks of two nodes may differ. A status may wait for some seconds before it is read.
const CLOCK_DIFFERENCE_MAX: u64 = 5;
/// The servers that must have the log, so that one may be lost.
const SERVERS_MIN: usize = 3;

/// A problem of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterProblem {
    pub(super) severity: Severity,
    pub(super) message: String,
}

/// The severity of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// This node refuses updates, or may lose some.
    Error,
    /// A part of the cluster is not as it should be.
    Warning,
}

impl Severity {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Returns the problems, the worst first. `log` is the state of the log, or the reason why it is not known.
pub(super) fn of(member: &MemberHealth, log: &Result<LogStatus, String>) -> Vec<ClusterProblem> {
    let mut errors: Vec<_> = member.obstacle().into_iter().collect();
    let mut warnings = Vec::new();
    if errors.is_empty() && member.silence > SILENCE_MIN {
        let seconds = member.silence.as_secs();
        warnings.push(format!("Nothing was heard of the log for {seconds} seconds: updates wait"));
    }
    if member.latched.is_none() && member.lag > LAG_MAX {
        warnings.push(format!("This node, {}, is {} records behind", member.node, member.lag));
    }
    let is_seeded = |other: &&OtherNode| member.seedings.iter().any(|seeding| seeding.node.0 == other.node);
    warnings.extend(member.others.iter().filter(|other| !is_seeded(other)).filter_map(of_node));
    warnings.extend(member.seedings.iter().map(|SeedingStatus { node, source, bytes, .. }| {
        format!("Node {} receives the store of node {}, {bytes} bytes so far", node.0, source.0)
    }));
    warnings.extend(member.differences.iter().map(ToString::to_string));
    match log {
        Ok(log) => of_log(log, &mut errors, &mut warnings),
        Err(reason) => errors.push(format!("The log cannot be asked: {reason}")),
    }
    let problem = |severity| move |message| ClusterProblem { severity, message };
    let errors = errors.into_iter().map(problem(Severity::Error));
    errors.chain(warnings.into_iter().map(problem(Severity::Warning))).collect()
}

fn of_node(other: &OtherNode) -> Option<String> {
    let OtherNode { node, lag, clock_ahead, .. } = other;
    if !other.is_alive {
        Some(format!("Node {node} is not heard of: it does not run, or is cut off from NATS"))
    } else if other.has_left {
        Some(format!("Node {node} has left the cluster; its /readyz and its log give the reason"))
    } else if *lag > LAG_MAX {
        Some(format!("Node {node} is {lag} records behind"))
    } else {
        let (seconds, direction) = (clock_ahead.unsigned_abs(), if *clock_ahead > 0 { "ahead of" } else { "behind" });
        (seconds > CLOCK_DIFFERENCE_MAX).then(|| {
            format!("The clock of node {node} is {seconds} seconds {direction} that of this node: synchronize both")
        })
    }
}

fn of_log(log: &LogStatus, errors: &mut Vec<String>, warnings: &mut Vec<String>) {
    let count = log.servers.len();
    if count < SERVERS_MIN {
        errors.push(format!(
            "The log is on {count} NATS server{}, but {SERVERS_MIN} are needed to lose nothing with one",
            if count == 1 { "" } else { "s" }
        ));
    }
    if !log.servers.iter().any(|server| server.is_leader) {
        errors.push("No NATS server leads the log: updates wait until one is elected".to_owned());
    }
    for server in &log.servers {
        let LogServer { name, is_current, settings, .. } = server;
        if !is_current {
            warnings.push(format!("NATS server {name} is away, or far behind the one that leads"));
        }
        let Some(settings) = settings else {
            if *is_current {
                warnings.push(format!(
                    "The settings of NATS server {name} are not known: it does not answer to $SYS.REQ.SERVER.PING.VARZ"
                ));
            }
            continue;
        };
        if let Some(interval) = settings.sync_interval {
            errors.push(format!(
                "NATS server {name} has sync_interval = {interval:?}, so it may lose what it has acknowledged: set `always`"
            ));
        }
        if settings.payload_bytes_max < log.payload_bytes_min {
            let (found, needed) = (settings.payload_bytes_max, log.payload_bytes_min);
            errors.push(format!("NATS server {name} has max_payload = {found} bytes, but {needed} are needed"));
        }
    }
    if log.allows_unsafe_sync {
        warnings.push("This node does not check the NATS servers: cluster.allow_unsafe_sync is set".to_owned());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "a test")]

    use std::sync::Arc;

    use super::*;
    use crate::store::{Difference, LogServerSettings, NodeId};

    fn server(name: &str) -> LogServer {
        let settings = LogServerSettings { version: "2.15.1".into(), payload_bytes_max: 8 << 20, sync_interval: None };
        LogServer { name: name.into(), is_leader: name == "n1", is_current: true, settings: Some(settings) }
    }

    fn sound() -> (MemberHealth, LogStatus) {
        let other = |node| {
            let (has_left, profile) = (false, Arc::default());
            OtherNode { node, applied: 9, lag: 0, is_alive: true, has_left, clock_ahead: 5, profile }
        };
        let member = MemberHealth { node: 1, decider: Some(2), others: vec![other(2), other(3)], ..Default::default() };
        let servers = ["n1", "n2", "n3"].map(server).into();
        (member, LogStatus { servers, payload_bytes_min: 2 << 20, ..Default::default() })
    }

    #[test]
    fn each_fault_has_a_sentence() {
        type Change = fn(&mut MemberHealth, &mut LogStatus);
        let table: [(Change, &[&str]); 16] = [
            (|_, _| {}, &[]),
            (|member, _| member.decider = None, &["error: No node of the cluster decides yet"]),
            (|member, _| member.latched = Some("fork".into()), &["error: This node has left its cluster: fork"]),
            (
                |member, _| member.silence = Duration::from_secs(4),
                &["warning: Nothing was heard of the log for 4 seconds"],
            ),
            (
                |member, _| member.silence = Duration::from_secs(14),
                &["error: Nothing was heard of the cluster's log for 14"],
            ),
            (|member, _| member.lag = 5_001, &["warning: This node, 1, is 5001 records behind"]),
            (|member, _| member.others[1].is_alive = false, &["warning: Node 3 is not heard of"]),
            (
                |member, _| {
                    member.others[1].is_alive = false;
                    let (node, source) = (NodeId(3), NodeId(1));
                    member.seedings = vec![SeedingStatus { node, source, needed: 5, bytes: 70 }];
                },
                &["warning: Node 3 receives the store of node 1, 70 bytes so far"],
            ),
            (
                |member, _| member.others[0].clock_ahead = 6,
                &["warning: The clock of node 2 is 6 seconds ahead of that of this node"],
            ),
            (
                |member, _| member.others[1].clock_ahead = -70,
                &["warning: The clock of node 3 is 70 seconds behind that of this node"],
            ),
            (|member, _| member.others[0].has_left = true, &["warning: Node 2 has left the cluster"]),
            (
                |member, _| {
                    let nodes = vec![vec![1, 2], vec![3]];
                    member.differences = vec![Difference { name: "auth.users".into(), nodes }];
                },
                &["warning: auth.users is not the same at nodes 1, 2 and at node 3"],
            ),
            (|_, log| drop(log.servers.pop()), &["error: The log is on 2 NATS servers, but 3 are needed"]),
            (
                |_, log| {
                    log.servers[2].is_current = false;
                    log.servers[2].settings = None;
                },
                &["warning: NATS server n3 is away"],
            ),
            (
                |_, log| {
                    let settings = log.servers[0].settings.as_mut().expect("it has some");
                    (settings.sync_interval, settings.payload_bytes_max) = (Some(Duration::from_secs(120)), 1024);
                },
                &[
                    "error: NATS server n1 has sync_interval = 120s",
                    "error: NATS server n1 has max_payload = 1024 bytes, but 2097152 are needed",
                ],
            ),
            (
                |_, log| {
                    log.servers[1].settings = None;
                    log.allows_unsafe_sync = true;
                },
                &["warning: The settings of NATS server n2 are not known", "warning: This node does not check"],
            ),
        ];
        for (number, (change, expected)) in table.into_iter().enumerate() {
            let (mut member, mut log) = sound();
            change(&mut member, &mut log);
            let found: Vec<_> = of(&member, &Ok(log))
                .iter()
                .map(|ClusterProblem { severity, message }| format!("{}: {message}", severity.name()))
                .collect();
            assert_eq!(found.len(), expected.len(), "{number}: {found:?}");
            assert!(
                found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected)),
                "{number}: {found:?}"
            );
        }
        let unknown = of(&sound().0, &Err("NATS did not answer in time".into()));
        assert_eq!(unknown[0].message, "The log cannot be asked: NATS did not answer in time");
    }
}
