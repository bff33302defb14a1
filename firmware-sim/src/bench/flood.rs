//! `bench flood`: the effect of a flood of logins with wrong passwords on connected devices.
//!
//! The devices log in with a password and update in a closed loop. They are measured alternately without attackers and
//! with them: so many logins a second, each with a wrong password, half for the existing user, half for unknown users.
//! Each attacker waits for its answer. The result is the ratio of the two median latencies.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};

use super::{
    frame::{self, Login, Protocol},
    load::devices::{Generator, Load},
    load_args::LoadArgs,
    report::median,
    servers::{ServerArgs, Servers},
};

/// Arguments of `bench flood`.
#[derive(Debug, Args)]
pub(crate) struct FloodArgs {
    /// Devices that update.
    #[arg(long, short = 'n', default_value_t = 1_000)]
    devices: usize,
    /// Logins with a wrong password, a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    logins: u32,
    /// Seconds measured, each time.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Pairs of measurements.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    servers: ServerArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
}

/// One pair of measurements.
#[derive(Debug, Clone, Serialize)]
struct Round {
    /// Median milliseconds from publish to accepted, without attackers.
    alone_ms: f64,
    /// The same during the flood.
    flooded_ms: f64,
    /// Logins attempted per second.
    logins_per_second: f64,
    /// Logins refused, or closed.
    refused: u64,
}

/// The highest ratio of the median latencies.
const TARGET: f64 = 2.0;

/// The login of the devices.
pub(crate) const USER: Login<'static> = Login { user: "fleet", password: "the right password" };

/// Measures, prints, and fails if the target is missed.
pub(crate) fn flood(args: &FloodArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    let servers = Servers::find(&args.servers)?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let peer = servers.start_guarded_umbrad(USER)?;
        let load = args.load.load(&[peer.address], args.devices, args.seconds, stop)?;
        let measured = round(Load { login: Some(USER), ..load }, peer.address, args).with_context(|| peer.log_end())?;
        rounds.push(measured);
    }
    let ratio = median(rounds.iter().map(|round| round.flooded_ms / round.alone_ms)).context("a round")?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rounds)?);
    } else {
        for Round { alone_ms, flooded_ms, logins_per_second, refused } in &rounds {
            println!(
                "median {alone_ms:7.2} ms alone, {flooded_ms:7.2} ms with {logins_per_second:.0} wrong logins/s \
                 ({refused} refused): {:.2}×",
                flooded_ms / alone_ms
            );
        }
    }
    println!("median of the rounds: {ratio:.2}× (at most {TARGET:.1}×)");
    Ok(if ratio <= TARGET { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn round(load: Load, broker: SocketAddr, args: &FloodArgs) -> anyhow::Result<Round> {
    let (alone, _) = Generator::connect(load.clone())?.run()?;
    let generator = Generator::connect(load.clone())?;
    let attackers = Attackers::start(broker, args.logins)?;
    let flooded = generator.run();
    let counts = attackers.stop()?;
    let (flooded, _) = flooded?;
    ensure!(counts.refused > 0, "no attacker was answered");
    Ok(Round {
        alone_ms: alone.measured.latency_ms.p50,
        flooded_ms: flooded.measured.latency_ms.p50,
        logins_per_second: counts.tried as f64 / counts.seconds,
        refused: counts.refused,
    })
}

/// The clients with wrong passwords, on their own thread.
struct Attackers {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<anyhow::Result<Counts>>,
}

struct Counts {
    tried: u64,
    refused: u64,
    seconds: f64,
}

impl Attackers {
    fn start(broker: SocketAddr, per_second: u32) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("attackers".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(attack(broker, per_second, &stopped)))
        })?;
        Ok(Self { stop, thread })
    }

    fn stop(self) -> anyhow::Result<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the attackers' thread failed"))?
    }
}

async fn attack(broker: SocketAddr, per_second: u32, stop: &AtomicBool) -> Counts {
    let (begun, refused) = (std::time::Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let each = u64::from(per_second) * u64::try_from(TICK.as_millis()).unwrap_or(1) / 1000;
    let mut tried = 0;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        for _ in 0..each.max(1) {
            tried += 1;
            let refused = refused.clone();
            tokio::spawn(async move {
                if try_once(broker, tried).await.is_ok() {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    Counts { tried, refused: refused.load(Ordering::Relaxed), seconds: begun.elapsed().as_secs_f64() }
}

/// Attempts one login, and waits until the server closes the connection.
async fn try_once(broker: SocketAddr, number: u64) -> anyhow::Result<()> {
    let attacker = format!("attacker-{number}");
    let user = if number.is_multiple_of(2) { USER.user } else { &attacker };
    let mut packet = Vec::new();
    frame::write_connect(&mut packet, Protocol::V311, &attacker, Some(Login { user, password: "a wrong password" }));
    let mut stream = TcpStream::connect(broker).await?;
    stream.write_all(&packet).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    // A CONNACK with an error, or nothing if the server closes at once.
    ensure!(answer.get(3) != Some(&0), "an attacker was accepted");
    Ok(())
}

/// The interval of the attempts.
const TICK: Duration = Duration::from_millis(10);
