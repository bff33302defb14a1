//! The scenario file: groups of devices, back-end writers and firmware waves.
//!
//! Every duration is simulated time; `speed` says how much of it passes in a second. An unknown key, a value of another
//! type and a value out of range are errors that name the key, the value and the range.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::span::Span;
use crate::{
    firmware::{DeviceKind, FIRST_VERSION, Updater},
    writers::Writes,
};

/// A scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Seed of the devices, the writers and the faults; random without it.
    pub(crate) seed: Option<u64>,
    /// The beginning of all names.
    #[serde(default = "default_prefix")]
    pub(crate) prefix: String,
    /// The time until the devices come to rest.
    pub(crate) duration: Option<Span>,
    /// The number of accepted updates after which they come to rest, if the duration is not over before.
    pub(crate) updates: Option<u64>,
    /// Simulated seconds per second of the clock.
    #[serde(default = "default_speed")]
    pub(crate) speed: f64,
    /// True if nobody else writes the shadows: then every version must be accounted for.
    #[serde(default)]
    pub(crate) exclusive: bool,
    /// Seconds of the clock that the devices have at the end to converge.
    #[serde(default = "default_settle")]
    pub(crate) settle_seconds: u64,
    /// Groups of devices.
    #[serde(rename = "group", default)]
    pub(crate) groups: Vec<Group>,
    /// Back-end writers.
    #[serde(rename = "writer", default)]
    pub(crate) writers: Vec<WriterGroup>,
    /// Firmware waves.
    #[serde(rename = "wave", default)]
    pub(crate) waves: Vec<Wave>,
}

/// A group of equal devices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// The name of the group, part of the names of its devices.
    pub(crate) name: String,
    /// The kind of its devices.
    pub(crate) kind: DeviceKind,
    /// The number of devices.
    pub(crate) count: u32,
    /// The time between two readings; for a meter, between two wake-ups.
    pub(crate) every: Span,
    /// The time for which a meter stays awake.
    pub(crate) awake: Option<Span>,
    /// The number of devices behind each gateway, which acts for them over one connection.
    pub(crate) gateway: Option<u32>,
    /// True if the service keeps the MQTT session of an absent device.
    #[serde(default = "default_persistent")]
    pub(crate) persistent: bool,
    /// The precondition of reports; none without it, as the device alone writes them.
    #[serde(default = "default_report_writes")]
    pub(crate) writes: Writes,
    /// The largest error of the devices' clocks. With it, they report the time of each reading.
    pub(crate) clock_skew: Option<Span>,
    /// The share of requests that are sent twice.
    #[serde(default)]
    pub(crate) duplicates: f64,
    /// Faults of the connections.
    pub(crate) link: Option<Link>,
    /// Power cuts of the devices.
    pub(crate) power: Option<Power>,
    /// The installation of firmware.
    #[serde(default)]
    pub(crate) update: FirmwareUpdate,
}

/// The faults of a connection.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    /// The mean time between two faults.
    pub(crate) up: Span,
    /// The mean length of an outage.
    pub(crate) outage: Span,
    /// The share of faults in which the connection stays open and carries nothing.
    #[serde(default)]
    pub(crate) half_open: f64,
    /// The share of faults after which also the CONNACK of the next connection is lost.
    #[serde(default)]
    pub(crate) lost_connack: f64,
}

/// The power cuts of a device.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Power {
    /// The mean time between two cuts.
    pub(crate) up: Span,
    /// The mean time without power.
    pub(crate) outage: Span,
}

/// The installation of firmware on a device.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FirmwareUpdate {
    /// The mean time to download and install one version.
    #[serde(default = "default_download")]
    pub(crate) download: Span,
    /// The share of installations that fail; the device then goes on with the version before.
    #[serde(default)]
    pub(crate) failures: f64,
}

impl FirmwareUpdate {
    /// Returns the updater of a new device.
    pub(crate) fn updater(self) -> Updater {
        Updater::new(FIRST_VERSION, self.download.0, self.failures)
    }
}

impl Default for FirmwareUpdate {
    fn default() -> Self {
        Self { download: default_download(), failures: 0.0 }
    }
}

/// Equal back-end writers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriterGroup {
    /// The name, part of the names of the clients.
    pub(crate) name: String,
    /// The kind of edits.
    pub(crate) kind: crate::writers::Kind,
    /// The number of writers.
    pub(crate) count: u32,
    /// The time between two edits of one writer.
    pub(crate) every: Span,
    /// The groups whose shadows they write; all that suit the kind without it.
    #[serde(default)]
    pub(crate) groups: Vec<String>,
    /// The precondition of edits.
    #[serde(default)]
    pub(crate) writes: Writes,
}

