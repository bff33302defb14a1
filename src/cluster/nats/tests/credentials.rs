//! Credentials as NATS's tools write them: a signed token and the seed of its key.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::{
    append_all,
    servers::{SOUND, Servers, Variation, write_private},
};
use crate::config::ClusterSettings;

#[tokio::test]
async fn credentials_of_an_operator_are_accepted() {
    let (operator, account, system, user) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_user());
    let stored = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_system = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let operator_token = token(&operator, &operator, json!({"type": "operator", "version": 2}));
    let account_token = token(&operator, &account, json!({"type": "account", "version": 2, "limits": stored}));
    let system_token = token(&operator, &system, json!({"type": "account", "version": 2, "limits": of_system}));
    let user_token =
        token(&account, &user, json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}));

    // The accounts of other tests are in the way.
    let mut servers = Servers::start(Variation { count: 1, ..SOUND }).await;
    servers.kill(0);
    let file = servers.file("n0.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    let (account, system) = (account.public_key(), system.public_key());
    let text = format!(
        "{}\noperator: {operator_token}\nsystem_account: {system}\nresolver: MEMORY\n\
         resolver_preload: {{ {account}: {account_token}, {system}: {system_token} }}\n",
        text.split("\naccounts {").next().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    servers.launch(0);

    let seed = user.seed().unwrap();
    let credentials = servers.file("node.creds");
    write_private(
        &credentials,
        &format!(
            "-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ),
    );
    let settings =
        ClusterSettings { credentials_file: Some(credentials.clone()), allow_unsafe_sync: true, ..servers.settings(1) };
    append_all(&servers.try_connect(&settings).await.unwrap(), 0, 3).await;

    write_private(&credentials, &format!("-----BEGIN NATS USER JWT-----\n{user_token}\n"));
    let error = servers.try_connect(&settings).await.err().unwrap().to_string();
    assert!(error.contains("is no valid file of NATS credentials") && !error.contains(&user_token), "{error}");
}

/// Returns a token about `subject`, signed by `issuer`.
fn token(issuer: &KeyPair, subject: &KeyPair, content: Value) -> String {
    let claims = json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": "test", "nats": content,
    });
    let encoded = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encoded(json!({"typ": "JWT", "alg": "ed25519-nkey"})), encoded(claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
