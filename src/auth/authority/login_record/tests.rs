//! Tests of logins that are restored at the next start, with the files unchanged or changed meanwhile.
//!
//! A change that SIGHUP covers must decide the same at a start as it does there.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    auth::{
        LoginRequest, Policy,
        authn::{
            access_keys::AccessKeys,
            certificate::PeerCertificate,
            login::Credentials,
            password::tests::cheap,
            tokens::signer::{SECRET, token},
        },
    },
    clock::{Clock, ManualClock},
    config::{Arguments, Config},
    net::Tls,
};

const NOW: u64 = 1_800_000_000;
/// After the end of the certificate, 3000-01-01.
const YEAR_3001: u64 = 32_535_216_000;
const SERIAL: u64 = 7;
const CONFIG: &str = r#"
[[listener]]
name = "plain"
bind = "127.0.0.1:1883"
anonymous = true
anonymous_role = "reporter"

[[listener]]
name = "tls"
bind = "127.0.0.1:8883"
anonymous = false
certificate_role = "device"
tls_certificate = "certificate"
tls_key = "key"
tls_client_ca = "ca"
tls_client_crl = "crl"

[auth]
users = "users"
token_keys = "keys"
token_algorithms = "HS256"
token_audience = "umbra"
aws_keys = "aws"
banned = "banned"

[[grant]]
role = "viewer"
principals = ["user", "bearer", "signer"]
"#;

/// The files of a server, of which each start makes an [`Authority`].
struct Site {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    clock: Clock,
    hand: ManualClock,
}

/// A started server.
struct Server {
    authority: Authority,
    tls: Option<Arc<Tls>>,
}

impl Site {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let (clock, hand) = Clock::manual(Duration::from_secs(NOW));
        let site = Self { folder: TempDir::new().unwrap(), issuer: Issuer::new(params, key), clock, hand };
        let (certificate, key) = site.issue("localhost", 1);
        site.write("certificate", &certificate.pem());
        site.write("key", &key.serialize_pem());
        site.write("ca", &ca);
        site.revoke(&[]);
        site.write("broker.toml", CONFIG);
        site.write("users", &format!("user:{}\n", cheap("secret")));
        site.write("keys", SECRET);
        site.write("aws", "AKIA1 a-secret-that-is-long-enough signer\n");
        site.write("banned", "");
        site
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.file(name), content).unwrap();
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Replaces a text that is in the file.
    fn edit(&self, name: &str, from: &str, to: &str) {
        let content = fs::read_to_string(self.file(name)).unwrap();
        assert!(content.contains(from), "{name} has no {from}");
        self.write(name, &content.replace(from, to));
    }

    fn issue(&self, name: &str, serial: u64) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(3000, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2000, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2000, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write("crl", &list.signed_by(&self.issuer).unwrap().pem().unwrap());
    }

    fn config(&self) -> (Config, Policy) {
        let config = Config::load(Some(&self.file("broker.toml")), [], &Arguments::default()).unwrap();
        let policy = Policy::of(&config).unwrap();
        (config, policy)
    }

    fn start(&self) -> Server {
        let (config, policy) = self.config();
        let mut authority = Authority::open(&config, policy, self.clock.clone()).unwrap();
        let secured = config.listeners.iter().find_map(|listener| Some((&listener.name, listener.tls.as_ref()?)));
        let tls = secured.map(|(name, tls)| {
            let tls = Arc::new(Tls::open(tls, &[]).unwrap());
            authority.set_certificate_trust(name, tls.clone());
            tls
        });
        Server { authority, tls }
    }
}

impl Server {
    /// Signs a client in.
    async fn login(&self, listener: &str, proof: PeerCertificate, credentials: Credentials<'_>) -> Arc<AuthContext> {
        let (address, listener) = (IpAddr::from([192, 0, 2, 1]), listener.into());
        let login = LoginRequest { address, listener: &listener, proof: &proof, credentials };
        self.authority.authenticate(login, &"c-1".into()).await.unwrap().0
    }

