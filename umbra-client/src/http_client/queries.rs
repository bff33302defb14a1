//! Named queries.

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    HttpClient, Pages,
    transport::{self, Content},
};
use crate::error::Error;

/// A named query, whose devices can be followed over MQTT at `shadow/$query/<name>/…`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct NamedQuery {
    /// Its name.
    pub name: String,
    /// The query.
    pub q: String,
    /// A text for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The place where it is defined: `configuration` or `stored`.
    pub origin: String,
    /// The principal that stored it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// The time when it was stored, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<u64>,
    /// The time of its last change, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<u64>,
}

impl HttpClient {
    /// Returns the named queries that the client may see.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// let mut queries = http.queries();
    /// while let Some(query) = queries.try_next().await? {
    ///     println!("{}: {}", query.name, query.q);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn queries(&self) -> Pages<NamedQuery> {
        Pages::new(self.clone(), "/v1/queries".to_owned(), String::new(), "queries")
    }

    /// Returns a named query.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: there is none with this name, or the client may not see it.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// println!("{}", http.query("old-firmware").await?.q);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn query(&self, name: &str) -> Result<NamedQuery, Error> {
        self.get_json(&path(name)).await
    }

    /// Stores a named query, or replaces it.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the query is invalid, or the client may not store it with this name.
    /// - [`Error::Http`]: there was no response. Repeat the call.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// http.put_query("old-firmware", "reported.firmware:1.4*", Some("Devices to update")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn put_query(&self, name: &str, q: &str, description: Option<&str>) -> Result<NamedQuery, Error> {
        let mut body = json!({ "q": q });
        if let (Some(description), Value::Object(members)) = (description, &mut body) {
            members.insert("description".to_owned(), description.into());
        }
        let content = Content { headers: Vec::new(), body: body.to_string().into() };
        let body = transport::send_with(&self.settings, Method::PUT, &path(name), content).await?.collect().await?;
        serde_json::from_slice(&body).map_err(Error::unreadable)
    }

    /// Deletes a named query.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: there is none with this name, or the client may not delete it.
    /// - [`Error::Http`]: there was no response.
    ///
    /// ```no_run
    /// # async fn example(http: umbra_client::HttpClient) -> Result<(), umbra_client::Error> {
    /// http.delete_query("old-firmware").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_query(&self, name: &str) -> Result<(), Error> {
        transport::send(&self.settings, Method::DELETE, &path(name)).await.map(drop)
    }
}

fn path(name: &str) -> String {
    format!("/v1/queries/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}
