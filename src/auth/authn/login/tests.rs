//! Tests of successful and failed logins through [`Login`].

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::atomic::Ordering};

use jsonwebtoken::Algorithm;
use serde_json::json;
use tempfile::TempDir;

use crate::auth::authn::{
    access_keys::AccessKeys,
    certificate::tests::{Files, verified},
    login::*,
    password::tests::cheap,
    tokens::signer::{SECRET, token},
};
use crate::{
    admission::Rate,
    clock::ManualClock,
    config::{Config, TokenConfig},
};

const NOW: u64 = 1_800_000_000;
const HERE: &str = "192.0.2.1";

/// The configuration of a [`Login`] under test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    Nothing,
    Users,
    Tokens,
    Both,
}

struct Fixture {
    folder: TempDir,
    login: Login,
    hand: ManualClock,
}

fn fixture(with: With, change: impl FnOnce(&mut AuthConfig)) -> Fixture {
    let folder = TempDir::new().unwrap();
    let (users, keys) = (folder.path().join("users"), folder.path().join("keys"));
    write_users(&users, &[("lamp", "secret"), ("heater", "other")]);
    fs::write(&keys, SECRET).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let mut config = AuthConfig { failure_delay: Duration::ZERO, ..Config::default().auth };
    config.users = matches!(with, With::Users | With::Both).then_some(users);
    config.tokens = matches!(with, With::Tokens | With::Both).then(|| TokenConfig {
        keys,
        algorithms: vec![Algorithm::HS256],
        audience: "umbra".to_owned(),
        issuer: None,
        claim: "sub".to_owned(),
        leeway: Duration::ZERO,
    });
    change(&mut config);
    let (clock, hand) = Clock::manual(Duration::from_secs(NOW));
    Fixture { login: Login::open(&config, clock).unwrap(), folder, hand }
}

fn write_users(path: &Path, users: &[(&str, &str)]) {
    let lines = users.iter().map(|(name, password)| format!("{name}:{}\n", cheap(password)));
    fs::write(path, lines.collect::<String>()).unwrap();
}

fn token_of(name: &str, expires: u64) -> String {
    token(&json!({"sub": name, "aud": "umbra", "exp": expires}))
}

impl Fixture {
    async fn password(&self, address: &str, user: &str, password: &str) -> Result<Identity, AuthenticationError> {
        let credentials = Credentials::Password { user, password: password.as_bytes() };
        self.login.identify(address.parse().unwrap(), &PeerCertificate::None, credentials, None).await
    }

    async fn bearer(&self, address: &str, token: &str) -> Result<Identity, AuthenticationError> {
        self.login.identify(address.parse().unwrap(), &PeerCertificate::None, Credentials::Bearer(token), None).await
    }

    fn faults(&self) -> Vec<String> {
        self.login.reload().iter().map(FileError::to_string).collect()
    }

    fn hashes(&self) -> u64 {
        self.login.counters().password_hashes.get()
    }
}

fn outcome(known: Result<Identity, AuthenticationError>) -> String {
    match known {
        Ok(identity) => format!("{} by {:?}", identity.principal, identity.method),
        Err(AuthenticationError::TooMany { .. }) => "TooMany".to_owned(),
        Err(denied) => format!("{denied:?}"),
    }
}

