//! A search finds by what its caller may read, and by nothing else.

use serde_json::json;

use crate::{
    harness::http::put,
    site::{Site, ids},
};

/// The same devices with another secret.
fn site(secret: &str) -> Site {
    let site = Site::open();
    site.write(&[
        (
            "lamp-1/shadow",
            json!({
                "desired": {"zone": {"t": 20, "u": 1}, "pin": secret},
                "reported": {"zone": {"t": 20, "secret": secret}, "pin": secret},
                "tags": {"owner": secret},
            }),
        ),
        ("shop-1/shadow", json!({"reported": {"zone": {"t": 20}}, "tags": {"owner": secret}})),
        ("vault/shadow", json!({"reported": {"zone": {"t": 20}, "pin": secret}})),
    ]);
    site
}

#[test]
fn hidden_values_and_devices_change_no_answer() {
    let sites = ["abc", "xyz"].map(site);
    // The query, and what each listener finds by it.
    for (query, partial, shop) in [
        ("*", "lamp-1", "shop-1"),
        ("reported.zone.t:20", "lamp-1", "shop-1"),
        ("desired.zone.u:1", "lamp-1", ""),
        ("reported.pin:abc", "", ""),
        ("NOT reported.pin:abc", "lamp-1", "shop-1"),
        ("reported.pin:*", "", ""),
        ("desired.pin:a*", "", ""),
        ("reported.zone.secret:abc", "", ""),
        ("tags.owner:*", "", "shop-1"),
        ("NOT tags.owner:*", "lamp-1", ""),
        // `desired.zone.u` differs, but `reported.zone.u` may not be read.
        ("drift:true", "", ""),
        ("shadow.hasDelta:true", "", ""),
        ("delta:*", "", ""),
        // A reader without the right to subscribe does not see the presence.
        ("connected:*", "", "shop-1"),
        ("NOT connected:*", "lamp-1", ""),
        ("vault", "", ""),
        ("NOT vault", "lamp-1", "shop-1"),
    ] {
        for site in &sites {
            assert_eq!(site.found_at("partial", query), partial, "{query}");
            assert_eq!(site.found_at("shop", query), shop, "{query}");
        }
    }
    let [site, _] = &sites;
    assert_eq!(site.found_at("web", "drift:true"), "lamp-1");
    assert_eq!(site.found_at("web", "reported.pin:abc"), "lamp-1 vault");
    assert_eq!(ids(&site.search_at("partial", &[("total", "true"), ("sort", "-reported.pin")]).json()), "lamp-1");
}

#[test]
fn fields_and_counts_show_what_may_be_read() {
    let site = site("abc");
    let fields = "reported,desired,tags,reported.pin,drift,connected";
    let page = site.search_at("partial", &[("fields", fields), ("total", "true")]).json();
    assert_eq!(page["total"], json!(1));
    assert_eq!(
        page["devices"],
        json!([{
            "id": "lamp-1", "drift": false, "shadows": 1,
            "fields": {"reported": {"zone": {"t": 20}}, "desired": {"zone": {"t": 20, "u": 1}}, "drift": false},
        }])
    );
}

/// A page that ends at a hidden device must not name it.
#[test]
fn a_cursor_names_no_hidden_device() {
    let site = Site::open();
    let mut client = site.client("web");
    for n in 0..3 {
        put(&mut client, &format!("lamp-{n}/shadow"), &json!({"reported": {"zone": {"t": n}}}));
        put(&mut client, &format!("lamp-{n}/shadows/x"), &json!({"reported": {"a": 1}}));
    }
    let page = site.search_at("partial", &[("limit", "1")]).json();
    let next = page["next"].as_str().unwrap();
    assert_eq!((ids(&page).as_str(), next), ("lamp-0", "lamp-0"));
    let page = site.search_at("partial", &[("limit", "9"), ("cursor", next)]).json();
    assert_eq!((ids(&page).as_str(), page.get("next")), ("lamp-1 lamp-2", None));
}
