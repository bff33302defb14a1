//! Pages of devices, shadows, sessions and retained messages, and the other answers to operators.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::json_of;
use crate::{
    shadow::{ShadowName, Timestamp, Version, tests::written},
    wire::{
        DeviceDetail, DeviceEntry, EndedConnections, FoundDevice, GrantedFilter, MqttAddress, PrincipalUse, PurgeStep,
        RetainedEntry, Seen, SessionDetail, SessionEntry, ShadowEntry, Used, device, devices, ended_connections,
        found_devices, mqtt_listeners, mqtt_session, mqtt_sessions, names, presence, principal_use, purge_step,
        retained, session, shadows,
    },
};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

fn seen() -> Seen {
    Seen { last: Timestamp(50), protocol: "mqtt-5", address: Some(ADDRESS) }
}

fn entries() -> [DeviceEntry; 2] {
    [
        DeviceEntry { id: "lamp-1".into(), connected: Some(false), seen: Some(seen()), drift: true, shadows: 2 },
        DeviceEntry { id: "lamp-2".into(), connected: None, seen: None, drift: false, shadows: 1 },
    ]
}

#[test]
fn a_device_shows_its_presence_to_those_who_may_know() {
    let lamps = json!([
        {
            "id": "lamp-1", "connected": false, "lastSeen": 50, "protocol": "mqtt-5", "address": "10.0.0.7", "drift": true,
            "shadows": 2,
        },
        {"id": "lamp-2", "drift": false, "shadows": 1},
    ]);
    assert_eq!(json_of(&devices(&entries(), None)), json!({ "devices": lamps }));
    assert_eq!(json_of(&devices(&entries(), Some("lamp-2"))), json!({ "devices": lamps, "next": "lamp-2" }));
    assert_eq!(json_of(&presence(true, Timestamp(7))), json!({"connected": true, "lastSeen": 7}));
}

#[test]
fn a_found_device_has_the_fields_that_have_a_value() {
    let [device, _] = entries();
    let device = DeviceEntry { seen: None, ..device };
    let found =
        [FoundDevice { device, fields: vec![("tags.site".into(), json!(["a"])), ("version".into(), json!(3))] }];
    let shown = json!([{
        "id": "lamp-1", "connected": false, "drift": true, "shadows": 2, "fields": {"tags.site": ["a"], "version": 3},
    }]);
    assert_eq!(json_of(&found_devices(&found, None, None)), json!({ "devices": shown }));
    let page = json_of(&found_devices(&found, Some(9), Some("c")));
    assert_eq!(page, json!({ "devices": shown, "total": 9, "next": "c" }));
}

#[test]
fn a_device_is_connected_since_its_last_connection() {
    let etag = written(&[json!({"reported": {"a": 1}})]).etag;
    let classic = ShadowEntry { name: None, version: Version(4), etag, timestamp: Timestamp(40), drift: false };
    let named = ShadowEntry { name: Some(ShadowName::new("wifi").unwrap()), drift: true, ..classic.clone() };
    let plain = json!({"version": 4, "etag": etag.to_string(), "timestamp": 40, "drift": false});
    let wifi = json!({"name": "wifi", "version": 4, "etag": etag.to_string(), "timestamp": 40, "drift": true});
    let both = [classic, named];
    assert_eq!(json_of(&shadows(&both, None)), json!({"shadows": [plain, wifi]}));
    assert_eq!(json_of(&shadows(&both[..1], Some("wifi"))), json!({"shadows": [plain], "next": "wifi"}));

    let seen = Seen { address: None, ..seen() };
    let detail = DeviceDetail { id: "lamp-1", connected: Some(true), seen: Some(&seen), shadows: &both };
    let shown = json!({
        "id": "lamp-1", "connected": true, "lastSeen": 50, "protocol": "mqtt-5", "connectedSince": 50, "drift": true,
        "shadows": [plain, wifi], "next": "x",
    });
    assert_eq!(json_of(&device(&detail, Some("x"))), shown);
    let away = DeviceDetail { connected: Some(false), shadows: &both[..1], ..detail };
    let shown = json!({
        "id": "lamp-1", "connected": false, "lastSeen": 50, "protocol": "mqtt-5", "drift": false, "shadows": [plain],
    });
    assert_eq!(json_of(&device(&away, None)), shown);
}

