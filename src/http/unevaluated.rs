//! Fields of a request that say on what it depends, or what it replaces, at operations that do not look at them.
//!
//! An operation evaluates the conditions among its parameters ([`super::operation`]); one outside the table evaluates none. Any other
//! operation would do what the client wanted only under a condition, so it refuses the condition before anything is done. Safe
//! methods change nothing and ignore conditions (RFC 9110 section 13.2.1), and so does every operation with dates, which guard
//! no writes ([`super::api::conditional`]). A part of a representation is refused in every PUT (section 14.5).

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::http::{
    api::aws,
    operation::{IF_MATCH, IF_NONE_MATCH, Route},
    parameter::{BadParameter, bad},
    state::Api,
};

/// Refuses a request to `route`, or to one outside the table, with such a field, or passes it on.
pub(in crate::http) async fn check(
    route: Option<&'static Route>,
    api: Arc<Api>,
    request: Request,
    next: Next,
) -> Response {
    match unevaluated(route, request.method(), request.headers()) {
        None => next.run(request).await,
        Some(bad) if route.is_none_or(Route::is_native) => api.invalid(&bad).into_response(),
        Some(BadParameter { name, reason }) => {
            let message = format!("Invalid header '{name}': {reason}");
            aws::refused(StatusCode::BAD_REQUEST, "InvalidRequestException", &message, api.now())
        }
    }
}

/// Returns a field of a request that its operation does not look at, and the reason for which it is refused.
fn unevaluated(route: Option<&Route>, method: &Method, headers: &HeaderMap) -> Option<BadParameter> {
    if method.is_safe() {
        return None;
    }
    if method == Method::PUT && headers.contains_key(header::CONTENT_RANGE) {
        return Some(bad("Content-Range", "a PUT replaces the whole; send all of it, without this field"));
    }
    let evaluated = match route {
        None => &[],
        // Another method is answered with 405.
        Some(route) => route.operations.iter().find(|operation| operation.method() == method)?.parameters(),
    };
    let mut conditions = [&IF_MATCH, &IF_NONE_MATCH].into_iter();
    let condition = conditions.find(|it| headers.contains_key(it.name) && !evaluated.contains(it))?;
    Some(bad(condition.name, "is not evaluated by this operation, and would be passed over; nothing was done"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::http::operation::{Operation, ROUTES};

    fn refused(path: &str, method: &Method, field: &'static str) -> bool {
        let headers = [(HeaderName::from_static(field), HeaderValue::from_static("*"))].into_iter().collect();
        unevaluated(ROUTES.iter().find(|route| route.path == path), method, &headers).is_some()
    }

    /// A query was deleted although its client had sent an `If-Match`.
    #[test]
    fn an_operation_evaluates_each_condition_or_refuses_it() {
        let mut evaluated = Vec::new();
        for (route, operation) in ROUTES.iter().flat_map(|route| route.operations.iter().map(move |it| (route, it))) {
            let method = operation.method();
            for (field, parameter) in [("if-match", &IF_MATCH), ("if-none-match", &IF_NONE_MATCH)] {
                let is_evaluated = operation.parameters().contains(&parameter);
                let expected = !method.is_safe() && !is_evaluated;
                assert_eq!(refused(route.path, &method, field), expected, "{method} {} {field}", route.path);
                if is_evaluated && !method.is_safe() {
                    evaluated.push((*operation, field));
                }
            }
        }
        // An operation is there once for each of its paths.
        evaluated.sort_by_key(|(operation, field)| format!("{operation:?} {field}"));
        evaluated.dedup();
        let expected: Vec<_> = [
            (Operation::DeleteShadow, &["if-match", "if-none-match"][..]),
            (Operation::PatchShadow, &["if-match", "if-none-match"]),
            (Operation::PutQuery, &["if-none-match"]),
            (Operation::PutRollout, &["if-none-match"]),
            (Operation::PutShadow, &["if-match", "if-none-match"]),
        ]
        .into_iter()
        .flat_map(|(operation, fields)| fields.iter().map(move |field| (operation, *field)))
        .collect();
        assert_eq!(evaluated, expected);
        assert!(refused("/v1/purge", &Method::POST, "if-match"), "outside the table");
        assert!(!refused("/v1/queries/{query}", &Method::POST, "if-match"), "answered with 405");
        assert!(!refused("/v1/queries/{query}", &Method::DELETE, "if-unmodified-since"));
    }

    #[test]
    fn a_part_is_refused_in_every_put_and_in_nothing_else() {
        for (route, operation) in ROUTES.iter().flat_map(|route| route.operations.iter().map(move |it| (route, it))) {
            let method = operation.method();
            assert_eq!(refused(route.path, &method, "content-range"), method == Method::PUT, "{method} {}", route.path);
        }
    }
}
