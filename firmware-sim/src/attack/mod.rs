//! `firmware-sim attack`: hostile patterns of one credential, and their effect on the other clients.
//!
//! Three processes take part: the server; the attacker, a child of this one, so that its load is not mistaken for the
//! server's ([`stage`], [`patterns`]); and this one with the victims ([`victims`]).
//!
//! Order of a run: the attacker prepares; the victims are measured; the attack is launched, and the victims are measured
//! again; the attacker stops, and they are measured once more. Everything is bounded in time and count. [`verdict`] compares
//! the phases.

mod catalogue;
mod client;
mod packet;
mod patterns;
mod process;
mod stage;
mod verdict;
mod victims;
mod web;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;

use catalogue::{ATTACKS, Attack, Parameters, label};
use packet::Credentials;
use process::{Attacker, Gauge, Spawned, Watch};
use stage::{Event, Orders, PREPARATION, Stage};
use verdict::{Limits, Measured, Report, Times, size, table};
use victims::Victims;

/// Arguments of `attack`.
#[derive(Debug, Args)]
pub(crate) struct AttackArgs {
    /// Names of the attacks.
    #[arg(required_unless_present_any = ["all", "list"], conflicts_with_all = ["all", "list"])]
    names: Vec<String>,
    /// Run all attacks, one after the other, and print a table.
    #[arg(long)]
    all: bool,
    /// Describe the attacks with their parameters.
    #[arg(long, conflicts_with = "all")]
    list: bool,
    /// A parameter of the attack, such as connections=300.
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = parameter, conflicts_with = "all")]
    parameters: Vec<(String, usize)>,
    /// Start with the smallest parameters instead of the defaults: a check that the attack runs.
    #[arg(long)]
    smallest: bool,
    /// Seconds of the attack; the baseline has half of them, at most 4.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    limits: Limits,
    /// Exit with status 1 if a limit is not kept.
    #[arg(long)]
    assert: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// Start this umbrad with an empty store for each attack, in the place of --server.
    #[arg(long, value_name = "UMBRAD", required_unless_present_any = ["server", "list"], conflicts_with = "server")]
    spawn: Option<PathBuf>,
    /// With --spawn: a file with settings (TOML) for the end of the server's configuration.
    #[arg(long, value_name = "FILE", requires = "spawn")]
    settings: Option<PathBuf>,
    /// With --spawn: run the server in a cgroup with this much memory, such as 512M. Needs cgroup v2 and the right to create one.
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "spawn")]
    cgroup_memory: Option<u64>,
    /// MQTT address of a running server.
    #[arg(long, value_name = "ADDRESS", requires_all = ["device_credentials", "victim_credentials"])]
    server: Option<SocketAddr>,
    /// HTTP address of the running server, for the attacks over HTTP.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Process id of the running server, for its memory. Default: its /metrics, with the first of --admin-credentials
    #[arg(long)]
    pid: Option<u32>,
    /// File with the NAME:PASSWORD of the attacker, whose role is that of a device.
    #[arg(long, value_name = "FILE")]
    device_credentials: Option<PathBuf>,
    /// File with a NAME:PASSWORD per line of other devices, the victims and writers: best 14.
    #[arg(long, value_name = "FILE")]
    victim_credentials: Option<PathBuf>,
    /// File with a NAME:PASSWORD per line of admins, for attacks that need many shadows.
    #[arg(long, value_name = "FILE")]
    admin_credentials: Option<PathBuf>,
}

/// The logins of a run.
struct Logins {
    device: Credentials,
    victims: Vec<Credentials>,
    admins: Vec<Credentials>,
}

