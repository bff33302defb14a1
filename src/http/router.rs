//! The routes of [`ROUTES`], and the responses for unknown paths and methods.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};

use crate::{
    http::{
        api::{
            aggregate, aws, aws_index, aws_topics, device, devices, history, operating, principals, purge, queries,
            roles, rollouts, search, sessions, shadows, sign_in,
            writes::{self, ACCEPT_PATCH},
        },
        dashboard, openapi,
        operation::{Operation, ROUTES, Route},
        problem::Problem,
        sse,
        state::Api,
        unevaluated,
    },
    shadow::excerpt,
};

/// Returns the router of all operations. Requests must carry a [`Peer`](crate::net::Peer) in their extensions.
pub fn router(api: Arc<Api>) -> Router {
    let checked = |route: Option<&'static Route>| {
        let api = Arc::clone(&api);
        from_fn(move |request: Request, next: Next| unevaluated::check(route, Arc::clone(&api), request, next))
    };
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, methods(route).layer(checked(Some(route))));
    }
    let session = get(sign_in::get).post(sign_in::begin).delete(sign_in::end);
    let others = dashboard::routes(Router::new())
        .route("/session", session)
        .merge(operating::router())
        .merge(principals::router())
        .merge(roles::router())
        .merge(purge::router())
        .route_layer(checked(None));
    router.merge(others).fallback(no_such_path).with_state(api)
}

fn methods(route: &'static Route) -> MethodRouter<Arc<Api>> {
    let mut methods = MethodRouter::new();
    for operation in route.operations {
        methods = match operation {
            Operation::GetShadow => methods.get(shadows::get),
            Operation::PutShadow => methods.put(writes::put),
            Operation::PatchShadow => methods.patch(writes::patch),
            Operation::DeleteShadow => methods.delete(writes::delete),
            Operation::GetHistory => methods.get(history::get),
            Operation::GetRejections => methods.get(history::rejections),
            Operation::FollowRejections => methods.get(history::all_rejections),
            Operation::ListShadows => methods.get(devices::shadows),
            Operation::ListDevices => methods.get(devices::list),
            Operation::Search => methods.get(search::search),
            Operation::FollowSearch => methods.get(search::live::follow),
            Operation::Aggregate => methods.get(aggregate::get),
            Operation::GetDevice => methods.get(device::get),
            Operation::FollowEvents => methods.get(sse::follow),
            Operation::ListSessions => methods.get(sessions::list),
            Operation::GetSession => methods.get(sessions::get),
            Operation::EndSession => methods.delete(sessions::end),
            Operation::ListRetained => methods.get(sessions::retained),
            Operation::ListQueries => methods.get(queries::list),
            Operation::GetQuery => methods.get(queries::get),
            Operation::PutQuery => methods.put(queries::put),
            Operation::DeleteQuery => methods.delete(queries::delete),
            Operation::ListRollouts => methods.get(rollouts::list),
            Operation::GetRollout => methods.get(rollouts::get),
            Operation::PutRollout => methods.put(rollouts::create::put),
            Operation::DeleteRollout => methods.delete(rollouts::delete),
            Operation::ListRolloutDevices => methods.get(rollouts::devices),
            Operation::FollowRollout => methods.get(rollouts::events::follow),
            Operation::PauseRollout => methods.post(rollouts::pause),
            Operation::ResumeRollout => methods.post(rollouts::resume),
            Operation::CancelRollout => methods.post(rollouts::cancel),
            Operation::RollBackRollout => methods.post(rollouts::roll_back),
            Operation::PostBulk => methods.post(rollouts::create::bulk),
            Operation::AwsGetShadow => methods.get(aws::get),
            Operation::AwsUpdateShadow => methods.post(aws::update),
            Operation::AwsDeleteShadow => methods.delete(aws::delete),
            Operation::AwsListShadows => methods.get(aws::list),
            Operation::AwsPublish => methods.post(aws_topics::publish),
            Operation::AwsGetRetained => methods.get(aws_topics::get),
            Operation::AwsListRetained => methods.get(aws_topics::list),
            Operation::AwsSearchIndex => methods.post(aws_index::search),
            Operation::AwsGetStatistics => methods.post(aws_index::statistics),
            Operation::AwsGetCardinality => methods.post(aws_index::cardinality),
            Operation::AwsGetPercentiles => methods.post(aws_index::percentiles),
            Operation::AwsGetBuckets => methods.post(aws_index::buckets),
            Operation::AwsListIndices => methods.get(aws_index::list),
            Operation::AwsDescribeIndex => methods.get(aws_index::describe),
            Operation::GetDescription => methods.get(openapi::get),
        };
    }
    methods
        .options(move || async move { options(route) })
        .fallback(move |State(api): State<Arc<Api>>, method: Method| async move { not_allowed(route, &api, &method) })
}

/// Returns the value of `Allow` for `route`.
fn allow(route: &Route) -> HeaderValue {
    let mut names: Vec<String> = Vec::new();
    for operation in route.operations {
        let method = operation.method();
        names.push(method.to_string());
        if method == Method::GET {
            names.push(Method::HEAD.to_string());
        }
    }
    names.push(Method::OPTIONS.to_string());
    HeaderValue::try_from(names.join(", ")).expect("method names are valid in a header")
}

fn options(route: &Route) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::ALLOW, allow(route));
    if route.operations.contains(&Operation::PatchShadow) {
        response.headers_mut().insert("accept-patch", ACCEPT_PATCH);
    }
    response
}

fn not_allowed(route: &Route, api: &Api, method: &Method) -> Response {
    let message = format!("{method} is not allowed for this path");
    if route.is_native() {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", &message, api.now());
        return problem.with(header::ALLOW, allow(route)).into_response();
    }
    let mut response = aws::refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowedException", &message, api.now());
    response.headers_mut().insert(header::ALLOW, allow(route));
    response
}

/// Answers requests for unknown paths, and `OPTIONS *`, which asks about the whole server.
async fn no_such_path(State(api): State<Arc<Api>>, method: Method, uri: Uri) -> Response {
    match (uri.path(), &method) {
        ("*", &Method::OPTIONS) => (StatusCode::NO_CONTENT, [(header::ALLOW, ALL_METHODS)]).into_response(),
        // RFC 9112 section 3.2.4.
        ("*", _) => {
            let message = "The target '*' is only valid for OPTIONS";
            Problem::new(StatusCode::BAD_REQUEST, "invalid-target", message, api.now()).into_response()
        }
        _ => not_found(&uri, &api).into_response(),
    }
}

/// The methods of all routes.
const ALL_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

fn not_found(uri: &Uri, api: &Api) -> Problem {
    let path = excerpt(uri.path(), 128);
    let message = format!("There is nothing at '{path}'; /openapi.json lists the paths");
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", &message, api.now())
}
