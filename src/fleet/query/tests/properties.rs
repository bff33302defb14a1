//! Properties of any query and of any text.

use std::ops::Bound;

use proptest::{collection::vec, prelude::*, sample::select};

use crate::fleet::{
    Field, Query,
    query::{
        Expression, Predicate,
        field::Kind,
        pattern::Glyph,
        value_test::{ValueTest, Written, WrittenBound},
    },
};

/// Text with the characters that have a meaning, and others.
fn text() -> impl Strategy<Value = String> {
    "[ a-zA-Z0-9éΣ.:*?\"'\\\\()\\[\\]{}<>=!&|^~`+,/@-]{0,8}"
}

fn field() -> impl Strategy<Value = Field> {
    let names = "device connected connectivity.timestamp seen drift updated version shadow shadow.hasDelta \
                 shadow.updated shadow.name.a shadow.name.a\\:b.version shadow.name.$x.hasDelta desired tags delta";
    let plain =
        select(names.split_whitespace().collect::<Vec<_>>()).prop_map(|name| Field::list(name).unwrap().remove(0).1);
    let part = select(vec!["reported", "desired", "tags", "delta", "shadow.name.x.reported"]);
    let keys = vec(text().prop_filter("keys are not empty", |key| !key.is_empty()), 1..4);
    let path = (part, keys).prop_map(|(part, keys)| {
        let parts: Vec<Box<str>> = part.split('.').map(Into::into).chain(keys.into_iter().map(Into::into)).collect();
        Field::of(&parts).unwrap()
    });
    prop_oneof![plain, path]
}

fn bound(kind: Kind) -> impl Strategy<Value = Bound<WrittenBound>> {
    let text = match kind {
        Kind::Age => "[0-9]{1,6}[smhdw]".boxed(),
        Kind::Any => prop_oneof![text(), "-?[1-9][0-9]{0,3}(\\.[0-9]{1,2})?"].boxed(),
        _ => "-?[1-9][0-9]{0,3}".boxed(),
    };
    let quoted = if kind == Kind::Any { any::<bool>().boxed() } else { Just(false).boxed() };
    let written = (text, quoted).prop_map(|(text, is_quoted)| WrittenBound { text, is_quoted });
    prop_oneof![Just(Bound::Unbounded), written.clone().prop_map(Bound::Included), written.prop_map(Bound::Excluded)]
}

fn written(kind: Kind) -> impl Strategy<Value = Written> {
    let glyph = prop_oneof![
        "[ a-zA-Z0-9éΣ.:*?\"\\\\()-]".prop_map(|text| Glyph::Literal(text.chars().next().unwrap())),
        Just(Glyph::One),
        Just(Glyph::Run),
    ];
    prop_oneof![
        Just(Written::Word(vec![Glyph::Run])),
        vec(glyph, 1..6).prop_map(Written::Word),
        prop_oneof![text(), select(vec!["true", "false", "7"]).prop_map(str::to_owned)].prop_map(Written::Quoted),
        (bound(kind), bound(kind)).prop_map(|(lower, upper)| Written::Within(lower, upper)),
    ]
}

fn expression() -> impl Strategy<Value = Expression> {
    let predicate = field().prop_flat_map(|field| {
        let kind = field.kind();
        written(kind).prop_map(move |written| {
            let test = ValueTest::new(kind, written).unwrap_or(ValueTest::Exists);
            Expression::Is(Predicate { field: field.clone(), test })
        })
    });
    predicate.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..4).prop_map(Expression::all),
            vec(inner.clone(), 1..4).prop_map(Expression::any),
            inner.prop_map(|part| Expression::Not(Box::new(part))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_query_parses_from_its_text(expression in expression()) {
        let query = Query::new(expression);
        let text = query.to_string();
        let parsed = text.parse::<Query>();
        prop_assert_eq!(parsed, Ok(query), "{}", text);
    }

    #[test]
    fn a_field_parses_from_its_text(field in field()) {
        let text = field.to_string();
        prop_assert_eq!(Field::list(&text), Ok(vec![(text, field)]));
    }

    #[test]
    fn any_text_is_a_query_or_has_an_error_at_a_column(
        text in "([a-z]|[ :*?\"\\\\()\\[\\]{}<>=+.-]|AND |OR |NOT |TO |device:|version:|reported.a){0,40}",
    ) {
        match text.parse::<Query>() {
            Ok(query) => prop_assert_eq!(query.to_string().parse::<Query>(), Ok(query)),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{error}"),
        }
    }
}
