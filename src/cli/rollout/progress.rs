//! The progress of a rollout: a bar on a terminal, else a line of JSON for each change.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use serde_json::json;
use tokio::time::sleep;
use umbra_client::{Error, HttpClient, Rollout};

use crate::cli::{
    Exit,
    command_failure::CommandFailure,
    output::{complain, printable, say},
};

/// The number of times that a lost server is asked again, a second apart.
const RETRIES: usize = 60;
/// The width of the bar.
const BAR: u64 = 30;

/// Shows the progress of a rollout until it has ended. Its end is the exit: a rollout that was aborted or cancelled has failed.
pub(super) async fn watch(http: &HttpClient, id: &str) -> Result<Exit, CommandFailure> {
    let bar = io::stdout().is_terminal();
    let (mut last, mut lost) = (None, 0);
    loop {
        match follow(http, id, bar, &mut last).await {
            Ok(()) => lost = 0,
            Err(error @ Error::Http { .. }) if lost < RETRIES => {
                // The server may be starting again.
                lost += 1;
                if lost == 1 {
                    eprintln!("umbrad: {}; trying again", printable(&format!("{error:#}")));
                }
            }
            Err(error) => return Err(CommandFailure::http(&error)),
        }
        if let Some(rollout) = last.as_ref().filter(|rollout| rollout.has_ended()) {
            return Ok(end(rollout, bar));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn follow(http: &HttpClient, id: &str, bar: bool, last: &mut Option<Rollout>) -> Result<(), Error> {
    let mut progress = http.follow_rollout(id).await?;
    while let Some(rollout) = progress.try_next().await? {
        if bar {
            print!("\r{}\u{1b}[K", printable(&line(&rollout)));
            let _ = io::stdout().flush();
        } else {
            let counts = &rollout.counts;
            let wave = rollout.wave;
            say(&json!({ "id": id, "state": rollout.state, "wave": wave, "counts": counts }), Exit::Done);
        }
        *last = Some(rollout);
    }
    Ok(())
}

fn end(rollout: &Rollout, bar: bool) -> Exit {
    if bar {
        println!();
    }
    match rollout.state.as_str() {
        "completed" | "rolled-back" => Exit::Done,
        state => {
            let reason = rollout.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            complain(&format!("the rollout is {state}{reason}"), Exit::Failed)
        }
    }
}

/// Returns the line with the bar.
fn line(rollout: &Rollout) -> String {
    let open = rollout.count("queued") + rollout.count("sent");
    let done = rollout.devices.saturating_sub(open);
    let filled = (BAR * done).checked_div(rollout.devices).unwrap_or(BAR);
    let bar: String = (0..BAR).map(|place| if place < filled { '#' } else { '-' }).collect();
    let waves = rollout.waves.len();
    let mut line = format!(
        "{} {} wave {}/{waves} [{bar}] {done}/{} converged {}",
        rollout.id,
        rollout.state,
        (rollout.wave + 1).min(waves),
        rollout.devices,
        rollout.count("converged"),
    );
    let others = [
        ("sent", "sent"),
        ("timedOut", "timed out"),
        ("conflict", "conflict"),
        ("failed", "failed"),
        ("skipped", "skipped"),
        ("rolledBack", "rolled back"),
        ("kept", "kept"),
    ];
    for (name, text) in others {
        if rollout.count(name) > 0 {
            line.push_str(&format!(", {text} {}", rollout.count(name)));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn the_bar_has_the_devices_that_are_done() {
        let rollout = |counts: serde_json::Value| -> Rollout {
            let waves = json!([{"size": 10, "state": "done"}, {"size": 60, "state": "running"}]);
            let rollout =
                json!({"id": "r", "state": "running", "wave": 1, "waves": waves, "devices": 60, "counts": counts});
            serde_json::from_value(rollout).unwrap()
        };
        for (counts, expected) in [
            (json!({"queued": 60}), "r running wave 2/2 [------------------------------] 0/60 converged 0"),
            (
                json!({"queued": 20, "sent": 10, "converged": 28, "timedOut": 2}),
                "r running wave 2/2 [###############---------------] 30/60 converged 28, sent 10, timed out 2",
            ),
            (json!({"converged": 60}), "r running wave 2/2 [##############################] 60/60 converged 60"),
        ] {
            assert_eq!(line(&rollout(counts)), expected);
        }
    }
}
