//! The changes and rejections of shadows, as they happen.

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{HttpClient, event_stream::EventStream, transport};
use crate::{error::Error, names::DeviceId};

/// The changes of a device's shadows, from [`HttpClient::changes`].
#[derive(Debug)]
pub struct Changes {
    events: EventStream,
}

/// A page of rejected writes, from [`HttpClient::rejections`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Rejections {
    /// The rejected writes, the oldest first, as the server sends them: with `device`, `name`, `by`, `via`, and the members
    /// of a [`Rejection`](crate::Rejection).
    pub rejections: Vec<Value>,
    /// The position after the last of them.
    pub next: String,
}

impl Changes {
    /// Returns the next change, as the server sends it: a history entry with `device` and `name`. `None` if the server
    /// ended the stream. A call that is cancelled loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Http`]: the connection broke, or neither a change nor a heartbeat came in time.
    ///
    /// ```no_run
    /// # async fn example(mut changes: umbra_client::Changes) -> Result<(), umbra_client::Error> {
    /// while let Some(change) = changes.try_next().await? {
    ///     println!("{}", change["version"]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_next(&mut self) -> Result<Option<Value>, Error> {
        self.events.next().await
    }
}

impl HttpClient {
    /// Follows the changes of all shadows of a device from now on.
    ///
    /// The server sends a heartbeat every 15 seconds: the [timeout](HttpClient::timeout) must be longer.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the client may not subscribe to the device.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// use umbra_client::DeviceId;
    ///
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut changes = http.changes(&DeviceId::new("lamp-1")?).await?;
    /// while let Some(change) = changes.try_next().await? {
    ///     println!("version {} by {}", change["version"], change["by"]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn changes(&self, device: &DeviceId) -> Result<Changes, Error> {
        let body = transport::send(&self.settings, Method::GET, &format!("/v1/events?device={device}")).await?;
        Ok(Changes { events: EventStream::new(body) })
    }

    /// Returns the rejected writes of all shadows that the client may see, after the position `after`; without it the newest.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the position is not one of the server.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let newest = http.rejections(None).await?;
    /// let later = http.rejections(Some(&newest.next)).await?;
    /// println!("{} rejected since", later.rejections.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn rejections(&self, after: Option<&str>) -> Result<Rejections, Error> {
        let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
        self.get_json(&format!("/v1/rejections?limit={REJECTIONS_PAGE}{after}")).await
    }
}

/// Most entries of a page of rejections.
const REJECTIONS_PAGE: usize = 100;
