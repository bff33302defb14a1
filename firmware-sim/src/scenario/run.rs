//! One run of a scenario: starts the devices and the back end, stops them, and has the oracle judge.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use umbra_client::{ConnectOptions, ConnectOptionsError, DeviceId, Document, HttpClient};

use super::{
    RunOptions,
    connection::{Clock, Connection, Run},
    device::{Device, Profile},
    file::{Group, Scenario},
    outcome::Outcome,
    schedule::Schedule,
    socket::Endpoint,
    waves::Rollout,
};
use crate::{
    firmware,
    fleet::{until_interrupted, wait_for_broker},
    oracle::{Convergence, Oracle},
    participant::{Broker, name},
    report::Recorder,
    writers::{Target, Writer, WriterProfile},
};

/// The settings of a run.
pub(crate) struct Settings {
    /// The scenario.
    pub(crate) scenario: Scenario,
    /// The service.
    pub(crate) connect: ConnectOptions,
    /// The seed.
    pub(crate) seed: u64,
    /// Print single events.
    pub(crate) narrate: bool,
}

impl Settings {
    /// Returns the settings of a run of `scenario` against a service.
    pub(crate) fn new(scenario: Scenario, connect: ConnectOptions, options: &RunOptions) -> Self {
        let seed = options.seed.or(scenario.seed).unwrap_or_else(rand::random);
        Self { scenario, connect, seed, narrate: options.narrate }
    }
}

/// A group of the run.
struct Members<'a> {
    group: &'a Group,
    devices: Vec<DeviceId>,
}

/// Runs a scenario. `on_progress` is called with the progress, from 0 to 1, many times a second; it may block.
///
/// # Errors
///
/// There is no broker, a file of the settings cannot be used, or `on_progress` fails.
pub(crate) async fn run(
    settings: Settings,
    on_progress: impl FnMut(f64, &Recorder) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let Settings { scenario, connect, seed, narrate } = settings;
    let (endpoint, broker) = (Arc::new(Endpoint::new(&connect)?), Broker::new(&connect, &[])?);
    wait_for_broker(&connect.address()).await?;
    let http = connect.http_client();
    if !scenario.waves.is_empty() {
        check_rollouts(http.as_ref()).await?;
    }
    let members = members(&scenario)?;
    let mut convergence = Convergence::default();
    for Members { group, devices } in &members {
        convergence.add(&group.name, devices, firmware::owned(group.kind));
    }
    let recorder = Arc::new(Recorder::with(narrate, Oracle::new(scenario.exclusive), convergence, scenario.speed));
    recorder.log(&format!("{} on {} (seed {seed})", scenario.summary(), connect.address()));
    let progress = tokio::spawn({
        let recorder = recorder.clone();
        async move { recorder.show_progress().await }
    });

    let (finals_sender, finals) = mpsc::unbounded_channel();
    let clock = Clock { start: Instant::now(), speed: scenario.speed };
    let run = Run { endpoint, recorder: recorder.clone(), clock, finals: finals_sender };
    let mut seeds = SmallRng::seed_from_u64(seed);
    let (stop_writers, stop) = watch::channel(false);
    let (finish_devices, finish) = watch::channel(false);
    let mut fleet = Fleet { scenario: &scenario, run, seeds: &mut seeds, schedules: Vec::new() };
    let connections = fleet.start_connections(&members, &finish)?;
    let back_end = fleet.start_back_end(&members, &broker, http.ok().as_ref(), &stop)?;
    let schedules = fleet.schedules;

    let mut ended = Ok(());
    until_interrupted(async { ended = reach_end(&scenario, &recorder, clock, on_progress).await }).await;
    ended?;
    let elapsed = clock.now();
    recorder.log("stopping");
    stop_writers.send_replace(true);
    back_end.join_all().await;
    finish_devices.send_replace(true);
    let devices = members.iter().flat_map(|members| members.devices.iter().cloned());
    let finals = collect(devices.collect(), finals, connections, scenario.settle_seconds).await;
    progress.abort();
    recorder.end_progress();

    let kinds: BTreeMap<_, _> =
        members.iter().flat_map(|members| members.devices.iter().map(|id| (id, members.group.kind))).collect();
    let owned = |device: &DeviceId| kinds.get(device).map_or(&[][..], |kind| firmware::owned(*kind));
    let violations = recorder.with_oracle(|oracle| oracle.judge(&finals, owned));
    Ok(Outcome { seed, speed: scenario.speed, elapsed, violations, recorder, schedules })
}

