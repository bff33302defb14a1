//! Certificates made for a test: an authority, a server, clients, and what the authority revoked.

#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

/// An authority whose files live as long as it does.
pub(crate) struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    serials: AtomicU64,
    /// Its certificate.
    pub(crate) file: PathBuf,
}

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    serial: u64,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let file = written(directory.path(), "ca", &params.self_signed(&key).unwrap().pem());
        Self { directory, issuer: Issuer::new(params, key), serials: AtomicU64::new(1), file }
    }

    /// A certificate of a server on this machine.
    pub(crate) fn server(&self) -> Issued {
        self.issue(named("server", &["localhost", "127.0.0.1"]))
    }

    /// As [`Self::server`], good for these days and a half from now, or until as long ago.
    ///
    /// The half day keeps the seconds that a test takes from changing the number of whole days.
    pub(crate) fn server_until(&self, days: i64) -> Issued {
        let mut params = named("server", &["localhost", "127.0.0.1"]);
        let distance = std::time::Duration::from_secs((2 * days.unsigned_abs() + 1) * 12 * 3600);
        let now = std::time::SystemTime::now();
        params.not_after = if days < 0 { now - distance } else { now + distance }.into();
        self.issue(params)
    }

    /// A client's certificate with this common name.
    pub(crate) fn client(&self, name: &str) -> Issued {
        self.issue(named(name, &[]))
    }

    /// A client's certificate that was good for one day of the year 2000.
    pub(crate) fn expired_client(&self, name: &str) -> Issued {
        let mut params = named(name, &[]);
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2000, 1, 2));
        self.issue(params)
    }

    /// A client's certificate that is not good yet.
    pub(crate) fn future_client(&self, name: &str) -> Issued {
        let mut params = named(name, &[]);
        (params.not_before, params.not_after) = (date_time_ymd(3000, 1, 1), date_time_ymd(3000, 1, 2));
        self.issue(params)
    }

    /// A client's certificate that is good for this long from now.
    pub(crate) fn short_lived_client(&self, name: &str, lives: std::time::Duration) -> Issued {
        let mut params = named(name, &[]);
        params.not_after = (std::time::SystemTime::now() + lives).into();
        self.issue(params)
    }

    /// A certificate for use by a server only, with a client's name.
    pub(crate) fn misused(&self, name: &str) -> Issued {
        let mut params = named(name, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            certificate: written(self.directory.path(), &format!("certificate-{serial}"), &certificate.pem()),
            key: written(self.directory.path(), &format!("key-{serial}"), &key.serialize_pem()),
            serial,
        }
    }

    /// Writes which of its certificates are no longer good.
    pub(crate) fn revoke(&self, revoked: &[&Issued]) -> PathBuf {
        self.revoke_until(revoked, 4000)
    }

    /// As [`Self::revoke`], in a list that is to be replaced in this year.
    pub(crate) fn revoke_until(&self, revoked: &[&Issued], year: i32) -> PathBuf {
        let revoked = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: SerialNumber::from(issued.serial),
            revocation_time: date_time_ymd(2000, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2000, 1, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        written(self.directory.path(), "revoked", &pem)
    }

    /// As [`Self::listener`], of clients that may do everything.
    pub(crate) fn admins(&self, server: &Issued, more: &str) -> &'static str {
        self.listener(server, &format!("certificate_role = \"admin\"\n{more}"))
    }

    /// The keys of a listener with a certificate of this authority, which also wants its clients to have one.
    pub(crate) fn listener(&self, server: &Issued, more: &str) -> &'static str {
        let Issued { certificate, key, .. } = server;
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
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}
