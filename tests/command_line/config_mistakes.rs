//! The error for each mistake in the configuration: the place, the value, and what is allowed.

use crate::config::{error_of, load};

#[test]
fn mistakes_in_a_file_are_reported_with_their_line() {
    // the file, the error after its name
    let table = [
        // keys
        ("depht_max = 1", ":1: 'depht_max' is not a known key; did you mean 'limits.depth_max'?"),
        ("[limits]\n\ndepht_max = 1", ":3: 'limits.depht_max' is not a known key; did you mean 'limits.depth_max'?"),
        ("[store]\ndepth_max = 1", ":2: 'store.depth_max' is not a known key; did you mean 'limits.depth_max'?"),
        ("# c\nstore.pth = \"x\"", ":2: 'store.pth' is not a known key; did you mean 'store.path'?"),
        ("store = { path = \"x\",\n\n nonsense = 1 }", ":3: 'store.nonsense' is not a known key"),
        ("\n[limit]\ndepth_max = 1", ":2: 'limit' is not a known key; did you mean 'limits'?"),
        ("[[listener]]\n[[listener]]\nadress = 1", ":3: 'listener[1].adress' is not a known key"),
        ("[a]\n\"b.c\" = 1", ":1: 'a' is not a known key"),
        ("[limits]\ndepth = 1", ":2: 'limits.depth' is not a known key; did you mean 'limits.depth_max'?"),
        // types
        ("[limits]\ndepth_max = \"8\"", ":2: 'limits.depth_max' must be a whole number, not \"8\""),
        ("[limits]\ndepth_max = 8.0", ":2: 'limits.depth_max' must be a whole number, not 8"),
        ("[limits]\ndepth_max = -1", ":2: 'limits.depth_max' must be a whole number, not -1"),
        ("[limits]\ndepth_max = [8]", ":2: 'limits.depth_max' must be a whole number, not a list"),
        ("[store.path]", ":1: 'store.path' must be text, not a section"),
        ("[store]\npath = 5", ":2: 'store.path' must be text, not 5"),
        (
            "[limits]\naddress_limits_on_loopback = 1",
            ":2: 'limits.address_limits_on_loopback' must be true or false, not 1",
        ),
        ("[limits]\nrequests_rate = 20", ":2: 'limits.requests_rate' must be a rate such as \"20/s burst 40\", not 20"),
        (
            "[limits]\nrequests_rate = \"20 per second\"",
            ":2: 'limits.requests_rate' must be a rate such as \"20/s burst 40\", not \"20 per second\"",
        ),
        (
            "[store]\nfree_disk_min = \"256 MB\"",
            ":2: 'store.free_disk_min' must be a size such as \"256 MiB\", not \"256 MB\"",
        ),
        (
            "[store]\n\njournal_age_max = 7",
            ":3: 'store.journal_age_max' must be a duration such as \"10s\" or \"7d\", not 7",
        ),
        ("[[listener]]\n[[listener]]\n\nname = 4", ":4: 'listener[1].name' must be text, not 4"),
        ("limits = 5", ":1: 'limits' must be a section, [limits]"),
        ("[listener]\nname = \"x\"", ":1: 'listener' must be sections, each [[listener]]"),
        ("listener = [1]", ":1: 'listener' must be sections, each [[listener]]"),
        ("[[limits]]\ndepth_max = 1", ":1: 'limits' must be a section, [limits]"),
        (
            "[limits]\ndepth_max = 9_999_999_999_999_999_999",
            ":2: 'limits.depth_max' is 9999999999999999999, which is beyond any range",
        ),
        // rules and grants
        (
            "[[rule]]\nrole = \"r\"\ndevices = [\"lamp.*\"]",
            ":3: 'rule[0].devices' has 'lamp.*', which no device id matches: 'lamp.' holds '.', allowed are A-Z a-z 0-9 : _ -",
        ),
        (
            "[[rule]]\nrole = \"r\"\nnames = [\"a/b\"]",
            ":3: 'rule[0].names' has 'a/b', which no shadow name matches: 'a/b' holds '/', allowed are A-Z a-z 0-9 : _ - $",
        ),
        (
            "[[rule]]\nrole = \"r\"\ndevices = [\"{principals}\"]",
            ":3: 'rule[0].devices' has '{principals}', where braces are around something else than {principal} or {client}",
        ),
        (
            "[[grant]]\nrole = \"app\"\nprincipals = [\"a\"]\ndevices = [\"\"]",
            ":4: 'grant[0].devices' has '', which no device id matches: '' is 0 bytes long, allowed are 1 to 128",
        ),
        (
            "[[grant]]\nrole = \"viewer\"\nprincipals = [\"a\"]\ndevices = [\"lamp-*\"]",
            ":4: 'grant[0].devices' is set, but no rule of the role 'viewer' has devices = [\"{devices}\"]",
        ),
        ("[[grant]]\nrole = \"app\"\nprincipals = [\"a\"]\ndevices = [\"lamp-*\"]", "accepted"),
        (
            "[[grant]]\nrole = \"viewer\"\nprincipals = [\"a\", \"b c\"]",
            ":3: 'grant[0].principals' has 'b c', which no principal can be called: names are 1 to 128 of A-Z a-z 0-9 . : _ -",
        ),
        (
            "[[grant]]\nrole = \"viewer\"\nprincipals = [\"lamp/*\"]",
            ":3: 'grant[0].principals' has 'lamp/*', which no principal can be called: names are 1 to 128 of A-Z a-z 0-9 . : _ -",
        ),
        (
            "[[grant]]\nrole = \"viewer\"\nprincipals = [\"\"]",
            ":3: 'grant[0].principals' has '', which no principal can be called: names are 1 to 128 of A-Z a-z 0-9 . : _ -",
        ),
        (
            "[[grant]]\nrole = \"viewer\"\nprincipals = [\"anonymous/kiosk\"]",
            ":3: 'grant[0].principals' has 'anonymous/kiosk', which is an anonymous client, but by does not have \"anonymous\"",
        ),
        (
            "[[grant]]\nrole = \"viewer\"\nprincipals = [\"kiosk\"]\nby = [\"anonymous\"]",
            ":3: 'grant[0].principals' has 'kiosk', which no such principal is called: an anonymous client is anonymous/ and \
             its client id",
        ),
        (
            "[[grant]]\nrole = \"viewer\"\nprincipals = [\"anonymous/a b\", \"*\", \"anon*\"]\nby = [\"anonymous\"]",
            "accepted",
        ),
        (
            "[[grant]]\nrole = \"viewer\"\nprincipals = [\"kiosk\", \"anonymous/*\"]\nby = [\"anonymous\", \"token\"]",
            "accepted",
        ),
        ("[[grant]]\nrole = \"viewer\"\nprincipals = [\"*\", \"{client}\", \"lamp-*.example\"]", "accepted"),
        // named queries
        ("[[query]]\nname = \"old\"\nq = \"reported.firmware:1.4*\"", "accepted"),
        ("query = []", "accepted"),
        (
            "[[query]]\nname = \"a b\"\nq = \"*\"",
            ":2: 'query[0].name' is invalid: 'a b' holds ' ', allowed are A-Z a-z 0-9 : _ -",
        ),
        ("[[query]]\nq = \"*\"", ":1: 'query[0].name' is invalid: '' is 0 bytes long, allowed are 1 to 64"),
        (
            "[[query]]\nname = \"old\"\nq = \"drift:maybe\"",
            ":3: 'query[0].q' is invalid: column 7: expected true, false or *, for drift",
        ),
        (
            "[[query]]\nname = \"old\"\nq = \"updated:<1h\"",
            ":3: 'query[0].q' is invalid: 'updated' changes with time, which a live query does not follow; use GET /v1/search",
        ),
        (
            "[[query]]\nname = \"old\"\nq = \"a\"\n[[query]]\nname = \"old\"\nq = \"b\"",
            ":5: 'query[1].name' is 'old', as that of another query",
        ),
        ("[[query]]\nname = \"old\"\nquery = \"a\"", ":3: 'query[0].query' is not a known key; did you mean 'query'?"),
        // ranges
        (
            "[search]\nindexed = [\"tags.*\", \"version\"]",
            ":2: 'search.indexed' has \"version\", but must have a path such as \"reported.firmware\" or \"tags.*\"",
        ),
        ("[search]\nindexed = [\"tags.a\", \"attributes.a\"]", ":2: 'search.indexed' has tags.a more than once"),
        ("[search]\nindexed = [\"tags.*\", \"shadow.name.cfg.reported.a\"]", "accepted"),
        ("[limits]\ndepth_max = 65", ":2: 'limits.depth_max' is 65, but must be 1 to 64"),
        ("[limits]\ndepth_max = 0", ":2: 'limits.depth_max' is 0, but must be 1 to 64"),
        (
            "[limits]\ndocument_bytes_max = \"2 MiB\"",
            ":2: 'limits.document_bytes_max' is 2 MiB, but must be 64 B to 1 MiB",
        ),
        ("[limits]\nmemory = \"1 MiB\"", ":2: 'limits.memory' is 1 MiB, but must be 16 MiB to 1 TiB"),
        (
            "[limits]\nmemory = \"half\"",
            ":2: 'limits.memory' must be \"auto\" or a size such as \"256 MiB\", not \"half\"",
        ),
        ("[store]\nmemory = \"auto\"\n[limits]\nmemory = \"auto\"", "accepted"),
        ("[[role]]\nrole = \"app\"\nwork = 99", ":3: 'role[0].work' is 99, but must be 100 to 1000000000"),
        ("[[role]]\nwork = 1000", ":1: 'role[0].role' is empty"),
        (
            "[[role]]\nrole = \"root\"",
            ":2: 'role[0].role' is \"root\", but must be one of the roles that there are: admin, app, device, reporter, viewer",
        ),
        (
            "[limits]\nrequests_rate = \"59/m burst 40\"",
            ":2: 'limits.requests_rate' is 59/m burst 40, but must be 1/s to 1000000/s, with a burst of 1 to 1000000",
        ),
        (
            "[limits]\npublishes_rate = \"10000001/s burst 1\"",
            ":2: 'limits.publishes_rate' is 10000001/s burst 1, but must be 1/d to 10000000/s, with a burst of 1 to 10000000",
        ),
        (
            "[auth]\nlogin_failures = \"6/m burst 0\"",
            ":2: 'auth.login_failures' is 6/m burst 0, but must be 1/d to 1000/s, with a burst of 1 to 1000000",
        ),
        ("[auth]\nlogin_failures = \"1/d\"", "accepted"),
        ("[limits]\nreceive_maximum = 65536", ":2: 'limits.receive_maximum' is 65536, but must be 1 to 65535"),
        ("[store]\njournal_age_max = \"10s\"", ":2: 'store.journal_age_max' is 10s, but must be 1m to 3650d"),
        ("[[listener]]\nconnect_timeout = \"1h\"", ":2: 'listener[0].connect_timeout' is 1h, but must be 100ms to 5m"),
        ("[limits]\nkeep_alive_max = \"90500ms\"", ":2: 'limits.keep_alive_max' is 90500ms, but must be whole seconds"),
        // choices and forms
        ("[log]\nformat = \"xml\"", ":2: 'log.format' is \"xml\", but must be \"human\" or \"json\""),
        (
            "[log]\nlevel = \"inof\"",
            ":2: 'log.level' is \"inof\", but must be off, error, warn, info, debug or trace, or a list such as \
             \"info,umbrad::store=debug\"",
        ),
        (
            "[[listener]]\nanonymous_role = \"root\"",
            ":2: 'listener[0].anonymous_role' is \"root\", but must be one of the roles that there are: admin, app, device, reporter, viewer",
        ),
        (
            "[[listener]]\nbind = \"localhost\"",
            ":2: 'listener[0].bind' is \"localhost\", but must be an IP address and a port, such as 127.0.0.1:1883",
        ),
        ("[store]\npath = \"\"", ":2: 'store.path' is empty"),
        // rules between values
        (
            "[limits]\npacket_bytes_max = \"16 KiB\"",
            ":2: 'limits.packet_bytes_max' is 16 KiB, but must be at least 20 KiB: twice document_bytes_max \
             and 4 KiB around it",
        ),
        (
            "[limits]\ndocument_bytes_max = \"1 MiB\"",
            ": 'limits.packet_bytes_max' is 1 MiB, but must be at least 2052 KiB: twice document_bytes_max \
             and 4 KiB around it",
        ),
        ("listener = []", ":1: 'listener' is there 0 times, but must be 1 to 16 times"),
        (
            "[[listener]]\nbind = \"127.0.0.1:1\"\n[[listener]]",
            ":3: 'listener[1].name' is \"local\", as that of another listener",
        ),
        (
            "[[listener]]\n[[listener]]\nname = \"b\"",
            ":2: 'listener[1].bind' is 127.0.0.1:1883, as that of another listener",
        ),
        (
            "[[listener]]\nname = \"lan\"\nbind = \"0.0.0.0:1883\"",
            ":3: 'listener[0].bind' is 0.0.0.0:1883, where anybody may connect anonymously; bind it to a loopback \
             address, or set allow_anonymous_anywhere = true",
        ),
        ("allow_anonymous_anywhere = true\n[[listener]]\nbind = \"0.0.0.0:1883\"", "accepted"),
        ("[[listener]]\nanonymous = false\nbind = \"[::]:1883\"", "accepted"),
        ("[[listener]]\nbind = \"[::ffff:127.0.0.1]:0\"", "accepted"),
        // TLS: all it needs, or nothing
        ("[[listener]]\ntls_certificate = \"c.pem\"", ":1: 'listener[0].tls_key' is empty, but tls_certificate is not"),
        ("[[listener]]\n\ntls_key = \"k.pem\"", ":1: 'listener[0].tls_certificate' is empty, but tls_key is not"),
        (
            "[[listener]]\ntls_client_ca = \"a.pem\"",
            ":2: 'listener[0].tls_client_ca' is set, but tls_certificate and tls_key are not",
        ),
        ("[[listener]]\ntls_cert = \"c.pem\"", ":2: 'listener[0].tls_cert' is not a known key"),
        ("[[listener]]\ntls_certificate = \"c.pem\"\ntls_key = \"k.pem\"", "accepted"),
        (
            "[[listener]]\ntls_client_auth = \"required\"",
            ":2: 'listener[0].tls_client_auth' is set, but tls_client_ca is not",
        ),
        (
            "[[listener]]\ntls_client_crl = \"r.pem\"",
            ":2: 'listener[0].tls_client_crl' is set, but tls_client_ca is not",
        ),
        (
            "[[listener]]\ntls_client_auth = \"maybe\"",
            ":2: 'listener[0].tls_client_auth' is \"maybe\", but must be \"optional\" or \"required\"",
        ),
        // kinds of listeners
        ("[[listener]]\nkind = \"https\"", ":2: 'listener[0].kind' is \"https\", but must be \"mqtt\" or \"http\""),
        ("[[listener]]\nkind = \"http\"", "accepted"),
        (
            "[[listener]]\nanonymous = false\nkind = \"http\"\nbind = \"0.0.0.0:80\"",
            ":1: 'listener[0].hosts' is empty, but a listener on 0.0.0.0:80 needs one: requests for any other host are \
             refused",
        ),
        (
            "[[listener]]\nanonymous = false\nkind = \"http\"\nbind = \"0.0.0.0:80\"\nhosts = [\"a.example\", \"[::1]\"]",
            "accepted",
        ),
        (
            "[[listener]]\nkind = \"http\"\nhosts = [\"a.example\", \"https://a.example\"]",
            ":3: 'listener[0].hosts' has \"https://a.example\", but must have a name or an address without scheme and \
             port, such as \"umbra.example.com\"",
        ),
        (
            "[[listener]]\nkind = \"http\"\norigins = [\"a.example\"]",
            ":3: 'listener[0].origins' has \"a.example\", but must have a scheme and a host, such as \
             \"https://app.example.com\"",
        ),
        ("[[listener]]\nhosts = [\"a\"]", ":2: 'listener[0].hosts' is set, but is for kind = \"http\" only"),
        (
            "[[listener]]\nhosts = \"a\"\nkind = \"http\"\norigins = 1",
            ":4: 'listener[0].origins' must be a list of texts such as [\"a\", \"b\"], not 1",
        ),
        (
            "[[listener]]\nproxy_from = [\"10.0.0.0/33\"]",
            ":2: 'listener[0].proxy_from' has \"10.0.0.0/33\", but must have a network or an address, such as \
             \"10.0.0.0/8\"",
        ),
        ("[[listener]]\nproxy_from = [\"10.0.0.0/8\", \"::1\", \"192.0.2.7\"]", "accepted"),
        // who clients are
        ("[auth]\nusres = \"users\"", ":2: 'auth.usres' is not a known key; did you mean 'auth.users'?"),
        ("[auth]\nfailure_delay = \"2m\"", ":2: 'auth.failure_delay' is 2m, but must be 0ms to 1m"),
        ("[auth]\ntoken_claim = \"\"", ":2: 'auth.token_claim' is empty"),
        ("[auth]\n\ntoken_keys = \"k.pem\"", ": 'auth.token_audience' is empty, but token_keys is not"),
        ("[auth]\ntoken_audience = \"umbra\"", ":2: 'auth.token_audience' is set, but token_keys is not"),
        ("[auth]\ntoken_issuer = \"umbra\"", ":2: 'auth.token_issuer' is set, but token_keys is not"),
        (
            "[auth]\ntoken_algorithms = \"RS256, none\"",
            ":2: 'auth.token_algorithms' has \"none\", but may have only RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
             ES384, EdDSA, HS256, HS384 and HS512",
        ),
        (
            "[auth]\ntoken_algorithms = \"ES256, HS256\"",
            ":2: 'auth.token_algorithms' is \"ES256, HS256\", but HS256, HS384 and HS512 cannot be mixed with others",
        ),
        ("[auth]\ntoken_keys = \"k\"\ntoken_audience = \"a\"\ntoken_algorithms = \"ES256, EdDSA\"", "accepted"),
        // clusters
        ("[cluster]\nnats = []\nname = \"other\"\nlog_age_max = \"2d\"", "accepted"),
        ("[cluster]\nnode = 1", ":2: 'cluster.node' is set, but nats is empty"),
        ("[cluster]\n\nallow_unsafe_sync = true", ":3: 'cluster.allow_unsafe_sync' is set, but nats is empty"),
        ("[cluster]\nnats = [\"nats://a:1\"]", ": 'cluster.node' is 0, but must be 1 to 255"),
        ("[cluster]\nnats = [\"nats://a:1\"]\nnode = 256", ":3: 'cluster.node' is 256, but must be 1 to 255"),
        (
            "[cluster]\nnats = [\"nats://me:secret@a\"]",
            ":2: 'cluster.nats' has \"nats://me:secret@a\", but must have addresses such as \"tls://nats-1.example:4222\" or \
             \"nats://127.0.0.1:4222\"",
        ),
        (
            "[cluster]\nnats = [\"https://a\"]",
            ":2: 'cluster.nats' has \"https://a\", but must have addresses such as \"tls://nats-1.example:4222\" or \
             \"nats://127.0.0.1:4222\"",
        ),
        (
            "[cluster]\nnode = 1\nnats = [\"nats://a\", \"tls://b\"]",
            ":3: 'cluster.nats' has \"tls://b:4222\" beside another scheme: all need the same",
        ),
        (
            "[cluster]\nnode = 1\nnats = [\"nats://a\", \"nats://A.:4222\"]",
            ":3: 'cluster.nats' has \"nats://a:4222\" twice",
        ),
        (
            "[cluster]\nnode = 1\nnats = [\"nats://a\"]\nca_file = \"ca.pem\"",
            ":4: 'cluster.ca_file' is set, but the addresses in nats are not tls://",
        ),
        (
            "[cluster]\nnode = 1\nnats = [\"nats://a\"]\nname = \"a.b\"",
            ":4: 'cluster.name' is \"a.b\", but must be 1 to 32 of A-Z a-z 0-9 _ -",
        ),
        (
            "[cluster]\nnode = 1\nnats = [\"nats://a\"]\nlog_bytes_max = \"1 MiB\"",
            ":4: 'cluster.log_bytes_max' is 1 MiB, but must be 256 MiB to 16 TiB",
        ),
        (
            "[cluster]\nnode = 1\nnats = [\"nats://a\"]\nlog_age_max = \"1s\"",
            ":4: 'cluster.log_age_max' is 1s, but must be 1m to 3650d",
        ),
        ("[cluster]\nnode = 255\nnats = [\"tls://a\", \"tls://[::1]:1\"]\nca_file = \"ca.pem\"", "accepted"),
        // no TOML
        ("[limits\n", ":1: is not TOML: unclosed table, expected `]`"),
        ("[limits]\ndepth_max = 1\ndepth_max = 2", ":3: is not TOML: duplicate key"),
    ];
    for (text, expected) in table {
        let expected = match expected {
            "accepted" => expected.to_owned(),
            _ => format!("umbra.toml{expected}"),
        };
        assert_eq!(error_of(load(Some(text), &[], &[])), expected, "{text}");
    }
}

