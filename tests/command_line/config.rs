//! The configuration as an operator meets it: defaults, layers, and the error for each mistake.

use std::{fs, time::Duration};

use tempfile::TempDir;
use umbrad::auth::Policy;
use umbrad::config::{
    Arguments, ClusterSettings, Config, ConfigError, Host, HttpConfig, Limits, ListenerKind, LogFormat, Origin,
    RoleLimits, ValueSource,
};
use umbrad::rate::Rate;
use umbrad::search::named;

/// Loads `text` as `umbra.toml`, or no file at all, under `variables`.
pub(crate) fn load(text: Option<&str>, variables: &[(&str, &str)], bind: &[&str]) -> Result<Config, ConfigError> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("umbra.toml");
    if let Some(text) = text {
        fs::write(&path, text).unwrap();
    }
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let arguments = Arguments { store: None, bind: bind.iter().map(|bind| (*bind).to_owned()).collect() };
    let config = Config::load(text.map(|_| path.as_path()), variables, &arguments)?;
    Policy::of(&config)?;
    named::configured(&config)?;
    Ok(config)
}

/// Returns the error without the file's folder.
pub(crate) fn error_of(result: Result<Config, ConfigError>) -> String {
    match result {
        Ok(_) => "accepted".to_owned(),
        Err(error) => {
            let folder = match &error.place {
                ValueSource::File(path, _) => format!("{}/", path.parent().unwrap().display()),
                ValueSource::Named(_) | ValueSource::Default => String::new(),
            };
            error.to_string().replace(&folder, "")
        }
    }
}

#[test]
fn the_defaults_are_those_of_the_protocol() {
    let config = load(None, &[], &[]).unwrap();
    assert_eq!(config, Config::default());
    let limits = &config.limits;
    let table = [
        (limits.document_bytes_max, 8192),
        (limits.tags_bytes_max, 8192),
        (limits.leaves_max, 1024),
        (limits.depth_max, 8),
        (limits.path_tombstones_max, 256),
        (limits.shadow_names_max, 100),
        (limits.packet_bytes_max, 1_048_576),
        (limits.filters_per_subscribe_max, 512),
        (limits.filters_per_session_max, 4_096),
        (limits.requests_in_flight_max, 64),
        (limits.outbox_bytes_max, 262_144),
        (limits.session_queue_bytes_max, 262_144),
        (usize::from(limits.receive_maximum.get()), 64),
        (usize::from(limits.topic_alias_max), 16),
        (config.auth.password_checks_waiting, 1_024),
        (config.store.lag_entries_max as usize, 600_000),
        (config.store.lag_bytes_max as usize, 192 << 20),
    ];
    for (row, (given, expected)) in table.into_iter().enumerate() {
        assert_eq!(given, expected, "row {row}");
    }
    let rates = [
        (limits.requests, Rate::new(20, 40)),
        (limits.publishes, Rate::new(100, 5_000)),
        (limits.quotas.control_packets, Rate::new(500, 5_000)),
        (limits.quotas.refusals, Rate::per_minute(600)),
        (limits.quotas.address_connects, Rate::new(200, 20_000)),
        (limits.quotas.address_failed_handshakes, Rate::per_minute(600)),
        (config.auth.user_failures, Rate::within(6, Duration::from_secs(60), 5)),
        (config.auth.address_failures, Rate::within(300, Duration::from_secs(60), 50)),
    ];
    for (row, (given, expected)) in rates.into_iter().enumerate() {
        assert_eq!(given, expected, "row {row}");
    }
    assert_eq!(limits.document(), umbrad::shadow::DocumentLimits::default());
    assert_eq!(limits.keep_alive_max, Duration::from_secs(65_535), "as long as a client asks");
    // By the memory of the machine.
    assert!((1 << 20..=171 << 20).contains(&config.store.page_cache_bytes));
    assert!(limits.quotas.memory >= 16 << 20 && limits.quotas.input_bytes_max == limits.quotas.memory / 4);
    assert!(limits.sessions_max >= limits.connections_max);
    let device = config.roles.iter().find(|role| role.role == "device").map(|role| role.limits);
    let expected = RoleLimits { memory: 4 << 20, work: 50_000, sessions: 4, filters: 64, new_shadows_per_day: 200 };
    assert_eq!(device, Some(expected));
    assert_eq!(config.store.journal_bytes_max, 4 << 30);
    assert_eq!(config.store.journal_age_max, Duration::from_secs(7 * 86_400));
    assert_eq!(config.store.free_disk_min, 256 << 20);
}

