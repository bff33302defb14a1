//! The attacks, with their parameters.

use std::collections::BTreeMap;

use anyhow::{Context, bail};

/// The parameters of an attack, by name.
pub(super) type Parameters = BTreeMap<String, usize>;

/// An attack of one credential.
pub(super) struct Attack {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// A line on its course.
    pub(super) summary: &'static str,
    /// Its parameters: the name, the default, and the smallest value that still shows it.
    pub(super) parameters: &'static [(&'static str, usize, usize)],
    /// The runs of `--all`: each a list of values that differ from the defaults.
    pub(super) cases: &'static [&'static [(&'static str, usize)]],
}

impl Attack {
    /// Finds an attack.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub(super) fn find(name: &str) -> anyhow::Result<&'static Self> {
        let attack = ATTACKS.iter().find(|attack| attack.name == name);
        attack.with_context(|| format!("no attack is named {name}: see `firmware-sim attack --list`"))
    }

    /// Returns its parameters: the defaults or the smallest values, overridden by `set`.
    ///
    /// # Errors
    ///
    /// It has no parameter of a name in `set`.
    pub(super) fn parameters(&self, smallest: bool, set: &[(String, usize)]) -> anyhow::Result<Parameters> {
        let value = |default: usize, small: usize| if smallest { small } else { default };
        let mut parameters: Parameters = self
            .parameters
            .iter()
            .map(|(name, default, small)| ((*name).to_owned(), value(*default, *small)))
            .collect();
        for (name, value) in set {
            match parameters.get_mut(name) {
                Some(parameter) => *parameter = *value,
                None => bail!("{} has no parameter {name}", self.name),
            }
        }
        Ok(parameters)
    }
}

/// Returns the parameters of a run that name it: those that are not the defaults, or all if there are several cases.
pub(super) fn label(attack: &Attack, parameters: &Parameters) -> String {
    let named = |name: &str, value: usize| {
        let is_default = attack.parameters.iter().any(|(known, default, _)| *known == name && *default == value);
        !is_default || attack.cases.iter().flat_map(|case| *case).any(|(known, _)| *known == name)
    };
    let values = parameters.iter().filter(|(name, value)| named(name, **value));
    values.fold(attack.name.to_owned(), |label, (name, value)| format!("{label} {name}={value}"))
}

