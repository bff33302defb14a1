//! The installation of firmware: download, restart, or failure and the version before.

use rand::{Rng, RngExt};
use serde_json::{Value, json};

/// The part of every firmware that replaces it.
#[derive(Debug, Clone)]
pub(crate) struct Updater {
    /// In flash: the version that runs.
    running: String,
    /// In flash: the version whose installation failed last. It is not tried again until another one is wanted.
    failed: Option<String>,
    /// A version being downloaded, and the seconds that are left.
    downloading: Option<(String, f64)>,
    download_seconds: f64,
    /// The share of installations that fail.
    failures: f64,
}

impl Updater {
    /// Returns the updater of a device that runs `running`.
    pub(crate) fn new(running: &str, download_seconds: f64, failures: f64) -> Self {
        Self { running: running.to_owned(), failed: None, downloading: None, download_seconds, failures }
    }

    /// Starts the download of `desired.firmware`, unless it runs, is under way or has failed.
    pub(crate) fn want(&mut self, version: Option<&Value>) {
        let Some(version) = version.and_then(Value::as_str).filter(|version| version.len() <= 16) else { return };
        if version == self.running {
            (self.downloading, self.failed) = (None, None);
        } else if self.failed.as_deref() != Some(version)
            && self.downloading.as_ref().is_none_or(|(coming, _)| coming != version)
        {
            self.downloading = Some((version.to_owned(), self.download_seconds));
        }
    }

    /// Simulates `seconds`; returns true if the device has restarted with another version.
    pub(crate) fn step(&mut self, seconds: f64, rng: &mut impl Rng) -> bool {
        let Some((version, left)) = self.downloading.take() else { return false };
        if left > seconds {
            self.downloading = Some((version, left - seconds));
            return false;
        }
        if self.failures > 0.0 && rng.random_bool(self.failures) {
            self.failed = Some(version);
            return false;
        }
        (self.running, self.failed) = (version, None);
        true
    }

    /// Installs the wanted version at once, as with a cable.
    pub(crate) fn finish(&mut self) {
        let wanted = self.downloading.take().map(|(version, _)| version).or(self.failed.take());
        self.running = wanted.unwrap_or(std::mem::take(&mut self.running));
    }

    /// Loses the part of a download that is in RAM.
    pub(crate) fn power_cut(&mut self) {
        self.downloading = None;
    }

    /// Returns the seconds until a download ends.
    pub(crate) fn busy(&self) -> Option<f64> {
        self.downloading.as_ref().map(|(_, left)| *left)
    }

    /// Returns the version that runs.
    pub(crate) fn running(&self) -> &str {
        &self.running
    }

    /// Returns `reported.update`: the version in question and its state.
    pub(crate) fn report(&self) -> Value {
        match (&self.downloading, &self.failed) {
            (Some((version, _)), _) => json!({"version": version, "state": "downloading"}),
            (None, Some(version)) => json!({"version": version, "state": "failed"}),
            (None, None) => json!({"version": self.running, "state": "done"}),
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests")]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn wanting(updater: &mut Updater, version: &str) -> String {
        updater.want(Some(&json!(version)));
        state(updater)
    }

    fn state(updater: &Updater) -> String {
        let report = updater.report();
        let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", updater.running(), text("version"), text("state"))
    }

    #[test]
    fn a_version_is_downloaded_and_then_runs() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut updater = Updater::new("1", 90.0, 0.0);
        assert_eq!(wanting(&mut updater, "2"), "1 2 downloading");
        assert!(!updater.step(60.0, &mut rng));
        assert_eq!(wanting(&mut updater, "2"), "1 2 downloading");
        assert!(updater.step(60.0, &mut rng), "wanting it twice does not start it again");
        assert_eq!(state(&updater), "2 2 done");
    }

    #[test]
    fn a_power_cut_loses_the_download_and_not_the_version() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut updater = Updater::new("1", 90.0, 0.0);
        wanting(&mut updater, "2");
        updater.power_cut();
        assert_eq!(state(&updater), "1 1 done");
        assert!(!updater.step(100.0, &mut rng));
        assert_eq!(wanting(&mut updater, "2"), "1 2 downloading");
    }

    #[test]
    fn a_failed_version_is_not_tried_again_until_another_is_wanted() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut updater = Updater::new("1", 90.0, 1.0);
        wanting(&mut updater, "2");
        assert!(!updater.step(100.0, &mut rng));
        assert_eq!(wanting(&mut updater, "2"), "1 2 failed");
        assert_eq!(wanting(&mut updater, "1"), "1 1 done", "rolled back");
        assert_eq!(wanting(&mut updater, "2"), "1 2 downloading");
        updater.step(100.0, &mut rng);
        updater.finish();
        assert_eq!(state(&updater), "2 2 done");
    }
}
