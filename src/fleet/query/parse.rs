//! The grammar.
//!
//! ```text
//! query       = disjunction
//! disjunction = conjunction *( "OR" conjunction )
//! conjunction = clause *( [ "AND" ] clause )
//! clause      = ( "NOT" / "-" ) clause / [ "+" ] ( "(" disjunction ")" / predicate )
//! predicate   = field ":" ( test / "(" disjunction ")" ) / field comparison / word / quoted
//! test        = word / quoted / comparison / range
//! comparison  = ( "<" / "<=" / ">" / ">=" ) bound
//! range       = ( "[" / "{" ) ( bound / "*" ) "TO" ( bound / "*" ) ( "]" / "}" )
//! bound       = word / quoted
//! ```
//!
//! A word without a field is about the id of the device. Within the parentheses after a field, a test is about that field.
//! The first failure ends the parsing: it has the column, the reason, and what was expected.

use std::ops::Bound;

use winnow::{
    LocatingSlice, Parser, Stateful,
    combinator::{alt, not, opt, peek, preceded, repeat, terminated},
    error::{ErrMode, ModalResult, ParserError},
    stream::{Location, Stream},
    token::{any, literal, one_of, take_while},
};

use crate::fleet::query::{
    DEPTH_MAX, Expression, PREDICATES_MAX, Predicate, QUERY_BYTES_MAX, QueryError,
    field::Field,
    pattern::Glyph,
    text::RESERVED,
    value_test::{ValueTest, Written, WrittenBound},
};

type Input<'t> = Stateful<LocatingSlice<&'t str>, Counts>;
type Parsed<T> = ModalResult<T, Failure>;

/// The counts of the query so far.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    predicates: usize,
    depth: usize,
}

/// A failure at a byte of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    at: usize,
    reason: String,
}

/// A character, and true if a backslash made it literal.
type Character = (char, bool);

const KEYWORDS: [&str; 4] = ["AND", "OR", "NOT", "TO"];