/// A rollout of one firmware version, in waves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wave {
    /// The version.
    pub(crate) firmware: String,
    /// The groups; all without it.
    #[serde(default)]
    pub(crate) groups: Vec<String>,
    /// The time of its creation.
    pub(crate) start: Span,
    /// The share of the devices reached in all by the end of each wave.
    pub(crate) steps: Vec<f64>,
    /// The time that a device has to run the version.
    #[serde(default = "default_deadline")]
    pub(crate) deadline: Span,
    /// The share of the devices asked that may fail; with more, the rollout is aborted.
    #[serde(default = "default_wave_failures")]
    pub(crate) failures: f64,
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not a valid scenario.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    ///
    /// It is not a valid scenario.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self =
            toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.to_string().trim_end()))?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> anyhow::Result<()> {
        name("prefix", &self.prefix)?;
        within("speed", self.speed, 0.01, 100_000.0)?;
        within("settle_seconds", self.settle_seconds, 1, 3_600)?;
        self.updates.map_or(Ok(()), |updates| within("updates", updates, 1, 1_000_000_000))?;
        ensure!(!self.groups.is_empty(), "there is no [[group]]; a scenario has at least one");
        let mut names = BTreeSet::new();
        let all = self.groups.iter().map(|group| &group.name).chain(self.writers.iter().map(|writer| &writer.name));
        for name in all {
            ensure!(names.insert(name), "name = {name:?} is used twice; names of groups and writers are unique");
        }
        for group in &self.groups {
            group.check().with_context(|| format!("in group {:?}", group.name))?;
        }
        let devices = self.groups.iter().map(|group| u64::from(group.count)).sum::<u64>();
        within("count of all groups together", devices, 1, DEVICES_MAX)?;
        for writer in &self.writers {
            writer.check(self).with_context(|| format!("in writer {:?}", writer.name))?;
        }
        let mut versions = BTreeSet::new();
        for wave in &self.waves {
            ensure!(
                versions.insert(&wave.firmware),
                "firmware = {:?} is used twice; each wave has its own",
                wave.firmware
            );
            wave.check(self).with_context(|| format!("in wave {:?}", wave.firmware))?;
        }
        Ok(())
    }

    /// Returns one line about the scenario.
    pub(crate) fn summary(&self) -> String {
        let devices = |group: &Group| format!("{} {}", group.count, group.name);
        let groups: Vec<_> = self.groups.iter().map(devices).collect();
        let writers = self.writers.iter().map(|writers| writers.count).sum::<u32>();
        let duration = self.duration.map_or(String::new(), |duration| format!(" for {duration}"));
        let updates = self.updates.map_or(String::new(), |updates| format!(" until {updates} updates"));
        let (waves, speed) = (self.waves.len(), self.speed);
        let groups = groups.join(", ");
        format!("{groups}; writers: {writers}, firmware waves: {waves};{duration}{updates} at speed {speed}")
    }

    /// Returns true if `list`, with all groups if it is empty, contains the group.
    pub(crate) fn selects(list: &[String], group: &Group) -> bool {
        list.is_empty() || list.contains(&group.name)
    }

    fn check_groups(&self, list: &[String]) -> anyhow::Result<()> {
        for name in list {
            ensure!(self.groups.iter().any(|group| group.name == *name), "groups: there is no group {name:?}");
        }
        Ok(())
    }
}

impl Group {
    fn check(&self) -> anyhow::Result<()> {
        name("name", &self.name)?;
        within("count", u64::from(self.count), 1, DEVICES_MAX)?;
        self.gateway.map_or(Ok(()), |devices| within("gateway", devices, 2, 500))?;
        share("duplicates", self.duplicates)?;
        share("update.failures", self.update.failures)?;
        if let Some(link) = &self.link {
            share("link.half_open", link.half_open)?;
            share("link.lost_connack", link.lost_connack)?;
        }
        match (self.kind, self.awake) {
            (DeviceKind::Meter, Some(awake)) => {
                ensure!(awake < self.every, "awake = \"{awake}\" is not below every = \"{}\"", self.every);
            }
            (DeviceKind::Meter, None) => bail!("awake is missing; a meter has one, such as awake = \"30s\""),
            (_, Some(awake)) => bail!("awake = \"{awake}\" is only for kind = \"meter\"; the other kinds never sleep"),
            (_, None) => {}
        }
        Ok(())
    }
}

