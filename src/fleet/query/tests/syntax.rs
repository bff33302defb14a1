//! The texts of queries: the form in which they are written back, and the errors.

use crate::{
    fleet::{
        Field, Query,
        query::{DEPTH_MAX, PREDICATES_MAX, QUERY_BYTES_MAX},
    },
    shadow::ShadowName,
};

#[test]
fn queries_are_written_back_in_one_form() {
    for (text, expected) in [
        ("abc", "device:abc"),
        ("*", "device:*"),
        ("\"AND\"", "device:and"),
        ("thingName:A*", "device:a*"),
        ("a b OR c", "device:a AND device:b OR device:c"),
        ("a (b OR c)", "device:a AND (device:b OR device:c)"),
        ("(a AND (b c))", "device:a AND device:b AND device:c"),
        ("a OR (b OR c) OR d", "device:a OR device:b OR device:c OR device:d"),
        ("-a +b NOT (c d)", "NOT device:a AND device:b AND NOT (device:c AND device:d)"),
        ("NOT NOT a", "NOT NOT device:a"),
        ("NOT -(a)", "NOT NOT device:a"),
        ("thingName:(tv* AND -plasma)", "device:tv* AND NOT device:plasma"),
        ("version:(>=1 <5 OR 9)", "shadow.version:>=1 AND shadow.version:<5 OR shadow.version:9"),
        ("attributes.a<5", "tags.a:<5"),
        ("attributes.a >= 5", "tags.a:>=5"),
        ("connectivity.timestamp : [1 TO 2]", "connectivity.timestamp:[1 TO 2]"),
        ("shadow.reported.a:{70 TO 100]", "reported.a:{70 TO 100]"),
        ("reported.a:[* TO 5}", "reported.a:<5"),
        ("reported.a:{-1.50 TO *]", "reported.a:>-1.50"),
        ("reported.a:[* TO *]", "reported.a:*"),
        ("reported.a:[\"5\" TO x]", "reported.a:[\"5\" TO \"x\"]"),
        ("updated:<2h", "updated:<7200s"),
        ("seen:[1d TO 1w}", "seen:[86400s TO 604800s}"),
        ("reported.mac:AA:bb", "reported.mac:aa:bb"),
        ("mac\\:1", "device:mac:1"),
        ("reported.a\\.b.c\\:d:\"x y\"", "reported.a\\.b.c\\:d:\"x y\""),
        ("reported.a:x\\*y*?", "reported.a:x\\*y*?"),
        ("reported.a:x\\*y", "reported.a:\"x*y\""),
        ("reported.a:-5", "reported.a:-5"),
        ("reported.a:\"\"", "reported.a:\"\""),
        ("reported.a:\"\\\"\\\\\"", "reported.a:\"\\\"\\\\\""),
        ("shadow.name.cfg.hasDelta:TRUE", "shadow.name.cfg.hasDelta:true"),
        ("shadow.name.cfg:*", "shadow.name.cfg:*"),
        ("shadow:*", "shadow:*"),
        ("thingTypeName:lamp", "tags.thingTypeName:lamp"),
        ("registry.thingGroupNames:a", "tags.thingGroupNames:a"),
        ("  a  ", "device:a"),
    ] {
        let query: Query = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(query.to_string(), expected, "{text}");
        assert_eq!(expected.parse().as_ref(), Ok(&query), "{text}");
    }
}

#[test]
fn an_error_has_the_column_and_what_was_expected() {
    for (text, expected) in [
        ("", "column 1: expected a field or a term, found the end of the query"),
        ("a AND", "column 6: expected a field or a term, found the end of the query"),
        ("AND a", "column 1: expected a field or a term, found 'AND'"),
        ("a OR OR b", "column 6: expected a field or a term, found 'OR'"),
        ("(a", "column 3: expected AND, OR, another term or ), found the end of the query"),
        ("a)", "column 2: expected AND, OR or another term, found ')'"),
        ("()", "column 2: expected a field or a term, found ')'"),
        ("é:1", "column 1: unknown field 'é'; fields are device, connected, seen,"),
        ("a é.b:1", "column 3: unknown field 'é.b'; fields are"),
        ("shadow.metadata:1", "column 1: unknown field 'metadata' of a shadow; its fields are reported,"),
        ("shadow.name.a b:1", "column 15: unknown field 'b'"),
        ("shadow.name.:1", "column 1: the shadow name '' is 0 bytes long, allowed are 1 to 64"),
        ("reported..a:1", "column 1: expected a key before and after each dot of a field"),
        ("reported.*:1", "column 1: expected the name of a field without wildcards"),
        ("reported.a:", "column 12: expected a value, found the end of the query"),
        ("reported.a: AND b", "column 13: expected a value, found 'AND'"),
        ("reported.a:=5", "column 12: expected a value, found '=', which needs a backslash or quotes"),
        ("reported.a:x~2", "column 13: expected a field or a term, found '~', which needs a backslash or quotes"),
        ("reported.a:>", "column 13: expected a number or text to compare with, found the end of the query"),
        ("reported.a:>5*", "column 13: expected a number or text to compare with, not a wildcard"),
        ("reported.a:[1 2]", "column 15: expected TO between the bounds of a range, found '2'"),
        ("reported.a:[1 TO 2", "column 19: expected ] or } after the bounds of a range, found the end of the query"),
        ("reported.a:[1 TO x]", "column 12: the bounds of a range are both numbers or both text, for reported.a"),
        ("reported.a:\"x", "column 12: expected another \" to end the quoted text"),
        ("[1 TO 2]", "column 1: expected a field before '[', such as version"),
        ("a or b", "column 3: expected OR in capitals, or \"or\" in quotes for a device of this id"),
        ("connected:yes", "column 11: expected true, false or *, for connected"),
        ("drift:>1", "column 7: expected true, false or *, for drift"),
        ("version:1.*", "column 9: expected a number, a comparison or a range of numbers, or *, for shadow.version"),
        ("version:>x", "column 9: expected a number, a comparison or a range of numbers, or *, for shadow.version"),
        (
            "updated:1h",
            "column 9: expected a comparison with a time span of s, m, h, d or w, such as <1h or [1d TO 7d]",
        ),
        ("updated:<1", "column 9: expected a comparison with a time span"),
        ("updated:<99999999999999999w", "column 9: expected a comparison with a time span"),
        ("shadow:true", "column 8: expected *: a shadow exists or not, for shadow"),
        ("'a'", "column 1: expected a field or a term, found ''', which needs a backslash or quotes"),
        ("a\\", "column 2: expected a field or a term, found a \\ without a character after it"),
    ] {
        let error = text.parse::<Query>().expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text}\n   is: {error}\n want: {expected}");
    }
}