/// More keys than that nobody reads. Those of a cluster are for its operators alone.
#[test]
fn the_shipped_file_has_61_keys_at_most() {
    let text = include_str!("../../broker.toml");
    let (mut section, mut keys) = ("", Vec::new());
    for line in text.lines() {
        match line.split_once(" = ") {
            _ if line.starts_with('[') => section = line,
            Some((key, _)) if !line.starts_with('#') => keys.push((section, key)),
            _ => {}
        }
    }
    keys.retain(|(section, _)| !matches!(*section, "[[rule]]" | "[[grant]]" | "[[query]]"));
    keys.sort_unstable();
    keys.dedup();
    let all = keys.len();
    keys.retain(|(section, _)| *section != "[cluster]");
    assert!(keys.len() <= 61 && all - keys.len() <= 8, "{} keys, and {} of clusters", keys.len(), all - keys.len());
}

#[test]
fn the_shipped_listeners_are_loopback() {
    let listeners = Config::default().listeners;
    let shown = listeners.iter().map(|listener| (listener.bind.to_string(), listener.kind == ListenerKind::Mqtt));
    assert_eq!(shown.collect::<Vec<_>>(), [("127.0.0.1:1883".into(), true), ("127.0.0.1:8080".into(), false)]);
    let advice = "set 'listener[1].bind' in a file given with --config, or UMBRA__LISTENER__1__BIND";
    assert_eq!(Config::default().written.bind_advice(1), advice);
    assert!(listeners.iter().all(|listener| listener.anonymous_role.as_deref() == Some("admin")));
}

#[test]
fn the_shipped_file_can_be_given_as_it_is() {
    let mut config = load(Some(include_str!("../../broker.toml")), &[], &[]).unwrap();
    assert!(config.store.path.is_absolute(), "{:?}", config.store.path); // at the folder of that file
    let default = Config::default();
    // Values as written differ in the path alone, and the places in all.
    assert_eq!(config.written.changed(&default.written), ["store.path".to_owned()].into());
    (config.store.path, config.written) = (default.store.path.clone(), default.written.clone());
    config.rules.iter_mut().zip(&default.rules).for_each(|(rule, default)| rule.origin.clone_from(&default.origin));
    assert_eq!(config, default);
}

#[test]
fn a_file_need_only_hold_what_it_changes() {
    let text = "[limits]\ndepth_max = 12\n[log]\nformat = \"json\"\n[[listener]]\nbind = \"[::1]:0\"\n";
    let config = load(Some(text), &[], &[]).unwrap();
    let default = Config::default();
    assert_eq!(config.limits, Limits { depth_max: 12, ..default.limits });
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.filter, default.log.filter);
    assert_eq!(config.store, default.store);
    let [listener] = config.listeners.as_slice() else { unreachable!("{:?}", config.listeners) };
    assert_eq!(listener.bind.to_string(), "[::1]:0");
    assert_eq!(listener.connect_timeout, Duration::from_secs(10), "left out, so as shipped");
}

#[test]
fn the_environment_wins_over_the_file_and_the_command_line_over_both() {
    let text = "[store]\npath = \"file.redb\"\nmemory = 3_145_728\n[[listener]]\nname = \"a\"\n[[listener]]\nname = \"b\"\nbind = \"127.0.0.1:0\"\n";
    let variables = [
        ("UMBRA__STORE__PATH", "007"),
        ("UMBRA__LIMITS__REQUESTS_RATE", "5/s burst 6"),
        ("UMBRA__LIMITS__ADDRESS_LIMITS_ON_LOOPBACK", "true"),
        ("UMBRA__LIMITS__DEPTH_MAX", "9"),
        ("UMBRA__LIMITS__PACKET_BYTES_MAX", "65536"),
        ("UMBRA__LISTENER__1__BIND", "127.0.0.1:7"),
        ("UMBRA__ALLOW_ANONYMOUS_ANYWHERE", "true"),
        ("UMBRA_TEST_PYTHON", "not a key"),
        ("PATH", "/bin"),
    ];
    let config = load(Some(text), &variables, &[]).unwrap();
    assert_eq!(config.store.path.to_str(), Some("007"));
    assert_eq!((config.store.page_cache_bytes, config.store.document_cache_bytes), (1 << 20, 2 << 20));
    assert_eq!(config.limits.requests, Rate::new(5, 6));
    assert!(config.limits.quotas.address_limits_on_loopback);
    assert_eq!((config.limits.depth_max, config.limits.packet_bytes_max), (9, 65_536));
    let binds = config.listeners.iter().map(|listener| (listener.name.as_str(), listener.bind.port()));
    assert_eq!(binds.collect::<Vec<_>>(), [("a", 1883), ("b", 7)]);

    let arguments = Arguments { store: Some("argument.redb".into()), bind: Vec::new() };
    let variable = ("UMBRA__STORE__PATH".to_owned(), "variable.redb".to_owned());
    assert_eq!(Config::load(None, [variable], &arguments).unwrap().store.path.to_str(), Some("argument.redb"));

    let config = load(Some(text), &variables, &["127.0.0.1:9", "0.0.0.0:10"]).unwrap();
    let binds = config.listeners.iter().map(|listener| (listener.name.as_str(), listener.bind.port()));
    assert_eq!(binds.collect::<Vec<_>>(), [("127.0.0.1:9", 9), ("0.0.0.0:10", 10)]);
}

