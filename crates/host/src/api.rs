//! The Machines API: one table of routes, one way through which every call goes (who asks, how often, what is sent), one
//! function for each operation.

mod apps;
mod call;
pub(crate) mod console;
mod control;
mod discovery;
mod error;
mod inside;
mod leases;
mod lifecycle;
mod machines;
mod metadata;
pub(crate) mod network;
mod orgs;
mod platform;
pub(crate) mod rates;
mod registry;
pub(crate) mod routes;
mod secret_keys;
mod secrets;
mod server;
mod token_calls;
mod volumes;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::routing::{MethodFilter, any, delete, get, on};
use http::{Response, StatusCode};

use crate::audit;
use crate::host::Host;
use call::{Answer, Call};
use error::ApiError;
use rates::Rates;
use routes::{Needs, Operation, ROUTES, Route};
pub use server::{serve, serve_control};

/// What every call is answered with.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    host: Host,
    rates: std::sync::Arc<Rates>,
}

/// The routes of the API.
fn router(host: Host) -> Router {
    let rates = std::sync::Arc::clone(&host.0.rates);
    let api = Api { host, rates };
    let mut router: Router<Api> = Router::new();
    for route in ROUTES {
        let filter = MethodFilter::try_from(method(route.method)).unwrap_or(MethodFilter::GET);
        let handler = move |State(api): State<Api>, params: RawPathParams, request: Request| {
            let work = |call| operate(route.operation, call);
            Box::pin(answer(api, route, None, named(&params), request, work))
        };
        let path = format!("/v1{}", route.path);
        router = router.route(&path, on(filter, handler));
    }
    router
        .merge(ours())
        .route("/v2", any(registry::answer))
        .route("/v2/", any(registry::answer))
        .route("/v2/{*path}", any(registry::answer))
        .route(
            "/oidc/{org}/.well-known/openid-configuration",
            get(discovery::configuration),
        )
        .route("/oidc/{org}/.well-known/jwks", get(discovery::keys))
        .route("/healthz", get(async || "ok\n"))
        .route("/", get(async || (StatusCode::NOT_FOUND, "404 page not found\n")))
        .fallback(async || error::refused(&ApiError::not_found("not found")))
        .method_not_allowed_fallback(async || error::refused(&ApiError::method()))
        .with_state(api)
}

/// What there is beside Fly's paths; not in the document that is compared with Fly's.
fn ours() -> Router<Api> {
    const REVOKE: Route = Route {
        method: "DELETE",
        path: "/apps/{app_name}/deploy_token/{token_id}",
        operation: Operation::DeployToken,
        needs: Needs::Write,
        about: "Ends a token of one app",
    };
    let revoke = async |State(api): State<Api>, params: RawPathParams, request: Request| {
        let work = async |call: Call| apps::revoke_token(&call).await;
        answer(api, &REVOKE, Some("RevokeToken"), named(&params), request, work).await
    };
    Router::new()
        .route(&format!("/v1{}", REVOKE.path), delete(revoke))
        .merge(console::router())
}

/// The parts of a path, by name.
fn named(params: &RawPathParams) -> Vec<(String, String)> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    params.iter().map(owned).collect()
}

/// The same for whoever is in a machine: what [`Call`] lets it have.
pub(crate) fn inside(host: Host, inside: crate::door::Inside) -> Router {
    router(host).layer(axum::Extension(inside))
}

fn method(name: &str) -> http::Method {
    name.parse().unwrap_or_default()
}

/// The one way through which calls go. In the audit log it has its route's name, unless it has one of its own. What changes something goes on to
/// its end though whoever asked is gone: nothing is left half made.
async fn answer<Work: Future<Output = Result<Answer, ApiError>> + Send + 'static>(
    api: Api,
    route: &Route,
    name: Option<&str>,
    params: Vec<(String, String)>,
    request: Request,
    work: impl FnOnce(Call) -> Work + Send + 'static,
) -> Response<Body> {
    let mut entry = audit::Entry::of(&api.host.0, route, &request);
    if let Some(name) = name {
        entry = entry.called(name);
    }
    let host = std::sync::Arc::clone(&api.host.0);
    let call = Call::read(api, route, params, request).await;
    let of_call = std::sync::Arc::clone(&host);
    let finished = async move {
        let answered = match call {
            Ok(call) => work(call).await,
            Err(error) => Err(error),
        };
        let response = match answered {
            Ok(answer) => answer.into_response(),
            Err(error) => error::refused(&error),
        };
        if let Some(entry) = entry.ended(response.status()) {
            of_call.audit.note(entry).await;
        }
        response
    };
    if route.needs != Needs::Write {
        return finished.await;
    }
    let (sender, done) = tokio::sync::oneshot::channel();
    // Nobody may wait for it any more.
    host.spawn(async move { drop(sender.send(finished.await)) });
    done.await.unwrap_or_else(|_| {
        let text = "internal: the daemon is ending; ask the next one what became of this";
        error::refused(&ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text))
    })
}

