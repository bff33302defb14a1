//! The sessions of all nodes, for operators: lists, one session, and the end of sessions, from any node.
//!
//! The node that has a session answers for it. A session whose node is gone is taken over first by the node that is to end it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::spawn_blocking, time::timeout};

use crate::{
    mqtt::broker::{
        Broker, DisconnectStreams,
        durable::DURABLE_TIMEOUT,
        peers::{message, questions::Answers},
        session_summary::{SessionName, SessionSummary},
        sessions::{EndedSessions, SessionFilter, SessionKey},
    },
    wire::EndedConnections,
};

/// The longest wait for what nodes know.
const READ_WAIT: Duration = Duration::from_secs(3);
/// The longest wait for the end of a session at another node, which waits for the connection and then for the disk.
const END_WAIT: Duration = DURABLE_TIMEOUT.saturating_mul(2).saturating_add(READ_WAIT);

/// A question to all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Question {
    /// A page of sessions.
    Page { prefix: String, connected: Option<bool>, after: Option<SessionName>, limit: usize },
    /// A session with its filters.
    Session(SessionName),
    /// The end of a session.
    End(SessionName),
    /// The end of everything of a principal, but its sessions if they are kept.
    EndConnections { principal: String, keep_sessions: bool },
}

/// The answer of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Sessions, and the one after which the next page begins.
    Page { sessions: Vec<SessionSummary>, next: Option<SessionName> },
    /// The session, if the node has it.
    Session(Option<Box<SessionSummary>>),
    /// True if the session has ended for good; `None` if the node does not have it.
    Ended(Option<bool>),
    /// The numbers of what ended, and true if that survives a restart.
    EndedConnections(EndedConnections, bool),
}

/// A page of the sessions of all nodes.
#[derive(Debug, Default)]
pub struct SessionPage {
    /// The sessions, in order.
    pub sessions: Vec<SessionSummary>,
    /// The session after which the next page begins, if there may be one.
    pub next: Option<SessionName>,
    /// The nodes that have sessions and have not answered.
    pub silent: Vec<u64>,
}

/// The end of everything of a principal.
#[derive(Debug)]
pub struct EndedEverything {
    /// The numbers of what ended.
    pub ended: EndedConnections,
    /// True if that is on disk at the nodes that have answered, in a cluster in the log.
    pub is_durable: bool,
    /// The nodes that have sessions and have not answered.
    pub silent: Vec<u64>,
}

impl Broker {
    /// Returns at most `limit` sessions of all nodes after `after` that `filter` selects. A page may be short.
    pub async fn list_sessions(
        self: &Arc<Self>,
        filter: &SessionFilter,
        after: Option<SessionName>,
        limit: usize,
    ) -> SessionPage {
        let SessionFilter { prefix, connected } = filter.clone();
        let question = Question::Page { prefix, connected, after, limit };
        let Answers { answers, silent } = self.ask(&question, READ_WAIT, |_| false).await;
        let pages = answers.into_iter().filter_map(|(node, answer)| match answer {
            Answer::Page { mut sessions, next } => {
                sessions.iter_mut().for_each(|session| session.node = node);
                Some((sessions, next))
            }
            _ => None,
        });
        let (sessions, next) = merged(pages.collect(), limit);
        SessionPage { sessions, next, silent }
    }

    /// Returns a session with its filters, of whichever node. If there is none, also the nodes that may have it.
    pub async fn find_session(self: &Arc<Self>, name: &SessionName) -> Result<SessionSummary, Vec<u64>> {
        let is_it = |answer: &Answer| matches!(answer, Answer::Session(Some(_)));
        let Answers { answers, silent } = self.ask(&Question::Session(name.clone()), READ_WAIT, is_it).await;
        let found = answers.into_iter().filter_map(|(node, answer)| match answer {
            Answer::Session(Some(session)) => Some(SessionSummary { node, ..*session }),
            _ => None,
        });
        // One that moves may be at two nodes for a moment.
        found.min_by_key(|session| session.lost.is_some()).ok_or(silent)
    }