    /// Signs a client in by each method: anonymous, certificate, password, token, access key.
    async fn logins(&self, site: &Site) -> [Arc<AuthContext>; 5] {
        let chain = [site.issue("prover", SERIAL).0.der().clone()];
        let proof = PeerCertificate::of(&chain, self.tls.clone().unwrap(), 0);
        let token = token(&json!({"sub": "bearer", "aud": "umbra", "exp": NOW + 60}));
        let keys = self.authority.access_keys();
        let key = keys.get("AKIA1").unwrap();
        [
            self.login("plain", PeerCertificate::None, Credentials::None).await,
            self.login("tls", proof, Credentials::None).await,
            self.login("plain", PeerCertificate::None, Credentials::Password { user: "user", password: b"secret" })
                .await,
            self.login("plain", PeerCertificate::None, Credentials::Bearer(&token)).await,
            Arc::new(AuthContext::of_access_key(key, "plain".into(), "c-1".into())),
        ]
    }

    /// Reloads at SIGHUP.
    fn hang_up(&self, site: &Site) {
        self.tls.as_ref().unwrap().reload().unwrap();
        let (config, policy) = site.config();
        assert!(self.authority.reload(Some((&config, policy))).is_empty());
    }

    /// Returns true for each of `records` whose login is restored and has rights.
    fn restores(&self, records: &[LoginRecord; 5]) -> [bool; 5] {
        let rights = |record| self.authority.review_absent(&self.authority.restore(record)?);
        records.each_ref().map(|record| rights(record).is_some())
    }
}

/// Returns the record after its way through the store.
fn stored(auth_context: &AuthContext) -> LoginRecord {
    let (record, text) = (auth_context.record(), json_of(auth_context));
    let read: LoginRecord = serde_json::from_str(&text).unwrap();
    assert_eq!(read, record);
    read
}

fn json_of(auth_context: &AuthContext) -> String {
    serde_json::to_string(&auth_context.record()).unwrap()
}

fn parsed(record: Value) -> LoginRecord {
    serde_json::from_value(record).unwrap()
}

#[tokio::test]
async fn a_login_of_each_method_is_restored() {
    let site = Site::new();
    let server = site.start();
    for live in server.logins(&site).await {
        let started = site.start();
        let restored = started.authority.restore(&stored(&live)).unwrap();
        let (was, is) = (&live.identity, &restored.identity);
        assert_eq!((&is.principal, is.method), (&was.principal, was.method));
        assert_eq!(is.until.map(|until| until.wall), was.until.map(|until| until.wall), "{:?}", was.method);
        assert_eq!((&restored.listener, &restored.client), (&live.listener, &live.client));
        assert_eq!(
            (restored.kept_bytes(), restored.revoked_at().is_some()),
            (live.kept_bytes(), live.revoked_at().is_some())
        );
        let rights = [(&server, &live), (&started, &restored)];
        let [before, after] = rights.map(|(at, login)| at.authority.review(login).unwrap());
        assert!(after.is_same(&before), "{:?}", was.method);
        assert_eq!(restored.record(), live.record(), "as good as the first one");
    }
}

/// A change of the files while the server is down.
type Change = fn(&Site);