impl WriterGroup {
    fn check(&self, scenario: &Scenario) -> anyhow::Result<()> {
        name("name", &self.name)?;
        within("count", self.count, 1, 1_000)?;
        scenario.check_groups(&self.groups)?;
        let suits = |group: &&Group| Scenario::selects(&self.groups, group) && self.kind.suits(group.kind);
        ensure!(
            scenario.groups.iter().any(|group| suits(&group)),
            "kind = {:?} has no group that it can write; commands are for pumps, apps for all other kinds",
            self.kind.name()
        );
        if self.writes == Writes::Unconditional && self.kind != crate::writers::Kind::App {
            bail!("writes = \"unconditional\" is only for kind = \"app\"; allowed are \"conditional\" and \"rebase\"");
        }
        Ok(())
    }
}

impl Wave {
    fn check(&self, scenario: &Scenario) -> anyhow::Result<()> {
        ensure!(
            (1..=16).contains(&self.firmware.len()),
            "firmware = {:?} has {} characters; allowed are 1 to 16",
            self.firmware,
            self.firmware.len()
        );
        scenario.check_groups(&self.groups)?;
        share("failures", self.failures)?;
        ensure!(!self.steps.is_empty(), "steps = [] is empty; a wave has at least one step, such as [0.1, 1.0]");
        let mut before = 0.0;
        for step in &self.steps {
            ensure!(
                before < *step && *step <= 1.0,
                "steps = {:?}: {step} is out of range; steps rise, from above 0 to 1",
                self.steps
            );
            before = *step;
        }
        Ok(())
    }
}

/// Checks the part of a name of clients and devices.
fn name(key: &str, value: &str) -> anyhow::Result<()> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    ensure!(
        (1..=32).contains(&value.len()) && value.chars().all(valid),
        "{key} = {value:?} is not a name; a name has 1 to 32 of A-Z a-z 0-9 _ -"
    );
    Ok(())
}

fn within<T: PartialOrd + std::fmt::Display>(key: &str, value: T, min: T, max: T) -> anyhow::Result<()> {
    ensure!(min <= value && value <= max, "{key} = {value} is out of range; allowed are {min} to {max}");
    Ok(())
}

fn share(key: &str, value: f64) -> anyhow::Result<()> {
    within(key, value, 0.0, 1.0)
}

fn default_prefix() -> String {
    "sim".to_owned()
}

fn default_persistent() -> bool {
    true
}

fn default_report_writes() -> Writes {
    Writes::Unconditional
}

fn default_speed() -> f64 {
    1.0
}

fn default_settle() -> u64 {
    60
}

fn default_download() -> Span {
    Span(90.0)
}

fn default_deadline() -> Span {
    Span(3_600.0)
}

fn default_wave_failures() -> f64 {
    1.0
}