impl ParserError<Input<'_>> for Failure {
    type Inner = Self;

    fn from_input(input: &Input<'_>) -> Self {
        Self { at: input.current_token_start(), reason: format!("unexpected {}", found(input)) }
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

/// Parses a query.
pub(super) fn query(text: &str) -> Result<Expression, QueryError> {
    if text.len() > QUERY_BYTES_MAX {
        let at = text.floor_char_boundary(QUERY_BYTES_MAX);
        let reason = format!("the query has {} bytes, at most {QUERY_BYTES_MAX} are allowed", text.len());
        return Err(error(text, Failure { at, reason }));
    }
    let mut input = Input { input: LocatingSlice::new(text), state: Counts::default() };
    let parsed = disjunction(&mut input, None).and_then(|expression| match is_at_end(&input) {
        true => Ok(expression),
        false => expected(&mut input, "AND, OR or another term"),
    });
    parsed.map_err(|mode| error(text, failure(mode)))
}

/// Parses names of fields, separated by commas. Returns each as written, and its field.
pub(super) fn fields(text: &str) -> Result<Vec<(String, Field)>, QueryError> {
    let mut input = Input { input: LocatingSlice::new(text), state: Counts::default() };
    let mut fields = Vec::new();
    let parsed: Parsed<()> = (|| {
        loop {
            let at = input.current_token_start();
            let Ok(name) = word(&mut input, is_in_list) else { return expected(&mut input, "the name of a field") };
            let written = text.get(at..input.current_token_start()).unwrap_or_default();
            fields.push((written.to_owned(), field(&name).or_else(|reason| fail(at, reason))?));
            if is_at_end(&input) {
                return Ok(());
            }
            if !accepts(&mut input, ",") {
                return expected(&mut input, "a comma or the end");
            }
        }
    })();
    parsed.map(|()| fields).map_err(|mode| error(text, failure(mode)))
}

fn failure(mode: ErrMode<Failure>) -> Failure {
    mode.into_inner().unwrap_or_else(|_| Failure { at: 0, reason: "incomplete".to_owned() })
}

fn error(text: &str, Failure { at, reason }: Failure) -> QueryError {
    let before = text.get(..at).unwrap_or(text);
    QueryError { column: before.chars().count() + 1, reason }
}

/// Returns a failure at `at`.
fn fail<T>(at: usize, reason: impl Into<String>) -> Parsed<T> {
    Err(ErrMode::Cut(Failure { at, reason: reason.into() }))
}

/// Returns the failure of an input that does not go on as `wanted`, after white space.
fn expected<T>(input: &mut Input<'_>, wanted: &str) -> Parsed<T> {
    space(input);
    fail(input.current_token_start(), format!("expected {wanted}, found {}", found(input)))
}

/// Describes the next word or character.
fn found(input: &Input<'_>) -> String {
    let rest: &str = &input.input;
    let word = rest.split(|char: char| !is_in_word(char)).next().unwrap_or_default();
    match (word, rest.chars().next()) {
        (_, None) => "the end of the query".to_owned(),
        ("", Some('\\')) => "a \\ without a character after it".to_owned(),
        ("", Some(char)) if RESERVED.contains(&char) && !"()[]{}\"<>".contains(char) => {
            format!("'{char}', which needs a backslash or quotes")
        }
        ("", Some(char)) => format!("'{char}'"),
        (word, _) => format!("'{}'", crate::shadow::excerpt(word, 64)),
    }
}

fn disjunction(input: &mut Input<'_>, of: Option<&Field>) -> Parsed<Expression> {
    let mut parts = vec![conjunction(input, of)?];
    while keyword(input, "OR") {
        parts.push(conjunction(input, of)?);
    }
    Ok(Expression::any(parts))
}

fn conjunction(input: &mut Input<'_>, of: Option<&Field>) -> Parsed<Expression> {
    let mut parts = vec![clause(input, of)?];
    loop {
        if !keyword(input, "AND") && (is_at_end(input) || next_is(input, ")") || is_before_keyword(input, "OR")) {
            return Ok(Expression::all(parts));
        }
        parts.push(clause(input, of)?);
    }
}

fn clause(input: &mut Input<'_>, of: Option<&Field>) -> Parsed<Expression> {
    space(input);
    if keyword(input, "NOT") || accepts(input, "-") {
        return nested(input, |input| clause(input, of)).map(|part| Expression::Not(Box::new(part)));
    }
    accepts(input, "+");
    match (next_is(input, "("), of) {
        (true, of) => parenthesized(input, of),
        (false, Some(field)) => predicate(input, field),
        (false, None) => named_predicate(input),
    }
}

fn parenthesized(input: &mut Input<'_>, of: Option<&Field>) -> Parsed<Expression> {
    nested(input, |input| {
        accepts(input, "(");
        let expression = disjunction(input, of)?;
        space(input);
        match accepts(input, ")") {
            true => Ok(expression),
            false => expected(input, "AND, OR, another term or )"),
        }
    })
}

/// Parses a predicate with its field, or one about the id of the device.
fn named_predicate(input: &mut Input<'_>) -> Parsed<Expression> {
    let at = input.current_token_start();
    if next_is(input, "\"") {
        return predicate(input, &Field::Device);
    }
    if let Some(sign) = ["[", "{", "<", ">", ":"].into_iter().find(|sign| next_is(input, sign)) {
        return fail(at, format!("expected a field before '{sign}', such as version"));
    }
    let start = input.checkpoint();
    let Ok(name) = not_a_keyword(input).and_then(|()| word(input, is_in_name)) else {
        return expected(input, "a field or a term");
    };
    let end = input.checkpoint();
    space(input);
    if !accepts(input, ":") && !next_is(input, "<") && !next_is(input, ">") {
        input.reset(&end);
        let lower: String = name.iter().map(|(char, _)| *char).collect();
        if matches!(lower.as_str(), "and" | "or" | "not") {
            let upper = lower.to_uppercase();
            return fail(at, format!("expected {upper} in capitals, or \"{lower}\" in quotes for a device of this id"));
        }
        input.reset(&start);
        return predicate(input, &Field::Device);
    }
    let field = field(&name).or_else(|reason| fail(at, reason))?;
    space(input);
    match next_is(input, "(") {
        true => parenthesized(input, Some(&field)),
        false => predicate(input, &field),
    }
}

/// Parses a test of `field`.
fn predicate(input: &mut Input<'_>, field: &Field) -> Parsed<Expression> {
    let at = input.current_token_start();
    let written = match input.input.chars().next() {
        Some('"') => Written::Quoted(quoted(input)?),
        Some('<' | '>') => comparison(input)?,
        Some('[' | '{') => range(input)?,
        _ => match not_a_keyword(input).and_then(|()| word(input, is_in_word)) {
            Ok(word) => Written::Word(word.into_iter().map(glyph).collect()),
            Err(_) => return expected(input, "a value"),
        },
    };
    let test = ValueTest::new(field.kind(), written).or_else(|reason| fail(at, format!("{reason}, for {field}")))?;
    input.state.predicates += 1;
    if input.state.predicates > PREDICATES_MAX {
        return fail(at, format!("the query has more than {PREDICATES_MAX} terms"));
    }
    Ok(Expression::Is(Predicate { field: field.clone(), test }))
}

fn comparison(input: &mut Input<'_>) -> Parsed<Written> {
    let sign = alt((literal("<="), literal(">="), literal("<"), literal(">"))).parse_next(input)?;
    space(input);
    let bound = bound(input)?;
    Ok(match sign {
        "<" => Written::Within(Bound::Unbounded, Bound::Excluded(bound)),
        "<=" => Written::Within(Bound::Unbounded, Bound::Included(bound)),
        ">" => Written::Within(Bound::Excluded(bound), Bound::Unbounded),
        _ => Written::Within(Bound::Included(bound), Bound::Unbounded),
    })
}

fn range(input: &mut Input<'_>) -> Parsed<Written> {
    let open = one_of(['[', '{']).parse_next(input)?;
    let lower = range_end(input)?;
    if !keyword(input, "TO") {
        return expected(input, "TO between the bounds of a range");
    }
    let upper = range_end(input)?;
    space(input);
    let Ok(close) = one_of::<_, _, ErrMode<Failure>>([']', '}']).parse_next(input) else {
        return expected(input, "] or } after the bounds of a range");
    };
    let end = |bound: Option<WrittenBound>, is_included| match bound {
        None => Bound::Unbounded,
        Some(bound) if is_included => Bound::Included(bound),
        Some(bound) => Bound::Excluded(bound),
    };
    Ok(Written::Within(end(lower, open == '['), end(upper, close == ']')))
}

/// Parses an end of a range; `None` is the open end `*`.
fn range_end(input: &mut Input<'_>) -> Parsed<Option<WrittenBound>> {
    space(input);
    let mut open = terminated(literal("*"), not(one_of(is_in_word)));
    match opt(open.by_ref()).parse_next(input)? {
        Some(_) => Ok(None),
        None => bound(input).map(Some),
    }
}

fn bound(input: &mut Input<'_>) -> Parsed<WrittenBound> {
    if next_is(input, "\"") {
        return Ok(WrittenBound { text: quoted(input)?, is_quoted: true });
    }
    let at = input.current_token_start();
    let Ok(word) = not_a_keyword(input).and_then(|()| word(input, is_in_word)) else {
        return expected(input, "a number or text to compare with");
    };
    match word.iter().any(|character| matches!(character, ('*' | '?', false))) {
        true => fail(at, "expected a number or text to compare with, not a wildcard"),
        false => Ok(WrittenBound { text: word.into_iter().map(|(char, _)| char).collect(), is_quoted: false }),
    }
}

/// Parses text in quotes, in which a backslash makes the next character literal.
fn quoted(input: &mut Input<'_>) -> Parsed<String> {
    let at = input.current_token_start();
    let plain = take_while(1.., |char| !matches!(char, '"' | '\\')).map(str::to_owned);
    let escaped = preceded('\\', any).map(String::from);
    let text = preceded('"', repeat(0.., alt((plain, escaped))).fold(String::new, |text, part: String| text + &part));
    match terminated(text, '"').parse_next(input) {
        Ok(text) => Ok(text),
        Err(ErrMode::<Failure>::Cut(failure)) => Err(ErrMode::Cut(failure)),
        Err(_) => fail(at, "expected another \" to end the quoted text"),
    }
}

/// Parses characters of which each is one that `is_allowed`, or comes after a backslash.
fn word(input: &mut Input<'_>, is_allowed: fn(char) -> bool) -> Parsed<Vec<Character>> {
    let start = input.checkpoint();
    let plain = one_of(is_allowed).map(|char| (char, false));
    let escaped = preceded('\\', any).map(|char| (char, true));
    repeat(1.., alt((plain, escaped))).parse_next(input).inspect_err(|_| input.reset(&start))
}

/// Returns the field with this name.
fn field(name: &[Character]) -> Result<Field, String> {
    if name.iter().any(|character| matches!(character, ('*' | '?', false))) {
        return Err("expected the name of a field without wildcards".to_owned());
    }
    let parts = name.split(|character| *character == ('.', false));
    let parts: Vec<Box<str>> =
        parts.map(|part| part.iter().map(|(char, _)| *char).collect::<String>().into_boxed_str()).collect();
    Field::of(&parts)
}

fn glyph(character: Character) -> Glyph {
    match character {
        ('*', false) => Glyph::Run,
        ('?', false) => Glyph::One,
        (char, _) => Glyph::Literal(char),
    }
}

/// Runs `inner` one level deeper.
fn nested<T>(input: &mut Input<'_>, inner: impl FnOnce(&mut Input<'_>) -> Parsed<T>) -> Parsed<T> {
    input.state.depth += 1;
    if input.state.depth > DEPTH_MAX {
        let reason = format!("the query has more than {DEPTH_MAX} levels of parentheses and negations");
        return fail(input.current_token_start(), reason);
    }
    let parsed = inner(input)?;
    input.state.depth -= 1;
    Ok(parsed)
}

