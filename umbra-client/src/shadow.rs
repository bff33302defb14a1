//! The handle of one shadow.

use serde_json::{Value, json};

use crate::{
    backoff::Backoff,
    client::Client,
    document::{Accepted, Document, Version},
    error::Error,
    names::ShadowId,
    observer::Observer,
    rejection::Reason,
    watch::{Scope, Topic, Watch},
    write::{self, Exchange, Update, WriteOptions},
};

/// One shadow, seen through a client.
#[derive(Clone)]
pub struct Shadow {
    client: Client,
    id: ShadowId,
}

impl Shadow {
    pub(crate) fn new(client: Client, id: ShadowId) -> Self {
        Self { client, id }
    }

    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> &ShadowId {
        &self.id
    }

    /// The shadow as it is now; one that does not exist is empty, at version 0. Tried again where that may help.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: one may not read it.
    /// - [`Error::GaveUp`]: every try failed.
    pub async fn get(&self) -> Result<Document, Error> {
        write::read(self, Backoff::REQUESTS).await
    }

    /// Reads the shadow, asks `decide` what to change, and writes that under the version read; where somebody else
    /// was faster, all of it again. `decide` answers with the sections to change as a merge patch, such as
    /// `{"desired": {"target": 21}}`, or `None` if there is nothing to do, which then is the result, too.
    ///
    /// A try whose reply is lost is repeated under the same idempotency key, so it is applied once.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the service will never take it. It is not in the shadow.
    /// - [`Error::GaveUp`]: every try failed; [`Error::is_outcome_unknown`] says whether it may be in the shadow.
    pub async fn update(&self, decide: impl FnMut(&Document) -> Option<Value>) -> Result<Option<Accepted>, Error> {
        self.update_with(&WriteOptions::default(), decide).await
    }

    /// The same, with other options.
    ///
    /// # Errors
    ///
    /// As for [`Shadow::update`].
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
    /// - [`Error::Rejected`]: with the current version, and what collided.
    /// - [`Error::Unanswered`]: it may be in the shadow, or not.
    pub async fn send(&self, update: &Update) -> Result<Accepted, Error> {
        self.put(update).await
    }

    /// Deletes the shadow, if it still has `version`, or in any case. Sent once.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: there is none, it has another version, or one may not.
    /// - [`Error::Unanswered`]: it may be deleted, or not.
    pub async fn delete(&self, version: Option<Version>) -> Result<(), Error> {
        let body = version.map_or_else(|| json!({}), |version| json!({"version": version}));
        self.client.request(&self.id, "delete", &body).await.map(drop)
    }

    /// Hears news of this shadow; at most `room` pieces wait to be read. See [`Client::watch`].
    ///
    /// # Errors
    ///
    /// As for [`Client::watch`].
    pub async fn watch(&self, topics: &[Topic], room: usize) -> Result<Watch, Error> {
        self.client.watch(Scope::Shadow(self.id.clone()), topics, room).await
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

fn parse<T: serde::de::DeserializeOwned>(reply: Value) -> Result<T, Error> {
    serde_json::from_value(reply).map_err(|error| Error::Unreadable(error.to_string()))
}
