//! The devices that a follower of a live query has from its events, over HTTP and MQTT alike.

use std::collections::BTreeSet;

use serde_json::Value;

#[derive(Debug, Default)]
pub(crate) struct Matches {
    pub(crate) devices: BTreeSet<String>,
    /// The number that the last `count` since the beginning of the set had.
    pub(crate) counted: Option<usize>,
    pub(crate) is_complete: bool,
    pub(crate) end: Option<Value>,
}

impl Matches {
    pub(crate) fn apply(&mut self, event: &str, data: &Value) {
        let devices = data["devices"].as_array().into_iter().flatten().map(|id| id.as_str().unwrap().to_owned());
        match event {
            "start" => *self = Self::default(),
            // Exactly once: nothing enters that is there, or leaves that is not.
            "enter" => devices.for_each(|id| assert!(self.devices.insert(id.clone()), "{id} is there: {data}")),
            "leave" => devices.for_each(|id| assert!(self.devices.remove(&id), "{id} is not there: {data}")),
            "complete" => self.is_complete = true,
            "count" => self.counted = data["count"].as_u64().map(|count| usize::try_from(count).unwrap()),
            "end" => self.end = Some(data.clone()),
            other => panic!("an event named {other}"),
        }
        if let Some(count) = data["count"].as_u64() {
            assert_eq!(usize::try_from(count).unwrap(), self.devices.len(), "{event} {data}");
        }
    }

    /// The ids, in order.
    pub(crate) fn ids(&self) -> String {
        self.devices.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}