/// A key that was ignored would leave its operator without the limit that it set.
#[test]
fn a_removed_key_names_its_replacement() {
    // the key, the text of its replacement
    let table = [
        ("store.cache_bytes", "set store.memory to the sum of both caches; a third of it is for pages"),
        ("store.document_cache_bytes", "set store.memory to the sum of both caches; two thirds of it are for shadows"),
        ("store.quick_repair", "it is always true now"),
        ("store.lag_entries_max", "it follows from store.lag_bytes_max, 200000 for 64 MiB"),
        ("auth.password_checks_at_once", "it is one for every four processors now"),
        ("auth.password_checks_waiting", "it is always 1024 now"),
        ("auth.user_failures_at_once", "set auth.login_failures, such as \"6/m burst 5\""),
        ("auth.user_failure_every", "set auth.login_failures, such as \"6/m burst 5\""),
        ("auth.address_failures_at_once", "it is 10 times the burst of auth.login_failures now"),
        ("auth.address_failure_every", "an address has 50 times the rate of auth.login_failures now"),
        ("auth.token_leeway", "it is always 10s now"),
        ("listener.connections_max", "set limits.connections_max, for all listeners together"),
        ("limits.tags_bytes_max", "limits.document_bytes_max is also the size of tags now"),
        ("limits.leaves_max", "it is an eighth of limits.document_bytes_max now, and at least 1024"),
        ("limits.path_tombstones_max", "it is always 256 now"),
        ("limits.topic_bytes_max", "it is always 512 now"),
        ("limits.filters_per_subscribe_max", "it is always 512 now"),
        ("limits.filters_per_session_max", "it is always 4096 now; role.filters can be lower"),
        ("limits.requests_in_flight_max", "it is the burst of limits.requests_rate now, and at least 64"),
        ("limits.requests_per_second", "set limits.requests_rate, such as \"20/s burst 40\""),
        ("limits.requests_burst", "set limits.requests_rate, such as \"20/s burst 40\""),
        ("limits.publishes_per_second", "set limits.publishes_rate, such as \"100/s burst 5000\""),
        ("limits.publishes_burst", "set limits.publishes_rate, such as \"100/s burst 5000\""),
        ("limits.control_packets_per_second", "it is 5 times limits.publishes_rate now"),
        ("limits.control_packets_burst", "it is the burst of limits.publishes_rate now"),
        ("limits.connection_bytes_per_second", "received bytes count as work now: set role.work"),
        ("limits.refusals_per_minute_max", "it is a tenth of limits.publishes_rate now"),
        ("limits.session_queue_bytes_max", "limits.outbox_bytes_max is also for sessions without a connection now"),
        ("limits.retained_messages_max", "retained messages count as memory now: set role.memory and limits.memory"),
        ("limits.principal_connections_max", "set role.sessions, by role"),
        ("limits.principal_retained_messages_max", "retained messages count as memory now: set role.memory"),
        ("limits.principal_retained_bytes_max", "retained messages count as memory now: set role.memory"),
        ("limits.principal_streams_max", "it is role.sessions now, and at most 1024"),
        ("limits.principal_input_bytes_max", "input counts as memory now: set role.memory"),
        ("limits.address_connects_per_second", "set limits.address_connects_rate, such as \"200/s burst 20000\""),
        ("limits.address_connects_burst", "set limits.address_connects_rate, such as \"200/s burst 20000\""),
        ("limits.address_failed_handshakes_per_minute", "it is a twentieth of limits.address_connects_rate now"),
        ("limits.topic_alias_max", "it is always 16 now"),
        ("limits.retained_bytes_max", "retained messages count as memory now: set role.memory and limits.memory"),
        ("limits.input_bytes_max", "it is a quarter of limits.memory now"),
        ("limits.sessions_max", "sessions count as memory now: set limits.memory, and role.sessions by role"),
        ("limits.principal_sessions_max", "set role.sessions, by role"),
        ("limits.principal_subscriptions_max", "set role.filters, by role"),
        ("limits.principal_requests_per_second", "requests count as work now: set role.work, by role"),
        ("limits.principal_bytes_per_second", "received bytes count as work now: set role.work, by role"),
        ("limits.shadow_writes_per_second", "updates count as work of their principals now: set role.work"),
        ("log.connections", "for false, set log.level, such as \"info,umbrad::connections=off\""),
    ];
    for (key, replacement) in table {
        let (section, name) = key.split_once('.').unwrap();
        assert!(include_str!("../../CHANGELOG.md").contains(name), "{key} is not in the table of the changelog");
        let header = if section == "listener" { "[[listener]]" } else { &format!("[{section}]") };
        let path = if section == "listener" { &format!("listener[0].{name}") } else { key };
        let file = format!("{header}\n\n{name} = 1\n");
        let expected = format!("umbra.toml:3: '{path}' was removed: {replacement}");
        assert_eq!(error_of(load(Some(&file), &[], &[])), expected);
        let index = if section == "listener" { "__0" } else { "" };
        let variable = format!("UMBRA__{section}{index}__{name}").to_uppercase();
        let expected = format!("{variable}: '{path}' was removed: {replacement}");
        assert_eq!(error_of(load(None, &[(&variable, "1")], &[])), expected);
    }
}

