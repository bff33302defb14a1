//! Connection options set by a user: an address, and files with certificates and secrets.
//!
//! The same type serves as command-line flags (with the feature `clap`) and as a stored context. Its fields never hold
//! secrets: these come from files or the environment.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    address::{Address, InvalidAddress},
    credentials::Credentials,
    http_client::HttpClient,
    options::Options,
    tls::{Tls, TlsError},
};

/// The broker's address and the login.
///
/// ```no_run
/// use umbra_client::{Client, ConnectOptions};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut options = ConnectOptions::default();
/// options.url = Some("wss://broker.example".parse()?);
/// options.token_file = Some("token".into());
/// let client = Client::connect(options.options("back-end-1")?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// URL of the broker: mqtt://, mqtts://, ws:// or wss://, or HOST:PORT. Default: mqtt://127.0.0.1:1883
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "URL", visible_alias = "broker"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Address>,
    /// http:// or https:// URL for commands that need HTTP. Default: that of a ws:// or wss:// URL, or port 8080 of a
    /// broker on this machine.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "URL"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_url: Option<Address>,
    /// For TLS: PEM file with the authority of the broker's certificate. Default: the system's authorities.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "FILE"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// For TLS: PEM file with the client certificate.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "FILE", requires = "key"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// For TLS: PEM file with the key of the client certificate.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "FILE", requires = "cert"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// User name. The password comes from --password-file, or from UMBRA_PASSWORD in the environment.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "NAME"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with the user's password in its first line.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "FILE", requires = "user"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// File with a token (JWT) in its first line, instead of user and password. UMBRA_TOKEN in the environment holds
    /// the token itself.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "FILE", conflicts_with = "user"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Largest MQTT packet to accept, in bytes; the broker drops larger messages. Default: 1048576
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "BYTES"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_bytes_max: Option<u32>,
}

/// Connection options that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectOptionsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file does not hold the certificates or the key that it should.
    #[error("{}", path.display())]
    Tls {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: TlsError,
    },
    /// A client certificate without its key, or a key without its certificate.
    #[error("a client certificate needs both --cert and --key")]
    HalfIdentity,
    /// Certificates for an address that is not encrypted.
    #[error("--ca, --cert and --key are for TLS, but {0} is not encrypted; use mqtts:// or wss://")]
    NotEncrypted(Address),
    /// A user without a password.
    #[error("user '{0}' needs a password: --password-file FILE, or UMBRA_PASSWORD in the environment")]
    NoPassword(String),
    /// The HTTP URL is not known.
    #[error("this command needs HTTP, and {0} is MQTT on another machine; name the HTTP listener with --http-url URL")]
    NoHttp(Address),
    /// The HTTP URL has another scheme.
    #[error("'{0}' is not an HTTP URL; --http-url must begin with http:// or https://")]
    NotHttp(Address),
    /// The default address is malformed, which does not happen.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
}

