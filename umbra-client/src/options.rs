//! The options of a client, set by the program.
//!
//! [`crate::ConnectOptions`] are those set by a user, with flags and files.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    address::Address,
    backoff::Backoff,
    credentials::Credentials,
    error::Error,
    http_client::HttpClient,
    observer::{NoopObserver, Observer},
    tls::Tls,
};

/// The broker's address, and the settings of the connection.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use umbra_client::{Backoff, Observer, Options};
///
/// struct Log;
/// impl Observer for Log {
///     fn on_connect(&self, again: bool) {
///         println!("connected, again: {again}");
///     }
/// }
///
/// let back_end = Options::new("mqtts://broker.example", "back-end-1")?
///     .credentials("back-end", "secret")
///     .http_url("https://broker.example")?
///     .keep_alive(Duration::from_secs(60))
///     .reply_deadline(Duration::from_secs(5))
///     .packet_bytes_max(64 * 1024)
///     .reconnect(Backoff::new(Duration::from_secs(1), Duration::from_secs(60), u32::MAX))
///     .observer(Arc::new(Log));
/// // The same for another client, with a token, which ends when its connection breaks.
/// let tool = back_end.clone().client_id("tool-1").token("eyJ…").connect_once();
/// # Ok::<(), umbra_client::Error>(())
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) address: Address,
    /// Other nodes of the same cluster.
    pub(crate) others: Vec<Address>,
    /// `None`: the system's certificate authorities, if the address is encrypted.
    pub(crate) tls: Option<Tls>,
    pub(crate) http_url: Option<Address>,
    pub(crate) client_id: String,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) keep_alive: Duration,
    pub(crate) reply_deadline: Duration,
    pub(crate) packet_bytes_max: u32,
    pub(crate) reconnect: Backoff,
    pub(crate) connects_once: bool,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Options {
    /// Returns the options of the client `client_id` of the broker at `address`, such as `127.0.0.1:1883` or
    /// `mqtts://broker.example`.
    ///
    /// # Errors
    ///
    /// [`Error::Address`]: the address is malformed.
    pub fn new(address: &str, client_id: &str) -> Result<Self, Error> {
        Ok(Self::at(address.parse()?, client_id))
    }

    /// Returns the options of the client `client_id` of the broker at `address`.
    #[must_use]
    pub fn at(address: Address, client_id: &str) -> Self {
        Self {
            address,
            others: Vec::new(),
            tls: None,
            http_url: None,
            client_id: client_id.to_owned(),
            credentials: None,
            keep_alive: Duration::from_secs(30),
            reply_deadline: Duration::from_secs(10),
            packet_bytes_max: PACKET_BYTES_MAX,
            reconnect: Backoff::CONNECTS,
            connects_once: false,
            observer: Arc::new(NoopObserver),
        }
    }

    /// Adds the address of another node of the same cluster. When a connection fails or breaks, the client goes to the next
    /// address, and from the last to the first.
    ///
    /// ```
    /// use umbra_client::Options;
    ///
    /// let options = Options::new("node-1.example:1883", "back-end-1")?.or_at("node-2.example:1883".parse()?);
    /// # Ok::<(), umbra_client::Error>(())
    /// ```
    #[must_use]
    pub fn or_at(mut self, address: Address) -> Self {
        self.others.push(address);
        self
    }

    /// Goes on to the next address.
    pub(crate) fn rotate(&mut self) {
        if !self.others.is_empty() {
            let next = self.others.remove(0);
            self.others.push(std::mem::replace(&mut self.address, next));
        }
    }

    /// Sets the certificate authorities and the client certificate, for encrypted addresses.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the URL of the HTTP interface, for lists and histories. Default: that of a `ws://` or `wss://` address.
    ///
    /// # Errors
    ///
    /// - [`Error::Address`]: the URL is malformed.
    /// - [`Error::NotHttp`]: it is another kind of URL.
    pub fn http_url(mut self, url: &str) -> Result<Self, Error> {
        let url: Address = url.parse()?;
        if url.http_url().is_none() {
            return Err(Error::NotHttp(url));
        }
        self.http_url = Some(url);
        Ok(self)
    }

    /// Sets the client id.
    #[must_use]
    pub fn client_id(mut self, client_id: &str) -> Self {
        self.client_id = client_id.to_owned();
        self
    }

    /// Sets user name and password.
    #[must_use]
    pub fn credentials(mut self, user: &str, password: &str) -> Self {
        self.credentials = Some(Credentials::Password(user.to_owned(), password.to_owned()));
        self
    }

    /// Sets a token (JWT), which takes the place of user name and password.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.credentials = Some(Credentials::Token(token.to_owned()));
        self
    }

    /// Sets the keep-alive interval: at least 5 seconds, 30 by default.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive.max(Duration::from_secs(5));
        self
    }

    /// Sets the time after which a try without a reply counts as unanswered: 10 seconds by default.
    #[must_use]
    pub fn reply_deadline(mut self, deadline: Duration) -> Self {
        self.reply_deadline = deadline;
        self
    }

    /// Sets the largest packet that the client accepts, in bytes: 1 MiB by default. The broker drops larger messages.
    #[must_use]
    pub fn packet_bytes_max(mut self, bytes: u32) -> Self {
        self.packet_bytes_max = bytes.max(PACKET_BYTES_MIN);
        self
    }

    /// Sets the waits between attempts to reconnect, which have no end: `tries_max` is ignored.
    #[must_use]
    pub fn reconnect(mut self, backoff: Backoff) -> Self {
        self.reconnect = Backoff { tries_max: u32::MAX, ..backoff };
        self
    }

    /// Ends the client when its connection fails or breaks, instead of reconnecting.
    #[must_use]
    pub fn connect_once(mut self) -> Self {
        self.connects_once = true;
        self
    }

    /// Sets the observer.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Returns a client of the HTTP interface, if its URL is known.
    pub(crate) fn http_client(&self) -> Option<HttpClient> {
        let url = self.http_url.as_ref().unwrap_or(&self.address).http_url()?;
        let mut http = HttpClient::at(url);
        if let Some(tls) = &self.tls {
            http = http.tls(tls.clone());
        }
        Some(match &self.credentials {
            Some(credentials) => http.credentials(credentials),
            None => http,
        })
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the credentials.
        let Self { address, client_id, keep_alive, reply_deadline, .. } = self;
        write!(f, "Options({client_id} at {address}, keep-alive {keep_alive:?}, replies {reply_deadline:?})")
    }
}

/// Room for the event with a document of the default size limit, before and after, with metadata.
const PACKET_BYTES_MAX: u32 = 1024 * 1024;
/// Room for the packets that are not messages.
const PACKET_BYTES_MIN: u32 = 1024;
