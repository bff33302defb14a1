//! The files that TLS needs, in PEM.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer};

/// A file of TLS that will not do.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {told}")]
pub struct PemError {
    path: PathBuf,
    told: String,
}

impl PemError {
    pub(super) fn new(path: &Path, told: &dyn fmt::Display) -> Self {
        Self { path: path.to_owned(), told: told.to_string() }
    }
}

/// The certificates in a file: at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    all(path, "there is no certificate in it")
}

/// The private key in a file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| PemError::new(path, &error))
}

/// The revocation lists in a file: at least one. The log is told of those that should have been replaced by now: what
/// they revoke stays revoked, and refusing every client for want of a newer one would help nobody.
pub(super) fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let lists = all::<CertificateRevocationListDer<'static>>(path, "there is no revocation list in it")?;
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