impl ConnectOptions {
    /// Returns these options, with each group (address, authority, client certificate, login) that is not set taken from
    /// `other`.
    ///
    /// ```
    /// use umbra_client::ConnectOptions;
    ///
    /// let (mut flags, mut stored) = (ConnectOptions::default(), ConnectOptions::default());
    /// flags.url = Some("mqtt://broker".parse()?);
    /// stored.url = Some("mqtt://other".parse()?);
    /// stored.ca = Some("ca.pem".into());
    /// let both = flags.clone().or(stored);
    /// assert_eq!((both.url, both.ca), (flags.url, Some("ca.pem".into())));
    /// # Ok::<(), umbra_client::InvalidAddress>(())
    /// ```
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let address = if self.url.is_none() && self.http_url.is_none() { &other } else { &self };
        let (url, http_url) = (address.url.clone(), address.http_url.clone());
        let identity = if self.cert.is_none() && self.key.is_none() { &other } else { &self };
        let (cert, key) = (identity.cert.clone(), identity.key.clone());
        let login = if self.user.is_none() && self.token_file.is_none() { &other } else { &self };
        let (user, token_file) = (login.user.clone(), login.token_file.clone());
        let password_file = login.password_file.clone();
        let packet_bytes_max = self.packet_bytes_max.or(other.packet_bytes_max);
        Self { url, http_url, ca: self.ca.or(other.ca), cert, key, user, password_file, token_file, packet_bytes_max }
    }

    /// Makes the paths absolute, so that they stay valid in another working directory.
    ///
    /// # Errors
    ///
    /// The working directory is not known.
    ///
    /// ```
    /// let mut options = umbra_client::ConnectOptions::default();
    /// options.ca = Some("ca.pem".into());
    /// options.make_paths_absolute()?;
    /// assert!(options.ca.unwrap().is_absolute());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn make_paths_absolute(&mut self) -> io::Result<()> {
        let files = [&mut self.ca, &mut self.cert, &mut self.key, &mut self.password_file, &mut self.token_file];
        for file in files.into_iter().flatten() {
            *file = std::path::absolute(&*file)?;
        }
        Ok(())
    }

    /// Returns the broker's address.
    ///
    /// ```
    /// let options = umbra_client::ConnectOptions::default();
    /// assert_eq!(options.address().to_string(), "mqtt://127.0.0.1:1883");
    /// ```
    #[must_use]
    pub fn address(&self) -> Address {
        self.url.clone().unwrap_or_else(|| DEFAULT_URL.parse().expect("the default is an address"))
    }

    /// Returns the URL of the HTTP interface, without a trailing slash.
    ///
    /// # Errors
    ///
    /// It is not known, or `http_url` has another scheme.
    ///
    /// ```
    /// let options = umbra_client::ConnectOptions::default();
    /// assert_eq!(options.http_address().unwrap(), "http://127.0.0.1:8080");
    /// ```
    pub fn http_address(&self) -> Result<String, ConnectOptionsError> {
        if let Some(url) = &self.http_url {
            return url.http_url().ok_or_else(|| ConnectOptionsError::NotHttp(url.clone()));
        }
        let address = self.address();
        if let Some(url) = address.http_url() {
            return Ok(url);
        }
        match address.host() {
            "localhost" | "127.0.0.1" | "::1" => Ok(DEFAULT_HTTP_URL.to_owned()),
            _ => Err(ConnectOptionsError::NoHttp(address)),
        }
    }

    /// Reads the files and returns the options of the client `client_id`.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or the options contradict each other.
    pub fn options(&self, client_id: &str) -> Result<Options, ConnectOptionsError> {
        let address = self.address();
        let given = self.ca.is_some() || self.cert.is_some() || self.key.is_some();
        if given && !address.is_encrypted() {
            return Err(ConnectOptionsError::NotEncrypted(address));
        }
        let encrypted = address.is_encrypted();
        let mut options = Options::at(address, client_id);
        if encrypted {
            options = options.tls(self.tls()?);
        }
        options.http_url = self.http_address().ok().and_then(|url| url.parse().ok());
        options.credentials = self.credentials()?;
        Ok(match self.packet_bytes_max {
            None => options,
            Some(bytes) => options.packet_bytes_max(bytes),
        })
    }

    /// Reads the files and returns a client of the HTTP interface, which needs no MQTT connection.
    ///
    /// # Errors
    ///
    /// The HTTP URL is not known, or a file cannot be used.
    ///
    /// ```no_run
    /// # async fn example(options: umbra_client::ConnectOptions) -> Result<(), Box<dyn std::error::Error>> {
    /// let http = options.http_client()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn http_client(&self) -> Result<HttpClient, ConnectOptionsError> {
        let url = self.http_address()?;
        let tls = url.starts_with("https:").then(|| self.tls()).transpose()?;
        let mut http = HttpClient::at(url);
        if let Some(tls) = tls {
            http = http.tls(tls);
        }
        Ok(match self.credentials()? {
            Some(credentials) => http.credentials(&credentials),
            None => http,
        })
    }

    /// Reads the files and returns the TLS settings.
    ///
    /// # Errors
    ///
    /// A file cannot be used.
    pub fn tls(&self) -> Result<Tls, ConnectOptionsError> {
        let ca = self.ca.as_deref().map(read).transpose()?;
        let identity = match (&self.cert, &self.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => return Err(ConnectOptionsError::HalfIdentity),
        };
        let identity = identity.as_ref().map(|(cert, key)| (cert.as_slice(), key.as_slice()));
        Tls::from_pem(ca.as_deref(), identity).map_err(|error| {
            let path = match &error {
                TlsError::NoAuthority | TlsError::Authority(_) => &self.ca,
                TlsError::Certificate(_) => &self.cert,
                TlsError::Key(_) | TlsError::Pair(_) => &self.key,
            };
            ConnectOptionsError::Tls { path: path.clone().unwrap_or_default(), source: error }
        })
    }

    /// Returns the credentials from a file or the environment; `None` if there are none.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or a user has no password.
    pub fn credentials(&self) -> Result<Option<Credentials>, ConnectOptionsError> {
        let from_environment = |name| env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(file) = &self.token_file {
            return Ok(Some(Credentials::Token(first_line(file)?)));
        }
        let Some(user) = &self.user else { return Ok(from_environment("UMBRA_TOKEN").map(Credentials::Token)) };
        let password = match &self.password_file {
            Some(file) => first_line(file)?,
            None => from_environment("UMBRA_PASSWORD").ok_or_else(|| ConnectOptionsError::NoPassword(user.clone()))?,
        };
        Ok(Some(Credentials::Password(user.clone(), password)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectOptionsError> {
    fs::read(path).map_err(|source| ConnectOptionsError::File { path: path.to_owned(), source })
}

fn first_line(path: &Path) -> Result<String, ConnectOptionsError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| ConnectOptionsError::File { path: path.to_owned(), source })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

const DEFAULT_URL: &str = "mqtt://127.0.0.1:1883";
/// The HTTP listener of the default configuration.
const DEFAULT_HTTP_URL: &str = "http://127.0.0.1:8080";

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str) -> ConnectOptions {
        ConnectOptions { url: (!url.is_empty()).then(|| url.parse().expect(url)), ..ConnectOptions::default() }
    }

    #[test]
    fn the_http_url_is_derived_from_the_address() {
        for (url, http_url, expected) in [
            ("", "", Ok("http://127.0.0.1:8080")),
            ("mqtt://localhost:1999", "", Ok("http://127.0.0.1:8080")),
            ("mqtt://broker", "", Err("name the HTTP listener with --http-url URL")),
            ("mqtts://broker", "https://broker:8443", Ok("https://broker:8443")),
            ("wss://broker/mqtt", "", Ok("https://broker:443")),
            ("", "mqtt://broker", Err("'mqtt://broker:1883' is not an HTTP URL")),
        ] {
            let options = ConnectOptions { http_url: with(http_url).url, ..with(url) };
            let found = options.http_address().map_err(|error| error.to_string());
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected.to_owned())),
                Err(part) => assert!(found.as_ref().is_err_and(|error| error.contains(part)), "{url}: {found:?}"),
            }
        }
    }

    /// A password must not be combined with another user, nor a certificate with another key.
    #[test]
    fn options_are_completed_group_by_group() {
        let stored = ConnectOptions {
            ca: Some("ca".into()),
            cert: Some("cert".into()),
            key: Some("key".into()),
            user: Some("stored".into()),
            password_file: Some("password".into()),
            ..with("mqtts://stored")
        };
        assert_eq!(ConnectOptions::default().or(stored.clone()), stored);
        let given = ConnectOptions { user: Some("given".into()), ..with("mqtts://given") };
        let both = given.clone().or(stored.clone());
        assert_eq!((both.url, both.user, both.password_file), (given.url, given.user, None));
        assert_eq!((both.ca, both.cert, both.key), (stored.ca, stored.cert, stored.key));
    }

    #[test]
    fn contradicting_options_are_refused() {
        let ca = |url| ConnectOptions { ca: Some("ca".into()), ..with(url) };
        for (options, expected) in [
            (ca("mqtt://b"), "mqtt://b:1883 is not encrypted; use mqtts:// or wss://"),
            (ca("ws://b"), "ws://b:80/mqtt is not encrypted"),
            (ca("mqtts://b"), "ca: No such file"),
            (ConnectOptions { cert: Some("c".into()), ..with("wss://b") }, "needs both --cert and --key"),
            (ConnectOptions { password_file: Some("p".into()), user: Some("u".into()), ..with("") }, "p: No such file"),
            (ConnectOptions { token_file: Some("t".into()), ..with("") }, "t: No such file"),
        ] {
            let error = format!("{:#}", anyhow::Error::from(options.options("any").expect_err(expected)));
            assert!(error.contains(expected), "{error}");
        }
    }
}
