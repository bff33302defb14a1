//! The numbers allowed in requests: every double in any notation, and no integer that would change.

use proptest::{prelude::*, test_runner::TestCaseResult};
use serde_json::json;

use crate::{
    shadow::{Command, Decision, Document, DocumentLimits, Projection, Timestamp, decide, tests::sender},
    wire::{Dialect, get_accepted, parse_operations, parse_state, parse_update},
};

/// Parses `literal` at every place of a request where a number may occur.
fn is_accepted(literal: &str) -> [bool; 6] {
    let limits = DocumentLimits::default();
    let update = |payload: String, dialect| parse_update(payload.as_bytes(), dialect, &limits).is_ok();
    let expect = format!(
        r#"{{"state":{{}},"expect":[{{"path":"/desired/a","value":[{literal}]}},{{"path":"/desired/b","absent":true}}]}}"#
    );
    [
        update(format!(r#"{{"state":{{"desired":{{"a":{literal}}}}}}}"#), Dialect::Native),
        update(format!(r#"{{"state":{{"reported":{{"\"7\\":"5\"1","b":[1, {literal} ,2]}}}}}}"#), Dialect::Aws),
        update(expect.clone(), Dialect::Native),
        update(expect, Dialect::Aws),
        parse_state(format!(r#"{{"tags":{{"a":{{"b":{literal}}}}}}}"#).as_bytes(), &limits).is_ok(),
        parse_operations(format!(r#"[{{"op":"test","path":"/desired/a","value":{literal}}}]"#).as_bytes(), &limits)
            .is_ok(),
    ]
}

#[test]
fn accepts_integers_that_are_doubles_or_printed_as_one() {
    for (literal, accepted) in [
        ("9007199254740992", true),
        ("9007199254740993", false),
        ("-9007199254740993", false),
        ("9007199254740994", true),
        ("18446744073709551615", false),
        ("18446744073709551616", true),
        ("-18446744073709551616", true),
        ("18446744073709551617", false),
        ("100000000000000000000", true),
        ("100000000000000000001", false),
        ("-100000000000000000001", false),
        // Nanoseconds since 1970: as printed by JavaScript, by C with all digits, and as a 64-bit integer.
        ("1795874276355000000", true),
        ("-1795874276355000000", true),
        ("1795874276355000064", true),
        ("1795874276355000001", false),
        ("1795874276355123457", false),
        // The largest double that RFC 8785 prints as an integer; from 10^21 on it prints an exponent.
        ("999999999999999900000", true),
        ("999999999999999868928", true),
        ("999999999999999900001", false),
        ("123456789012345680000", true),
        ("123456789012345678000", false),
        ("1234567890123456800000", false),
        ("1000000000000000000000", true),
        // Not an integer literal: it means the nearest double.
        ("100000000000000000001.0", true),
        ("1e23", true),
        ("0.1", true),
        ("-0", true),
        ("1E400", false),
    ] {
        assert_eq!(is_accepted(literal), [accepted; 6], "{literal}");
    }
    let limits = DocumentLimits::default();
    // Digits in a string are no literal, even beside a literal beyond 64 bits.
    let payload =
        br#"{"state":{"desired":{"a":"9007199254740993","b":100000000000000000000,"c":"\"100000000000000000001"}}}"#;
    parse_update(payload, Dialect::Native, &limits).unwrap();
    let payload = br#"{"state":{"desired":{"a":100000000000000000001}}}"#;
    let refused = parse_update(payload, Dialect::Native, &limits).unwrap_err().rejection;
    assert_eq!(refused.error(), "invalid-json");
    assert!(refused.detail().is_some_and(|detail| detail.contains("integer 100000000000000000001 is")), "{refused:?}");
}

/// Only members that the AWS dialect reads are checked, at any position.
#[test]
fn ignores_the_integers_of_ignored_members() {
    let odd = "100000000000000000001";
    for (payload, accepted) in [
        (format!(r#"{{"extra":{odd},"state":{{"desired":{{"a":1}}}}}}"#), true),
        (format!(r#"{{"state":{{"desired":{{"a":1e30}}}},"extra":{odd}}}"#), true),
        (format!(r#"{{"extra":{{"state":[{odd},"x"]}},"state":{{"desired":{{"a":1e30}}}},"more":[{odd}]}}"#), true),
        (format!(r#"{{"e\"x":{odd},"\u0065xtra" : 9007199254740993,"state":{{"desired":{{"a":1e30}}}}}}"#), true),
        (format!(r#"{{"extra":1e30,"\u0073tate":{{"desired":{{"a":{odd}}}}}}}"#), false),
        (format!(r#"{{"extra":"state","state":{{"desired":{{"b":"x","a":{odd}}}}}}}"#), false),
    ] {
        let parsed = parse_update(payload.as_bytes(), Dialect::Aws, &DocumentLimits::default());
        assert_eq!(parsed.is_ok(), accepted, "{payload}: {parsed:?}");
    }
}

/// The ways in which clients read and write a number.
type Client = (&'static str, fn(&str) -> String);

const CLIENTS: [Client; 5] = [
    ("keeps the text", str::to_owned),
    ("JavaScript, Go", |read| String::from_utf8(serde_json_canonicalizer::to_vec(&double(read)).unwrap()).unwrap()),
    ("Rust, Python: integers of any size", |read| {
        if read.contains(['.', 'e', 'E']) { json!(double(read)).to_string() } else { read.to_owned() }
    }),
    ("C: %.17g", |read| format!("{:.16e}", double(read))),
    ("C: %.0f, or %.17g of a fraction", |read| match double(read) {
        number if number.fract() == 0.0 => format!("{number:.0}"),
        number => format!("{number:.16e}"),
    }),
];

fn double(literal: &str) -> f64 {
    literal.parse().unwrap()
}

fn any_client_can_write_back(literal: &str) -> TestCaseResult {
    let limits = DocumentLimits::default();
    let payload = format!(r#"{{"state":{{"desired":{{"a":{literal}}}}}}}"#);
    let Ok(update) = parse_update(payload.as_bytes(), Dialect::Native, &limits) else { return Ok(()) };
    let (command, now) = (Command::Update(update.body), Timestamp(1));
    let Ok(Decision::Changed { document, .. }) = decide(&Document::absent(), &command, &sender("p"), now, &limits)
    else {
        panic!("{literal} was not stored")
    };
    let read = get_accepted(&document, &Projection::ALL, None);
    let read = str::from_utf8(&read).unwrap().split_once(r#""a":"#).unwrap().1;
    let read = read.split_once('}').unwrap().0;
    for (client, write) in CLIENTS {
        let written = write(read);
        prop_assert_eq!(is_accepted(&written), [true; 6], "{} reads {}, writes {}", client, read, written);
        let payload = format!(r#"{{"state":{{"desired":{{"a":{written}}}}},"version":1}}"#);
        let update = parse_update(payload.as_bytes(), Dialect::Native, &limits).unwrap().body;
        let decision = decide(&document, &Command::Update(update), &sender("p"), now, &limits);
        prop_assert!(matches!(decision, Ok(Decision::Unchanged)), "{} reads {}, writes {}", client, read, written);
    }
    Ok(())
}

fn literals() -> impl Strategy<Value = String> {
    let integer = |number: f64| if number.abs() < 1e300 { format!("{number:.0}") } else { "0".to_owned() };
    prop_oneof![
        any::<u64>().prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        // Few digits and many zeros, as clients print large doubles.
        (1_u64..100_000_000_000_000_000, 0_usize..8)
            .prop_map(|(digits, zeros)| format!("{digits}{}", "0".repeat(zeros))),
        (1_u64..1 << 53, 0_i32..20).prop_map(move |(number, by)| integer(number as f64 * 2_f64.powi(by))),
        any::<f64>()
            .prop_filter("JSON has no other", |number| number.is_finite())
            .prop_map(|number| json!(number).to_string()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_client_can_write_back_what_it_read(literal in literals()) {
        any_client_can_write_back(&literal)?;
    }
}

/// The text after each token was once compared with itself: a request of 1 MiB kept its thread for eight seconds.
#[test]
fn very_many_tokens_beside_a_large_number_are_checked() {
    for tokens in ["0,", "\"\","] {
        let payload =
            |last: &str| format!(r#"{{"state":{{}},"x":[1e30,{}{last}]}}"#, tokens.repeat((1 << 20) / tokens.len()));
        let parse =
            |payload: String| parse_update(payload.as_bytes(), Dialect::Aws, &DocumentLimits::default()).is_ok();
        assert!(parse(payload("0")), "of another member");
        let in_state = |last| payload(last).replace("\"x\"", "\"expect\"");
        assert!(!parse(in_state("18446744073709551617")));
    }
}