#[tokio::test]
async fn credentials_have_an_order_of_precedence() {
    use With::{Both, Nothing, Tokens, Users};
    let lamp = verified("cert", &Arc::new(Files::default()));
    let (good, expired) = (token_of("bearer", NOW + 60), token_of("bearer", NOW - 60));
    let password =
        |user: &'static str, password: &'static str| Credentials::Password { user, password: password.as_bytes() };
    let in_password = |token| Credentials::Password { user: "whoever", password: str::as_bytes(token) };
    let client = Some("c1");
    let table = [
        // a certificate wins over everything
        (Nothing, &lamp, Credentials::None, None, "cert by Certificate"),
        (Both, &lamp, password("?SDK=Python&Version=1.6.2", ""), None, "cert by Certificate"),
        (Both, &lamp, password("lamp", "wrong"), client, "cert by Certificate"),
        (Both, &lamp, Credentials::Bearer(&expired), client, "cert by Certificate"),
        (Both, &PeerCertificate::Unusable, password("lamp", "secret"), None, "Missing"),
        (Both, &PeerCertificate::Unusable, Credentials::None, client, "Missing"),
        // then a token
        (Tokens, &PeerCertificate::None, Credentials::Bearer(&good), None, "bearer by Token"),
        (Both, &PeerCertificate::None, in_password(&good), None, "bearer by Token"),
        (Both, &PeerCertificate::None, in_password(&expired), None, "Bad"),
        (Both, &PeerCertificate::None, in_password(&expired), client, "Bad"),
        (Users, &PeerCertificate::None, in_password(&good), None, "Bad"),
        (Users, &PeerCertificate::None, Credentials::Bearer(&good), None, "Bad"),
        // then a user name and a password
        (Users, &PeerCertificate::None, password("lamp", "secret"), None, "lamp by Password"),
        (Both, &PeerCertificate::None, password("lamp", "secret"), client, "lamp by Password"),
        (Both, &PeerCertificate::None, password("lamp", "other"), None, "Bad"),
        (Both, &PeerCertificate::None, password("lamp", "other"), client, "Bad"),
        (Both, &PeerCertificate::None, password("lamp", ""), None, "Bad"),
        (Both, &PeerCertificate::None, password("nobody", "secret"), None, "Bad"),
        (Both, &PeerCertificate::None, password("", "secret"), None, "Bad"),
        (Both, &PeerCertificate::None, password("shadow/+/#", "secret"), None, "Bad"),
        (Tokens, &PeerCertificate::None, password("lamp", "secret"), client, "Bad"),
        // then nothing
        (Both, &PeerCertificate::None, Credentials::None, client, "anonymous/c1 by Anonymous"),
        (Both, &PeerCertificate::None, Credentials::None, None, "Missing"),
        (Nothing, &PeerCertificate::None, password("lamp", "wrong"), client, "anonymous/c1 by Anonymous"),
        (Nothing, &PeerCertificate::None, Credentials::Bearer(&expired), client, "anonymous/c1 by Anonymous"),
        (Nothing, &PeerCertificate::None, password("lamp", "wrong"), None, "Bad"),
        (Nothing, &PeerCertificate::None, Credentials::None, None, "Missing"),
    ];
    for (row, (with, proof, credentials, anonymous, expected)) in table.into_iter().enumerate() {
        let fixture = fixture(with, |_| {});
        let known = fixture.login.identify(HERE.parse().unwrap(), proof, credentials, anonymous).await;
        assert_eq!(outcome(known), expected, "row {row}");
    }
}

#[tokio::test]
async fn ten_thousand_logins_cost_one_hash() {
    let fixture = fixture(With::Users, |_| {});
    for n in 0..10_000_u32 {
        let address = IpAddr::from((n % 500).to_be_bytes()).to_string();
        assert_eq!(outcome(fixture.password(&address, "lamp", "secret").await), "lamp by Password");
    }
    assert_eq!(fixture.hashes(), 1);
}

/// After a restart the cache is empty, and the whole fleet connects at once.
#[tokio::test]
async fn ten_thousand_logins_at_once_cost_one_hash_and_are_not_too_many() {
    let fixture = Arc::new(fixture(With::Users, |config| config.password_checks_waiting = 8));
    let logins = (0..10_000).map(|_| {
        let fixture = fixture.clone();
        tokio::spawn(async move { outcome(fixture.password(HERE, "lamp", "secret").await) })
    });
    for login in logins.collect::<Vec<_>>() {
        assert_eq!(login.await.unwrap(), "lamp by Password");
    }
    assert_eq!(fixture.hashes(), 1);
}

#[tokio::test]
async fn an_unknown_user_costs_as_much_as_a_wrong_password() {
    let fixture = fixture(With::Users, |_| {});
    for (n, user) in (1..).zip(["lamp", "nobody", "heater", "nobody-else"]) {
        assert_eq!(outcome(fixture.password(HERE, user, "wrong").await), "Bad");
        assert_eq!(fixture.hashes(), n, "{user}");
    }
}

