//! Connection options as a user gives them: an address, and files with certificates and secrets.
//!
//! The one type behind command-line flags (with the feature `clap`) and stored contexts. Secrets are never among its
//! fields: they come from files, or from the environment.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    address::{Address, InvalidAddress},
    options::Options,
    tls::{Tls, TlsError},
};

/// Which broker, and how to log in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct ConnectOptions {
    /// URL of the broker: mqtt://, mqtts://, ws:// or wss://, or HOST:PORT. Default: mqtt://127.0.0.1:1883
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "URL", visible_alias = "broker"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Address>,
    /// http:// or https:// URL for commands that need HTTP; without it, the one that follows from a ws:// or wss://
    /// URL, or port 8080 of a broker on this machine.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Connection", value_name = "URL"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_url: Option<Address>,
    /// For TLS: PEM file with the authority of the broker's certificate. Default: the authorities that the system trusts.
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
}

/// A user name with a password, or a token.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User name and password.
    Password(String, String),
    /// A token, which itself says whose it is.
    Token(String),
}

/// Connection options that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectOptionsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// A file with certificates or a key holds something else.
    #[error("{}: {error}", path.display())]
    Tls {
        /// Its path.
        path: PathBuf,
        /// The reason.
        error: TlsError,
    },
    /// A client certificate without its key, or the other way round.
    #[error("a client certificate needs both --cert and --key")]
    HalfIdentity,
    /// Certificates for a connection that is not encrypted.
    #[error("--ca, --cert and --key are for TLS, but {0} is not encrypted; use mqtts:// or wss://")]
    NotEncrypted(Address),
    /// A user without a password.
    #[error("user '{0}' needs a password: --password-file FILE, or UMBRA_PASSWORD in the environment")]
    NoPassword(String),
    /// No URL for HTTP.
    #[error("this command needs HTTP, and {0} is MQTT on another machine; name the HTTP listener with --http-url URL")]
    NoHttp(Address),
    /// A URL for HTTP that is not one.
    #[error("'{0}' is not for HTTP; --http-url begins with http:// or https://")]
    NotHttp(Address),
    /// The default address cannot be read, which does not happen.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
}

impl ConnectOptions {
    /// Returns these options, and for each group (address, authority, client certificate, login) that has none, that
    /// of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let address = if self.url.is_none() && self.http_url.is_none() { &other } else { &self };
        let (url, http_url) = (address.url.clone(), address.http_url.clone());
        let identity = if self.cert.is_none() && self.key.is_none() { &other } else { &self };
        let (cert, key) = (identity.cert.clone(), identity.key.clone());
        let login = if self.user.is_none() && self.token_file.is_none() { &other } else { &self };
        let (user, token_file) = (login.user.clone(), login.token_file.clone());
        let password_file = login.password_file.clone();
        Self { url, http_url, ca: self.ca.or(other.ca), cert, key, user, password_file, token_file }
    }

    /// Makes the paths absolute, so that they stay the same in another working directory.
    ///
    /// # Errors
    ///
    /// The working directory is not known.
    pub fn make_paths_absolute(&mut self) -> io::Result<()> {
        let files = [&mut self.ca, &mut self.cert, &mut self.key, &mut self.password_file, &mut self.token_file];
        for file in files.into_iter().flatten() {
            *file = std::path::absolute(&*file)?;
        }
        Ok(())
    }

    /// Returns the broker's address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.url.clone().unwrap_or_else(|| DEFAULT_URL.parse().expect("the default is an address"))
    }

    /// Returns the URL of the HTTP interface, without a slash at its end.
    ///
    /// # Errors
    ///
    /// There is none, or `http_url` is another kind of URL.
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

    /// Returns the options of a client called `client_id`. Reads the files.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or the options do not fit together.
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
        Ok(match self.credentials()? {
            None => options,
            Some(Credentials::Password(user, password)) => options.credentials(&user, &password),
            Some(Credentials::Token(token)) => options.credentials(TOKEN_USER, &token),
        })
    }

    /// Returns the settings of TLS. Reads the files.
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
            ConnectOptionsError::Tls { path: path.clone().unwrap_or_default(), error }
        })
    }

    /// Returns the credentials, from a file or the environment; `None` if there are none.
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
    fs::read(path).map_err(|error| ConnectOptionsError::File { path: path.to_owned(), error })
}

fn first_line(path: &Path) -> Result<String, ConnectOptionsError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| ConnectOptionsError::File { path: path.to_owned(), error })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

const DEFAULT_URL: &str = "mqtt://127.0.0.1:1883";
/// The HTTP listener of the configuration that the service ships with.
const DEFAULT_HTTP_URL: &str = "http://127.0.0.1:8080";
/// The user name beside a token. The service ignores it: the token says whose it is.
const TOKEN_USER: &str = "token";

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str) -> ConnectOptions {
        ConnectOptions { url: (!url.is_empty()).then(|| url.parse().expect(url)), ..ConnectOptions::default() }
    }

    #[test]
    fn the_http_url_follows_from_the_address() {
        for (url, http_url, expected) in [
            ("", "", Ok("http://127.0.0.1:8080")),
            ("mqtt://localhost:1999", "", Ok("http://127.0.0.1:8080")),
            ("mqtt://broker", "", Err("name the HTTP listener with --http-url URL")),
            ("mqtts://broker", "https://broker:8443", Ok("https://broker:8443")),
            ("wss://broker/mqtt", "", Ok("https://broker:443")),
            ("", "mqtt://broker", Err("'mqtt://broker:1883' is not for HTTP")),
        ] {
            let options = ConnectOptions { http_url: with(http_url).url, ..with(url) };
            let found = options.http_address().map_err(|error| error.to_string());
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected.to_owned())),
                Err(part) => assert!(found.as_ref().is_err_and(|error| error.contains(part)), "{url}: {found:?}"),
            }
        }
    }

    /// A password of one broker must not go to another user, nor a certificate without its key.
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
    fn options_that_do_not_fit_together_are_refused() {
        let ca = |url| ConnectOptions { ca: Some("ca".into()), ..with(url) };
        for (options, expected) in [
            (ca("mqtt://b"), "mqtt://b:1883 is not encrypted; use mqtts:// or wss://"),
            (ca("ws://b"), "ws://b:80/mqtt is not encrypted"),
            (ca("mqtts://b"), "ca: No such file"),
            (ConnectOptions { cert: Some("c".into()), ..with("wss://b") }, "needs both --cert and --key"),
            (ConnectOptions { password_file: Some("p".into()), user: Some("u".into()), ..with("") }, "p: No such file"),
            (ConnectOptions { token_file: Some("t".into()), ..with("") }, "t: No such file"),
        ] {
            let error = options.options("any").expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