/// They were accepted and then dropped when the file had no section of the list, since the joined list was made of the
/// shipped file again. They also were when the rules file had a section of the same role.
#[test]
fn variables_set_keys_of_rules_roles_and_grants() {
    let folder = TempDir::new().unwrap();
    let more = folder.path().join("more.toml");
    let viewer = "[[rule]]\nrole = \"viewer\"\nread = [\"/tags\"]\n[[role]]\nrole = \"viewer\"\nwork = 1_000\n\
                  [[grant]]\nrole = \"viewer\"\nprincipals = [\"file\"]\n";
    fs::write(&more, viewer).unwrap();
    let more = more.to_str().unwrap();
    let app = viewer.replace("viewer", "app");
    // Text of the file, path of the rules file; of each list: its length, the index and role of a section.
    for (file, rules_file, [rule, role, grant]) in [
        (None, "", [(5, 1, "device"), (4, 0, "app"), (1, 0, "admin")]),
        (Some(""), "", [(5, 1, "device"), (4, 0, "app"), (1, 0, "admin")]),
        (Some(&*app), "", [(5, 0, "app"), (4, 0, "app"), (2, 0, "app")]),
        // Those shipped that the file leaves.
        (Some(&*app), "", [(5, 2, "device"), (4, 3, "admin"), (2, 1, "admin")]),
        (None, more, [(5, 0, "viewer"), (5, 0, "viewer"), (2, 0, "viewer")]),
        (Some(&*app), more, [(5, 1, "viewer"), (5, 1, "viewer"), (3, 1, "viewer")]),
        (Some(&*app), more, [(5, 3, "device"), (5, 3, "reporter"), (3, 2, "admin")]),
    ] {
        let names = [
            format!("UMBRA__RULE__{}__READ", rule.1),
            format!("UMBRA__ROLE__{}__SESSIONS", role.1),
            format!("UMBRA__GRANT__{}__PRINCIPALS", grant.1),
        ];
        let mut variables =
            vec![(&*names[0], "/reported"), (&*names[1], "7"), (&*names[2], "a, b"), ("UMBRA__RULES_FILE", rules_file)];
        let config = load(file, &variables, &[]).unwrap();
        let row = format!("{file:?} {rules_file:?}");
        let lengths = [config.rules.len(), config.roles.len(), config.grants.len()];
        assert_eq!(lengths, [rule.0, role.0, grant.0], "{row}");
        let (of_rule, of_role, of_grant) = (&config.rules[rule.1], &config.roles[role.1], &config.grants[grant.1]);
        assert_eq!((&*of_rule.role, &of_rule.read), (rule.2, &vec!["/reported".to_owned()]), "{row}");
        assert_eq!((&*of_role.role, of_role.limits.sessions), (role.2, 7), "{row}");
        assert_eq!((&*of_grant.role, &of_grant.principals), (grant.2, &vec!["a".to_owned(), "b".to_owned()]), "{row}");

        // The variable is named, and the others keep the place where they are written.
        variables[0].1 = "nowhere";
        let error = load(file, &variables, &[]).unwrap_err();
        assert!(matches!(&error.place, ValueSource::Named(name) if *name == names[0]), "{row}: {error}");
        let past = format!("UMBRA__GRANT__{}__ROLE", grant.0);
        let expected =
            format!("{past}: 'grant[{0}].role' names none of the {0} sections [[grant]], numbered from 0", grant.0);
        let variables = [(&*past, "viewer"), ("UMBRA__RULES_FILE", rules_file)];
        assert_eq!(error_of(load(file, &variables, &[])), expected);
    }
}

#[test]
fn listeners_of_both_kinds() {
    let text = "[[listener]]\nname = \"a\"\n[[listener]]\nname = \"b\"\nkind = \"http\"\nbind = \"127.0.0.1:0\"\n\
                hosts = [\"A.example\"]\ntls_certificate = \"c\"\ntls_key = \"k\"\ntls_client_ca = \"ca\"\n";
    let variables = [
        ("UMBRA__LISTENER__0__PROXY_FROM", "10.0.0.0/8, 192.0.2.7"),
        ("UMBRA__LISTENER__1__ORIGINS", "https://app.example.com,http://b.example:81"),
        ("UMBRA__LISTENER__1__TLS_CLIENT_AUTH", "required"),
    ];
    let config = load(Some(text), &variables, &[]).unwrap();
    let [mqtt, http] = config.listeners.as_slice() else { unreachable!("{:?}", config.listeners) };
    assert_eq!(mqtt.kind, ListenerKind::Mqtt);
    let networks = mqtt.proxy_from.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32"]);
    let hosts = vec![Host::parse("a.example").unwrap()];
    let origins = ["https://app.example.com", "http://b.example:81"].map(|text| Origin::parse(text).unwrap());
    assert_eq!(http.kind, ListenerKind::Http(HttpConfig { hosts, origins: origins.into(), metrics: false }));
    // Anonymous, so that a certificate would be optional if nothing were said.
    assert!(!http.tls.as_ref().unwrap().clients.as_ref().unwrap().optional);
}

