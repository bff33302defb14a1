//! Client ids prove nothing: names with wildcards in them, another's id, another's session.

use crate::{
    harness::{
        client::Client,
        wire::{BOTH, Properties, V5},
    },
    site::{client, connect, heard, site},
};

/// A rule for `{client}` was one for all topics to a client that called itself `+`.
#[test]
fn client_ids_are_not_read_as_filters() {
    let server = site();
    for protocol in BOTH {
        for id in ["+", "#", "*", "a/b", "lamp-1/..", "{client}", "{principal}"] {
            let mut kiosk = Client::connect_as(&server, &connect("kiosk", id, protocol)).0;
            for filter in ["kiosk/#", "kiosk/+/x", "kiosk/other/x", "shadow/#"] {
                kiosk.subscribe_with(&[(filter, 1)], &Properties::none());
            }
            // What it may receive in any case.
            assert_eq!(kiosk.subscribe_with(&[("kiosk/marker", 1)], &Properties::none()), [1], "{id}");
            let mut boss = client(&server, "boss", V5);
            boss.publish("kiosk/other/x", "x", 1);
            boss.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"a":1}}}"#, 1);
            let heard = heard(&server, &mut kiosk, "kiosk/marker");
            assert!(heard.is_empty(), "{id}: {heard:?}");
            let refused = if protocol == V5 { 0x87 } else { 0 };
            assert_eq!(kiosk.publish("kiosk/other/x", "x", 1), refused, "{id}");
            assert_eq!(kiosk.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"x":1}}}"#, 1), refused, "{id}");
            kiosk.disconnect();
        }
    }
}

/// A session belongs to a principal and a client id: another principal's same id is another session.
#[test]
fn a_client_id_of_another_principal_takes_over_no_session() {
    let server = site();
    for protocol in BOTH {
        let mut persistent = connect("lamp-1", "shared-id", protocol);
        persistent.clean = false;
        let mut lamp = Client::connect_as(&server, &persistent).0;
        lamp.subscribe(&[("shadow/lamp-1/update/accepted", 1), ("devices/lamp-1/#", 1)]);
        for user in ["lamp-2", "app-1", "boss"] {
            let (mut other, connack) = Client::connect_as(&server, &connect(user, "shared-id", protocol));
            assert!(!connack.session_present);
            other.ping();
        }
        let mut squatter = connect("lamp-2", "shared-id", protocol);
        squatter.clean = false;
        let (squatter, connack) = Client::connect_as(&server, &squatter);
        assert!(!connack.session_present);
        lamp.ping(); // was not ended
        let mut boss = client(&server, "boss", V5);
        boss.publish("shadow/lamp-1/update", r#"{"state":{"desired":{"a":1}}}"#, 1);
        boss.publish("shadow/lamp-1/update", r#"{"state":{"desired":null}}"#, 1);
        assert_eq!(heard(&server, &mut lamp, "devices/lamp-1/marker").len(), 2);
        lamp.disconnect();
        squatter.disconnect();
    }
}