/// Checks that the server takes rollouts from this client.
async fn check_rollouts(http: Result<&HttpClient, &ConnectOptionsError>) -> anyhow::Result<()> {
    let needed = "firmware waves are rollouts over HTTP; see --http-url";
    let http = http.map_err(|error| anyhow::anyhow!("{needed}: {error}"))?;
    http.rollouts(None).try_next().await.map(drop).context(needed)
}

/// Returns the groups with the names of their devices.
fn members(scenario: &Scenario) -> anyhow::Result<Vec<Members<'_>>> {
    let ids = |group: &Group| {
        let devices = (1..=group.count).map(|n| name(&format!("{}-{}-{n:04}", scenario.prefix, group.name)));
        devices.collect::<anyhow::Result<Vec<_>>>()
    };
    scenario.groups.iter().map(|group| Ok(Members { group, devices: ids(group)? })).collect()
}

/// Waits until the duration is over or enough updates are accepted.
async fn reach_end(
    scenario: &Scenario,
    recorder: &Recorder,
    clock: Clock,
    mut on_progress: impl FnMut(f64, &Recorder) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        sleep(PROGRESS).await;
        let simulated = clock.now().as_secs_f64() * clock.speed;
        let of_duration = scenario.duration.map_or(0.0, |duration| simulated / duration.0);
        let accepted = recorder.counters.accepted.get() as f64;
        let of_updates = scenario.updates.map_or(0.0, |updates| accepted / updates as f64);
        let progress = of_duration.max(of_updates);
        on_progress(progress.min(1.0), recorder)?;
        if progress >= 1.0 {
            return Ok(());
        }
    }
}

/// Waits for the final shadows, and returns them, or the reason why there is none.
async fn collect(
    devices: Vec<DeviceId>,
    mut finals: mpsc::UnboundedReceiver<(DeviceId, Document)>,
    mut connections: JoinSet<()>,
    settle_seconds: u64,
) -> BTreeMap<DeviceId, Result<Document, String>> {
    let deadline = Instant::now() + Duration::from_secs(settle_seconds);
    let mut found = BTreeMap::new();
    while found.len() < devices.len() {
        let Ok(Some((device, document))) = timeout_at(deadline, finals.recv()).await else { break };
        found.insert(device, Ok(document));
    }
    let _ = timeout_at(deadline, async { while connections.join_next().await.is_some() {} }).await;
    connections.shutdown().await;
    let late = || Err(format!("not converged after {settle_seconds} s"));
    for device in devices {
        found.entry(device).or_insert_with(late);
    }
    found
}

/// The start of the clients.
struct Fleet<'a> {
    scenario: &'a Scenario,
    run: Run,
    seeds: &'a mut SmallRng,
    /// The schedule of each connection, from its beginning, with its devices.
    schedules: Vec<(Vec<DeviceId>, Schedule)>,
}