fn is_in_word(char: char) -> bool {
    !char.is_whitespace() && !RESERVED.contains(&char)
}

fn is_in_name(char: char) -> bool {
    is_in_word(char) && char != ':'
}

fn is_in_list(char: char) -> bool {
    is_in_word(char) && char != ','
}

/// Passes over white space.
fn space(input: &mut Input<'_>) {
    let _passed: Parsed<&str> = take_while(0.., char::is_whitespace).parse_next(input);
}

/// Returns true if only white space is left.
fn is_at_end(input: &Input<'_>) -> bool {
    input.input.trim_start().is_empty()
}

/// Returns true if the input goes on with `sign`, after white space.
fn next_is(input: &Input<'_>, sign: &str) -> bool {
    input.input.trim_start().starts_with(sign)
}

/// Passes over `sign`, if the input goes on with it.
fn accepts(input: &mut Input<'_>, sign: &str) -> bool {
    let accepted: Parsed<Option<&str>> = opt(literal(sign)).parse_next(input);
    matches!(accepted, Ok(Some(_)))
}

/// Passes over white space and `word`, if the input goes on with them.
fn keyword(input: &mut Input<'_>, word: &'static str) -> bool {
    let accepted: Parsed<Option<_>> = opt(keyword_text(word)).parse_next(input);
    matches!(accepted, Ok(Some(_)))
}

fn is_before_keyword(input: &mut Input<'_>, word: &'static str) -> bool {
    let accepted: Parsed<Option<_>> = opt(peek(keyword_text(word))).parse_next(input);
    matches!(accepted, Ok(Some(_)))
}

fn keyword_text<'t>(word: &'static str) -> impl Parser<Input<'t>, (), ErrMode<Failure>> {
    (take_while(0.., char::is_whitespace), literal(word), not(one_of(is_in_word))).void()
}

/// Fails if the next word is a keyword.
fn not_a_keyword(input: &mut Input<'_>) -> Parsed<()> {
    match KEYWORDS.into_iter().any(|word| is_before_keyword(input, word)) {
        true => Err(ErrMode::Backtrack(Failure::from_input(input))),
        false => Ok(()),
    }
}
