//! `bench flood`: what a flood of logins with wrong passwords costs those who are connected.
//!
//! The devices update in a closed loop, as in the other measurements, with a user name and password each. They are
//! measured alternately alone and while strangers connect, so many a second, each with a password that is wrong: half
//! for the user that there is, half for users that there are not. Each stranger waits for its answer. The ratio of the
//! two median latencies is what the flood costs.

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
    Shape,
    compare::median,
    frame::{self, Login, Protocol},
    generator::{Generator, Load},
    servers::Servers,
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
    /// The umbrad to measure; without it, the one beside this program.
    #[arg(long)]
    umbrad: Option<std::path::PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    shape: Shape,
}

/// One pair of measurements.
#[derive(Debug, Clone, Serialize)]
struct Round {
    /// Median milliseconds from publish to accepted, without strangers.
    alone_ms: f64,
    /// The same during the flood.
    flooded_ms: f64,
    /// Logins tried a second.
    logins_per_second: f64,
    /// Those that were answered with a refusal, or closed.
    refused: u64,
}

/// The most that the median latency may rise to, as a multiple.
const TARGET: f64 = 2.0;

/// What the devices log in as.
pub(crate) const USER: Login<'static> = Login { user: "fleet", password: "the right password" };

/// Measures, prints, and fails if the target is missed.
pub(crate) fn flood(args: &FloodArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    let servers = Servers::find(args.umbrad.as_deref(), None, None)?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let peer = servers.start_guarded_umbrad(USER)?;
        let load = args.shape.load(peer.address, args.devices, args.seconds, stop)?;
        let measured = round(Load { login: Some(USER), ..load }, args).with_context(|| peer.log_end())?;
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

fn round(load: Load, args: &FloodArgs) -> anyhow::Result<Round> {
    let (alone, _) = Generator::connect(load.clone())?.run()?;
    let generator = Generator::connect(load.clone())?;
    let strangers = Attackers::come(load.broker, args.logins)?;
    let flooded = generator.run();
    let counts = strangers.leave()?;
    let (flooded, _) = flooded?;
    ensure!(counts.refused > 0, "no stranger was answered");
    Ok(Round {
        alone_ms: alone.latency_ms.p50,
        flooded_ms: flooded.latency_ms.p50,
        logins_per_second: counts.tried as f64 / counts.seconds,
        refused: counts.refused,
    })
}

/// Those who try to get in, on a thread of their own.
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
    fn come(broker: SocketAddr, per_second: u32) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("strangers".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(keep_trying(broker, per_second, &stopped)))
        })?;
        Ok(Self { stop, thread })
    }

    fn leave(self) -> anyhow::Result<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the strangers' thread failed"))?
    }
}

async fn keep_trying(broker: SocketAddr, per_second: u32, stop: &AtomicBool) -> Counts {
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

/// Tries to get in, and waits for the end of it.
async fn try_once(broker: SocketAddr, number: u64) -> anyhow::Result<()> {
    let stranger = format!("stranger-{number}");
    let user = if number.is_multiple_of(2) { USER.user } else { &stranger };
    let mut packet = Vec::new();
    frame::write_connect(&mut packet, Protocol::V311, &stranger, Some(Login { user, password: "a wrong password" }));
    let mut stream = TcpStream::connect(broker).await?;
    stream.write_all(&packet).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    // CONNACK, and no code that lets in; or nothing, where it is turned away at once.
    ensure!(answer.get(3) != Some(&0), "a stranger was let in");
    Ok(())
}

/// How often strangers come.
const TICK: Duration = Duration::from_millis(10);
