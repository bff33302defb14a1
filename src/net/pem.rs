//! The PEM files of TLS.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer, X509Certificate};

use crate::private_file;

/// An unusable TLS file.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct PemError {
    path: PathBuf,
    reason: String,
}

impl PemError {
    pub(super) fn new(path: &Path, reason: &dyn fmt::Display) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// Reads the certificates in a file: at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    all(path, "contains no certificate")
}

/// Returns the earliest expiry in `chain`, in seconds since 1970, and the subject of that certificate.
pub(super) fn expiry(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(i64, String), PemError> {
    let mut expiries = Vec::new();
    for certificate in chain {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| PemError::new(path, &error))?;
        expiries.push((certificate.validity().not_after.timestamp(), certificate.subject().to_string()));
    }
    Ok(expiries.into_iter().min_by_key(|(at, _)| *at).unwrap_or((i64::MAX, String::new())))
}

/// Reads the private key in a file, which only its owner may be able to read.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    private_file::check(path).map_err(|error| PemError::new(path, &error))?;
    PrivateKeyDer::from_pem_file(path).map_err(|error| PemError::new(path, &error))
}

/// Reads the revocation lists in a file; an empty file has none. Logs a warning about lists whose update is overdue.
/// They stay in use: refusing every client for lack of a newer list would help nobody.
pub(super) fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let content = fs::read(path).map_err(|error| PemError::new(path, &error))?;
    if content.trim_ascii().is_empty() {
        tracing::warn!(file = %path.display(), "empty file of revocation lists: no certificate counts as revoked");
        return Ok(Vec::new());
    }
    let lists = all::<CertificateRevocationListDer<'static>>(path, "contains no revocation list")?;
    for list in &lists {
        let (_, list) = CertificateRevocationList::from_der(list).map_err(|error| PemError::new(path, &error))?;
        if let Some(next) = list.next_update().filter(|next| *next < ASN1Time::now()) {
            tracing::warn!(file = %path.display(), issuer = %list.issuer(), due = %next, "a revocation list is out of date");
        }
    }
    Ok(lists)
}

fn all<T: PemObject>(path: &Path, none: &str) -> Result<Vec<T>, PemError> {
    let read = T::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, pem::Error>>);
    match read {
        Err(error) => Err(PemError::new(path, &error)),
        Ok(all) if all.is_empty() => Err(PemError::new(path, &none)),
        Ok(all) => Ok(all),
    }
}
