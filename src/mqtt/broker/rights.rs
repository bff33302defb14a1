//! Rights to leave a will and to subscribe to a filter.
//!
//! A filter is granted if it can select anything that the client may receive. Each message is then authorized by itself
//! ([`super::router::Publication`]).

use std::borrow::Cow;

use crate::{
    auth::{Access, NameFilter},
    mqtt::{
        protocol::{
            packet::{Reason, Will},
            topic::TopicFilter,
        },
        shadow::{
            query_topics,
            topics::{self, Destination},
        },
    },
};

/// Checks that a client with `access` may leave `will`. The will is checked again when it is published.
///
/// The state of a bridge is accepted: mosquitto leaves it as a will in its default settings, and does not connect without
/// it. As any message on a reserved topic it is dropped when it is due.
///
/// # Errors
///
/// The reason code and reason string if the will could never be published.
pub(in crate::mqtt) fn check_will(access: &Access, will: Option<&Will>) -> Result<(), (Reason, Cow<'static, str>)> {
    let Some(will) = will else { return Ok(()) };
    let allowed = match Destination::of(&will.topic) {
        Destination::Ordinary => access.may_publish(will.topic.as_str()),
        Destination::Request(key, operation, _) => access.admit_any(&key, operation.into()).is_ok(),
        Destination::Reserved(_) if will.topic.as_str().starts_with(BRIDGE_STATES) => true,
        Destination::Reserved(reserved) => {
            return Err((Reason::TOPIC_NAME_INVALID, format!("will topic: {reserved}").into()));
        }
    };
    if allowed { Ok(()) } else { Err((Reason::NOT_AUTHORIZED, "this client may not publish its will".into())) }
}

/// The topics on which bridges publish if they are connected.
const BRIDGE_STATES: &str = "$SYS/broker/connection/";

/// Returns true if `filter` can select a topic that a client with `access` may receive.
pub(in crate::mqtt) fn may_subscribe(access: &Access, filter: &TopicFilter) -> bool {
    let filter = filter.as_str();
    if query_topics::is_of_queries(filter) {
        return access.rules_to_search().next().is_some();
    }
    access.may_receive_some(filter)
        || topics::rendering()
            .any(|shape| selected(filter, &shape).is_some_and(|(device, name)| access.may_follow_some(device, name)))
}

/// Returns the devices and names that `filter` selects among the topics of this `shape`; `None` if it selects none.
fn selected<'f>(filter: &'f str, shape: &[topics::Level]) -> Option<(NameFilter<'f>, Option<NameFilter<'f>>)> {
    // [MQTT-4.7.2-1]
    if filter.starts_with(['+', '#']) && shape.first() == Some(&topics::Level::Is("$aws")) {
        return None;
    }
    let (mut device, mut name) = (NameFilter::Any, None);
    let mut levels = filter.split('/');
    let mut all = false;
    for level in shape {
        let wanted = if all { "#" } else { levels.next()? };
        all |= wanted == "#";
        let open = matches!(wanted, "#" | "+");
        let this = if open { NameFilter::Any } else { NameFilter::Is(wanted) };
        match level {
            topics::Level::Is(text) if open || wanted == *text => {}
            topics::Level::Is(_) => return None,
            topics::Level::Device => device = this,
            topics::Level::Name => name = Some(this),
        }
    }
    match levels.next() {
        None | Some("#") => Some((device, name)),
        Some(_) if all => Some((device, name)),
        Some(_) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::sync::Arc;

    use super::*;
    use crate::{
        auth::{Method, Policy, Principal},
        config::RuleConfig,
    };

    /// Returns the rights of the principal `d1` under one rule that allows to subscribe.
    pub(in crate::mqtt::broker) fn access(devices: &[&str], names: &[&str], subscribe: &[&str]) -> Access {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let rule = RuleConfig {
            role: "r".into(),
            devices: texts(devices),
            names: texts(names),
            operations: Some(texts(&["subscribe"])),
            read: texts(&["/reported"]),
            subscribe: texts(subscribe),
            ..RuleConfig::default()
        };
        let policy = Policy::read(&[rule], &[]).unwrap();
        policy.access(&Principal::named("d1").unwrap(), Method::Certificate, Some("r"), &Arc::from("c"))
    }

    #[test]
    fn a_filter_is_granted_if_it_may_select_anything_allowed() {
        let own = access(&["{principal}"], &["*"], &["chat/{principal}/#"]);
        let classic = access(&["d*"], &[""], &[]);
        for (filter, by_own, by_classic) in [
            ("#", true, true),
            ("+/+/document", true, true),
            ("shadow/#", true, true),
            ("shadow/d1/#", true, true),
            ("shadow/d2/#", false, true),
            ("shadow/e/#", false, false),
            ("shadow/+/update/accepted", true, true),
            ("shadow/d2/update/accepted", false, true),
            ("shadow/d1/update", false, false),
            ("shadow/D1/update/delta", false, false),
            ("shadow/d1/name/n/update/delta", true, false),
            ("shadow/+/name/+/update/delta", true, false),
            ("shadow/d1/presence", true, true),
            ("$aws/things/d1/shadow/get/+", true, true),
            ("$aws/things/d1/shadow/document", false, false),
            ("$aws/things/d2/shadow/get/+", false, true),
            ("$aws/things/+/shadow/name/+/get/+", true, false),
            ("$aws/#", true, true),
            ("$SYS/#", false, false),
            ("chat/d1/x", true, false),
            ("chat/+/x", true, false),
            ("chat/d2/x", false, false),
            ("other", false, false),
        ] {
            let filter = TopicFilter::new(filter).unwrap();
            assert_eq!(may_subscribe(&own, &filter), by_own, "{filter} by its own device");
            assert_eq!(may_subscribe(&classic, &filter), by_classic, "{filter} by d*");
            assert!(may_subscribe(&Access::admin(Principal::named("a").unwrap()), &filter));
        }
    }
}
