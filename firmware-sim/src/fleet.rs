//! `firmware-sim fleet`: runs the fleet, stops it, and has the oracle judge.
//!
//! Order of the stop: the apps and monitors finish their edits, then the devices converge within a deadline and each reads
//! its shadow a last time; then the oracle judges. Without `--duration`, the first interrupt begins the stop; a second one
//! ends the process at once.

use std::{collections::BTreeMap, net::ToSocketAddrs, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use umbra_client::{Address, ConnectOptions, DeviceId, Document};

use crate::{
    device::{Device, DutyCycle},
    firmware::{DeviceKind, thermostat::OWNED},
    nodes,
    participant::{Broker, name},
    report::Recorder,
    writers::{Kind, Target, Writer, WriterProfile, Writes},
};

/// Arguments of `fleet`.
///
/// The defaults stay well inside the quotas that the service ships with: 20 requests a second for each principal and
/// shadow, 100 messages a second for each connection.
#[derive(Debug, Args)]
// A script adds its caller's arguments to its own: the last one wins.
#[command(args_override_self = true)]
pub(crate) struct FleetArgs {
    /// Thermostats.
    #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    devices: u32,
    #[command(flatten)]
    connect: ConnectOptions,
    /// URLs of the other nodes of the broker's cluster, separated by commas. Clients are spread over all nodes, and go to another when
    /// theirs fails; at the end all nodes must have the same shadows.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    nodes: Vec<Address>,
    /// Seconds until the fleet comes to rest; without it, until interrupted.
    #[arg(long)]
    duration: Option<f64>,
    /// Reports a second, of each device.
    #[arg(long, default_value_t = 1.0, value_parser = rate)]
    rate: f64,
    /// Apps that change set points, modes and firmware, racing the devices.
    #[arg(long, default_value_t = 2)]
    app_writers: u32,
    /// Monitors that write tags, racing everybody.
    #[arg(long, default_value_t = 1)]
    monitors: u32,
    /// Edits a second, of each app and monitor.
    #[arg(long, default_value_t = 3.0, value_parser = rate)]
    writer_rate: f64,
    /// Have the service rebase updates over changes of other fields: conflicts then occur only in the same field.
    #[arg(long)]
    rebase: bool,
    /// Seed of devices, random choices and physics (not of the network); random without it.
    #[arg(long)]
    seed: Option<u64>,
    /// New connections a second.
    #[arg(long, default_value_t = 200.0, value_parser = rate)]
    connect_rate: f64,
    /// Simulated seconds per second of the clock.
    #[arg(long, default_value_t = 60.0, value_parser = rate)]
    speedup: f64,
    /// Seconds that the devices have at the end to converge.
    #[arg(long, default_value_t = 30.0, value_parser = rate)]
    settle: f64,
    /// Prefix of all names; fleets that run at the same time need different ones.
    #[arg(long, default_value = "thermostat")]
    prefix: String,
    /// Print each conflict, retry, delta and edit; `--narrate false` does not.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    narrate: bool,
}

/// Runs the fleet to its end.
///
/// # Errors
///
/// Nothing was run: there is no broker, or the runtime could not start.
pub(crate) fn main(args: FleetArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(run(args))
}

async fn run(args: FleetArgs) -> anyhow::Result<ExitCode> {
    let broker = Broker::new(&args.connect, &args.nodes)?;
    let addresses: Vec<_> = [args.connect.address()].into_iter().chain(args.nodes.iter().cloned()).collect();
    for address in &addresses {
        wait_for_broker(address).await?;
    }
    let seed = args.seed.unwrap_or_else(rand::random);
    let recorder = Arc::new(Recorder::new(args.narrate));
    recorder.log(&format!(
        "{} thermostats, {} apps and {} monitors write the same shadows on {} (seed {seed})",
        args.devices,
        args.app_writers,
        args.monitors,
        addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(", ")
    ));

    let fleet = Fleet { args, broker, recorder: recorder.clone(), rng: SmallRng::seed_from_u64(seed) };
    let progress = tokio::spawn({
        let recorder = recorder.clone();
        async move { recorder.show_progress().await }
    });
    let finals = fleet.run_and_stop().await;
    progress.abort();
    recorder.end_progress();
    let finals = finals?;

    let violations = recorder.with_oracle(|oracle| oracle.judge(&finals, |_| &OWNED));
    print!("{}", recorder.report(&violations));
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The settings of the clients.
struct Fleet {
    args: FleetArgs,
    broker: Broker,
    recorder: Arc<Recorder>,
    rng: SmallRng,
}

impl Fleet {
    /// Runs the fleet; returns the final document of every shadow, or the reason why there is none.
    async fn run_and_stop(mut self) -> anyhow::Result<BTreeMap<DeviceId, Result<Document, String>>> {
        let (writers_stop, stop) = watch::channel(false);
        let (devices_rest, rest) = watch::channel(false);
        let ids = (1..=self.args.devices).map(|n| name(&format!("{}-{n:04}", self.args.prefix)));
        let ids: Arc<[DeviceId]> = ids.collect::<anyhow::Result<_>>()?;
        let mut devices = self.start_devices(&ids, &rest);
        let mut writers = self.start_writers(&ids, &stop)?;

        let duration = self.args.duration;
        until_interrupted(async {
            match duration {
                Some(seconds) => sleep(Duration::from_secs_f64(seconds.max(0.0))).await,
                None => std::future::pending().await,
            }
        })
        .await;
        self.recorder.log("stopping");
        writers_stop.send_replace(true);
        while writers.join_next().await.is_some() {}
        devices_rest.send_replace(true);
        let deadline = Instant::now() + Duration::from_secs_f64(self.args.settle);
        let mut finals = BTreeMap::new();
        while let Ok(Some(ended)) = timeout_at(deadline, devices.join_next()).await {
            if let Ok((id, last)) = ended {
                finals.insert(id, last);
            }
        }
        devices.shutdown().await;
        let late = || Err(format!("not converged after {} s", self.args.settle));
        for id in ids.iter() {
            finals.entry(id.clone()).or_insert_with(late);
        }
        if !self.args.nodes.is_empty() {
            nodes::compare(&self.args.connect, &self.args.nodes, &finals, deadline, &self.recorder).await?;
        }
        Ok(finals)
    }

    fn start_devices(
        &mut self,
        ids: &[DeviceId],
        rest: &watch::Receiver<bool>,
    ) -> JoinSet<(DeviceId, Result<Document, String>)> {
        let (reading, speedup) = (Duration::from_secs_f64(1.0 / self.args.rate), self.args.speedup);
        let duty_cycle = DutyCycle { reading, speedup, rebase: self.args.rebase };
        let begin = Instant::now();
        let mut devices = JoinSet::new();
        for (number, id) in (1..).zip(ids) {
            let (recorder, seed) = (self.recorder.clone(), self.rng.random());
            let device = Device::new(id.clone(), number, &self.broker, duty_cycle, recorder, seed);
            let start = begin + Duration::from_secs_f64(f64::from(number - 1) / self.args.connect_rate);
            let (id, rest) = (id.clone(), rest.clone());
            devices.spawn(async move { (id, device.run(start, rest).await) });
        }
        devices
    }

    fn start_writers(&mut self, ids: &[DeviceId], stop: &watch::Receiver<bool>) -> anyhow::Result<JoinSet<()>> {
        let pause = Duration::from_secs_f64(1.0 / self.args.writer_rate);
        let writes = if self.args.rebase { Writes::Rebase } else { Writes::Conditional };
        let profile = WriterProfile { pause, think: THINK_TIME_MAX, writes, changes_firmware: true, observes: true };
        let target = |id: &DeviceId| Target { id: id.clone(), kind: DeviceKind::Thermostat };
        let targets: Arc<[Target]> = ids.iter().map(target).collect();
        let apps = (1..=self.args.app_writers).map(|n| (Kind::App, format!("{}-app-{n}", self.args.prefix)));
        let monitors = (1..=self.args.monitors).map(|n| (Kind::Job, format!("{}-monitor-{n}", self.args.prefix)));
        let mut writers = JoinSet::new();
        for (kind, text) in apps.chain(monitors) {
            let (recorder, seed) = (self.recorder.clone(), self.rng.random());
            let writer = Writer::new(kind, name(&text)?, targets.clone(), &self.broker, profile, recorder, seed);
            writers.spawn(writer.run(stop.clone()));
        }
        Ok(writers)
    }
}

/// Waits until `end`, or for an interrupt; a second interrupt ends the process at once.
pub(crate) async fn until_interrupted(end: impl Future<Output = ()>) {
    tokio::select! {
        () = end => {}
        _ = tokio::signal::ctrl_c() => {
            tokio::spawn(async {
                let _ = tokio::signal::ctrl_c().await;
                std::process::exit(1);
            });
        }
    }
}

/// Waits until the broker accepts connections: it may have been started a moment ago.
///
/// # Errors
///
/// It does not within ten seconds.
pub(crate) async fn wait_for_broker(address: &Address) -> anyhow::Result<()> {
    let mut addresses =
        (address.host(), address.port()).to_socket_addrs().with_context(|| format!("looking up {address}"))?;
    let Some(resolved) = addresses.next() else { bail!("{address} has no address") };
    let deadline = Instant::now() + BROKER_WAIT;
    loop {
        match TcpStream::connect(resolved).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("no broker answers at {address}; is umbrad running?"));
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Parses a positive number.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("expected a number above 0".into()),
    }
}

/// The longest time between reading and writing.
const THINK_TIME_MAX: Duration = Duration::from_millis(1_200);
/// The longest wait for the broker.
const BROKER_WAIT: Duration = Duration::from_secs(10);
