//! The handle of one shadow.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    backoff::Backoff,
    client::Client,
    document::{Accepted, Document, DryRun},
    error::Error,
    http_client::{HistoryEntry, HistoryQuery, Pages},
    names::ShadowId,
    observer::Observer,
    rejection::Reason,
    update::Update,
    version::Version,
    watch::{Scope, Topic, Watch},
    write::{self, Exchange, WriteOptions},
};

/// One shadow, accessed through a client.
#[derive(Debug, Clone)]
pub struct Shadow {
    client: Client,
    id: ShadowId,
}

impl Client {
    /// Returns the handle of a shadow: the classic one of a device, or a named one.
    ///
    /// ```no_run
    /// use umbra_client::{DeviceId, ShadowId};
    ///
    /// # async fn example(client: umbra_client::Client) -> Result<(), umbra_client::Error> {
    /// let lamp = client.shadow(DeviceId::new("lamp-1")?);
    /// let wifi = client.shadow(ShadowId::named(DeviceId::new("lamp-1")?, "wifi")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn shadow(&self, shadow: impl Into<ShadowId>) -> Shadow {
        Shadow { client: self.clone(), id: shadow.into() }
    }
}

impl Shadow {
    /// Returns the key of the shadow.
    ///
    /// ```no_run
    /// # fn example(shadow: umbra_client::Shadow) {
    /// println!("the shadow of {}", shadow.id().device());
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> &ShadowId {
        &self.id
    }