#[tokio::test]
async fn a_login_that_was_revoked_meanwhile_is_not_restored() {
    /// True if SIGHUP covers a change.
    const SIGHUP: bool = true;
    // change; SIGHUP covers it; anonymous, certificate, password, token, access key are restored
    let table: [(&str, Change, bool, [u8; 5]); 21] = [
        ("nothing", |_| (), SIGHUP, [1, 1, 1, 1, 1]),
        ("user removed", |site| site.write("users", ""), SIGHUP, [1, 1, 0, 1, 1]),
        ("password changed", |site| site.write("users", &format!("user:{}", cheap("new"))), SIGHUP, [1, 1, 0, 1, 1]),
        ("user added", |site| site.edit("users", "user:", &format!("other:{}\nuser:", cheap("x"))), SIGHUP, [1; 5]),
        ("no users", |site| site.edit("broker.toml", "users = \"users\"", ""), !SIGHUP, [1, 1, 0, 1, 1]),
        ("token key replaced", |site| site.write("keys", &SECRET.to_uppercase()), SIGHUP, [1, 1, 1, 0, 1]),
        ("no tokens", |site| site.edit("broker.toml", "token_", "#"), !SIGHUP, [1, 1, 1, 0, 1]),
        ("access key removed", |site| site.write("aws", ""), SIGHUP, [1, 1, 1, 1, 0]),
        ("access key replaced", |site| site.edit("aws", "enough", "too-long"), SIGHUP, [1, 1, 1, 1, 0]),
        ("access key of another", |site| site.edit("aws", "signer", "user"), SIGHUP, [1, 1, 1, 1, 0]),
        ("certificate revoked", |site| site.revoke(&[SERIAL]), SIGHUP, [1, 0, 1, 1, 1]),
        ("another revoked", |site| site.revoke(&[SERIAL + 1]), SIGHUP, [1; 5]),
        ("authority replaced", |site| _ = fs::copy(site.file("certificate"), site.file("ca")), SIGHUP, [1, 0, 1, 1, 1]),
        ("certificate expired", |site| site.hand.set(Duration::from_secs(YEAR_3001)), SIGHUP, [1, 0, 1, 1, 1]),
        ("no certificates", |site| site.edit("broker.toml", "tls_client", "#"), !SIGHUP, [1, 0, 1, 1, 1]),
        ("listener gone", |site| site.edit("broker.toml", "\"plain\"", "\"x\""), !SIGHUP, [0, 1, 0, 0, 0]),
        ("listener with TLS gone", |site| site.edit("broker.toml", "\"tls\"", "\"x\""), !SIGHUP, [1, 0, 1, 1, 1]),
        (
            "nobody anonymous",
            |site| site.edit("broker.toml", "anonymous = true\nanonymous_role = \"reporter\"", "anonymous = false"),
            SIGHUP,
            [0, 1, 1, 1, 1],
        ),
        ("no role of the listener", |site| site.edit("broker.toml", "\"device\"", "\"\""), SIGHUP, [1, 0, 1, 1, 1]),
        ("no grant", |site| site.edit("broker.toml", "\"user\", \"bearer\"", "\"x\""), SIGHUP, [1, 1, 0, 0, 1]),
        ("all banned", |site| site.write("banned", "anonymous/*\nprover\nuser\nbear*\nsigner"), SIGHUP, [0; 5]),
    ];
    for (change, apply, sighup, expected) in table {
        let (site, expected) = (Site::new(), expected.map(|restored| restored == 1));
        let running = site.start();
        let live = running.logins(&site).await;
        let records = live.each_ref().map(|login| stored(login));
        apply(&site);
        assert_eq!(site.start().restores(&records), expected, "{change}, at a start");
        if sighup {
            running.hang_up(&site);
            let stays = live.each_ref().map(|login| running.authority.review_absent(login).is_some());
            assert_eq!(stays, expected, "{change}, at SIGHUP");
        }
    }
}

#[tokio::test]
async fn a_token_that_expired_meanwhile_is_known_as_expired() {
    let site = Site::new();
    let [_, _, _, live, _] = site.start().logins(&site).await;
    for (at, over) in [(NOW + 59, false), (NOW + 69, false), (NOW + 70, true)] {
        site.hand.set(Duration::from_secs(at));
        let authority = site.start().authority;
        let restored = authority.restore(&stored(&live)).unwrap();
        let left = restored.identity.until.unwrap().deadline.saturating_duration_since(std::time::Instant::now());
        assert!(left <= Duration::from_secs(NOW + 70 - at), "{left:?}");
        assert_eq!(authority.is_over(&restored), over, "{at}");
        assert_eq!(authority.review(&restored).is_none(), over, "for a connection");
        assert!(authority.review_absent(&restored).is_some(), "the session waits for a new token");
    }
}

