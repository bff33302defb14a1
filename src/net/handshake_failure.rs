//! Causes of failed TLS handshakes, as the log and `/metrics` name them.

use std::io;

use tokio_rustls::rustls::{CertificateError, Error};

/// The cause of a failed TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client presented no certificate where one is required.
    NoCertificate,
    /// The client's certificate has expired.
    Expired,
    /// The client's certificate is not valid yet.
    NotYetValid,
    /// The client's certificate is revoked.
    Revoked,
    /// No revocation list covers the issuer of the client's certificate.
    RevocationUnknown,
    /// The client's certificate was not issued by an authority of the listener.
    UnknownAuthority,
    /// Anything else about the client's certificate.
    BadCertificate,
    /// The client's bytes are not TLS.
    NotTls,
    /// Client and server share no version, cipher, signature scheme or application protocol.
    Incompatible,
    /// The client sent an alert, for example because it does not trust the server's certificate.
    RefusedByClient,
    /// The client violated the protocol.
    Protocol,
    /// The client closed the connection.
    Closed,
    /// The handshake took too long.
    Timeout,
}

impl HandshakeFailure {
    /// Every cause with its name, in declaration order.
    pub const NAMED: [(&'static str, Self); 13] = [
        ("no-certificate", Self::NoCertificate),
        ("expired", Self::Expired),
        ("not-yet-valid", Self::NotYetValid),
        ("revoked", Self::Revoked),
        ("revocation-unknown", Self::RevocationUnknown),
        ("unknown-authority", Self::UnknownAuthority),
        ("bad-certificate", Self::BadCertificate),
        ("not-tls", Self::NotTls),
        ("incompatible", Self::Incompatible),
        ("refused-by-client", Self::RefusedByClient),
        ("protocol", Self::Protocol),
        ("closed", Self::Closed),
        ("timeout", Self::Timeout),
    ];

    /// Returns the name of the cause.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMED.into_iter().find(|(_, failure)| *failure == self).map_or("", |(name, _)| name)
    }

    /// Returns the cause of `error`, with which a handshake failed.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::of_tls(error),
            None if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            None => Self::Closed,
        }
    }

    fn of_tls(error: &Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::InvalidMessage(_) => Self::NotTls,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible,
            Error::AlertReceived(_) => Self::RefusedByClient,
            _ => Self::Protocol,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnknownRevocationStatus => Self::RevocationUnknown,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            _ => Self::BadCertificate,
        }
    }
}
