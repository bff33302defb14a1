//! Rollouts and bulk changes: a change of many shadows, in waves.

use std::collections::BTreeMap;

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    HttpClient, Pages,
    event_stream::EventStream,
    pages::parameter,
    transport::{self, Content},
};
use crate::error::Error;

/// A rollout.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Rollout {
    /// Its id.
    pub id: String,
    /// Its state: `running`, `paused`, `completed`, `aborted`, `cancelled`, `rolling-back` or `rolled-back`.
    pub state: String,
    /// The reason of the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The principal that created it.
    pub created_by: String,
    /// The time of its creation, in seconds since the epoch.
    pub created_at: u64,
    /// The time of its last change, in seconds since the epoch.
    pub updated_at: u64,
    /// The description as it was sent; null in [`Progress`].
    #[serde(skip_serializing_if = "Value::is_null")]
    pub spec: Value,
    /// The number of the present wave, from 0.
    pub wave: usize,
    /// The waves.
    pub waves: Vec<RolloutWave>,
    /// The number of devices.
    pub devices: u64,
    /// The number of devices in each state.
    pub counts: BTreeMap<String, u64>,
}

/// A wave of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RolloutWave {
    /// The number of devices reached in all by its end.
    pub size: u64,
    /// Its state: `done`, `running`, `stopped` or `waiting`.
    pub state: String,
}

/// A device of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct RolloutDevice {
    /// The id of the device.
    pub device: String,
    /// Its state: `queued`, `sent`, `converged`, `timed-out`, `conflict`, `skipped`, `failed`, `rolled-back` or `kept`.
    pub state: String,
    /// The number of its wave, from 0.
    pub wave: usize,
    /// The version that the rollout made.
    pub version: Option<u64>,
    /// The time of its state, in seconds since the epoch.
    pub updated_at: Option<u64>,
    /// The reason of its state.
    pub reason: Option<String>,
}

/// A command to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutCommand {
    /// Sends no further update.
    Pause,
    /// Goes on after a pause.
    Resume,
    /// Ends the rollout.
    Cancel,
    /// Restores the former values where those of the rollout are still there.
    RollBack,
}

/// The progress of a rollout, from [`HttpClient::follow_rollout`].
#[derive(Debug)]
pub struct Progress {
    events: EventStream,
}

impl Rollout {
    /// Returns true if nothing happens any more without a command.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "completed" | "aborted" | "cancelled" | "rolled-back")
    }

    /// Returns the number of devices in `state`, by its name in the counts, such as `timedOut`.
    #[must_use]
    pub fn count(&self, state: &str) -> u64 {
        self.counts.get(state).copied().unwrap_or_default()
    }
}

impl RolloutCommand {
    fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::RollBack => "rollback",
        }
    }
}

impl Progress {
    /// Returns the next state of the rollout; `None` after a final one.
    ///
    /// # Errors
    ///
    /// [`Error::Http`]: the connection broke, or nothing came in time.
    ///
    /// ```no_run
    /// # async fn example(mut progress: umbra_client::Progress) -> Result<(), umbra_client::Error> {
    /// while let Some(rollout) = progress.try_next().await? {
    ///     println!("{} of {} devices converged", rollout.count("converged"), rollout.devices);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_next(&mut self) -> Result<Option<Rollout>, Error> {
        self.events.next().await
    }
}

