//! `firmware-sim soak`: a day of a fleet in minutes, with faults, and the memory and the file of the server over it.
//!
//! It starts a server of its own and kills it at seeded moments in the first half, so that the memory of the second half
//! is that of one process; or it uses a running server and kills nothing. All faults of the scenario go on to the end.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use umbra_client::ConnectOptions;

use crate::{
    bench::process::{Scratch, Server, free_address, resident_bytes},
    fleet::rate,
    report::Recorder,
    scenario::{self, RunOptions, Scenario, Settings, schedule},
};

/// Arguments of `soak`.
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// Minutes that the day is compressed into.
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    minutes: f64,
    /// The scenario file. Default: scenarios/soak.toml, which is built in.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// The umbrad to start. Default: the one beside this program; with --broker none is started.
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    umbrad: Option<PathBuf>,
    /// Times that the started server is killed and started again.
    #[arg(long, default_value_t = 4, conflicts_with = "url")]
    kills: u32,
    /// Directory for the store of the started server, which is removed again. Default: beside this program.
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    directory: Option<PathBuf>,
    /// With --broker: the process id of that server on this machine, to read its memory.
    #[arg(long, requires = "url")]
    pid: Option<u32>,
    #[command(flatten)]
    connect: ConnectOptions,
    #[command(flatten)]
    options: RunOptions,
}

/// Runs the soak to its end.
///
/// # Errors
///
/// The scenario is wrong, there is no server, or it could not be started again.
pub(crate) fn main(args: SoakArgs) -> anyhow::Result<ExitCode> {
    let mut scenario = match &args.scenario {
        Some(file) => Scenario::load(file)?,
        None => Scenario::parse(include_str!("../scenarios/soak.toml"))?,
    };
    if let Some(duration) = scenario.duration {
        scenario.speed = duration.0 / (args.minutes * 60.0);
    }
    let mut settings = Settings::new(scenario, args.connect.clone(), &args.options);
    let mut watch = Watch::new(args.pid);
    let mut own = None;
    if args.connect.url.is_none() {
        let server = OwnServer::start(&args, settings.seed)?;
        settings.connect.url = Some(format!("mqtt://{}", server.address).parse()?);
        settings.connect.http_url = Some(format!("http://{}", server.http).parse()?);
        own = Some(server);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let outcome = runtime.block_on(scenario::run(settings, |progress, recorder| {
        if let Some(own) = &mut own {
            own.kill_if_due(progress, recorder)?;
        }
        watch.read(progress, own.as_ref());
        Ok(())
    }))?;
    let report = watch.report(own.is_some());
    Ok(outcome.print(args.options.json, Some((report.text(), json!(report)))))
}

/// The server that is started for the soak. It ends, and its files are removed, when this is dropped.
struct OwnServer {
    server: Server,
    address: SocketAddr,
    http: SocketAddr,
    store: PathBuf,
    /// The progress at each kill that is left.
    kills: VecDeque<f64>,
    _scratch: Scratch,
}

impl OwnServer {
    fn start(args: &SoakArgs, seed: u64) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("finding this program")?;
        let beside = own.parent().unwrap_or(Path::new("."));
        let umbrad = args.umbrad.clone().unwrap_or_else(|| beside.join("umbrad"));
        let umbrad =
            umbrad.canonicalize().with_context(|| format!("{} is not there; see --umbrad", umbrad.display()))?;
        // A temporary directory may be in memory, where a sync is free.
        let scratch = Scratch::new(args.directory.as_deref().unwrap_or(beside), "soak-umbrad")?;
        let (address, http, store) = (free_address()?, free_address()?, scratch.path().join("umbra.redb"));
        let config = scratch.path().join("umbra.toml");
        let listeners = [("devices", "mqtt", address), ("operators", "http", http)];
        let listeners = listeners.map(|(name, kind, bind)| {
            format!("[[listener]]\nname = \"{name}\"\nkind = \"{kind}\"\nbind = \"{bind}\"\n")
        });
        fs::write(&config, format!("{SETTINGS}\n{}", listeners.concat()))?;
        let mut command = Command::new(&umbrad);
        command.arg("serve").arg("--config").arg(&config);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UMBRA__")) {
            command.env_remove(name);
        }
        let mut server = Server::start("umbrad", command, scratch.path())?;
        server.wait_until_it_listens(address)?;
        let kills = schedule::kills(args.kills, seed).into();
        Ok(Self { server, address, http, store, kills, _scratch: scratch })
    }

    /// Kills the server, and starts it again, as often as the progress wants it.
    fn kill_if_due(&mut self, progress: f64, recorder: &Recorder) -> anyhow::Result<()> {
        while self.kills.pop_front_if(|at| *at <= progress).is_some() {
            recorder.narrate(|| "the server is killed".to_owned());
            self.server.restart(true)?;
            self.server.wait_until_it_listens(self.address)?;
            recorder.counters.faults.kills.bump();
        }
        Ok(())
    }
}

/// The readings of the server's memory and file.
struct Watch {
    pid: Option<u32>,
    next: Instant,
    readings: Vec<Reading>,
}

/// The resources of the server at a time.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reading {
    /// From 0 to 1.
    progress: f64,
    memory_bytes: u64,
    file_bytes: Option<u64>,
}

/// The resources of the server over a soak.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SoakReport {
    /// Each of twenty parts of the run: the median memory and the last size of the file.
    parts: Vec<Reading>,
    /// The largest deviation of a part of the second half from the mean of its parts.
    memory_deviation: Option<f64>,
    memory_flat: Option<bool>,
    file_bytes_max: Option<u64>,
    /// The limit of the file, if the server was started here.
    file_bytes_limit: Option<u64>,
    file_bounded: Option<bool>,
}

