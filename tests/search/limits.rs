//! Refusals of searches, and what a caller may cause.

use serde_json::json;

use crate::site::{Site, ids};

#[test]
fn a_refusal_names_parameter_column_and_reason() {
    let site = Site::open();
    let long = format!("device:{}", "a".repeat(4096));
    let many = "a ".repeat(65);
    let fields = (0..33).map(|n| format!("tags.f{n}")).collect::<Vec<_>>().join(",");
    for (name, value, expected) in [
        (
            "q",
            "reported.a:[1 TO",
            "'q': column 17: expected a number or text to compare with, found the end of the query",
        ),
        ("q", "firmware:1.4", "'q': column 1: unknown field 'firmware'; fields are device, connected,"),
        ("q", "drift:maybe", "'q': column 7: expected true, false or *, for drift"),
        ("q", "(a OR b", "'q': column 8: expected AND, OR, another term or ), found the end of the query"),
        ("q", "", "'q': column 1: expected a field or a term, found the end of the query"),
        ("q", &long, "'q': column 4097: the query has 4103 bytes, at most 4096 are allowed"),
        ("q", &many, "'q': column 129: the query has more than 64 terms"),
        ("fields", "tags.a,,", "'fields': column 8: expected the name of a field, found ','"),
        ("fields", &fields, "'fields': has 33 fields, at most 32"),
        ("fields", "tags.a,device,tags.a", "'fields': has 'tags.a' more than once"),
        ("fields", "reported,r\\eported", "'fields': has 'r\\eported' more than once"),
        ("fields", "tags.a,attributes.a", "'fields': has 'attributes.a' more than once"),
        ("sort", "-colour", "'sort': column 2: unknown field 'colour'"),
        ("sort", "device,seen", "'sort': column 1: expected one field"),
        ("limit", "101", "'limit': must be an integer from 1 to 100"),
        ("total", "yes", "'total': must be true or false"),
        ("cursor", ".AAAA", "'cursor': "),
        ("qq", "a", "'qq': unknown; the parameters are q, fields, sort, total, limit, cursor"),
    ] {
        let reply = site.search_at("web", &[(name, value)]);
        assert_eq!((reply.status, &reply.json()["error"]), (400, &json!("invalid-parameter")), "{name}: {value}");
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(&format!("Invalid parameter {expected}")), "{message}\n{expected}");
    }
    let of_another = site.search_at("web", &[("sort", "-device"), ("cursor", "lamp")]).json();
    assert_eq!(of_another["message"], json!("Invalid parameter 'cursor': is not a 'next' of a search in this order"));
    let listed = site.client("web").send("GET /v1/devices?q=drift:maybe HTTP/1.1", b"");
    let expected = "Invalid parameter 'q': column 7: expected true, false or *, for drift";
    assert_eq!((listed.status, &listed.json()["message"]), (400, &json!(expected)));
}

/// A page ends in time also if nothing was found that exists, and the next one goes on from there.
#[test]
fn a_page_of_deleted_shadows_ends_when_its_time_is_over() {
    let site = Site::open();
    site.write_many(1100, |n| (format!("d{n:04}/shadow"), json!({"reported": {"n": n}})));
    let mut client = site.client("web");
    for n in 0..1100 {
        let reply = client.send(&format!("DELETE /v1/devices/d{n:04}/shadow HTTP/1.1\nIf-Match: *"), b"");
        assert_eq!(reply.status, 204, "{}", reply.text());
    }
    let page = site.search_at("slow", &[("q", "reported.n:1")]);
    assert_eq!(page.status, 200, "{}", page.text());
    let page = page.json();
    let next = page["next"].as_str().unwrap_or_else(|| panic!("no cursor: {page}"));
    assert!(ids(&page).is_empty() && !next.contains("d0"), "no hidden device is named: {page}");
}

/// A page had up to 100 devices with all of their fields, each maybe under 32 names: 25 MB of memory that nobody paid for.
#[test]
fn a_page_ends_once_its_fields_are_large() {
    let site = Site::open();
    let text = "x".repeat(7000);
    site.write_many(160, |n| {
        (format!("d{n:03}/shadow"), json!({"reported": {"text": text}, "tags": {"n": n, "half": n % 2}}))
    });
    let fields = ("fields", "reported,reported.text");
    for order in
        [&[][..], &[("sort", "tags.n")], &[("sort", "-tags.n")], &[("sort", "tags.half")], &[("total", "true")]]
    {
        let (mut all, mut pages, mut cursor) = (Vec::new(), 0, None::<String>);
        loop {
            let mut parameters = [order, &[fields, ("q", "tags.n:*"), ("limit", "100")]].concat();
            parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = site.search(&parameters);
            let devices = ids(&page);
            assert!(devices.split_whitespace().count() < 90, "{order:?}");
            all.extend(devices.split_whitespace().map(str::to_owned));
            pages += 1;
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        assert!((3..=4).contains(&pages), "{order:?}: {pages} pages");
        let expected = if order == [("sort", "-tags.n")] { all.iter().rev().cloned().collect() } else { all.clone() };
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 160, "{order:?}");
        assert!(order == [("sort", "tags.half")] || expected == all, "{order:?}");
    }
    let refused = site.search_at("small", &[fields]);
    assert_eq!((refused.status, &refused.json()["error"]), (429, &json!("too-many-requests")), "{}", refused.text());
}

/// A page that costs more than its caller may cause ends early, and can be gone on with later. A search that needs all
/// shadows is refused instead.
#[test]
fn a_caller_above_its_rate_of_work_reads_on_later() {
    let site = Site::open();
    site.write_many(1200, |n| (format!("d{n:04}/shadow"), json!({"reported": {"n": n}})));
    let wanted = [("q", "reported.n:1199")];
    assert_eq!(ids(&site.search(&wanted)), "d1199");
    let page = site.search_at("slow", &wanted);
    assert_eq!(page.status, 200, "{}", page.text());
    let page = page.json();
    assert_eq!((ids(&page).as_str(), page["next"].as_str()), ("", Some("d0999")));
    let refused = site.search_at("slow", &wanted);
    assert_eq!((refused.status, &refused.json()["error"]), (429, &json!("too-many-requests")));
    let next = site.search(&[wanted[0], ("cursor", "d0999")]);
    assert_eq!((ids(&next).as_str(), next.get("next")), ("d1199", None));
    let refused = site.search_at("idle", &[("total", "true")]);
    assert_eq!((refused.status, &refused.json()["error"]), (503, &json!("search-too-long")), "{}", refused.text());
}