/// Devices of one process: each has a socket.
const DEVICES_MAX: u64 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = r#"
speed = 60
[[group]]
name = "meters"
kind = "meter"
count = 3
every = "15m"
awake = "30s"
[[writer]]
name = "app"
kind = "app"
count = 1
every = "1m"
[[wave]]
firmware = "2.0.0"
start = "1h"
steps = [0.1, 1.0]
deadline = "10m"
"#;

    /// The examples of the documentation are valid.
    #[test]
    fn committed_scenarios_are_valid() {
        for text in [
            include_str!("../../scenarios/small.toml"),
            include_str!("../../scenarios/city.toml"),
            include_str!("../../scenarios/soak.toml"),
            VALID,
        ] {
            Scenario::parse(text).unwrap_or_else(|error| unreachable!("{error:#}"));
        }
    }

    #[test]
    fn errors_name_the_key_the_value_and_the_range() {
        for (replaced, by, expected) in [
            ("speed = 60", "speed = 0", "speed = 0 is out of range; allowed are 0.01 to 100000"),
            (
                "speed = 60",
                "sped = 60",
                "TOML parse error at line 2, column 1\n  |\n2 | sped = 60\n  | ^^^^\nunknown field `sped`, expected one of `seed`, `prefix`, `duration`, `updates`, `speed`, `exclusive`, `settle_seconds`, `group`, `writer`, `wave`",
            ),
            (
                "speed = 60",
                "seed = \"x\"",
                "TOML parse error at line 2, column 8\n  |\n2 | seed = \"x\"\n  |        ^^^\ninvalid type: string \"x\", expected u64",
            ),
            ("speed = 60", "settle_seconds = 0", "settle_seconds = 0 is out of range; allowed are 1 to 3600"),
            ("speed = 60", "updates = 0", "updates = 0 is out of range; allowed are 1 to 1000000000"),
            ("speed = 60", "prefix = \"a b\"", "prefix = \"a b\" is not a name; a name has 1 to 32 of A-Z a-z 0-9 _ -"),
            ("count = 3", "count = 0", "in group \"meters\": count = 0 is out of range; allowed are 1 to 20000"),
            (
                "count = 3",
                "count = 3\ngateway = 1",
                "in group \"meters\": gateway = 1 is out of range; allowed are 2 to 500",
            ),
            (
                "count = 3",
                "count = 3\nduplicates = 1.5",
                "in group \"meters\": duplicates = 1.5 is out of range; allowed are 0 to 1",
            ),
            (
                "count = 3",
                "count = 3\nlink = { up = \"1h\", outage = \"1m\", half_open = 2 }",
                "in group \"meters\": link.half_open = 2 is out of range; allowed are 0 to 1",
            ),
            (
                "count = 3",
                "count = 3\nupdate = { failures = -0.1 }",
                "in group \"meters\": update.failures = -0.1 is out of range; allowed are 0 to 1",
            ),
            (
                "every = \"15m\"",
                "every = \"15 m\"",
                "TOML parse error at line 7, column 9\n  |\n7 | every = \"15 m\"\n  |         ^^^^^^\n\"15 m\" is not a duration from 1ms to 3650d, such as \"250ms\", \"90s\", \"15m\", \"1h 30m\" or \"7d\"",
            ),
            ("awake = \"30s\"", "", "in group \"meters\": awake is missing; a meter has one, such as awake = \"30s\""),
            ("awake = \"30s\"", "awake = \"20m\"", "in group \"meters\": awake = \"20m\" is not below every = \"15m\""),
            (
                "kind = \"meter\"",
                "kind = \"lock\"",
                "in group \"meters\": awake = \"30.0s\" is only for kind = \"meter\"; the other kinds never sleep",
            ),
            (
                "kind = \"meter\"",
                "kind = \"toaster\"",
                "TOML parse error at line 5, column 8\n  |\n5 | kind = \"toaster\"\n  |        ^^^^^^^^^\nunknown variant `toaster`, expected one of `thermostat`, `meter`, `lock`, `pump`",
            ),
            (
                "name = \"app\"",
                "name = \"meters\"",
                "name = \"meters\" is used twice; names of groups and writers are unique",
            ),
            (
                "kind = \"app\"",
                "kind = \"commands\"",
                "in writer \"app\": kind = \"commands\" has no group that it can write; commands are for pumps, apps for all other kinds",
            ),
            (
                "kind = \"app\"",
                "kind = \"app\"\ngroups = [\"pumps\"]",
                "in writer \"app\": groups: there is no group \"pumps\"",
            ),
            (
                "kind = \"app\"",
                "kind = \"job\"\nwrites = \"unconditional\"",
                "in writer \"app\": writes = \"unconditional\" is only for kind = \"app\"; allowed are \"conditional\" and \"rebase\"",
            ),
            (
                "steps = [0.1, 1.0]",
                "steps = []",
                "in wave \"2.0.0\": steps = [] is empty; a wave has at least one step, such as [0.1, 1.0]",
            ),
            (
                "steps = [0.1, 1.0]",
                "steps = [0.5, 0.2]",
                "in wave \"2.0.0\": steps = [0.5, 0.2]: 0.2 is out of range; steps rise, from above 0 to 1",
            ),
            (
                "deadline = \"10m\"",
                "failures = 2",
                "in wave \"2.0.0\": failures = 2 is out of range; allowed are 0 to 1",
            ),
            (
                "deadline = \"10m\"",
                "[[wave]]\nfirmware = \"2.0.0\"\nstart = \"2h\"\nsteps = [1.0]",
                "firmware = \"2.0.0\" is used twice; each wave has its own",
            ),
            (
                "firmware = \"2.0.0\"",
                "firmware = \"\"",
                "in wave \"\": firmware = \"\" has 0 characters; allowed are 1 to 16",
            ),
        ] {
            assert!(VALID.contains(replaced), "{replaced}");
            let error = Scenario::parse(&VALID.replace(replaced, by)).expect_err(expected);
            assert_eq!(format!("{error:#}"), expected, "{by}");
        }
        let error = Scenario::parse("speed = 60").expect_err("no group");
        assert_eq!(error.to_string(), "there is no [[group]]; a scenario has at least one");
    }
}