/// The records are read by later versions.
#[tokio::test]
async fn the_form_of_records_is_fixed_and_holds_no_secret() {
    let site = Site::new();
    let [anonymous, certificate, password, token, access_key] = site.start().logins(&site).await;
    let users = fs::read_to_string(site.file("users")).unwrap();
    let hash = users.trim().strip_prefix("user:").unwrap();
    let hash_digest = BASE64.encode(<sha2::Sha256 as sha2::Digest>::digest(hash));
    let chain = BASE64.encode(certificate_of(&certificate));
    let (token_key, aws_key) =
        ("OYzAHs3xyI0sVBbEayaGY36HCfftNg6U8vyiQCvyoJ4", "RfLQ21lhtJLZI_xR2YGYWYtQGHI6Fh5XPciQdMkFCGs");
    let record = |principal: &str, listener: &str, method: String| {
        format!(r#"{{"principal":"{principal}","listener":"{listener}","client":"c-1","method":{method}}}"#)
    };
    for (login, expected) in [
        (&anonymous, record("anonymous/c-1", "plain", r#""anonymous""#.to_owned())),
        (&certificate, record("prover", "tls", format!(r#"{{"certificate":{{"chain":["{chain}"]}}}}"#))),
        (&password, record("user", "plain", format!(r#"{{"password":{{"hash":"{hash_digest}"}}}}"#))),
        (&token, record("bearer", "plain", format!(r#"{{"token":{{"key":"{token_key}","until":1800000070}}}}"#))),
        (&access_key, record("signer", "plain", format!(r#"{{"access-key":{{"id":"AKIA1","key":"{aws_key}"}}}}"#))),
    ] {
        assert_eq!(json_of(login), expected);
        for secret in hash.split('$').filter(|part| part.len() > 20).chain([SECRET, "a-secret-that-is-long-enough"]) {
            assert!(!json_of(login).contains(secret));
        }
    }
}

fn certificate_of(login: &AuthContext) -> Vec<u8> {
    let CredentialOrigin::Certificate(certificate) = &login.identity.origin else { return Vec::new() };
    certificate.chain().first().unwrap().to_vec()
}

#[test]
fn a_digest_that_betrays_its_secret_is_not_recorded() {
    let principal = Principal::named("signer").unwrap();
    for (secret, recorded) in [("x".repeat(19), false), ("x".repeat(20), true)] {
        let keys = AccessKeys::default().with("AKIA1", &secret, principal.clone());
        let login = AuthContext::of_access_key(keys.get("AKIA1").unwrap(), "plain".into(), "c-1".into());
        let site = Site::new();
        site.write("aws", &format!("AKIA1 {secret} signer\n"));
        assert_eq!(json_of(&login).contains("\"key\""), recorded, "{secret}");
        assert_eq!(site.start().authority.restore(&stored(&login)).is_some(), recorded, "{secret}");
    }
}

#[tokio::test]
async fn newer_fields_are_ignored_and_newer_methods_refused() {
    let server = Site::new().start();
    let record = |method: Value| {
        let record =
            json!({"principal": "anonymous/c", "listener": "plain", "client": "c", "method": method, "newer": 1});
        serde_json::from_value::<LoginRecord>(record)
    };
    assert!(server.authority.restore(&record(json!("anonymous")).unwrap()).is_some());
    assert!(record(json!({"password": {"hash": "x", "newer": 1}})).is_ok());
    assert!(record(json!("newer")).is_err() && record(json!({"newer": {}})).is_err());
}

#[tokio::test]
async fn a_record_that_contradicts_itself_is_refused() {
    let site = Site::new();
    let server = site.start();
    for login in server.logins(&site).await {
        let record = serde_json::to_value(login.record()).unwrap();
        for name in ["anonymous/other", "other"] {
            let mut changed = record.clone();
            *changed.get_mut("principal").unwrap() = json!(name);
            let restored = server.authority.restore(&parsed(changed));
            let method = login.identity.method;
            // A token key signs tokens of any principal.
            let expected = matches!((method, name), (Method::Anonymous, "anonymous/other") | (Method::Token, "other"));
            assert_eq!(restored.is_some(), expected, "{method:?} {name:?}");
        }
    }
    let certificate = |chain: Value| {
        let method = json!({"certificate": {"chain": chain}});
        parsed(json!({"principal": "prover", "listener": "tls", "client": "c", "method": method}))
    };
    for chain in [json!([]), json!([""]), json!(["AAAA"]), json!(["no base64"])] {
        assert!(server.authority.restore(&certificate(chain.clone())).is_none(), "{chain}");
    }
    // A login whose origin is not known could not be revoked.
    let unknown = AuthContext::of_user(Principal::named("user").unwrap(), "plain");
    assert!(server.authority.restore(&stored(&unknown)).is_none());
}