#[tokio::test]
async fn an_impossible_login_costs_no_hash() {
    let fixture = fixture(With::Users, |_| {});
    let (longest, long, huge) = ("x".repeat(1_024), "x".repeat(1_025), "x".repeat(65_535));
    for (user, password, hashes) in [
        ("lamp", longest.as_str(), 1),
        ("lamp", long.as_str(), 1),
        ("lamp", huge.as_str(), 1),
        (huge.as_str(), "secret", 1),
        ("a+b", "secret", 1),
        ("", "", 1),
        ("anonymous/c1", "secret", 1),
    ] {
        assert_eq!(outcome(fixture.password(HERE, user, password).await), "Bad");
        assert_eq!(fixture.hashes(), hashes, "{} {}", user.len(), password.len());
    }
}

#[tokio::test]
async fn a_refusal_is_delayed_and_hides_its_reason() {
    const DELAY: Duration = Duration::from_millis(200);
    let fixture = fixture(With::Both, |config| {
        config.failure_delay = DELAY;
        config.user_failures = Rate::every(Duration::from_secs(10), 1);
    });
    let (expired, long) = (token_of("lamp", 1), "x".repeat(2_000));
    let tries = [
        ("lamp", "wrong", "Bad"),
        ("nobody", "wrong", "Bad"),
        ("a/b", "wrong", "Bad"),
        ("lamp", expired.as_str(), "Bad"),
        ("heater", &long, "Bad"),
        ("lamp", "wrong", "TooMany"),
        ("nobody", "wrong", "TooMany"),
        ("a/b", "wrong", "TooMany"),
        ("lamp", &expired, "TooMany"),
        ("heater", &long, "TooMany"),
    ];
    for (user, password, expected) in tries {
        let came = Instant::now();
        let known = fixture.password(HERE, user, password).await;
        assert_eq!(outcome(known), expected, "{user}");
        assert!(came.elapsed() >= DELAY, "{user}");
    }
    let counters = fixture.login.counters();
    assert_eq!((counters.refused.get(), counters.limited.get(), counters.busy.get()), (5, 5, 0));
}

#[tokio::test]
async fn guessing_is_stopped_and_a_verified_password_still_works() {
    let fixture = fixture(With::Both, |_| {});
    assert_eq!(outcome(fixture.password(HERE, "lamp", "secret").await), "lamp by Password");
    let mut seen = Vec::new();
    for guess in 0..20 {
        seen.push(outcome(fixture.password(HERE, "lamp", &format!("guess-{guess}")).await));
    }
    assert_eq!(seen.iter().filter(|seen| *seen == "Bad").count(), 5);
    assert_eq!(seen.iter().filter(|seen| *seen == "TooMany").count(), 15);
    assert_eq!(fixture.hashes(), 6, "who is over the limit is not hashed");
    assert_eq!(outcome(fixture.password(HERE, "lamp", "secret").await), "lamp by Password", "found right before");
    assert_eq!(outcome(fixture.password("192.0.2.2", "lamp", "wrong").await), "Bad", "from elsewhere");

    // One failing device does not use up the limit of its neighbours.
    assert_eq!(outcome(fixture.password(HERE, "heater", "other").await), "heater by Password");
}

#[tokio::test]
async fn an_address_that_tries_many_users_is_refused_except_for_verified_logins() {
    let fixture = fixture(With::Both, |config| config.address_failures = Rate::every(Duration::from_secs(3_600), 50));
    assert_eq!(outcome(fixture.password(HERE, "lamp", "secret").await), "lamp by Password");
    for user in 0..60 {
        let expected = if user < 50 { "Bad" } else { "TooMany" };
        assert_eq!(outcome(fixture.password(HERE, &format!("user-{user}"), "x").await), expected, "{user}");
    }
    assert_eq!(fixture.hashes(), 51);
    assert_eq!(outcome(fixture.password(HERE, "heater", "other").await), "TooMany", "never seen, so not hashed");
    assert_eq!(outcome(fixture.password(HERE, "lamp", "secret").await), "lamp by Password");
    assert_eq!(outcome(fixture.bearer(HERE, &token_of("bearer", NOW + 1)).await), "bearer by Token");
    assert_eq!(outcome(fixture.bearer(HERE, &token_of("bearer", NOW - 1)).await), "TooMany");
    assert_eq!(outcome(fixture.password("192.0.2.2", "heater", "other").await), "heater by Password");
}

