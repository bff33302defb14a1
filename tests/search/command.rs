//! `umbrad search`.

use serde_json::json;

use crate::{
    harness::program::{ended, umbrad},
    site::Site,
};

#[test]
fn devices_are_printed() {
    let site = Site::open();
    site.write(&[
        ("lamp-1/shadow", json!({"desired": {"on": true}, "reported": {"battery": 80, "firmware": "1.4.2"}})),
        ("lamp-2/shadow", json!({"reported": {"battery": 9, "firmware": "1.5.0"}, "tags": {"region": "west"}})),
        ("lamp-3/shadow", json!({"reported": {"battery": 50, "firmware": "1.4.7"}})),
    ]);
    let url = format!("http://{}", site.0.address_of("web"));
    for (arguments, code, expected) in [
        (&["reported.firmware:1.4*"][..], 0, "lamp-1 away differs\nlamp-3 away converged\n"),
        (&[], 0, "lamp-1 away differs\nlamp-2 away converged\nlamp-3 away converged\n"),
        (
            &["lamp-*", "--fields", "reported.battery,tags.region", "--sort", "-reported.battery", "--limit", "2"],
            0,
            "lamp-1 away differs reported.battery=80\nlamp-3 away converged reported.battery=50\n",
        ),
        (
            &["lamp-2", "--fields", "tags.region", "--json"],
            0,
            "{\"connected\":false,\"drift\":false,\"fields\":{\"tags.region\":\"west\"},\"id\":\"lamp-2\",\"shadows\":1}\n",
        ),
        (&["drift:false", "--count"], 0, "2\n"),
        (&["--count"], 0, "3\n"),
        (&["none"], 0, ""),
        (&["drift:maybe"], 3, "column 7: expected true, false or *, for drift"),
        (&["lamp-1", "--count", "--json"], 2, "cannot be used with"),
    ] {
        let (ended_with, out, err) =
            ended(umbrad(&[&["search"], arguments, &["--url", &url]].concat()).output().unwrap());
        assert_eq!(ended_with, code, "{arguments:?}: {out} {err}");
        match code {
            0 => assert_eq!(out, expected, "{arguments:?}: {err}"),
            _ => assert!(err.contains(expected), "{arguments:?}: {err}"),
        }
    }
}
