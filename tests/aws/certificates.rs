//! Certificates made for a test: an authority, a server, clients.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// An authority whose files live as long as it does.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub(crate) file: PathBuf,
}

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let file = written(directory.path(), "ca", &params.self_signed(&key).unwrap().pem());
        Self { directory, issuer: Issuer::new(params, key), file }
    }

    /// A certificate of a server on this machine.
    pub(crate) fn server(&self) -> Issued {
        self.issue("server", named("server", &["localhost", "127.0.0.1"]))
    }

    /// A client's certificate with this common name.
    pub(crate) fn client(&self, name: &str) -> Issued {
        self.issue(&name.replace(['/', ' '], "_"), named(name, &[]))
    }

    fn issue(&self, file: &str, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            certificate: written(self.directory.path(), &format!("{file}-certificate"), &certificate.pem()),
            key: written(self.directory.path(), &format!("{file}-key"), &key.serialize_pem()),
        }
    }

    /// The keys of a listener with a certificate of this authority, which also wants its clients to have one.
    pub(crate) fn listener(&self, server: &Issued, more: &str) -> &'static str {
        let Issued { certificate, key } = server;
        // As long as the test: a listener's settings are constants everywhere else.
        Box::leak(
            format!("tls_certificate = {certificate:?}\ntls_key = {key:?}\ntls_client_ca = {:?}\n{more}", self.file)
                .into_boxed_str(),
        )
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(hosts.iter().map(|&host| host.into()).collect::<Vec<String>>()).unwrap();
    params.distinguished_name.push(DnType::OrganizationName, "Tests");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn written(directory: &Path, name: &str, pem: &str) -> PathBuf {
    let path = directory.join(format!("{name}.pem"));
    fs::write(&path, pem).unwrap();
    path
}