impl Logins {
    /// Reads the files, or makes up users for a server that is started.
    fn new(args: &ServerArgs, smallest: bool) -> anyhow::Result<Self> {
        let read = |file: &Option<PathBuf>| file.as_deref().map(read_credentials).transpose();
        if args.spawn.is_none() {
            let device = read(&args.device_credentials)?.unwrap_or_default().into_iter().next();
            return Ok(Self {
                device: device.context("--device-credentials has no line")?,
                victims: read(&args.victim_credentials)?.unwrap_or_default(),
                admins: read(&args.admin_credentials)?.unwrap_or_default(),
            });
        }
        // The smallest run has few, as each password takes a while to hash.
        let (devices, admins) = if smallest { (4, 1) } else { (VICTIMS + WRITERS, 4) };
        let user = |name: String| Credentials { password: format!("password of {name}"), name };
        Ok(Self {
            device: user("attacker".to_owned()),
            victims: (1..=devices).map(|number| user(format!("victim-{number}"))).collect(),
            // Several, as each has a rate of requests.
            admins: (1..=admins).map(|number| user(format!("admin-{number}"))).collect(),
        })
    }
}

fn read_credentials(file: &Path) -> anyhow::Result<Vec<Credentials>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let (name, password) =
                line.split_once(':').with_context(|| format!("a line of {} is not NAME:PASSWORD", file.display()))?;
            Ok(Credentials { name: name.to_owned(), password: password.to_owned() })
        })
        .collect()
}

fn parameter(text: &str) -> Result<(String, usize), String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=VALUE")?;
    Ok((name.to_owned(), value.parse().map_err(|_| format!("{value} is no number"))?))
}

