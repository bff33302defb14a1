//! Lists over HTTP as streams of entries, read page by page.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::HttpClient;
use crate::error::Error;

/// The entries of a list, read page by page as they are needed.
///
/// It is a [`Stream`] of entries, and ends after the first error.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use umbra_client::{DeviceQuery, HttpClient};
///
/// # async fn example() -> Result<(), umbra_client::Error> {
/// let http = HttpClient::new("http://127.0.0.1:8080")?;
/// let ids: Vec<_> = http.devices(&DeviceQuery::new()).take(10).map(|device| device.map(|device| device.id)).collect().await;
/// # Ok(())
/// # }
/// ```
pub struct Pages<T> {
    http: HttpClient,
    path: String,
    /// The parameters of every page, each with its `&`.
    parameters: String,
    /// The member of a page that holds the entries.
    member: &'static str,
    page_size: usize,
    entries: VecDeque<Value>,
    state: PageState,
    unreachable: BTreeSet<u64>,
    entry: PhantomData<fn() -> T>,
}

enum PageState {
    /// The next page begins at this cursor; `None`: the first one.
    Next(Option<String>),
    /// A page is being read.
    Reading(Pin<Box<dyn Future<Output = Result<Value, Error>> + Send>>),
    /// There are no more pages.
    End,
}

impl<T> Pages<T> {
    pub(super) fn new(http: HttpClient, path: String, parameters: String, member: &'static str) -> Self {
        let (entries, state, unreachable) = (VecDeque::new(), PageState::Next(None), BTreeSet::new());
        Self { http, path, parameters, member, page_size: PAGE_SIZE, entries, state, unreachable, entry: PhantomData }
    }

    /// Sets the number of entries read at once: 100 by default, which is the most.
    ///
    /// ```
    /// use umbra_client::{DeviceQuery, HttpClient};
    ///
    /// let devices = HttpClient::new("http://127.0.0.1:8080")?.devices(&DeviceQuery::new()).page_size(10);
    /// # Ok::<(), umbra_client::Error>(())
    /// ```
    #[must_use]
    pub fn page_size(mut self, entries: usize) -> Self {
        self.page_size = entries.clamp(1, PAGE_SIZE);
        self
    }

    /// Returns the same list with its entries as the service sends them.
    ///
    /// ```
    /// use umbra_client::{DeviceQuery, HttpClient, Pages};
    /// use serde_json::Value;
    ///
    /// let devices: Pages<Value> = HttpClient::new("http://127.0.0.1:8080")?.devices(&DeviceQuery::new()).raw();
    /// # Ok::<(), umbra_client::Error>(())
    /// ```
    #[must_use]
    pub fn raw(self) -> Pages<Value> {
        let Self { http, path, parameters, member, page_size, entries, state, unreachable, entry: _ } = self;
        Pages { http, path, parameters, member, page_size, entries, state, unreachable, entry: PhantomData }
    }

    /// Returns the nodes of the cluster that have not answered so far, so that entries of these are missing: of MQTT sessions.
    ///
    /// ```no_run
    /// use umbra_client::{HttpClient, SessionQuery};
    ///
    /// # async fn example() -> Result<(), umbra_client::Error> {
    /// let mut sessions = HttpClient::new("http://127.0.0.1:8080")?.sessions(&SessionQuery::new());
    /// while let Some(session) = sessions.try_next().await? {
    ///     println!("{}", session.client);
    /// }
    /// for node in sessions.unreachable() {
    ///     println!("node {node} has not answered");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn unreachable(&self) -> impl Iterator<Item = u64> + '_ {
        self.unreachable.iter().copied()
    }

    fn read_page(&self, cursor: Option<&str>) -> PageState {
        let cursor = cursor.map_or_else(String::new, |cursor| parameter("cursor", cursor));
        // A cursor of a history holds the version that it is before.
        let parameters = if cursor.is_empty() || self.member != "entries" { &*self.parameters } else { "" };
        let path = format!("{}?limit={}{parameters}{cursor}", self.path, self.page_size);
        let http = self.http.clone();
        PageState::Reading(Box::pin(async move { http.get_json(&path).await }))
    }
}

