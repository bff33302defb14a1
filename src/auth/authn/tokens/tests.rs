//! Tests of valid and invalid tokens. `vectors.json` has tokens and keys made by PyJWT 2.15, whose secrets are gone;
//! other tokens are signed here.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt};

use jsonwebtoken::Algorithm::{self, ES256, ES384, EdDSA, HS256, HS384, HS512, RS256};
use serde_json::json;
use tempfile::TempDir;

use crate::auth::authn::tokens::{
    signer::{SECRET, signed, token},
    *,
};
use crate::clock::ManualClock;

/// The time of the tests. The vectors expire at 2,000,000,000.
const NOW: u64 = 1_800_000_000;
const LEEWAY: u64 = 10;

struct Fixture {
    folder: TempDir,
    tokens: Tokens,
    hand: ManualClock,
    clock: Clock,
}

fn open(content: &str, algorithms: &[Algorithm]) -> Result<Fixture, String> {
    let folder = TempDir::new().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, content).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let config = TokenConfig {
        keys,
        algorithms: algorithms.to_vec(),
        audience: "umbra".to_owned(),
        issuer: Some("https://issuer.example".to_owned()),
        claim: "sub".to_owned(),
        leeway: Duration::from_secs(LEEWAY),
    };
    let (clock, hand) = Clock::manual(Duration::from_secs(NOW));
    let prefix = format!("{}/", folder.path().display());
    let tokens = Tokens::open(config, clock.clone()).map_err(|error| error.to_string().replace(&prefix, ""))?;
    Ok(Fixture { folder, tokens, hand, clock })
}

