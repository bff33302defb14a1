//! Filters narrowed to the rights of their session.
//!
//! A device that subscribes to `#` or `shadow/#` may receive a few topics only, but the router would find its
//! subscription for every message and ask its rights each time. So the router has, in place of such a filter, the few
//! filters that select what the filter and the rights have in common. They may select more than the rights allow, never
//! more than the filter: each message is still authorized by itself.

use crate::{
    auth::{Access, DeviceRange, Operation, is_reserved},
    mqtt::{protocol::topic::TopicFilter, shadow::query_topics},
};

/// Returns the filters to which the rights of a session narrow `filter`; `None` if it stays as it is.
///
/// They select every topic that `filter` selects and the session may receive, and no topic that `filter` does not
/// select. They may overlap. Those of a shared subscription are without its group.
pub(in crate::mqtt) fn narrowed(access: &Access, filter: &TopicFilter) -> Option<Vec<TopicFilter>> {
    // The messages of a query are made for one session with its rights.
    if query_topics::is_of_queries(filter.as_str()) {
        return None;
    }
    if !is_wildcard(filter) || access.is_everything() {
        return None;
    }
    let devices = access.devices(Operation::Subscribe, FILTERS_MAX)?;
    let below_devices = devices.iter().flat_map(|device| {
        let device = match device {
            DeviceRange::One(device) => device.as_str(),
            DeviceRange::Prefix(_) => "+",
        };
        [format!("shadow/{device}/#"), format!("$aws/things/{device}/shadow/#")]
    });
    let of_shadows = below_devices.filter_map(|allowed| intersection(filter.as_str(), &allowed));
    let ordinary = access.topics()?.into_iter().filter_map(|allowed| intersection(filter.as_str(), &allowed));
    let ordinary = ordinary.filter_map(|both| match &*both {
        "shadow/#" => Some("shadow".to_owned()),
        both if is_reserved(both) => None,
        _ => Some(both),
    });
    let narrowed = few(of_shadows.chain(ordinary))?;
    let is_deep = |filter: &str| filter.split('/').count() > LEVELS_MAX;
    if narrowed.iter().any(|both| both == filter.as_str() || is_deep(both)) {
        return None;
    }
    narrowed.iter().map(|text| TopicFilter::new(text).ok()).collect()
}

/// Returns filters that select every ordinary topic that a client with `access` may receive, and perhaps others; `None`
/// if it may receive all, or if its rights need too many filters.
pub(in crate::mqtt) fn outlines(access: &Access) -> Option<Vec<TopicFilter>> {
    few(access.topics()?)?.iter().map(|text| TopicFilter::new(text).ok()).collect()
}

/// Returns `filters` without those that others cover; `None` if more than [`FILTERS_MAX`] are left.
fn few(filters: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
    let mut few: Vec<String> = Vec::new();
    for filter in filters {
        if !few.iter().any(|known| covers(known, &filter)) {
            few.retain(|known| !covers(&filter, known));
            few.push(filter);
        }
        if few.len() > FILTERS_MAX {
            return None;
        }
    }
    Some(few)
}

/// Returns true if `filter` has wildcards.
pub(in crate::mqtt) fn is_wildcard(filter: &TopicFilter) -> bool {
    filter.as_str().contains(['+', '#'])
}

/// Returns the filter that selects the topics that both filters select; `None` if there are none.
fn intersection(a: &str, b: &str) -> Option<String> {
    let (mut of_a, mut of_b) = (a.split('/'), b.split('/'));
    let mut both: Vec<&str> = Vec::new();
    loop {
        match (of_a.next(), of_b.next()) {
            // `a/#` also selects `a`. [MQTT-4.7.1-2]
            (None | Some("#"), None) | (None, Some("#")) => break,
            (None, Some(_)) | (Some(_), None) => return None,
            (Some("#"), Some(level)) => {
                both.push(level);
                both.extend(of_b);
                break;
            }
            (Some(level), Some("#")) => {
                both.push(level);
                both.extend(of_a);
                break;
            }
            (Some("+"), Some(level)) | (Some(level), Some("+")) => both.push(level),
            (Some(a), Some(b)) if a == b => both.push(a),
            (Some(_), Some(_)) => return None,
        }
    }
    let both = both.join("/");
    // [MQTT-4.7.2-1]
    let hidden = both.starts_with('$') && (a.starts_with(['+', '#']) || b.starts_with(['+', '#']));
    (!hidden).then_some(both)
}