/// Checks that were queued before the first failure are refused when they start.
#[tokio::test]
async fn concurrent_guesses_are_limited_like_sequential_ones() {
    let fixture =
        Arc::new(fixture(With::Users, |config| config.user_failures = Rate::every(Duration::from_secs(3_600), 5)));
    let guesses = (0..500).map(|guess| {
        let fixture = fixture.clone();
        tokio::spawn(async move { outcome(fixture.password(HERE, "lamp", &format!("guess-{guess}")).await) })
    });
    let mut bad = 0;
    for guess in guesses.collect::<Vec<_>>() {
        bad += usize::from(guess.await.unwrap() == "Bad");
    }
    assert_eq!((bad, fixture.hashes()), (5, 5));
}

#[tokio::test]
async fn an_expired_token_affects_only_its_own_device() {
    let fixture = fixture(With::Both, |config| config.address_failures = Rate::every(Duration::from_millis(200), 6));
    let expired = token_of("bearer", NOW - 1);
    for n in 0..20 {
        let expected = if n < 5 { "Bad" } else { "TooMany" };
        assert_eq!(outcome(fixture.bearer(HERE, &expired).await), expected, "{n}");
    }
    assert_eq!(outcome(fixture.bearer(HERE, &token_of("bearer", NOW + 1)).await), "bearer by Token");
    assert_eq!(outcome(fixture.password(HERE, "heater", "other").await), "heater by Password");
}

#[tokio::test]
async fn a_removed_or_changed_user_loses_its_session() {
    let fixture = fixture(With::Both, |_| {});
    let users = fixture.folder.path().join("users");
    let lamp = fixture.password(HERE, "lamp", "secret").await.unwrap();
    let heater = fixture.password(HERE, "heater", "other").await.unwrap();
    let bearer = fixture.bearer(HERE, &token_of("bearer", NOW + 60)).await.unwrap();
    let anonymous =
        fixture.login.identify(HERE.parse().unwrap(), &PeerCertificate::None, Credentials::None, Some("c1"));
    let anonymous = anonymous.await.unwrap();
    let files = Arc::new(Files::default());
    let shown = verified("cert", &files);
    let certificate = fixture.login.identify(HERE.parse().unwrap(), &shown, Credentials::None, None);
    let certificate = certificate.await.unwrap();
    let none = AccessKeys::default();
    let valid = || [&lamp, &heater, &bearer, &anonymous].map(|identity| fixture.login.is_in_force(identity, &none));
    assert!(fixture.login.is_in_force(&certificate, &none));
    files.0.store(2, Ordering::Relaxed);
    let again = fixture.login.identify(HERE.parse().unwrap(), &shown, Credentials::None, Some("c1")).await;
    assert_eq!(outcome(again), "Missing", "on a connection that was opened before");
    assert!(!fixture.login.is_in_force(&certificate, &none));
    assert_eq!(valid(), [true; 4]);

    // An error in the file changes nothing.
    let kept = fs::read_to_string(&users).unwrap();
    fs::write(&users, format!("{kept}oops\n")).unwrap();
    assert_eq!(fixture.faults(), [format!("{}:3: is not of the form name:$argon2id$…", users.display())]);
    assert_eq!(valid(), [true; 4]);
    assert_eq!(outcome(fixture.password(HERE, "lamp", "secret").await), "lamp by Password");

    // One user added.
    fs::write(&users, format!("{kept}door:{}\n", cheap("new"))).unwrap();
    assert_eq!(fixture.faults(), [""; 0]);
    assert_eq!(valid(), [true; 4]);
    let hashes = fixture.hashes();
    assert_eq!(outcome(fixture.password(HERE, "lamp", "secret").await), "lamp by Password");
    assert_eq!(fixture.hashes(), hashes, "still known to be right");
    assert_eq!(outcome(fixture.password(HERE, "door", "new").await), "door by Password");

    // One user changed, one removed.
    write_users(&users, &[("lamp", "changed")]);
    assert_eq!(fixture.faults(), [""; 0]);
    assert_eq!(valid(), [false, false, true, true]);
    assert_eq!(outcome(fixture.password(HERE, "lamp", "secret").await), "Bad");
    assert_eq!(outcome(fixture.password(HERE, "heater", "other").await), "Bad");
    assert_eq!(outcome(fixture.password(HERE, "lamp", "changed").await), "lamp by Password");

    fs::write(fixture.folder.path().join("keys"), "another secret that is as long as it must be").unwrap();
    assert_eq!(fixture.faults(), [""; 0]);
    assert_eq!(valid(), [false, false, false, true]);
}

