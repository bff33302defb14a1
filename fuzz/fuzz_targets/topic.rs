//! Topics and filters: what is one, what a filter selects (asked of the filter itself, of the router's tree and of the
//! retained messages), and what a topic means to shadows. The input is lines of text.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use umbra_fuzz::topics;
use umbrad::{
    mqtt::{
        broker::router::fuzzing,
        protocol::topic::{TopicFilter, TopicName},
        shadow::topics::{Destination, Event, RequestKind},
    },
    wire::Dialect,
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines: Vec<&str> = text.split('\n').take(LINES_MAX).collect();
    let names: Vec<TopicName> = lines.iter().filter_map(|line| name(line)).collect();
    let filters: Vec<TopicFilter> = lines.iter().filter_map(|line| filter(line)).collect();
    names.iter().for_each(shadow_topic);
    matchers_agree(&names, &filters);
});

/// Enough for filters to stand in each other's way.
const LINES_MAX: usize = 16;

fn name(text: &str) -> Option<TopicName> {
    let name = TopicName::new(text).ok();
    assert_eq!(name.is_some(), topics::is_name(text), "{text:?} as a name");
    assert!(name.as_ref().is_none_or(|name| name.as_str() == text && name.to_string() == text));
    name
}

fn filter(text: &str) -> Option<TopicFilter> {
    let filter = TopicFilter::new(text).ok();
    let parts = filter.as_ref().map(|filter| (filter.share(), filter.as_str().split('/').collect()));
    assert_eq!(parts, topics::filter(text), "{text:?} as a filter");
    assert!(filter.as_ref().is_none_or(|filter| filter.to_string() == text), "{text:?} is shown otherwise");
    filter
}

fn matchers_agree(names: &[TopicName], filters: &[TopicFilter]) {
    let selects = |filter: &TopicFilter, name: &TopicName| {
        let levels: Vec<&str> = filter.as_str().split('/').collect();
        let expected = topics::selects(&levels, name.as_str());
        assert_eq!(filter.matches(name), expected, "{filter} {name}");
        expected
    };
    let taken: Vec<TopicFilter> = filters.iter().filter(|filter| fuzzing::is_taken(filter)).cloned().collect();
    for name in names {
        let selecting: BTreeSet<&str> =
            taken.iter().filter(|filter| selects(filter, name)).map(TopicFilter::as_str).collect();
        assert_eq!(fuzzing::filters_found(&taken, name), selecting.len(), "{name} among {taken:?}");
    }
    for filter in filters {
        let selected: BTreeSet<&TopicName> = names.iter().filter(|name| selects(filter, name)).collect();
        let found = fuzzing::retained_found(names, filter);
        assert_eq!(found.iter().collect::<BTreeSet<_>>(), selected, "{filter} among {names:?}");
        assert_eq!(found.len(), selected.len(), "{filter} finds one twice among {names:?}");
    }
}

fn shadow_topic(topic: &TopicName) {
    let destination = Destination::of(topic);
    let meaning = match &destination {
        Destination::Ordinary => "plain".to_owned(),
        Destination::Reserved(_) => "reserved".to_owned(),
        Destination::Request(key, operation, dialect) => {
            let operation = format!("{operation:?}").to_lowercase();
            let name = key.name.as_ref().map_or("/", |name| name.as_str());
            format!("{operation} {dialect:?} {} {name}", key.device.as_str())
        }
    };
    assert_eq!(meaning, topics::meaning(topic.as_str()), "{topic}");
    let Destination::Request(key, operation, dialect) = destination else { return };
    let accepted = match operation {
        RequestKind::Update => Event::UpdateAccepted,
        RequestKind::Get => Event::GetAccepted,
        RequestKind::Delete => Event::DeleteAccepted,
    };
    let answer = accepted.topic(dialect, &key);
    assert_eq!(answer.strip_suffix("/accepted"), Some(topic.as_str()));
    let native_key = (dialect == Dialect::Native).then_some(key);
    assert_eq!(accepted.key_of(&answer), native_key, "{answer}");
}
