//! The requests and responses of named queries.

use super::{Exchange, Media, Response, json, problem, with_body, with_common, without_body};

pub(super) fn list() -> Exchange {
    exchange(
        "listQueries",
        "The named queries that the caller created; all for a caller that may read every device",
        vec![],
        vec![with_body(200, "A page", "NamedQueries", &["Link"])],
    )
}

pub(super) fn put() -> Exchange {
    exchange(
        "putQuery",
        "Store a named query, or replace one of the caller's; with If-None-Match: *, only store a new one",
        vec![json("NewNamedQuery")],
        vec![
            with_body(200, "The query, which was there before", "NamedQuery", &[]),
            with_body(201, "The new query", "NamedQuery", &[]),
            problem(409, "There is another query with this name, or there are too many"),
            problem(413, "The body is too large"),
            problem(415, "Unsupported encoding"),
        ],
    )
}

pub(super) fn get() -> Exchange {
    let found = with_body(200, "The query", "NamedQuery", &[]);
    exchange("getQuery", "A named query", vec![], vec![found, absent()])
}

pub(super) fn delete() -> Exchange {
    let (deleted, configured) =
        (without_body(204, "Deleted", &[]), problem(409, "The caller cannot change this query"));
    exchange("deleteQuery", "Delete a named query", vec![], vec![deleted, absent(), configured])
}

fn absent() -> Response {
    problem(404, "There is no such query, or the caller may not see it")
}

fn exchange(id: &'static str, summary: &'static str, requests: Vec<Media>, responses: Vec<Response>) -> Exchange {
    Exchange { id, summary, requests, responses: with_common(responses) }
}