/// Returns true if `a` selects every topic that `b` selects.
fn covers(a: &str, b: &str) -> bool {
    intersection(a, b).is_some_and(|both| both == b)
}

/// Most filters to which one filter is narrowed.
const FILTERS_MAX: usize = 16;

/// Most levels of a narrowed filter.
const LEVELS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::mqtt::{broker::rights::tests::access, protocol::topic::TopicName};

    #[test]
    fn filters_are_narrowed_to_what_rights_allow() {
        let access = |devices: &[&str], subscribe: &[&str]| access(devices, &["*"], subscribe);
        let own = access(&["{principal}"], &["chat/{principal}/#", "news", "s-*/t"]);
        let two = access(&["d1", "d2"], &["#"]);
        let many: Vec<String> = (0..17).map(|number| format!("d{number}")).collect();
        let many = access(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        let (prefix, dollar) = (access(&["lamp-*"], &[]), access(&["d1"], &["$*/x"]));
        const SAME: &str = "as it is";
        for (access, filter, expected) in [
            (&own, "#", "shadow/d1/# chat/d1/# news +/t"),
            (&own, "shadow/#", "shadow/d1/#"),
            (&own, "shadow/+/document", "shadow/d1/document"),
            (&own, "shadow/d1/#", SAME),
            (&own, "shadow/d2/#", ""),
            (&own, "$aws/things/+/shadow/+/accepted", "$aws/things/d1/shadow/+/accepted"),
            (&own, "$aws/#", "$aws/things/d1/shadow/#"),
            (&own, "+/d1/#", "shadow/d1/# chat/d1/#"),
            (&own, "+/t", SAME),
            (&own, "news/#", "news news/t"),
            (&own, "chat/+", "chat/d1 chat/t"),
            (&own, "+/+", "shadow/d1 chat/d1 +/t"),
            (&own, "$share/g/#", "shadow/d1/# chat/d1/# news +/t"),
            (&own, "$share/g/news", SAME),
            (&own, "news", SAME),
            (&two, "#", SAME),
            (&two, "shadow/#", "shadow/d1/# shadow/d2/# shadow"),
            (&two, "+/d1/#", SAME),
            (&two, "$aws/#", "$aws/things/d1/shadow/# $aws/things/d2/shadow/#"),
            (&many, "#", SAME),
            (&prefix, "#", "shadow/+/#"),
            (&prefix, "shadow/+/document", SAME),
            (&dollar, "$own/#", SAME),
        ] {
            let found = narrowed(access, &TopicFilter::new(filter).unwrap())
                .map(|filters| filters.iter().map(TopicFilter::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref().unwrap_or(SAME), expected, "{filter}");
        }
    }

    #[test]
    fn an_intersection_selects_what_both_select() {
        let levels = ["a", "b", "+", "#", "$s"];
        let mut filters: Vec<String> = Vec::new();
        for a in levels {
            filters.push(a.to_owned());
            for b in levels {
                filters.push(format!("{a}/{b}"));
                filters.extend(levels.map(|c| format!("{a}/{b}/{c}")));
            }
        }
        let filters: Vec<_> = filters.iter().filter_map(|text| TopicFilter::new(text).ok()).collect();
        let topics: Vec<_> = filters.iter().filter_map(|filter| TopicName::new(filter.as_str()).ok()).collect();
        for (a, b) in filters.iter().flat_map(|a| filters.iter().map(move |b| (a, b))) {
            let both = intersection(a.as_str(), b.as_str()).map(|text| TopicFilter::new(&text).unwrap());
            for topic in &topics {
                let selected = both.as_ref().is_some_and(|both| both.matches(topic));
                assert_eq!(selected, a.matches(topic) && b.matches(topic), "{a} {b} {topic}");
            }
        }
    }
}