#[test]
fn a_cluster() {
    assert_eq!(Config::default().cluster, None);
    let text = "[cluster]\nnode = 3\nnats = [\"tls://Nats-1.example\", \"tls://[::1]:1\"]\nca_file = \"ca.pem\"\n\
                [limits]\npacket_bytes_max = \"2 MiB\"";
    let config = load(Some(text), &[("UMBRA__CLUSTER__CREDENTIALS_FILE", "node.creds")], &[]).unwrap();
    let cluster = config.cluster.unwrap();
    assert!(cluster.ca_file.as_ref().unwrap().is_absolute(), "at the folder of the file");
    let expected = ClusterSettings {
        name: "umbra".into(),
        node: 3,
        servers: vec!["tls://nats-1.example:4222".into(), "tls://[::1]:1".into()],
        tls: true,
        credentials_file: Some("node.creds".into()),
        ca_file: cluster.ca_file.clone(),
        log_bytes_max: 4 << 30,
        log_age_max: Duration::from_secs(86_400),
        allow_unsafe_sync: false,
        record_bytes_max: (4 << 20) + (64 << 10),
    };
    assert_eq!(cluster, expected);
    let variables = [("UMBRA__CLUSTER__NATS", "nats://a, nats://b:7"), ("UMBRA__CLUSTER__NODE", "1")];
    let servers = load(None, &variables, &[]).unwrap().cluster.unwrap().servers;
    assert_eq!(servers, ["nats://a:4222", "nats://b:7"]);
}

/// They began at the working directory, so that one configuration meant other files for each command, and each user.
#[test]
fn relative_paths_of_a_file_begin_at_its_folder() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("rules")).unwrap();
    fs::write(at("rules/more.toml"), "[[grant]]\nrole = \"viewer\"\nprincipals = [\"boss\"]\n").unwrap();
    let text = format!(
        "rules_file = \"rules/more.toml\"\n[store]\npath = \"data/umbra.redb\"\n[auth]\nusers = \"../users\"\n\
         aws_keys = {:?}\ntoken_keys = \"keys\"\ntoken_audience = \"a\"\n[[listener]]\ntls_certificate = \"c\"\ntls_key = \"k\"\n\
         tls_client_ca = \"ca\"\ntls_client_crl = \"crl\"\n",
        at("elsewhere")
    );
    fs::write(at("umbra.toml"), text).unwrap();
    let variables = [("UMBRA__AUTH__TOKEN_KEYS".to_owned(), "keys-of-the-environment".to_owned())];
    let config = Config::load(Some(&at("umbra.toml")), variables, &Arguments::default()).unwrap();
    assert_eq!(config.store.path, at("data/umbra.redb"));
    assert_eq!(config.auth.users, Some(at("../users")));
    assert_eq!(config.auth.aws_keys, Some(at("elsewhere")));
    assert_eq!(config.auth.tokens.unwrap().keys.to_str(), Some("keys-of-the-environment"));
    let tls = config.listeners[0].tls.clone().unwrap();
    let clients = tls.clients.unwrap();
    assert_eq!([tls.certificate, tls.key, clients.ca, clients.crl.unwrap()], ["c", "k", "ca", "crl"].map(at));

    // What the file does not set is as without it.
    fs::write(at("umbra.toml"), "").unwrap();
    let config = Config::load(Some(&at("umbra.toml")), [], &Arguments::default()).unwrap();
    assert_eq!(config.store.path, Config::default().store.path);
    let arguments = Arguments { store: Some("argument.redb".into()), bind: vec!["127.0.0.1:0".into()] };
    let config = Config::load(Some(&at("umbra.toml")), [], &arguments).unwrap();
    assert_eq!(config.store.path.to_str(), Some("argument.redb"));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("absent.toml");
    let binary = folder.path().join("binary.toml");
    fs::write(&binary, [0xff, 0xfe]).unwrap();
    for (path, expected) in [
        (&missing, "absent.toml: cannot be read: No such file or directory (os error 2)"),
        (&binary, "binary.toml: cannot be read: stream did not contain valid UTF-8"),
    ] {
        assert_eq!(error_of(Config::load(Some(path), [], &Arguments::default())), expected);
    }
}