/// All attacks, in the order of `--all`.
pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "retained-scan",
        summary: "retains many messages, then repeats a SUBSCRIBE of filters that match none of them",
        parameters: &[("connections", 50, 2), ("retained", 10_000, 20), ("filters", 64, 8)],
        cases: &[&[("connections", 10)], &[("connections", 50)], &[("connections", 300)]],
    },
    Attack {
        name: "fan-out",
        summary: "publishes at QoS 0 to many connected sessions of its own",
        parameters: &[("sessions", 1_000, 2), ("publishers", 50, 1), ("rate", 100, 100), ("bytes", 10, 10)],
        cases: &[&[("sessions", 1_000), ("publishers", 50)], &[("sessions", 5_000), ("publishers", 20)]],
    },
    Attack {
        name: "absent-fan-out",
        summary: "publishes bursts of 44 KB at QoS 1 to many disconnected sessions",
        parameters: &[("sessions", 9_000, 2), ("messages", 1_000, 10)],
        cases: &[&[]],
    },
    Attack {
        name: "absent-filters",
        summary: "leaves many sessions with filters on everybody's events behind, then does nothing",
        parameters: &[("sessions", 10_000, 2), ("filters", 10, 10)],
        cases: &[&[]],
    },
    Attack {
        name: "wills",
        summary: "leaves many sessions with delayed wills of the largest size behind",
        parameters: &[("sessions", 10_000, 2), ("bytes", 65_535, 1_000)],
        cases: &[&[]],
    },
    Attack {
        name: "store-walk",
        summary: "repeats a SUBSCRIBE of the documents of all shadows, of which it may see one",
        parameters: &[("connections", 1_000, 2), ("shadows", 100_000, 10)],
        cases: &[&[]],
    },
    Attack {
        name: "slow-readers",
        summary: "publishes to many connections of its own that never read",
        parameters: &[("connections", 1_000, 2), ("bytes", 8_192, 100)],
        cases: &[&[]],
    },
    Attack {
        name: "unacknowledged",
        summary: "publishes at QoS 1 to many sessions of its own that never acknowledge",
        parameters: &[("connections", 1_000, 2), ("bytes", 8_192, 100)],
        cases: &[&[]],
    },
    Attack {
        name: "unfinished-packets",
        summary: "sends packets without their last byte",
        parameters: &[("connections", 1_000, 2), ("bytes", 1_000_000, 10_000)],
        cases: &[&[]],
    },
    Attack {
        name: "connect-storm",
        summary: "connects with its credential and leaves, again and again",
        parameters: &[("connections", 100, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "wrong-password",
        summary: "connects with a wrong password for its own name",
        parameters: &[("connections", 200, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "idle-connections",
        summary: "opens many connections and leaves them idle",
        parameters: &[("connections", 9_000, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "event-streams",
        summary: "opens many HTTP event streams and updates its own shadows",
        parameters: &[("streams", 1_000, 2), ("names", 20, 1)],
        cases: &[&[]],
    },
    Attack {
        name: "lists",
        summary: "requests lists of devices over HTTP among many that it may not see, or hangs up before the response",
        parameters: &[("connections", 100, 2), ("shadows", 20_000, 10), ("hang-up", 0, 0)],
        cases: &[&[("hang-up", 0)], &[("hang-up", 1)]],
    },
    Attack {
        name: "json-patch",
        summary: "sends long JSON Patches whose last operation fails",
        parameters: &[("names", 20, 1), ("operations", 2_000, 10)],
        cases: &[&[]],
    },
    Attack {
        name: "json-bombs",
        summary: "sends updates of deeply nested JSON",
        parameters: &[("connections", 50, 2), ("bytes", 500_000, 1_000)],
        cases: &[&[]],
    },
    Attack {
        name: "large-requests",
        summary: "sends updates that are many times as large once they are read",
        parameters: &[("connections", 50, 2), ("bytes", 900_000, 24_000)],
        cases: &[&[]],
    },
    Attack {
        name: "removals",
        summary: "sends updates that remove many values that are not there, below long keys and under an old version",
        parameters: &[("names", 50, 1), ("bytes", 900_000, 24_000)],
        cases: &[&[]],
    },
    Attack {
        name: "rejected-flood",
        summary: "updates the shadow of another device, which is refused",
        parameters: &[("connections", 50, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "create-delete",
        summary: "creates and deletes large named shadows of its own",
        parameters: &[("names", 50, 1), ("bytes", 7_000, 100)],
        cases: &[&[]],
    },
    Attack {
        name: "retained-fill",
        summary: "retains large messages until they are refused",
        parameters: &[("connections", 10, 2), ("bytes", 65_536, 100)],
        cases: &[&[]],
    },
    Attack {
        name: "user-properties",
        summary: "publishes with the most user properties",
        parameters: &[("connections", 20, 2), ("properties", 256, 10)],
        cases: &[&[]],
    },
    Attack {
        name: "websocket-frames",
        summary: "sends WebSocket pings and empty messages",
        parameters: &[("connections", 50, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "ping-flood",
        summary: "sends PINGREQ without a pause",
        parameters: &[("connections", 100, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "alias-churn",
        summary: "publishes long topics, each with a topic alias that is set anew",
        parameters: &[("connections", 50, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "qos2-unreleased",
        summary: "publishes at QoS 2 without PUBREL, and leaves the sessions behind",
        parameters: &[("connections", 500, 2), ("messages", 64, 5), ("bytes", 1_000, 10)],
        cases: &[&[]],
    },
    Attack {
        name: "subscribe-churn",
        summary: "subscribes to deep filters and unsubscribes",
        parameters: &[("connections", 50, 2), ("filters", 64, 8), ("depth", 50, 20)],
        cases: &[&[]],
    },
    Attack {
        name: "subscribe-repeat",
        summary: "repeats one SUBSCRIBE of the most filters",
        parameters: &[("connections", 50, 2), ("filters", 512, 8)],
        cases: &[&[]],
    },
    Attack {
        name: "shared-groups",
        summary: "publishes to many shared subscriptions of its own",
        parameters: &[("sessions", 5, 2), ("groups", 4_000, 8), ("connections", 20, 1)],
        cases: &[&[]],
    },
    Attack {
        name: "retained-churn",
        summary: "sets and clears retained messages",
        parameters: &[("connections", 50, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "take-over",
        summary: "takes over one session from many connections",
        parameters: &[("connections", 50, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "expiry-churn",
        summary: "leaves sessions behind that expire after a second",
        parameters: &[("connections", 50, 2)],
        cases: &[&[]],
    },
    Attack {
        name: "will-churn",
        summary: "breaks off connections with large wills, which reach many sessions of its own",
        parameters: &[("connections", 50, 1), ("sessions", 500, 2), ("bytes", 60_000, 100)],
        cases: &[&[]],
    },
    Attack {
        name: "resync-churn",
        summary: "resumes sessions that missed changes, again and again",
        parameters: &[("sessions", 200, 2), ("names", 90, 1)],
        cases: &[&[]],
    },
    Attack {
        name: "event-fan-out",
        summary: "updates large shadows of its own whose events reach many of its sessions",
        parameters: &[("sessions", 1_000, 2), ("names", 20, 1), ("bytes", 7_000, 100)],
        cases: &[&[]],
    },
    Attack {
        name: "response-topics",
        summary: "requests large shadows with a response topic that many of its sessions receive",
        parameters: &[("sessions", 1_000, 2), ("names", 20, 1), ("bytes", 7_000, 100)],
        cases: &[&[]],
    },
    Attack {
        name: "idempotency-churn",
        summary: "updates with a new idempotency key each",
        parameters: &[("names", 90, 1)],
        cases: &[&[]],
    },
    Attack {
        name: "conflict-lookups",
        summary: "updates under a version of long ago, so that values of many fields at that time are looked up",
        parameters: &[("names", 20, 1), ("versions", 1_000, 6)],
        cases: &[&[]],
    },
    Attack {
        name: "history-pages",
        summary: "requests the history of its shadows over HTTP",
        parameters: &[("names", 50, 1), ("versions", 100, 5)],
        cases: &[&[]],
    },
    Attack {
        name: "stream-resume",
        summary: "resumes HTTP event streams from an old event, and hangs up",
        parameters: &[("connections", 50, 2), ("shadows", 20_000, 10)],
        cases: &[&[]],
    },
    Attack {
        name: "waits",
        summary: "waits over HTTP for shadows that never converge, and hangs up",
        parameters: &[("connections", 500, 2), ("names", 90, 1)],
        cases: &[&[]],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_cases_name_parameters() {
        let names: std::collections::BTreeSet<_> = ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), ATTACKS.len());
        for attack in ATTACKS {
            assert!(!attack.cases.is_empty(), "{}: --all runs every attack", attack.name);
            for case in attack.cases {
                let set: Vec<_> = case.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
                attack.parameters(false, &set).expect(attack.name);
            }
        }
    }

    #[test]
    fn labels_have_the_values_that_tell_runs_apart() {
        let rows = [
            ("wills", vec![], "wills"),
            ("wills", vec![("bytes", 7)], "wills bytes=7"),
            ("retained-scan", vec![], "retained-scan connections=50"),
            ("retained-scan", vec![("filters", 9)], "retained-scan connections=50 filters=9"),
        ];
        for (name, set, expected) in rows {
            let attack = Attack::find(name).expect(name);
            let set: Vec<_> = set.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            assert_eq!(label(attack, &attack.parameters(false, &set).expect(name)), expected);
        }
        assert!(Attack::find("wills").is_ok_and(|attack| attack.parameters(false, &[("none".to_owned(), 1)]).is_err()));
    }
}