impl Fleet<'_> {
    fn start_connections(
        &mut self,
        members: &[Members<'_>],
        finish: &watch::Receiver<bool>,
    ) -> anyhow::Result<JoinSet<()>> {
        let (mut connections, mut begun) = (JoinSet::new(), 0);
        for Members { group, devices } in members {
            let per_connection = group.gateway.unwrap_or(1) as usize;
            let mut number = 0;
            for (index, ids) in (1..).zip(devices.chunks(per_connection)) {
                begun += 1;
                let spread = group.every.at_speed(self.scenario.speed).min(SPREAD_MAX);
                let start =
                    Duration::from_secs_f64(f64::from(begun) / CONNECT_RATE) + spread.mul_f64(self.seeds.random());
                let schedule = Schedule::new(group, ids.len(), self.seeds.random());
                self.schedules.push((ids.to_vec(), schedule.clone()));
                let devices = ids.iter().map(|id| {
                    number += 1;
                    self.device(group, id, number, start)
                });
                let devices = devices.collect();
                let name = match group.gateway {
                    Some(_) => name(&format!("{}-{}-gateway-{index}", self.scenario.prefix, group.name))?,
                    None => ids.first().cloned().map_or_else(|| name("none"), Ok)?,
                };
                let rng = SmallRng::seed_from_u64(self.seeds.random());
                let connection = Connection::new(&name, devices, group, schedule, self.run.clone(), rng);
                connections.spawn(connection.run(finish.clone()));
            }
        }
        Ok(connections)
    }

    fn device(&mut self, group: &Group, id: &DeviceId, number: u32, start: Duration) -> Device {
        let mut rng = SmallRng::seed_from_u64(self.seeds.random());
        let speed = self.scenario.speed;
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let profile = Profile {
            every: group.every.at_speed(speed),
            awake: group.awake.map(|awake| awake.at_speed(speed)),
            writes: group.writes,
            duplicates: group.duplicates,
            clock: group.clock_skew.map(|skew| epoch + skew.0 * rng.random_range(-1.0..1.0)),
            speed,
            run: rand::random(),
        };
        let firmware = firmware::new(group.kind, number, group.update.updater(), &mut rng);
        Device::new(id.clone(), firmware, profile, start, rng)
    }

    fn start_back_end(
        &mut self,
        members: &[Members<'_>],
        broker: &Broker,
        http: Option<&HttpClient>,
        stop: &watch::Receiver<bool>,
    ) -> anyhow::Result<JoinSet<()>> {
        let Self { scenario, run, seeds, .. } = self;
        let recorder = &run.recorder;
        let mut back_end = JoinSet::new();
        for writers in &scenario.writers {
            let suits = |members: &&Members<'_>| {
                Scenario::selects(&writers.groups, members.group) && writers.kind.suits(members.group.kind)
            };
            let target = |members: &Members<'_>| {
                let kind = members.group.kind;
                members.devices.iter().map(|id| Target { id: id.clone(), kind }).collect::<Vec<_>>()
            };
            let targets: Arc<[Target]> = members.iter().filter(suits).flat_map(target).collect();
            let pause = writers.every.at_speed(scenario.speed);
            for n in 1..=writers.count {
                let name = name(&format!("{}-{}-{n}", scenario.prefix, writers.name))?;
                let think = pause.min(THINK_TIME_MAX);
                // One checks the announcements for all.
                let (writes, observes) = (writers.writes, n == 1);
                let profile = WriterProfile { pause, think, writes, changes_firmware: false, observes };
                let (targets, recorder) = (targets.clone(), recorder.clone());
                let writer = Writer::new(writers.kind, name, targets, broker, profile, recorder, seeds.random());
                back_end.spawn(writer.run(stop.clone()));
            }
        }
        let number: u64 = rand::random();
        for (n, (wave, http)) in (1..).zip(scenario.waves.iter().zip(http.into_iter().cycle())) {
            let selected = members.iter().filter(|members| Scenario::selects(&wave.groups, members.group));
            let devices = selected.flat_map(|members| members.devices.iter().cloned()).collect();
            let name = name(&format!("{}-rollout-{n}", scenario.prefix))?;
            let (of, by) = ((&name, number & 0xFFFF_FFFF), (broker, http));
            let rollout = Rollout::new(of, wave.clone(), devices, by, recorder.clone(), scenario.speed);
            back_end.spawn(rollout.run(stop.clone()));
        }
        Ok(back_end)
    }
}

const PROGRESS: Duration = Duration::from_millis(50);
/// New connections a second.
const CONNECT_RATE: f64 = 500.0;
/// The longest time over which the devices of a group are switched on.
const SPREAD_MAX: Duration = Duration::from_secs(5);
/// The longest time between reading and writing.
const THINK_TIME_MAX: Duration = Duration::from_millis(500);