fn fixture() -> Fixture {
    open(SECRET, &[HS256]).unwrap()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn claims(changed: Value) -> Value {
    let mut claims =
        json!({"sub": "lamp", "aud": "umbra", "iss": "https://issuer.example", "exp": NOW + 60, "other": [1, {}]});
    for (name, value) in changed.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

impl Fixture {
    /// Returns the principal of a token, or the reason for refusing it.
    fn of(&self, token: &str) -> String {
        match self.tokens.verify(token) {
            Ok(token) => token.principal.to_string(),
            Err(fault) => format!("{fault:?}"),
        }
    }
}

#[test]
fn tokens_of_another_implementation_are_verified_with_every_algorithm() {
    let vectors = vectors();
    let set = vectors["jwks"].to_string();
    for vector in vectors["tokens"].as_array().unwrap() {
        let (name, key) = (vector["algorithm"].as_str().unwrap(), vector["key"].as_str().unwrap());
        let token = vector["token"].as_str().unwrap();
        let algorithm: Algorithm = name.parse().unwrap();
        let alone = if key == "secret" { vectors["secret"].as_str() } else { vectors["pem"][key].as_str() };
        let mut files = vec![alone.unwrap()];
        match key {
            "secret" => {}
            "rsa" => files.extend([set.as_str(), vectors["pem"]["pkcs1"].as_str().unwrap()]),
            _ => files.push(&set),
        }
        for file in files {
            let fixture = open(file, &[algorithm]).unwrap();
            assert_eq!(fixture.of(token), "lamp", "{name} {file}");
            let (begin, end) = token.split_at(token.len() - 10);
            assert_ne!(fixture.of(&format!("{begin}{}", end.replace(end, "AAAAAAAAAA"))), "lamp", "{name} {file}");
            fixture.hand.set(Duration::from_secs(2_000_000_000 + LEEWAY));
            assert_eq!(fixture.of(token), "Expired", "{name}");
        }
    }
}

#[test]
fn claims_are_checked() {
    let fixture = fixture();
    // the difference from a valid token, the outcome
    let table = [
        (json!({}), "lamp"),
        (json!({"sub": "a.b:c_d-E"}), "a.b:c_d-E"),
        (json!({"sub": null}), "Claim(\"sub\")"),
        (json!({"sub": 7}), "Claim(\"sub\")"),
        (json!({"sub": ""}), "Claim(\"sub\")"),
        (json!({"sub": "shadow/+/#"}), "Claim(\"sub\")"),
        (json!({"sub": "anonymous/lamp"}), "Claim(\"sub\")"),
        (json!({"aud": ["other", "umbra"]}), "lamp"),
        (json!({"aud": null}), "Refused(\"Missing required claim: aud\")"),
        (json!({"aud": "other"}), "Refused(\"InvalidAudience\")"),
        (json!({"aud": []}), "Refused(\"InvalidAudience\")"),
        (json!({"aud": 7}), "Refused(\"Missing required claim: aud\")"),
        (json!({"iss": null}), "Refused(\"Missing required claim: iss\")"),
        (json!({"iss": "https://other.example"}), "Refused(\"InvalidIssuer\")"),
        (json!({"exp": null}), "Claim(\"exp\")"),
        (json!({"exp": "1800000060"}), "Claim(\"exp\")"),
        (json!({"exp": -1}), "Claim(\"exp\")"),
        (json!({"exp": 1e300}), "Claim(\"exp\")"),
        (json!({"exp": NOW as f64 + 0.5}), "lamp"),
        (json!({"exp": u64::MAX}), "lamp"),
        (json!({"exp": NOW - LEEWAY + 1}), "lamp"),
        (json!({"exp": NOW - LEEWAY}), "Expired"),
        (json!({"exp": 0}), "Expired"),
        (json!({"nbf": NOW + LEEWAY}), "lamp"),
        (json!({"nbf": NOW + LEEWAY + 1}), "Early"),
        (json!({"nbf": "now"}), "Claim(\"nbf\")"),
    ];
    for (changed, expected) in table {
        assert_eq!(fixture.of(&token(&claims(changed.clone()))), expected, "{changed}");
    }
}

#[test]
fn a_token_cannot_choose_how_it_is_verified() {
    let vectors = vectors();
    let pem = vectors["pem"]["rsa"].as_str().unwrap();
    let rs256 = vectors["tokens"][0]["token"].as_str().unwrap();
    let claims = claims(json!({}));
    let own = signed(&json!({"alg": "HS256", "kid": "rsa"}), &claims, pem.as_bytes());
    let jwk = vectors["jwks"]["keys"][0].clone();
    let unsigned = format!("{}.", signed(&json!({"alg": "none"}), &claims, b"").rsplit_once('.').unwrap().0);
    // the key file, the allowed algorithms, the token, the outcome
    let table = [
        // the public key, which is known to all, as the secret of an HMAC
        (pem, vec![RS256], own.as_str(), "Key"),
        (pem, vec![RS256], unsigned.as_str(), "Refused"),
        (SECRET, vec![HS256], unsigned.as_str(), "Refused"),
        // allowed by the configuration, but not for this key
        (pem, vec![RS256, ES256], vectors["tokens"][6]["token"].as_str().unwrap(), "Key"),
        // of another algorithm of the same key
        (pem, vec![RS256], vectors["tokens"][1]["token"].as_str().unwrap(), "Key"),
        (pem, vec![RS256], rs256, "lamp"),
    ];
    for (file, algorithms, token, expected) in table {
        let found = open(file, &algorithms).unwrap().of(token);
        assert!(found.starts_with(expected), "{algorithms:?} {token}: {found}");
    }
    let fixture = fixture();
    for (header, expected) in [
        (json!({"alg": "HS256", "kid": "whichever"}), "lamp"),
        (json!({"alg": "HS256", "jwk": jwk, "jku": "https://evil.example", "x5u": "https://evil.example"}), "lamp"),
        (json!({"alg": "HS256", "crit": ["b64"], "b64": false}), "Critical"),
        (json!({"alg": "HS384"}), "Key"),
        (json!({"alg": "hs256"}), "Refused"),
        (json!({"typ": "JWT"}), "Refused"),
        (json!([]), "Refused"),
    ] {
        let found = fixture.of(&signed(&header, &claims, SECRET.as_bytes()));
        assert!(found.starts_with(expected), "{header}: {found}");
    }
    assert!(fixture.of(&signed(&json!({"alg": "HS256"}), &claims, b"guess")).starts_with("Refused"));
}

#[test]
fn altered_tokens_are_refused() {
    let fixture = fixture();
    let sound = token(&claims(json!({})));
    for end in 0..sound.len() {
        assert_ne!(fixture.of(&sound[..end]), "lamp", "cut at {end}");
        let mut wrong = sound.clone().into_bytes();
        wrong[end] = if wrong[end] == b'A' { b'B' } else { b'A' };
        // The last character of a part may have unused bits, which no decoder may accept either.
        assert_ne!(fixture.of(std::str::from_utf8(&wrong).unwrap()), "lamp", "changed at {end}");
    }
    let long = token(&claims(json!({"pad": "x".repeat(TOKEN_BYTES_MAX)})));
    assert_eq!(fixture.of(&long), "Long");
    for garbage in ["", ".", "..", "...", "a.b.c", "eyJ.eyJ.x", "é.é.é", &"[".repeat(4_000)] {
        assert!(fixture.of(garbage).starts_with("Refused"), "{garbage}");
    }
}

#[test]
fn a_session_ends_with_its_token_whatever_the_wall_clock_does() {
    let fixture = fixture();
    let before = Instant::now();
    let until = fixture.tokens.verify(&token(&claims(json!({})))).map(|token| token.until).unwrap();
    let life = Duration::from_secs(60 + LEEWAY);
    assert_eq!(until.wall, Timestamp(NOW + 60 + LEEWAY));
    assert!(until.deadline >= before + life && until.deadline <= Instant::now() + life);

    let past = |wall: u64, passed: Duration| {
        fixture.hand.set(Duration::from_secs(wall));
        until.is_past(&fixture.clock, before + passed)
    };
    let second = Duration::from_secs(1);
    assert!(!past(NOW, Duration::ZERO) && !past(NOW + 69, life - second));
    assert!(past(NOW + 70, second), "the machine slept, or the clock was set forwards");
    assert!(past(NOW - 86_400, life + second), "the clock was set back");
    assert!(!past(NOW - 86_400, second));
}

#[test]
fn keys_are_recognized_after_a_reload() {
    let vectors = vectors();
    let keys = vectors["jwks"]["keys"].as_array().unwrap();
    let es256 = vectors["tokens"][6]["token"].as_str().unwrap();
    let fixture = open(&json!({"keys": [keys[0], keys[1]]}).to_string(), &[RS256, ES256]).unwrap();
    let write = |content: &str| fs::write(fixture.folder.path().join("keys"), content).unwrap();
    let key = fixture.tokens.verify(es256).map(|token| token.key).unwrap();
    assert!(fixture.tokens.has(&key));

    write(&json!({"keys": [keys[1], keys[0], {"kty": "unheard-of"}]}).to_string());
    fixture.tokens.reload().unwrap();
    assert!(fixture.tokens.has(&key), "in another place of the set");

    write("nonsense");
    assert!(fixture.tokens.reload().is_err());
    assert_eq!(fixture.of(es256), "lamp", "as before");

    write(&json!({"keys": [keys[0]]}).to_string());
    fixture.tokens.reload().unwrap();
    assert!(!fixture.tokens.has(&key));
    assert_eq!(fixture.of(es256), "Key");

    let mut renamed = keys[1].clone();
    renamed["kid"] = json!("renewed");
    write(&json!({"keys": [renamed, keys[0]]}).to_string());
    fixture.tokens.reload().unwrap();
    assert!(!fixture.tokens.has(&key));
    assert_eq!(fixture.of(es256), "Key", "its kid is not there");
}

#[test]
fn unusable_key_files_are_reported() {
    let vectors = vectors();
    let pem = |name: &str| vectors["pem"][name].as_str().unwrap().to_owned();
    let keys = vectors["jwks"]["keys"].as_array().unwrap();
    let set = |keys: &[&Value]| json!({"keys": keys}).to_string();
    let with = |key: &Value, name: &str, value: Value| {
        let mut key = key.clone();
        key.as_object_mut().unwrap().insert(name.to_owned(), value);
        key
    };
    let secret = json!({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "s"});
    let nameless = json!({"kty": "OKP", "crv": "Ed25519", "x": keys[3]["x"]});
    let none =
        |algorithm: &str, more: &str| Some(format!("keys: holds no key that can be used with [{algorithm}]{more}"));
    let rsa = ": an RSA key must have at least 2,048 bits";
    let table: Vec<(String, Vec<Algorithm>, Option<String>)> = vec![
        (SECRET.to_owned(), vec![HS256, HS384], None),
        (SECRET.to_owned(), vec![RS256], Some("keys: holds neither a public key in PEM nor a JWK set".into())),
        (SECRET.to_owned(), vec![HS512], none("HS512", ": a secret must be as long as the hash, 32, 48 or 64 bytes")),
        (String::new(), vec![HS256], none("HS256", ": a secret must be as long as the hash, 32, 48 or 64 bytes")),
        (pem("rsa"), vec![RS256, ES256], None),
        (pem("rsa"), vec![HS256], none("HS256", ": a secret must be as long as the hash, 32, 48 or 64 bytes")),
        (pem("rsa"), vec![EdDSA], none("EdDSA", "")),
        (pem("rsa1024"), vec![RS256], none("RS256", rsa)),
        (pem("p256"), vec![ES384], none("ES384", "")),
        (pem("p384"), vec![ES384], None),
        (
            format!("{}{}", pem("rsa"), pem("p256")),
            vec![RS256],
            Some("keys: holds more than one PEM block; a JWK set can have several keys".into()),
        ),
        (
            pem("rsa").replace("PUBLIC", "PRIVATE"),
            vec![RS256],
            Some("keys: holds a private key; give the public key, which is all it takes to verify tokens".into()),
        ),
        (
            pem("rsa").replace("PUBLIC KEY", "CERTIFICATE"),
            vec![RS256],
            Some("keys: holds no public key: its PEM block must be a PUBLIC KEY".into()),
        ),
        (
            pem("rsa").replace("MII", "AAA"),
            vec![RS256],
            Some("keys: holds a public key that is none of RSA, EC and Ed25519".into()),
        ),
        (set(&[&keys[0], &keys[1], &keys[2], &keys[3], &secret]), vec![ES384, EdDSA], None),
        (set(&[&keys[0], &secret]), vec![HS256], None),
        (set(&[]), vec![ES256], none("ES256", "")),
        (set(&[&secret]), vec![RS256], none("RS256", rsa)),
        (set(&[&with(&keys[0], "use", json!("enc"))]), vec![RS256], none("RS256", rsa)),
        (set(&[&with(&keys[0], "use", json!("sig"))]), vec![RS256], None),
        (set(&[&with(&keys[0], "key_ops", json!(["encrypt"]))]), vec![RS256], none("RS256", rsa)),
        (set(&[&with(&keys[0], "alg", json!("RS512"))]), vec![RS256], none("RS256", rsa)),
        (set(&[&with(&keys[0], "alg", json!("RS256"))]), vec![RS256], None),
        (set(&[&with(&keys[0], "alg", json!("RSA-OAEP"))]), vec![RS256], none("RS256", rsa)),
        (
            set(&[&keys[0], &with(&keys[1], "kid", json!("rsa"))]),
            vec![RS256, ES256],
            Some("keys: holds two keys whose kid is \"rsa\"".into()),
        ),
        (
            set(&[&keys[0], &nameless]),
            vec![RS256, EdDSA],
            Some("keys: holds several keys, of which one has no kid".into()),
        ),
        (set(&[&keys[0], &nameless]), vec![EdDSA], None),
        (
            "{\n\"keys\": [\n}".to_owned(),
            vec![RS256],
            Some("keys:3: is not a JWK set: expected value at line 3 column 1".into()),
        ),
    ];
    for (content, algorithms, expected) in table {
        assert_eq!(open(&content, &algorithms).err(), expected, "{algorithms:?} {content}");
    }
}

#[test]
fn tokens_are_distinguished_from_passwords() {
    let token = token(&claims(json!({})));
    for (text, like) in [
        (token.as_str(), true),
        ("eyJhbGciOiJub25lIn0.e30.", true),
        ("hunter2", false),
        ("a.b.c", false),
        ("ey.b", false),
        ("eyes.on.the.road", false),
        ("eyes on.the.road", false),
        ("", false),
    ] {
        assert_eq!(is_like_token(text), like, "{text}");
    }
}