    /// Ends a session, of whichever node, as [`Broker::end_session`] does. If there is none, returns the nodes that may have it.
    pub async fn end_session_anywhere(self: &Arc<Self>, name: &SessionName) -> Result<bool, Vec<u64>> {
        let is_it = |answer: &Answer| matches!(answer, Answer::Ended(Some(_)));
        let Answers { answers, silent } = self.ask(&Question::End(name.clone()), END_WAIT, is_it).await;
        let ended = answers.into_iter().filter_map(|(_, answer)| match answer {
            Answer::Ended(ended) => ended,
            _ => None,
        });
        if let Some(is_durable) = ended.reduce(|a, b| a && b) {
            return Ok(is_durable);
        }
        let key = name.key();
        if self.take_over_session(&key).await {
            let ended = self.end_session(&key).await;
            // If it is not here then, it has expired meanwhile, or its client is opening it.
            return Ok(ended.unwrap_or_else(|| !self.is_in_log(&key)));
        }
        if self.is_in_log(&key) { Ok(false) } else { Err(silent) }
    }

    /// Ends everything of a principal at all nodes, but its sessions if they are kept. Wills are published as after any lost
    /// connection. Returns when that is on disk, or takes too long.
    pub async fn end_everything(self: &Arc<Self>, principal: &str, keep_sessions: bool) -> EndedEverything {
        let question = Question::EndConnections { principal: principal.to_owned(), keep_sessions };
        let Answers { answers, silent } = self.ask(&question, END_WAIT, |_| false).await;
        let mut all = EndedEverything { ended: EndedConnections::default(), is_durable: true, silent };
        for (_, answer) in answers {
            if let Answer::EndedConnections(ended, is_durable) = answer {
                all.ended = all.ended.plus(ended);
                all.is_durable &= is_durable;
            }
        }
        all
    }

    /// Sets how the streams and browser sessions of a principal end at this node. Only the first call has an effect.
    pub fn set_disconnect_streams(&self, disconnect: DisconnectStreams) {
        let _ = self.disconnect_streams.set(disconnect);
    }

    /// Answers a question for this node.
    pub(super) async fn answer(self: &Arc<Self>, question: Question) -> Answer {
        match question {
            Question::Page { prefix, connected, after, limit } => {
                let (filter, after) = (SessionFilter { prefix, connected }, after.map(|name| name.key()));
                let (sessions, next) = self.sessions.page(&filter, after.as_ref(), limit);
                let sessions = sessions.iter().map(SessionSummary::of).collect();
                Answer::Page { sessions, next: next.as_ref().map(SessionName::of) }
            }
            Question::Session(name) => {
                let found = self.sessions.find(&name.key());
                Answer::Session(found.map(|session| Box::new(SessionSummary::in_detail(&session))))
            }
            Question::End(name) => Answer::Ended(self.end_session(&name.key()).await),
            Question::EndConnections { principal, keep_sessions } => {
                let broker = Arc::clone(self);
                let ended = spawn_blocking(move || broker.end_everything_here(&principal, keep_sessions)).await;
                match ended {
                    Ok((ended, disposed)) => Answer::EndedConnections(ended, self.ended_durably(disposed).await),
                    Err(error) => {
                        tracing::error!(%error, "cannot end connections");
                        Answer::EndedConnections(EndedConnections::default(), false)
                    }
                }
            }
        }
    }

    /// Returns the numbers of what ended, and what there is to wait for.
    fn end_everything_here(
        self: &Arc<Self>,
        principal: &str,
        keep_sessions: bool,
    ) -> (EndedConnections, Vec<oneshot::Receiver<()>>) {
        let disconnect = self.disconnect_streams.get();
        let (streams, sign_ins) = disconnect.map_or((0, 0), |disconnect| disconnect(principal));
        let EndedSessions { connected, disconnected } = self.sessions.end_of(principal, keep_sessions);
        let connections = connected.len();
        let sessions = if keep_sessions { 0 } else { connections + disconnected.len() };
        disconnected.into_iter().for_each(|ended| self.dispose(ended));
        (EndedConnections { connections, sessions, streams, sign_ins }, connected)
    }

    fn is_in_log(&self, key: &SessionKey) -> bool {
        self.replicated().is_some_and(|replicated| replicated.size_of(key).is_some())
    }