async fn operate(operation: Operation, call: Call) -> Result<Answer, ApiError> {
    use Operation as O;
    match operation {
        O::ListApps => apps::list(&call),
        O::CreateApp => apps::create(&call).await,
        O::ShowApp => apps::show(&call),
        O::DeleteApp => apps::delete(&call).await,
        O::DeployToken => apps::deploy_token(&call).await,
        O::ListMachines => machines::list(&call),
        O::CreateMachine => machines::create(&call).await,
        O::ShowMachine => machines::show(&call),
        O::UpdateMachine => machines::update(&call).await,
        O::DeleteMachine => machines::delete(&call).await,
        O::Events => machines::events(&call),
        O::Versions => machines::versions(&call),
        O::Start => lifecycle::start(&call).await,
        O::Stop => lifecycle::stop(&call).await,
        O::Suspend => lifecycle::suspend(&call).await,
        O::Restart => lifecycle::restart(&call).await,
        O::Signal => lifecycle::signal(&call).await,
        O::Wait => lifecycle::wait(&call).await,
        O::Cordon => lifecycle::cordon(&call, true).await,
        O::Uncordon => lifecycle::cordon(&call, false).await,
        O::ShowLease => leases::show(&call),
        O::CreateLease => leases::create(&call).await,
        O::ReleaseLease => leases::release(&call).await,
        O::ShowMetadata => metadata::show(&call),
        O::UpdateMetadata => metadata::update(&call).await,
        O::GetMetadata => metadata::get(&call),
        O::SetMetadata => metadata::set(&call).await,
        O::DeleteMetadata => metadata::delete(&call).await,
        O::Exec => inside::exec(&call).await,
        O::Processes => inside::processes(&call),
        O::Logs => inside::logs(&call),
        O::Memory => inside::memory(&call),
        O::SetMemory => inside::set_memory(&call),
        O::ReclaimMemory => inside::reclaim(&call),
        O::OrgMachines => orgs::machines(&call),
        O::OrgVolumes => orgs::volumes(&call),
        O::ListVolumes => volumes::list(&call),
        O::CreateVolume => volumes::create(&call).await,
        O::ShowVolume => volumes::show(&call),
        O::UpdateVolume => volumes::update(&call).await,
        O::DeleteVolume => volumes::delete(&call).await,
        O::ExtendVolume => volumes::extend(&call).await,
        O::ListSnapshots => volumes::snapshots(&call),
        O::CreateSnapshot => volumes::snapshot(&call).await,
        O::ListSecrets => secrets::list(&call),
        O::UpdateSecrets => secrets::update(&call).await,
        O::ShowSecret => secrets::show(&call),
        O::SetSecret => secrets::set(&call).await,
        O::DeleteSecret => secrets::delete(&call).await,
        O::ListKeys => secret_keys::list(&call),
        O::ShowKey => secret_keys::show(&call),
        O::SetKey => secret_keys::set(&call).await,
        O::GenerateKey => secret_keys::generate(&call).await,
        O::DeleteKey => secret_keys::delete(&call).await,
        O::Encrypt => secret_keys::encrypt(&call),
        O::Decrypt => secret_keys::decrypt(&call),
        O::Sign => secret_keys::sign(&call),
        O::Verify => secret_keys::verify(&call),
        O::Regions => platform::regions(&call),
        O::Placements => platform::placements(&call),
        O::ListIps => network::list_ips(&call),
        O::AssignIp => network::assign_ip(&call).await,
        O::ReleaseIp => network::release_ip(&call).await,
        O::ListCertificates => network::list_certificates(&call),
        O::AcmeCertificate | O::CustomCertificate => network::create_certificate(&call, operation).await,
        O::ShowCertificate | O::CheckCertificate => network::show_certificate(&call),
        O::DeleteCertificate => network::delete_certificate(&call, StatusCode::NO_CONTENT).await,
        O::DeleteAcme | O::DeleteCustom => network::delete_certificate(&call, StatusCode::OK).await,
        O::ListPolicies => network::list_policies(&call),
        O::CreatePolicy => network::create_policy(&call).await,
        O::DeletePolicy => network::delete_policy(&call).await,
        O::CurrentTokens => token_calls::current(&call),
        O::Authenticate => token_calls::authenticate(&call),
        O::Authorize => token_calls::authorize(&call),
        O::Oidc => token_calls::oidc(&call),
        O::Kms => token_calls::unsupported(&call),
    }
}