impl HttpClient {
    /// Creates a rollout. The description is that of the HTTP interface: the devices, the change, waves, and what success
    /// is. The same call again returns the rollout as it is.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the description is invalid, there is another rollout with this id, or one that changes the same.
    /// - [`Error::Http`]: there was no response. Repeat the call.
    ///
    /// ```no_run
    /// use serde_json::json;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let spec = json!({
    ///     "query": "tags.region:west",
    ///     "patch": {"desired": {"firmware": "1.5.0"}},
    ///     "waves": [10, "10%", "100%"],
    ///     "abort": {"failures": 2},
    /// });
    /// let rollout = http.create_rollout("fw-1.5", &spec).await?;
    /// println!("{} devices", rollout.devices);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_rollout(&self, id: &str, spec: &Value) -> Result<Rollout, Error> {
        let content = content(spec, vec![("If-None-Match", "*".to_owned())]);
        self.of_rollout(Method::PUT, &path(id), content).await
    }

    /// Returns what a rollout would do, without creating it.
    ///
    /// # Errors
    ///
    /// As [`HttpClient::create_rollout`].
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient, spec: serde_json::Value) -> Result<(), umbra_client::Error> {
    /// println!("{} devices would change", http.dry_run_rollout(&spec).await?["wouldChange"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dry_run_rollout(&self, spec: &Value) -> Result<Value, Error> {
        self.of_rollout(Method::PUT, "/v1/rollouts/dry-run?dry_run=true", content(spec, Vec::new())).await
    }

    /// Changes many shadows: a rollout of one wave. With the same key, the change is made once.
    ///
    /// # Errors
    ///
    /// As [`HttpClient::create_rollout`].
    ///
    /// ```no_run
    /// use serde_json::json;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let spec = json!({"query": "tags.region:west", "patch": {"tags": {"night": true}}});
    /// println!("{} devices", http.bulk(&spec, Some("night-2026-11-29")).await?.devices);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn bulk(&self, spec: &Value, key: Option<&str>) -> Result<Rollout, Error> {
        let headers = key.map(|key| ("Idempotency-Key", key.to_owned()));
        self.of_rollout(Method::POST, "/v1/bulk", content(spec, headers.into_iter().collect())).await
    }

    /// Returns what a bulk change would do, without making it.
    ///
    /// # Errors
    ///
    /// As [`HttpClient::create_rollout`].
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient, spec: serde_json::Value) -> Result<(), umbra_client::Error> {
    /// println!("{} devices would change", http.dry_run_bulk(&spec).await?["wouldChange"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dry_run_bulk(&self, spec: &Value) -> Result<Value, Error> {
        self.of_rollout(Method::POST, "/v1/bulk?dry_run=true", content(spec, Vec::new())).await
    }

    /// Returns a rollout.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: there is none with this id, or the client may not see it.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// println!("{}", http.rollout("fw-1.5").await?.state);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn rollout(&self, id: &str) -> Result<Rollout, Error> {
        self.get_json(&path(id)).await
    }

    /// Returns the rollouts that the client may see, or those in one state.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut running = http.rollouts(Some("running"));
    /// while let Some(rollout) = running.try_next().await? {
    ///     println!("{} is in wave {}", rollout.id, rollout.wave + 1);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn rollouts(&self, state: Option<&str>) -> Pages<Rollout> {
        let parameters = state.map(|state| parameter("state", state)).unwrap_or_default();
        Pages::new(self.clone(), "/v1/rollouts".to_owned(), parameters, "rollouts")
    }

    /// Returns the devices of a rollout in the order of its waves, or those in one state.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut late = http.rollout_devices("fw-1.5", Some("timed-out"));
    /// while let Some(device) = late.try_next().await? {
    ///     println!("{} did not converge", device.device);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn rollout_devices(&self, id: &str, state: Option<&str>) -> Pages<RolloutDevice> {
        let parameters = state.map(|state| parameter("state", state)).unwrap_or_default();
        Pages::new(self.clone(), format!("{}/devices", path(id)), parameters, "devices")
    }

    /// Commands a rollout.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: its state does not allow it, there is none, or the client may not see it.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// use umbra_client::RolloutCommand;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// http.command_rollout("fw-1.5", RolloutCommand::RollBack).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn command_rollout(&self, id: &str, command: RolloutCommand) -> Result<Rollout, Error> {
        self.of_rollout(Method::POST, &format!("{}/{}", path(id), command.name()), Content::default()).await
    }

    /// Deletes a rollout that has ended.
    ///
    /// # Errors
    ///
    /// As [`HttpClient::command_rollout`].
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// http.delete_rollout("fw-1.5").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_rollout(&self, id: &str) -> Result<(), Error> {
        transport::send(&self.settings, Method::DELETE, &path(id)).await.map(drop)
    }

    /// Returns the progress of a rollout until it has ended.
    ///
    /// # Errors
    ///
    /// As [`HttpClient::rollout`].
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut progress = http.follow_rollout("fw-1.5").await?;
    /// while let Some(rollout) = progress.try_next().await? {
    ///     println!("{} of {} devices converged", rollout.count("converged"), rollout.devices);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn follow_rollout(&self, id: &str) -> Result<Progress, Error> {
        let body = transport::send(&self.settings, Method::GET, &format!("{}/events", path(id))).await?;
        Ok(Progress { events: EventStream::new(body) })
    }

    async fn of_rollout<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content: Content,
    ) -> Result<T, Error> {
        let body = transport::send_with(&self.settings, method, path, content).await?.collect().await?;
        serde_json::from_slice(&body).map_err(Error::unreadable)
    }
}

fn path(id: &str) -> String {
    format!("/v1/rollouts/{}", utf8_percent_encode(id, NON_ALPHANUMERIC))
}

fn content(spec: &Value, headers: Vec<(&'static str, String)>) -> Content {
    Content { headers, body: spec.to_string().into() }
}