impl<T: DeserializeOwned> Pages<T> {
    /// Returns the next entry; `None` at the end of the list.
    ///
    /// # Errors
    ///
    /// - [`Error::Rejected`]: the client has no right to read the list, or a quota is exhausted.
    /// - [`Error::Http`]: there was no response.
    /// - [`Error::Unreadable`]: an entry does not have the expected shape.
    ///
    /// ```no_run
    /// use umbra_client::{DeviceQuery, HttpClient};
    ///
    /// # async fn example() -> Result<(), umbra_client::Error> {
    /// let mut devices = HttpClient::new("http://127.0.0.1:8080")?.devices(&DeviceQuery::new());
    /// while let Some(device) = devices.try_next().await? {
    ///     println!("{}", device.id);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_next(&mut self) -> Result<Option<T>, Error> {
        poll_fn(|context| self.poll_entry(context)).await.transpose()
    }

    fn poll_entry(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Poll::Ready(Some(serde_json::from_value(entry).map_err(Error::unreadable)));
            }
            self.state = match &mut self.state {
                PageState::End => return Poll::Ready(None),
                PageState::Next(cursor) => {
                    let cursor = cursor.take();
                    self.read_page(cursor.as_deref())
                }
                PageState::Reading(page) => match ready!(page.as_mut().poll(context)) {
                    Err(error) => {
                        self.state = PageState::End;
                        return Poll::Ready(Some(Err(error)));
                    }
                    Ok(mut page) => {
                        if let Some(Value::Array(entries)) = page.get_mut(self.member).map(Value::take) {
                            self.entries = entries.into();
                        }
                        let unreachable = page.get("unreachable").and_then(Value::as_array);
                        self.unreachable.extend(unreachable.into_iter().flatten().filter_map(Value::as_u64));
                        match page.get("next").and_then(Value::as_str) {
                            Some(next) => PageState::Next(Some(next.to_owned())),
                            None => PageState::End,
                        }
                    }
                },
            };
        }
    }
}

impl<T: DeserializeOwned> Stream for Pages<T> {
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        self.get_mut().poll_entry(context)
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({}{})", self.http.settings.url, self.path)
    }
}

pub(super) fn parameter(name: &str, value: &str) -> String {
    format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
}

/// The most entries that the service sends at once.
const PAGE_SIZE: usize = 100;

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinHandle,
    };

    use super::*;
    use crate::{DeviceId, DeviceQuery, ErrorKind, HistoryQuery, Version};

    /// Serves `responses`, one per connection; returns a client, and the targets of the requests at the end.
    async fn serve(responses: Vec<(&'static str, &'static str)>) -> (HttpClient, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            let mut targets = Vec::new();
            for (status, body) in responses {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a request"));
                }
                let head = String::from_utf8(head).expect("text");
                targets.extend(head.split(' ').nth(1).map(str::to_owned));
                let response = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(response.as_bytes()).await.expect("the response is read");
            }
            targets
        });
        (HttpClient::new(&url).expect("a URL"), task)
    }

    /// A page may be empty and have a next one: a page of the service looks at a bounded number of entries. The command
    /// `umbrad history` ended there.
    #[tokio::test]
    async fn an_empty_page_with_a_cursor_is_not_the_end() {
        let (http, requests) = serve(vec![
            ("200 OK", r#"{"entries": [{"version": 9}, {"version": 8}], "end": "more", "next": "a.1"}"#),
            ("200 OK", r#"{"entries": [], "end": "more", "next": "b 2"}"#),
            ("200 OK", r#"{"entries": [{"version": 7}], "end": "first"}"#),
        ])
        .await;
        let shadow = DeviceId::new("lamp").expect("a device id").into();
        let history = http.history(&shadow, &HistoryQuery::new().before(Version(10))).page_size(2);
        let versions: Vec<_> = history.map_ok(|entry| entry.version.0).try_collect().await.expect("three pages");
        assert_eq!(versions, [9, 8, 7]);
        let path = "/v1/devices/lamp/shadow/history?limit=2";
        let expected = ["&before=10", "&cursor=a%2E1", "&cursor=b%202"].map(|parameter| format!("{path}{parameter}"));
        assert_eq!(requests.await.expect("the server ends"), expected);
    }

    #[tokio::test]
    async fn filters_are_in_every_page_and_an_error_ends_the_list() {
        let (http, requests) = serve(vec![
            ("200 OK", r#"{"devices": [{"id": "a-1", "drift": true, "shadows": 1}], "next": "a-1"}"#),
            ("429 Too Many Requests", r#"{"code": 429, "error": "too-many-requests", "message": "slow"}"#),
        ])
        .await;
        let mut devices = http.devices(&DeviceQuery::new().prefix("a-").connected(true));
        assert_eq!(devices.try_next().await.expect("a page").map(|device| device.id).as_deref(), Some("a-1"));
        assert_eq!(devices.try_next().await.expect_err("a quota").kind(), ErrorKind::Rejected);
        assert_eq!(devices.try_next().await.expect("the end"), None);
        let expected =
            ["", "&cursor=a%2D1"].map(|cursor| format!("/v1/devices?limit=100&prefix=a%2D&connected=true{cursor}"));
        assert_eq!(requests.await.expect("the server ends"), expected);
    }
}