impl Watch {
    fn new(pid: Option<u32>) -> Self {
        Self { pid, next: Instant::now(), readings: Vec::new() }
    }

    fn read(&mut self, progress: f64, own: Option<&OwnServer>) {
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + READING;
        let Some(pid) = own.map(|own| own.server.pid()).or(self.pid) else { return };
        if let Ok(memory_bytes) = resident_bytes(pid) {
            let file_bytes = own.and_then(|own| fs::metadata(&own.store).ok()).map(|file| file.len());
            self.readings.push(Reading { progress, memory_bytes, file_bytes });
        }
    }

    fn report(&self, is_own: bool) -> SoakReport {
        let parts = parts(&self.readings);
        let half: Vec<_> =
            parts.iter().filter(|part| part.progress > 0.5).map(|part| part.memory_bytes as f64).collect();
        let mean = half.iter().sum::<f64>() / half.len().max(1) as f64;
        let deviation = half.iter().map(|memory| (memory - mean).abs() / mean).reduce(f64::max);
        let file_bytes_max = self.readings.iter().filter_map(|reading| reading.file_bytes).max();
        let file_bytes_limit = is_own.then_some(FILE_BYTES_MAX);
        SoakReport {
            memory_deviation: deviation,
            memory_flat: deviation.map(|deviation| deviation <= DEVIATION_MAX),
            file_bytes_max,
            file_bytes_limit,
            file_bounded: file_bytes_max.zip(file_bytes_limit).map(|(bytes, limit)| bytes <= limit),
            parts,
        }
    }
}

/// Returns one reading for each part of the run that has one: the median of the memory, and the last of the rest.
fn parts(readings: &[Reading]) -> Vec<Reading> {
    let part = |n: usize| {
        let (from, until) = (n as f64 / PARTS as f64, (n + 1) as f64 / PARTS as f64);
        let within = readings.iter().filter(|reading| from < reading.progress && reading.progress <= until);
        let within: Vec<_> = within.copied().collect();
        let mut memory: Vec<_> = within.iter().map(|reading| reading.memory_bytes).collect();
        memory.sort_unstable();
        let memory_bytes = *memory.get(memory.len() / 2)?;
        within.last().map(|last| Reading { progress: until, memory_bytes, ..*last })
    };
    (0..PARTS).filter_map(part).collect()
}

impl SoakReport {
    /// Returns the report as text.
    fn text(&self) -> String {
        let mut text = String::new();
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        let _ = writeln!(text, "the server over the run:");
        for part in &self.parts {
            let file = part.file_bytes.map_or(String::new(), |bytes| format!(", file {:.1} MiB", mib(bytes)));
            let (percent, memory) = (part.progress * 100.0, mib(part.memory_bytes));
            let _ = writeln!(text, "  {percent:>3.0} %  memory {memory:>6.1} MiB{file}");
        }
        let verdict = |met: Option<bool>| met.map_or("not measured", |met| if met { "met" } else { "MISSED" });
        let deviation = self.memory_deviation.map_or("-".to_owned(), |of| format!("{:.1} %", of * 100.0));
        let limit = DEVIATION_MAX * 100.0;
        let flat = verdict(self.memory_flat);
        let _ = writeln!(text, "memory over the second half within ±{limit:.0} %: ±{deviation}: {flat}");
        if let (Some(bytes), Some(limit)) = (self.file_bytes_max, self.file_bytes_limit) {
            let (bytes, limit, bounded) = (mib(bytes), mib(limit), verdict(self.file_bounded));
            let _ = writeln!(text, "file at most {limit:.0} MiB, by its retention: {bytes:.1} MiB: {bounded}");
        }
        text
    }
}

/// The configuration of the started server: bounds that are reached within the first half.
const SETTINGS: &str = r#"
[store]
path = "umbra.redb"
memory = "16 MiB"
journal_bytes_max = "16 MiB"
journal_age_max = "2m"

[log]
level = "warn"
"#;
/// Four times the journal: redb keeps freed pages for reuse.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const DEVIATION_MAX: f64 = 0.05;
const READING: Duration = Duration::from_millis(250);
const PARTS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn report(memory: impl Fn(f64) -> f64) -> SoakReport {
        let mut watch = Watch::new(None);
        watch.readings = (1..=200)
            .map(|n| {
                let progress = f64::from(n) / 200.0;
                Reading { progress, memory_bytes: (memory(progress) * 1e6) as u64, file_bytes: Some(1) }
            })
            .collect();
        watch.report(true)
    }

    #[test]
    fn memory_is_flat_if_no_part_of_the_second_half_deviates() {
        for (label, memory, expected) in [
            ("grows in the first half", (|at: f64| 100.0 * at.min(0.5)) as fn(f64) -> f64, true),
            ("grows on", |at: f64| 100.0 + 100.0 * at, false),
            ("a leak of an eighth", |at: f64| 100.0 + 30.0 * at, false),
            (
                "wavers within a part",
                |at: f64| if ((at * 200.0) as u32).is_multiple_of(10) { 200.0 } else { 100.0 },
                true,
            ),
        ] {
            let report = report(memory);
            assert_eq!(report.parts.len(), PARTS);
            assert_eq!(report.memory_flat, Some(expected), "{label}: {:?}", report.memory_deviation);
            assert_eq!(report.text().contains("MISSED"), !expected, "{label}");
        }
    }

    #[test]
    fn nothing_is_claimed_without_readings() {
        let report = Watch::new(None).report(false);
        assert_eq!((report.memory_flat, report.file_bounded), (None, None));
        assert!(report.text().contains("not measured"));
    }
}
