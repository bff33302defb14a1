//! The topics of named queries: `shadow/$query/<name>/<event>`. No device has such an id.
//!
//! A filter is for one query: the name has no wildcard, since each query that is followed costs work and memory. So `#` and
//! `shadow/#` select no message of a query.

use crate::{
    mqtt::protocol::{
        packet::Reason,
        topic::{TopicFilter, TopicName},
    },
    search::named::QueryName,
};

/// The level below which all topics of queries are.
const ROOT: &str = "shadow/$query";

/// The event that has no equal in [`crate::search::live`]: the number of devices.
pub(in crate::mqtt) const COUNT: &str = "count";

/// The last levels of the topics.
const EVENTS: [&str; 6] = ["start", "enter", "leave", "complete", COUNT, "end"];

/// Returns true if `text`, a topic or filter, is one of queries.
pub(in crate::mqtt) fn is_of_queries(text: &str) -> bool {
    text.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns the query whose messages `filter` selects; `None` if it is no filter of queries.
///
/// # Errors
///
/// [`Reason::TOPIC_FILTER_INVALID`]: it selects no event of a single query, or for a group of subscribers.
pub(in crate::mqtt) fn query_of(filter: &TopicFilter) -> Option<Result<QueryName, Reason>> {
    is_of_queries(filter.as_str()).then(|| {
        let rest = filter.as_str().strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/'));
        let parts = rest.and_then(|rest| rest.split_once('/')).filter(|_| filter.share().is_none());
        let named = parts.filter(|(_, event)| ["#", "+"].contains(event) || EVENTS.contains(event));
        let name = named.and_then(|(name, _)| QueryName::new(name).ok());
        name.ok_or(Reason::TOPIC_FILTER_INVALID)
    })
}

/// Returns the topic of an event of the query `name`.
pub(in crate::mqtt) fn topic(name: &QueryName, event: &str) -> TopicName {
    let topic = format!("{ROOT}/{name}/{event}");
    TopicName::new(&topic).expect("it is built from a checked name and fits the limit")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_filter_is_for_one_query() {
        for (filter, expected) in [
            ("shadow/$query/q/#", "q"),
            ("shadow/$query/q:1/+", "q:1"),
            ("shadow/$query/q/count", "q"),
            ("shadow/$query/q/end", "q"),
            ("shadow/$query", "invalid"),
            ("shadow/$query/#", "invalid"),
            ("shadow/$query/q", "invalid"),
            ("shadow/$query/+/count", "invalid"),
            ("shadow/$query/q/counts", "invalid"),
            ("shadow/$query/q/+/x", "invalid"),
            ("shadow/$query/q/count/#", "invalid"),
            ("shadow/$query/q$/#", "invalid"),
            ("shadow/$query//#", "invalid"),
            ("$share/g/shadow/$query/q/#", "invalid"),
            ("shadow/$queries/q/#", "another"),
            ("shadow/+/q/count", "another"),
            ("shadow/#", "another"),
            ("#", "another"),
        ] {
            let found = match query_of(&TopicFilter::new(filter).unwrap()) {
                None => "another".to_owned(),
                Some(Err(_)) => "invalid".to_owned(),
                Some(Ok(name)) => name.to_string(),
            };
            assert_eq!(found, expected, "{filter}");
        }
    }
}