#[test]
fn a_session_shows_its_connection_or_its_loss() {
    let connected = SessionEntry {
        principal: "app-1",
        client: "dash",
        node: None,
        connected: true,
        address: Some(ADDRESS),
        protocol: Some("mqtt-5"),
        connected_since: Some(10),
        session_expiry: Some(60),
        disconnected_since: Some(5),
        expires: Some(65),
        filters: 2,
        queued: 3,
        queued_bytes: 400,
        inflight: 1,
    };
    let away = SessionEntry { node: Some(2), connected: false, address: None, protocol: None, ..connected };
    let shown = json!({
        "principal": "app-1", "client": "dash", "connected": true, "address": "10.0.0.7", "protocol": "mqtt-5",
        "connectedSince": 10, "sessionExpiry": 60, "queued": 3, "queuedBytes": 400, "inFlight": 1, "filters": 2,
    });
    let lost = json!({
        "principal": "app-1", "client": "dash", "node": 2, "connected": false, "disconnectedSince": 5, "expires": 65, "queued": 3,
        "queuedBytes": 400, "inFlight": 1, "filters": 2,
    });
    assert_eq!(
        json_of(&mqtt_sessions(&[connected, away], Some("n"), &[])),
        json!({"sessions": [shown, lost], "next": "n"})
    );
    let page = mqtt_sessions(&[away], None, &[1, 3]);
    assert_eq!(json_of(&page), json!({"sessions": [lost], "unreachable": [1, 3]}));
    let filters = [GrantedFilter { filter: "a/#", qos: 1 }, GrantedFilter { filter: "$share/g/b", qos: 0 }];
    let mut detail = lost;
    detail["filters"] = json!([{"filter": "a/#", "qos": 1}, {"filter": "$share/g/b", "qos": 0}]);
    assert_eq!(json_of(&mqtt_session(&SessionDetail { entry: away, filters: &filters })), detail);
}

#[test]
fn operators_see_retained_messages_purges_and_limits() {
    let message = RetainedEntry { topic: "plant/1", bytes: 12, qos: 1, by: "app-1", since: 30 };
    let shown = json!({"topic": "plant/1", "bytes": 12, "qos": 1, "by": "app-1", "since": 30});
    assert_eq!(json_of(&retained(&[message, message], None)), json!({"retained": [shown, shown]}));
    assert_eq!(json_of(&retained(&[], Some("p"))), json!({"retained": [], "next": "p"}));

    let ended = EndedConnections { connections: 1, sessions: 2, streams: 3, sign_ins: 4 };
    let shown = json!({"connections": 1, "sessions": 2, "streams": 3, "signIns": 4});
    assert_eq!(json_of(&ended_connections(&ended)), shown);
    let other = EndedConnections { connections: 10, sessions: 20, streams: 30, sign_ins: 40 };
    let sum = ended.plus(other);
    let sums = [sum.connections, sum.sessions, sum.streams, sum.sign_ins];
    assert_eq!(sums, [ended.connections + 10, ended.sessions + 20, ended.streams + 30, ended.sign_ins + 40]);

    let step = PurgeStep { purged: 5, kept: 6, next: Some("c") };
    assert_eq!(json_of(&purge_step(&step)), json!({"purged": 5, "kept": 6, "next": "c"}));
    assert_eq!(json_of(&purge_step(&PurgeStep { next: None, ..step })), json!({"purged": 5, "kept": 6}));

    let used = |used| Used { used, limit: 100 };
    let of = PrincipalUse {
        principal: "app-1",
        memory: used(1),
        work_per_second: 2,
        throttled_for_ms: 3,
        throttled: 4,
        sessions: used(5),
        connected: 6,
        filters: used(7),
        streams: used(8),
        new_shadows: used(9),
    };
    let shown = |used: usize| json!({"used": used, "limit": 100});
    assert_eq!(
        json_of(&principal_use(&of)),
        json!({
            "principal": "app-1", "memory": shown(1), "workPerSecond": 2, "throttledForMs": 3, "throttled": 4,
            "sessions": shown(5), "connected": 6, "filters": shown(7), "streams": shown(8), "newShadows": shown(9),
        })
    );
}

#[test]
fn a_caller_learns_its_roles_and_the_listeners() {
    let shown = json_of(&session("app-1", "password", ["app", "viewer"].into_iter(), false));
    assert_eq!(shown, json!({"principal": "app-1", "method": "password", "roles": ["app", "viewer"]}));
    let shown = json_of(&session("root", "token", [].into_iter(), true));
    assert_eq!(shown, json!({"principal": "root", "method": "token", "roles": [], "cluster": true}));
    let any = MqttAddress { host: None, port: 1883, tls: false, anonymous: true };
    let one = MqttAddress { host: Some(ADDRESS), port: 8883, tls: true, anonymous: false };
    let shown = json!([
        {"port": 1883, "tls": false, "anonymous": true},
        {"host": "10.0.0.7", "port": 8883, "tls": true, "anonymous": false},
    ]);
    assert_eq!(json_of(&mqtt_listeners([any, one].into_iter())), json!({ "listeners": shown }));
}

#[test]
fn names_are_listed_as_aws_does() {
    let page = json_of(&names(["a", "b"].into_iter(), Some("b"), Timestamp(9)));
    assert_eq!(page, json!({"results": ["a", "b"], "timestamp": 9, "nextToken": "b"}));
    let last = json_of(&names(["c"].into_iter(), None, Timestamp(9)));
    assert_eq!(last, json!({"results": ["c"], "timestamp": 9}));
}