type Mistake = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static str);

#[test]
fn mistakes_elsewhere_name_the_variable_or_the_argument() {
    // variables, --bind, the error
    let table: [Mistake; 12] = [
        (
            &[("UMBRA__LIMITS__DEPHT_MAX", "1")],
            &[],
            "UMBRA__LIMITS__DEPHT_MAX: 'limits.depht_max' is not a known key; did you mean 'limits.depth_max'?",
        ),
        (&[("UMBRA__LIMITS", "1")], &[], "UMBRA__LIMITS: 'limits' is not a known key"),
        (&[("UMBRA__", "1")], &[], "UMBRA__: '' is not a known key"),
        (&[("UMBRA__A__B__C__D", "1")], &[], "UMBRA__A__B__C__D: 'a.b.c.d' is not a known key"),
        (&[("UMBRA__LISTENER__BIND", "1")], &[], "UMBRA__LISTENER__BIND: 'listener.bind' is not a known key"),
        (
            &[("UMBRA__LIMITS__0__DEPTH_MAX", "1")],
            &[],
            "UMBRA__LIMITS__0__DEPTH_MAX: 'limits[0].depth_max' is not a known key",
        ),
        (
            &[("UMBRA__LISTENER__2__BIND", "127.0.0.1:1")],
            &[],
            "UMBRA__LISTENER__2__BIND: 'listener[2].bind' names none of the 2 sections [[listener]], numbered from 0",
        ),
        (
            &[("UMBRA__LISTENER__00__BIND", "127.0.0.1:1")],
            &[],
            "UMBRA__LISTENER__00__BIND: 'listener[00].bind' names none of the 2 sections [[listener]], numbered from 0",
        ),
        (
            &[("UMBRA__LIMITS__DEPTH_MAX", "deep")],
            &[],
            "UMBRA__LIMITS__DEPTH_MAX: 'limits.depth_max' must be a whole number, not \"deep\"",
        ),
        (
            &[("UMBRA__LIMITS__DEPTH_MAX", "65")],
            &[],
            "UMBRA__LIMITS__DEPTH_MAX: 'limits.depth_max' is 65, but must be 1 to 64",
        ),
        (
            &[("UMBRA__LISTENER__0__BIND", "127.0.0.1:1")],
            &["nowhere"],
            "--bind: 'listener[0].bind' is \"nowhere\", but must be an IP address and a port, such as 127.0.0.1:1883",
        ),
        (
            &[],
            &["127.0.0.1:1", "192.0.2.1:1883"],
            "--bind: 'listener[1].bind' is 192.0.2.1:1883, where anybody may connect anonymously; bind it to a \
             loopback address, or set allow_anonymous_anywhere = true",
        ),
    ];
    for (variables, bind, expected) in table {
        assert_eq!(error_of(load(None, variables, bind)), expected, "{variables:?} {bind:?}");
    }
}