    /// Takes over a session that no node has in memory, and the log has. Returns true if it is at this node now, or has ended.
    async fn take_over_session(&self, key: &SessionKey) -> bool {
        let Some(peers) = self.peers.get() else { return false };
        let Some((former, _)) = peers.replicated.size_of(key) else { return false };
        let bytes = message::adopted(peers.node, former, self.next_session_id());
        let Some(permit) = self.service.reserve_broadcast(bytes.len()) else { return false };
        let (applied, is_applied) = oneshot::channel();
        let on_applied = move || {
            let _nobody_waits_any_more = applied.send(());
        };
        self.service.broadcast(bytes, Some(Box::new(on_applied)), permit);
        matches!(timeout(DURABLE_TIMEOUT, is_applied).await, Ok(Ok(())))
    }
}

/// Returns a page of at most `limit` sessions from those of nodes, each with the session after which it may have more.
fn merged(
    pages: Vec<(Vec<SessionSummary>, Option<SessionName>)>,
    limit: usize,
) -> (Vec<SessionSummary>, Option<SessionName>) {
    // Beyond the end of the shortest page, sessions of its node may be missing.
    let end = pages.iter().filter_map(|(_, next)| next.as_ref().map(SessionName::key)).min();
    let all = pages.into_iter().flat_map(|(sessions, _)| sessions).map(|session| (session.name.key(), session));
    let mut all: Vec<_> = all.filter(|(key, _)| end.as_ref().is_none_or(|end| key <= end)).collect();
    // One that moves may be at two nodes for a moment.
    all.sort_by(|(a, first), (b, second)| (a, first.lost.is_some()).cmp(&(b, second.lost.is_some())));
    all.dedup_by(|(later, _), (earlier, _)| later == earlier);
    let is_cut = all.len() > limit;
    all.truncate(limit);
    let next = if is_cut { all.last().map(|(key, _)| SessionName::of(key)) } else { end.as_ref().map(SessionName::of) };
    (all.into_iter().map(|(_, session)| session).collect(), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(client: &str, node: u64, is_away: bool) -> SessionSummary {
        SessionSummary {
            node: Some(node),
            name: SessionName { principal: "p".into(), client_id: client.into() },
            connection: None,
            lost: is_away.then_some((1, 1)),
            filter_count: 0,
            queued: 0,
            queued_bytes: 0,
            inflight: 0,
            filters: Vec::new(),
        }
    }

    #[test]
    fn pages_of_nodes_become_one_without_gaps() {
        type Page<'a> = (&'a [&'a str], Option<&'a str>);
        let cases: [(&str, &[Page<'_>], &str, Option<&str>); 6] = [
            ("all", &[(&["a", "d"], None), (&["b", "c"], None)], "a1 b2 c2 d1", None),
            ("cut", &[(&["a", "d", "e"], None), (&["b", "c"], None)], "a1 b2 c2 d1", Some("d")),
            ("one has more", &[(&["a", "b"], Some("b")), (&["c"], None)], "a1 b1", Some("b")),
            ("both have more", &[(&["a", "f"], Some("g")), (&["b", "c"], Some("d"))], "a1 b2 c2", Some("d")),
            ("none on a short page", &[(&[], Some("m")), (&["n"], None)], "", Some("m")),
            ("one moves", &[(&["a-", "b"], None), (&["a", "b-"], None)], "a2 b1", None),
        ];
        for (label, pages, expected, next) in cases {
            let name = |client: &str| SessionName { principal: "p".into(), client_id: client.into() };
            let page = |(node, (clients, next)): (u64, &Page<'_>)| {
                let of = |client: &&str| session(client.trim_end_matches('-'), node, client.ends_with('-'));
                (clients.iter().map(of).collect(), next.map(name))
            };
            let (found, found_next) = merged((1..).zip(pages).map(page).collect(), 4);
            let shown = |it: &SessionSummary| format!("{}{}", it.name.client_id, it.node.unwrap_or_default());
            assert_eq!(found.iter().map(shown).collect::<Vec<_>>().join(" "), expected, "{label}");
            assert_eq!(found_next, next.map(name), "{label}");
        }
    }
}