/// The wall clock was set back during a session, which then lasted that much longer.
#[tokio::test]
async fn a_session_does_not_outlive_its_token() {
    let fixture = fixture(With::Tokens, |_| {});
    let almost = Duration::from_secs(NOW + 60) - Duration::from_millis(5);
    fixture.hand.set(almost);
    let identity = fixture.bearer(HERE, &token_of("lamp", NOW + 60)).await.unwrap();
    fixture.hand.set(Duration::from_secs(NOW - 86_400));
    let until = identity.until.unwrap();
    tokio::time::sleep_until(until.deadline.into()).await;
    assert!(fixture.login.is_expired(&identity), "set back");

    let identity = fixture.bearer(HERE, &token_of("lamp", NOW + 60)).await.unwrap();
    assert!(!fixture.login.is_expired(&identity));
    fixture.hand.set(Duration::from_secs(NOW + 60));
    assert!(fixture.login.is_expired(&identity), "set forwards, or the machine slept");
}

#[tokio::test]
async fn errors_name_the_file() {
    let folder = TempDir::new().unwrap();
    let users = folder.path().join("users");
    let config = AuthConfig { users: Some(users.clone()), ..Config::default().auth };
    let open = || Login::open(&config, Clock::system()).unwrap_err().to_string();
    let detail = "No such file or directory (os error 2); auth.users names it, `umbrad passwd add` makes it";
    assert_eq!(open(), format!("{}: {detail}", users.display()));
    fs::write(&users, "# ours\nlamp:secret\n").unwrap();
    assert_eq!(open(), format!("{}:2: is not of the form name:$argon2id$…", users.display()));
}

#[test]
fn credentials_of_a_connect_are_parsed() {
    // user name, password, the credentials
    let table = [
        (None, None, None),
        (Some(""), None, None),
        (Some("?SDK=Python&Version=1.6.2"), None, None),
        (Some("lamp"), None, Some(("lamp", ""))),
        (Some("lamp"), Some("x?y"), Some(("lamp", "x?y"))),
        (Some("lamp?SDK=Python&Version=1.6.2?"), Some("x"), Some(("lamp", "x"))),
        (Some("?SDK=Python"), Some("x"), Some(("", "x"))),
        (None, Some("x"), Some(("", "x"))),
        (None, Some(""), Some(("", ""))),
    ];
    for (user, password, expected) in table {
        let found = match Credentials::of(user, password.map(str::as_bytes)) {
            Credentials::Password { user, password } => Some((user, std::str::from_utf8(password).unwrap())),
            Credentials::None | Credentials::Bearer(_) => None,
        };
        assert_eq!(found, expected, "{user:?} {password:?}");
    }
}

#[test]
fn debug_output_hides_secrets() {
    let credentials = [Credentials::Password { user: "lamp", password: b"secret" }, Credentials::Bearer("secret")];
    assert!(!format!("{credentials:?}").contains("secret"));
}
