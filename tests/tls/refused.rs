//! Certificates that are not good, each shown by a client that has its key.

use std::sync::Arc;

use serde_json::Value;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    certificates::Authority,
    client::TlsClient,
    harness::{
        server::{Server, Setup},
        wire::{BOTH, V5},
    },
};

fn server(authority: &Authority, more: &str) -> Server {
    let listener = authority.admins(&authority.server(), more);
    Server::with(Setup { listener, ..Setup::default() })
}

/// Neither where a certificate must be shown nor where it may be.
#[test]
fn invalid_certificates_are_refused() {
    let authority = Authority::new("authority");
    // Another authority by the same name, as a forger would call it.
    let forger = Authority::new("authority");
    let good = authority.client("lamp-1");
    let revoked = authority.client("lamp-2");
    let list = authority.revoke(&[&revoked]);
    let table = [
        ("revoked", &revoked),
        ("expired", &authority.expired_client("lamp-1")),
        ("not good yet", &authority.future_client("lamp-1")),
        ("of another authority", &forger.client("lamp-1")),
        ("a server's", &authority.misused("lamp-1")),
    ];
    for auth in ["required", "optional"] {
        let mut server = server(&authority, &format!("tls_client_crl = {list:?}\ntls_client_auth = {auth:?}"));
        for (what, shown) in table {
            for protocol in BOTH {
                let mut client = TlsClient::open(&server, &authority.file, Some(shown), &[], protocol);
                assert_eq!(client.connect("client"), None, "{what}, {auth}");
            }
        }
        let mut client = TlsClient::open(&server, &authority.file, Some(&good), &[], V5);
        assert_eq!((client.connect("client"), client.principal()), (Some(0), "lamp-1".into()), "{auth}");
        server.assert_alive();
    }
}

/// A client certificate may be required, and independent of that anonymous clients may be allowed.
#[test]
fn client_certificates_are_required_or_optional() {
    let authority = Authority::new("authority");
    let lamp = authority.client("lamp-1");
    // anonymous, tls_client_auth, the code of CONNACK without a certificate; `None`: the handshake fails
    for (anonymous, auth, without) in [
        (true, "", Some(0)),
        (true, "optional", Some(0)),
        (true, "required", None),
        (false, "", None),
        (false, "optional", Some(0x87)),
        (false, "required", None),
    ] {
        let server = server(&authority, &format!("anonymous = {anonymous}\ntls_client_auth = {auth:?}"));
        let mut client = TlsClient::open(&server, &authority.file, None, &[], V5);
        assert_eq!(client.connect("client"), without, "{anonymous} {auth:?}");
        let mut client = TlsClient::open(&server, &authority.file, Some(&lamp), &[], V5);
        assert_eq!(client.connect("client"), Some(0), "{anonymous} {auth:?}");
        assert_eq!(client.principal(), Value::from("lamp-1"));
    }
}

/// With lists, whoever is in none that is known is not known to be good.
#[test]
fn a_certificate_without_a_revocation_list_of_its_issuer() {
    let [authority, other] = ["authority", "other"].map(Authority::new);
    let list = other.revoke(&[]);
    let server = server(&authority, &format!("tls_client_crl = {list:?}"));
    let lamp = authority.client("lamp-1");
    let mut client = TlsClient::open(&server, &authority.file, Some(&lamp), &[], V5);
    assert_eq!(client.connect("client"), None);
}

/// A list that should have been replaced goes on to count, and the log says so.
#[test]
fn an_expired_revocation_list() {
    let authority = Authority::new("authority");
    let [good, revoked] = ["lamp-1", "lamp-2"].map(|name| authority.client(name));
    let list = authority.revoke_until(&[&revoked], 2001);
    let server = server(&authority, &format!("tls_client_crl = {list:?}"));
    let mut client = TlsClient::open(&server, &authority.file, Some(&good), &[], V5);
    assert_eq!(client.connect("client"), Some(0));
    let mut client = TlsClient::open(&server, &authority.file, Some(&revoked), &[], V5);
    assert_eq!(client.connect("client"), None);
    assert!(server.log().contains("a revocation list is out of date"), "{}", server.log());
}

/// The list of a stranger, or one that was tampered with, revokes nothing and lets nobody in.
#[test]
fn a_revocation_list_with_a_wrong_signature() {
    let [authority, forger] = ["authority", "authority"].map(Authority::new);
    let list = forger.revoke(&[]);
    let mut server = server(&authority, &format!("tls_client_crl = {list:?}"));
    let lamp = authority.client("lamp-1");
    let mut client = TlsClient::open(&server, &authority.file, Some(&lamp), &[], V5);
    assert_eq!(client.connect("client"), None);
    server.assert_alive();
}

/// A session keeps the chain of its client for as long as it lasts, so a long one would take the server's memory.
#[test]
fn a_long_chain_is_refused() {
    let authority = Authority::new("authority");
    let lamp = authority.client("lamp-1");
    let server = server(&authority, "");
    let certificate = || CertificateDer::from_pem_file(&lamp.certificate).unwrap();
    for (count, expected) in [(1, Some(0)), (8, Some(0)), (60, None)] {
        let chain = (0..count).map(|_| certificate()).collect::<Vec<_>>();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&authority.file).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&lamp.key).unwrap())
            .unwrap();
        let mut client = TlsClient::with(server.address, Arc::new(config), V5);
        assert_eq!(client.connect("client"), expected, "{count}");
    }
}