#[test]
fn a_query_is_bounded() {
    let nested = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
    let negated = |levels: usize| format!("{}a", "-".repeat(levels));
    let long = |bytes: usize| format!("device:{}", "a".repeat(bytes - "device:".len()));
    let terms = |count: usize| "a ".repeat(count);
    let with_one = |length: usize| format!("device:?{}", "a".repeat(length - 1));
    for (text, is_right) in [
        (nested(DEPTH_MAX), true),
        (nested(DEPTH_MAX + 1), false),
        (negated(DEPTH_MAX), true),
        (negated(DEPTH_MAX + 1), false),
        (nested(QUERY_BYTES_MAX / 2 - 1), false),
        (long(QUERY_BYTES_MAX), true),
        (long(QUERY_BYTES_MAX + 1), false),
        (terms(PREDICATES_MAX), true),
        (terms(PREDICATES_MAX + 1), false),
        (with_one(128), true),
        (with_one(129), false),
    ] {
        let parsed = text.parse::<Query>();
        assert_eq!(parsed.is_ok(), is_right, "{}", text.get(..text.len().min(80)).unwrap());
    }
    let error = |text: String| text.parse::<Query>().expect_err("too much").to_string();
    assert_eq!(error(long(5000)), "column 4097: the query has 5000 bytes, at most 4096 are allowed");
    assert_eq!(error(terms(65)), "column 129: the query has more than 64 terms");
    assert_eq!(error(nested(17)), "column 17: the query has more than 16 levels of parentheses and negations");
    assert_eq!(error(with_one(129)), "column 8: a value with ? has at most 128 characters, for device");
}

#[test]
fn lists_of_fields_are_parsed() {
    let list = |text| {
        let fields = Field::list(text).map_err(|error| error.to_string())?;
        Ok(fields.iter().map(|(name, field)| format!("{name}={field}")).collect::<Vec<_>>().join(" "))
    };
    for (text, expected) in [
        ("device", Ok("device=device")),
        (
            "shadow.reported.a,tags.b\\,c,updated",
            Ok("shadow.reported.a=reported.a tags.b\\,c=tags.b\\,c updated=updated"),
        ),
        ("", Err("column 1: expected the name of a field, found the end of the query")),
        ("device,", Err("column 8: expected the name of a field, found the end of the query")),
        ("device seen", Err("column 8: expected a comma or the end, found 'seen'")),
        ("device,x", Err("column 8: unknown field 'x'; fields are")),
    ] {
        let list: Result<String, String> = list(text);
        match (&list, expected) {
            (Ok(list), Ok(expected)) => assert_eq!(list, expected),
            (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{error}"),
            _ => panic!("{text}: {list:?}"),
        }
    }
}

#[test]
fn a_query_depends_on_the_shadows_that_it_reads() {
    for (text, expected) in [
        ("lamp-* connected:true updated:*", [false, false]),
        ("reported.a:1", [true, false]),
        ("NOT (b OR shadow.name.cfg.version:>1)", [false, true]),
        ("tags.a:1 OR shadow.name.cfg:*", [true, true]),
        ("drift:true", [true, true]),
    ] {
        let (query, cfg): (Query, _) = (text.parse().unwrap(), ShadowName::new("cfg").unwrap());
        assert_eq!([None, Some(&cfg)].map(|name| query.depends_on(name)), expected, "{text}");
    }
}

#[test]
fn fields_that_change_by_time_are_found() {
    for (text, expected) in [
        ("reported.a:>5 AND drift:true OR NOT connected:false", None),
        ("updated:* shadow.updated:*", None),
        ("a updated:<1h", Some("updated")),
        ("NOT (b OR shadow.name.x.updated:[1h TO 2h])", Some("shadow.name.x.updated")),
        ("seen:*", Some("seen")),
        ("connectivity.timestamp:>5", Some("connectivity.timestamp")),
    ] {
        let query: Query = text.parse().unwrap();
        assert_eq!(query.changes_by_time().map(ToString::to_string).as_deref(), expected, "{text}");
    }
}