    /// Reads the shadow; one that does not exist is empty, at version 0. Retries where that may help.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the client has no right to read it.
    /// - [`Error::GaveUp`]: every try failed.
    ///
    /// ```no_run
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let document = shadow.get().await?;
    /// println!("version {}: {:?}", document.version, document.pointer("/reported/power"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self) -> Result<Document, Error> {
        write::read(self, Backoff::REQUESTS).await
    }

    /// Reads the state as a `T`: an object with the sections. That of a shadow that does not exist is `{}`.
    ///
    /// [`Document::state_as`] does the same for a document that was read with its version.
    ///
    /// # Errors
    ///
    /// - [`Error::Unreadable`]: the state does not have the shape of `T`.
    /// - Others as for [`Shadow::get`].
    ///
    /// ```no_run
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Lamp {
    ///     #[serde(default)]
    ///     reported: LampState,
    /// }
    ///
    /// #[derive(Deserialize, Default)]
    /// struct LampState {
    ///     brightness: Option<u8>,
    /// }
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let lamp: Lamp = shadow.get_as().await?;
    /// println!("{:?}", lamp.reported.brightness);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.get().await?.state_as()
    }

    /// Merges `state` into `reported`: for the device, which alone writes that section.
    ///
    /// No version is required. The write carries an idempotency key, so a retry is applied once. A `null` removes a key.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidState`]: `state` cannot be written as JSON.
    /// - [`Error::Rejected`]: the service will never accept it. It is not applied.
    /// - [`Error::GaveUp`]: every try failed; see [`Error::is_outcome_unknown`].
    ///
    /// ```no_run
    /// use serde_json::json;
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// shadow.report(json!({"power": "on", "brightness": 80})).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn report(&self, state: impl Serialize) -> Result<Accepted, Error> {
        self.merge_into("reported", state).await
    }

    /// Merges `state` into `desired`, whatever it is now: the last write wins.
    ///
    /// [`Shadow::update`] is for changes that depend on the current state.
    ///
    /// # Errors
    ///
    /// As for [`Shadow::report`].
    ///
    /// ```no_run
    /// use serde_json::json;
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let accepted = shadow.desire(json!({"power": "off"})).await?;
    /// println!("version {}", accepted.version);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn desire(&self, state: impl Serialize) -> Result<Accepted, Error> {
        self.merge_into("desired", state).await
    }

    async fn merge_into(&self, section: &str, state: impl Serialize) -> Result<Accepted, Error> {
        let state = serde_json::to_value(state).map_err(|error| Error::InvalidState(Arc::new(error)))?;
        let update = Update::new(json!({ section: state })).without_metadata();
        write::send(self, update, Backoff::REQUESTS).await
    }

    /// Reads the shadow, calls `decide` with the document, and writes the changes under the version read. If another
    /// client wrote first, starts over. `decide` returns the sections to change as a merge patch, such as
    /// `{"desired": {"target": 21}}`; with `None` nothing is written, and the result is `None`.
    ///
    /// A try whose reply is lost is repeated under the same idempotency key, so it is applied once.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the service will never accept it. It is not applied.
    /// - [`Error::GaveUp`]: every try failed; see [`Error::is_outcome_unknown`].
    ///
    /// ```no_run
    /// use serde_json::{Value, json};
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// shadow
    ///     .update(|document| {
    ///         let target = document.pointer("/desired/target").and_then(Value::as_f64).unwrap_or(20.0);
    ///         (target < 30.0).then(|| json!({"desired": {"target": target + 0.5}}))
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn update(&self, decide: impl FnMut(&Document) -> Option<Value>) -> Result<Option<Accepted>, Error> {
        self.update_with(&WriteOptions::default(), decide).await
    }

    /// Does the same as [`Shadow::update`], with other options.
    ///
    /// # Errors
    ///
    /// As for [`Shadow::update`].
    ///
    /// ```no_run
    /// use serde_json::json;
    /// use umbra_client::WriteOptions;
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let options = WriteOptions::default().rebase(true);
    /// shadow.update_with(&options, |_| Some(json!({"desired": {"mode": "eco"}}))).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn update_with(
        &self,
        options: &WriteOptions,
        decide: impl FnMut(&Document) -> Option<Value>,
    ) -> Result<Option<Accepted>, Error> {
        write::write(self, options, decide).await
    }

    /// Sends one update as it is, once.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: with the current version and the conflicts.
    /// - [`Error::Unanswered`], [`Error::Disconnected`]: it may be applied or not.
    ///
    /// ```no_run
    /// use serde_json::json;
    /// use umbra_client::{Update, Version};
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let create = Update::new(json!({"desired": {"power": "on"}})).version(Version(0));
    /// shadow.send(&create).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, update: &Update) -> Result<Accepted, Error> {
        self.put(update).await
    }

    /// Returns the outcome that an update would have, without applying it.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the update would be rejected with this.
    /// - Others as for [`Shadow::send`], but nothing is applied.
    ///
    /// ```no_run
    /// use serde_json::json;
    /// use umbra_client::Update;
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let outcome = shadow.dry_run(&Update::new(json!({"desired": {"mode": null}})).replace()).await?;
    /// println!("version {} would be {:?}", outcome.accepted.version, outcome.document.state);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dry_run(&self, update: &Update) -> Result<DryRun, Error> {
        let mut body = update.body();
        if let Some(body) = body.as_object_mut() {
            body.insert("dryRun".to_owned(), json!(true));
        }
        parse(self.client.request(&self.id, "update", &body).await?)
    }

    /// Deletes the shadow, once; with a version only if it is the current one.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: it does not exist, has another version, or the client has no right to delete it.
    /// - [`Error::Unanswered`], [`Error::Disconnected`]: it may be deleted or not.
    ///
    /// ```no_run
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let document = shadow.get().await?;
    /// shadow.delete(Some(document.version)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete(&self, version: Option<Version>) -> Result<(), Error> {
        let body = version.map_or_else(|| json!({}), |version| json!({"version": version}));
        self.client.request(&self.id, "delete", &body).await.map(drop)
    }

    /// Subscribes to events of this shadow, with a queue of `capacity` events. See [`Client::watch`].
    ///
    /// # Errors
    ///
    /// As for [`Client::watch`].
    ///
    /// ```no_run
    /// use umbra_client::{Event, Topic};
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let mut watch = shadow.watch(&[Topic::LeanDelta], 16).await?;
    /// while let Some(event) = watch.recv().await {
    ///     if let Event::LeanDelta(_, Some(delta)) = event {
    ///         println!("to do at version {}: {:?}", delta.version, delta.state);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn watch(&self, topics: &[Topic], capacity: usize) -> Result<Watch, Error> {
        self.client.watch(Scope::Shadow(self.id.clone()), topics, capacity).await
    }

    /// Returns the changes of this shadow, newest first. Over HTTP: MQTT has no such request.
    ///
    /// # Errors
    ///
    /// [`Error::NoHttp`]: the URL of the HTTP interface is not known. Errors of the requests come with the entries.
    ///
    /// ```no_run
    /// use umbra_client::HistoryQuery;
    ///
    /// # async fn example(shadow: umbra_client::Shadow) -> Result<(), umbra_client::Error> {
    /// let mut history = shadow.history(&HistoryQuery::new())?;
    /// while let Some(entry) = history.try_next().await? {
    ///     println!("version {} by {}: {} paths", entry.version, entry.by, entry.changes.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn history(&self, query: &HistoryQuery) -> Result<Pages<HistoryEntry>, Error> {
        Ok(self.client.http()?.history(&self.id, query))
    }
}

impl Exchange for Shadow {
    fn shadow(&self) -> &ShadowId {
        &self.id
    }

    fn observer(&self) -> &dyn Observer {
        self.client.observer()
    }

    async fn get(&self) -> Result<Document, Error> {
        match self.client.request(&self.id, "get", &json!({})).await {
            Ok(reply) => parse(reply),
            Err(Error::Rejected(rejection)) if rejection.reason == Reason::NotFound => Ok(Document::default()),
            Err(error) => Err(error),
        }
    }

    async fn put(&self, update: &Update) -> Result<Accepted, Error> {
        parse(self.client.request(&self.id, "update", &update.body()).await?)
    }
}

fn parse<T: DeserializeOwned>(reply: Value) -> Result<T, Error> {
    serde_json::from_value(reply).map_err(Error::unreadable)
}
