//! `umbrad rollout` and `umbrad bulk`. They use HTTP, since MQTT has no such requests.

mod progress;
mod spec;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use umbra_client::{HttpClient, RolloutCommand};

use self::{
    progress::watch,
    spec::{ChangeArgs, RolloutArgs},
};
use super::{
    Exit,
    command_failure::CommandFailure,
    connect_args::ContextArgs,
    list::{EntriesArgs, http_client},
    output::{complain, print},
};

/// Change many shadows in waves, which go on as the devices converge, over HTTP.
#[derive(Debug, Args)]
pub(super) struct Rollout {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Box<Create>),
    List(List),
    Show(Show),
    Devices(Devices),
    Watch(Watch),
    Pause(Named),
    Resume(Named),
    Cancel(Named),
    Rollback(Named),
    Delete(Named),
}

/// Create a rollout and print it. The same command again prints it as it is.
#[derive(Debug, Args)]
struct Create {
    /// Id of the rollout.
    id: String,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
    /// Print what would change, and create nothing.
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// Then show the progress until the rollout has ended.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    server: ContextArgs,
}

/// List rollouts in the order of their ids.
#[derive(Debug, Args)]
struct List {
    /// Only rollouts in this state, such as running.
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    #[command(flatten)]
    entries: EntriesArgs,
}

/// Print one rollout as JSON.
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    rollout: Named,
}

/// List the devices of a rollout, with their states and reasons, in the order of its waves.
#[derive(Debug, Args)]
struct Devices {
    /// Id of the rollout.
    id: String,
    /// Only devices in this state, such as timed-out.
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    #[command(flatten)]
    entries: EntriesArgs,
}

/// Show the progress of a rollout until it has ended: a bar on a terminal, else a line of JSON for each change.
#[derive(Debug, Args)]
struct Watch {
    #[command(flatten)]
    rollout: Named,
}

#[derive(Debug, Args)]
struct Named {
    /// Id of the rollout.
    id: String,
    #[command(flatten)]
    server: ContextArgs,
}

/// Change many shadows at once, over HTTP, and show the progress.
#[derive(Debug, Args)]
pub(super) struct Bulk {
    #[command(flatten)]
    change: ChangeArgs,
    /// Makes the command safe to repeat: with the same key, the change is made once.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ContextArgs,
}

impl Rollout {
    pub(super) async fn run(self) -> Exit {
        let done = match self.command {
            Command::Create(create) => create.run().await,
            Command::List(list) => list.run().await,
            Command::Show(Show { rollout }) => rollout.show().await,
            Command::Devices(devices) => devices.run().await,
            Command::Watch(Watch { rollout }) => rollout.watch().await,
            Command::Pause(rollout) => rollout.command(RolloutCommand::Pause).await,
            Command::Resume(rollout) => rollout.command(RolloutCommand::Resume).await,
            Command::Cancel(rollout) => rollout.command(RolloutCommand::Cancel).await,
            Command::Rollback(rollout) => rollout.command(RolloutCommand::RollBack).await,
            Command::Delete(rollout) => rollout.delete().await,
        };
        done.unwrap_or_else(|failure| complain(&failure, failure.exit))
    }
}

impl Bulk {
    pub(super) async fn run(self) -> Exit {
        self.change().await.unwrap_or_else(|failure| complain(&failure, failure.exit))
    }

    async fn change(self) -> Result<Exit, CommandFailure> {
        let http = http_client(&self.server)?;
        let spec = Value::Object(self.change.spec()?);
        if self.dry_run {
            return Ok(print(&failing(http.dry_run_bulk(&spec).await)?));
        }
        let rollout = failing(http.bulk(&spec, self.idempotency_key.as_deref()).await)?;
        watch(&http, &rollout.id).await
    }
}

impl Create {
    async fn run(self) -> Result<Exit, CommandFailure> {
        let http = http_client(&self.server)?;
        let spec = Value::Object(self.rollout.spec(self.change.spec()?));
        if self.dry_run {
            return Ok(print(&failing(http.dry_run_rollout(&spec).await)?));
        }
        let rollout = failing(http.create_rollout(&self.id, &spec).await)?;
        match self.watch {
            true => watch(&http, &rollout.id).await,
            false => show(&http, &rollout.id).await,
        }
    }
}