/// Runs the attacks and prints their reports.
///
/// # Errors
///
/// An attack could not be run.
pub(crate) fn main(args: &AttackArgs) -> anyhow::Result<ExitCode> {
    if args.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    crate::bench::limits::raise_open_files(0)?;
    let logins = Logins::new(&args.server, args.smallest)?;
    if logins.victims.is_empty() {
        bail!("--victim-credentials has no line");
    }
    let runs = runs(args)?;
    let (mut reports, mut failed, several) = (Vec::new(), false, runs.len() > 1);
    for (attack, parameters) in runs {
        let name = label(attack, &parameters);
        match run(args, &logins, attack, parameters) {
            Ok(report) => {
                eprintln!("{}", report.line());
                failed |= !report.violations.is_empty();
                reports.push(report);
            }
            Err(error) if several => {
                eprintln!("{name}: not measured: {error:#}");
                failed = true;
            }
            Err(error) => return Err(error.context(name)),
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else if several {
        print!("{}", table(&reports));
    }
    Ok(if failed && args.assert { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Returns the attacks to run, each with its parameters.
fn runs(args: &AttackArgs) -> anyhow::Result<Vec<(&'static Attack, Parameters)>> {
    if args.all {
        let cases = ATTACKS.iter().flat_map(|attack| attack.cases.iter().map(move |case| (attack, case)));
        // The cases differ in size only, which the smallest parameters take away.
        let cases = cases.filter(|(attack, case)| !args.smallest || attack.cases.first() == Some(case));
        return cases
            .map(|(attack, case)| {
                let case: &[_] = if args.smallest { &[] } else { case };
                let set: Vec<_> = case.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
                Ok((attack, attack.parameters(args.smallest, &set)?))
            })
            .collect();
    }
    let parameters = |name: &String| {
        let attack = Attack::find(name)?;
        Ok((attack, attack.parameters(args.smallest, &args.parameters)?))
    };
    args.names.iter().map(parameters).collect()
}

fn list() {
    for Attack { name, summary, parameters, .. } in ATTACKS {
        let parameters: Vec<_> = parameters.iter().map(|(name, default, _)| format!("{name}={default}")).collect();
        println!("{name:20} {summary} ({})", parameters.join(", "));
    }
}

/// Runs one attack.
fn run(args: &AttackArgs, logins: &Logins, attack: &Attack, parameters: Parameters) -> anyhow::Result<Report> {
    let spawned = spawn(&args.server, logins)?;
    let (mqtt, http, gauge) = match &spawned {
        Some(server) => (server.mqtt, Some(server.http), Some(Gauge::Process(server.pid()))),
        None => {
            let metrics = args.server.http.map(|http| Gauge::Metrics(http, logins.admins.first().cloned()));
            let gauge = args.server.pid.map(Gauge::Process).or(metrics);
            (args.server.server.context("--server or --spawn")?, args.server.http, gauge)
        }
    };
    let orders = Orders {
        attack: attack.name.to_owned(),
        parameters: parameters.clone(),
        mqtt,
        http,
        device: logins.device.clone(),
        victim: logins.victims.first().map(|login| login.name.clone()).unwrap_or_default(),
        admins: logins.admins.clone(),
    };
    let mut limits = args.limits;
    limits.memory_max = limits.memory_max.or(args.server.cgroup_memory);
    let seconds = Duration::from_secs_f64(args.seconds.clamp(0.1, 600.0));
    let measured = measure(&orders, &logins.victims, gauge, seconds).map_err(|error| match &spawned {
        Some(server) if server.was_killed() => error.context("the server was killed for its memory"),
        Some(server) => error.context(format!("the log of the server ends with: {}", server.log_end())),
        None => error,
    })?;
    let (times, observed, usage, cpu, counts) = measured;
    let name = label(attack, &parameters);
    let measured =
        Measured { attack: attack.name.to_owned(), label: name, parameters, times, observed, usage, cpu, counts };
    let mut report = Report::new(measured, &limits);
    if spawned.as_ref().is_some_and(Spawned::was_killed) {
        report.violations.push("the server was killed for its memory".to_owned());
    }
    Ok(report)
}

fn spawn(args: &ServerArgs, logins: &Logins) -> anyhow::Result<Option<Spawned>> {
    let Some(umbrad) = &args.spawn else { return Ok(None) };
    let settings = match &args.settings {
        Some(file) => fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?,
        None => String::new(),
    };
    let devices: Vec<_> = std::iter::once(&logins.device).chain(&logins.victims).collect();
    let admins: Vec<_> = logins.admins.iter().collect();
    Spawned::start(umbrad, &devices, &admins, &settings, args.cgroup_memory).map(Some)
}

type Course = (Times, victims::Observed, Vec<process::Usage>, Duration, stage::Counts);

/// Takes the attacker through its phases, with the victims beside it.
fn measure(
    orders: &Orders,
    victims: &[Credentials],
    gauge: Option<Gauge>,
    seconds: Duration,
) -> anyhow::Result<Course> {
    let mut attacker = Attacker::start(orders)?;
    attacker.wait_until(|event| matches!(event, Event::Ready), PREPARATION * 3)?;
    let watch = gauge.map(Watch::start);
    let victims = Victims::start(orders.mqtt, victims, VICTIMS, WRITERS)?;
    sleep(seconds.min(WARM_UP));
    let before = Instant::now();
    sleep((seconds / 2).min(BASELINE));
    let (launch, cpu) = (Instant::now(), attacker.cpu_time());
    attacker.attack()?;
    attacker.wait_until(|event| matches!(event, Event::Attacking), PREPARATION * 3)?;
    let attack = Instant::now();
    sleep(seconds);
    let cpu = attacker.cpu_time().saturating_sub(cpu);
    let after = Instant::now();
    let counts = attacker.stop()?;
    sleep((seconds / 4).min(AFTER));
    let end = Instant::now();
    let observed = victims.finish();
    let usage = watch.map(Watch::finish).unwrap_or_default();
    Ok((Times { before, launch, attack, after, end }, observed, usage, cpu, counts))
}

/// Runs the attacker's side: `attack-process`, which [`Attacker::start`] starts.
///
/// # Errors
///
/// There are no orders, or nobody to report to.
pub(crate) fn attack_process() -> anyhow::Result<ExitCode> {
    crate::bench::limits::raise_open_files(0)?;
    let stage = Stage::read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        // An attack that is stopped before its load is on ends here.
        tokio::select! {
            outcome = patterns::run(stage.clone()) => outcome,
            () = stage.stopped() => Ok(()),
        }
    });
    // Thousands of tasks and sockets end with the process.
    stage::report(&match outcome {
        Ok(()) => Event::Done(stage.counts()),
        Err(error) => Event::Failed(format!("{error:#}")),
    });
    std::process::exit(0)
}

const VICTIMS: usize = 4;
const WRITERS: usize = 10;
const WARM_UP: Duration = Duration::from_secs(1);
const BASELINE: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(2);