impl List {
    async fn run(self) -> Result<Exit, CommandFailure> {
        let rollouts = self.entries.http_client()?.rollouts(self.state.as_deref());
        Ok(self.entries.print(rollouts.raw(), rollout_line).await)
    }
}

impl Devices {
    async fn run(self) -> Result<Exit, CommandFailure> {
        let devices = self.entries.http_client()?.rollout_devices(&self.id, self.state.as_deref());
        Ok(self.entries.print(devices.raw(), device_line).await)
    }
}

impl Named {
    async fn show(self) -> Result<Exit, CommandFailure> {
        show(&http_client(&self.server)?, &self.id).await
    }

    async fn watch(self) -> Result<Exit, CommandFailure> {
        watch(&http_client(&self.server)?, &self.id).await
    }

    async fn command(self, command: RolloutCommand) -> Result<Exit, CommandFailure> {
        let http = http_client(&self.server)?;
        failing(http.command_rollout(&self.id, command).await)?;
        show(&http, &self.id).await
    }

    async fn delete(self) -> Result<Exit, CommandFailure> {
        let http = http_client(&self.server)?;
        failing(http.delete_rollout(&self.id).await)?;
        Ok(Exit::Done)
    }
}

/// Prints a rollout as the server sends it.
async fn show(http: &HttpClient, id: &str) -> Result<Exit, CommandFailure> {
    Ok(print(&json!(failing(http.rollout(id).await)?)))
}

fn failing<T>(result: Result<T, umbra_client::Error>) -> Result<T, CommandFailure> {
    result.map_err(|error| CommandFailure::http(&error))
}

fn rollout_line(rollout: &Value) -> String {
    let text = |name: &str| rollout.get(name).and_then(Value::as_str).unwrap_or("?");
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
    let count = |name: &str| number(rollout.get("counts").and_then(|counts| counts.get(name)));
    let failed: u64 = ["timedOut", "conflict", "failed"].map(count).iter().sum();
    let waves = rollout.get("waves").and_then(Value::as_array).map_or(0, Vec::len);
    let wave = (number(rollout.get("wave")) + 1).min(waves as u64);
    let (devices, converged) = (number(rollout.get("devices")), count("converged"));
    let mut line =
        format!("{} {} wave {wave}/{waves} converged {converged}/{devices} failed {failed}", text("id"), text("state"));
    if let Some(reason) = rollout.get("reason").and_then(Value::as_str) {
        line.push_str(&format!(": {reason}"));
    }
    line
}

fn device_line(device: &Value) -> String {
    let text = |name: &str| device.get(name).and_then(Value::as_str).unwrap_or("?");
    let wave = device.get("wave").and_then(Value::as_u64).unwrap_or_default() + 1;
    let reason = device.get("reason").and_then(Value::as_str).map(|reason| format!(": {reason}"));
    format!("{} {} wave {wave}{}", text("device"), text("state"), reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_each_entry_on_one_line() {
        let counts = json!({"converged": 8, "timedOut": 1, "conflict": 2, "failed": 0, "queued": 4});
        let waves = json!([{"size": 10, "state": "done"}, {"size": 15, "state": "running"}]);
        for (line, entry, expected) in [
            (
                rollout_line as fn(&Value) -> String,
                json!({"id": "r", "state": "running", "wave": 1, "waves": waves, "devices": 15, "counts": counts}),
                "r running wave 2/2 converged 8/15 failed 3",
            ),
            (
                rollout_line,
                json!({"id": "r", "state": "aborted", "reason": "no", "wave": 0, "waves": [], "devices": 0, "counts": {}}),
                "r aborted wave 0/0 converged 0/0 failed 0: no",
            ),
            (device_line, json!({"device": "a", "state": "converged", "wave": 0, "version": 3}), "a converged wave 1"),
            (
                device_line,
                json!({"device": "a", "state": "skipped", "wave": 1, "reason": "no shadow"}),
                "a skipped wave 2: no shadow",
            ),
        ] {
            assert_eq!(line(&entry), expected);
        }
    }
}
