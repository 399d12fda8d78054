//! The gate's authorizer: every request and connection is decided by the rules the object carries.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use suijuris_api::access::{Access, Detail};
use suijuris_api::tls::Session;
use suijuris_api::{Event, Problem};
use suijuris_auth::IdentityToken;
use suijuris_core::decide::{self, Permit, Refused};
use suijuris_core::governance::Vocabulary;
use suijuris_core::governance::{
    Action, Facts, Principal as PrincipalFacts, Protocol, Request as RequestFacts,
};
use suijuris_core::inputs::{Caller, Principal, Request};
use suijuris_custody::caller_api::{self, Ask};
use suijuris_gate::head::Reject;
use suijuris_gate::{
    Admission, Answering, Authorizer, Forwarding, Own, OwnAsk, Peer, Refusal, Reply, RequestHead, Version,
};

use suijuris_link::Cause;
use suijuris_words::tls;
use tokio::sync::oneshot;

use crate::report::Reports;
use crate::resident::Resident;
use crate::resident::elsewhere::Scope;

/// Header by which a request may name the object it wants, and by which the workload learns which it is in.
const OBJECT_HEADER: &str = "x-suijuris-object";
/// Header by which the workload learns the verified subject.
const CALLER_HEADER: &str = "x-suijuris-caller";
/// Header by which the workload learns the activation.
const EPOCH_HEADER: &str = "x-suijuris-epoch";

/// Decides for the gate. Before there is a resident object it holds; after a refused wake it refuses.
#[derive(Debug, Default)]
pub struct ObjectAuthorizer {
    resident: RefCell<Option<Rc<Resident>>>,
    refusing: RefCell<Option<Problem>>,
    asleep: RefCell<Option<Asleep>>,
    unanswered: Unanswered,
    reports: RefCell<Option<Reports>>,
}

/// Requests meet an object that sleeps in its own machine.
#[derive(Debug)]
struct Asleep {
    /// Hears for whom the object may wake; none once it is about to.
    wakes: Option<oneshot::Sender<Cause>>,
    /// Until when nothing but a request is a reason to wake.
    until: Instant,
}

/// Requests without an answer of the workload, told to the owner: the first at once, then with a count of those between.
#[derive(Debug, Default)]
struct Unanswered {
    told: Cell<Option<Instant>>,
    since: Cell<u64>,
}

impl Unanswered {
    /// Whoever makes the workload fail at will fills no log.
    const APART: Duration = Duration::from_secs(10);

    /// One more: how many were not told before it, where it is to be told now.
    fn count(&self, now: Instant) -> Option<u64> {
        let waits = |told: Instant| now.saturating_duration_since(told) < Self::APART;
        if self.told.get().is_some_and(waits) {
            self.since.set(self.since.get().saturating_add(1));
            return None;
        }
        self.told.set(Some(now));
        Some(self.since.take())
    }
}

impl ObjectAuthorizer {
    /// From now on tells of requests, where that was asked for.
    pub(crate) fn report_to(&self, reports: Reports) {
        *self.reports.borrow_mut() = Some(reports);
    }

    /// From now on decides by this object's rules.
    pub fn install(&self, resident: Rc<Resident>) {
        *self.resident.borrow_mut() = Some(resident);
    }

    /// From now on refuses everything with this answer.
    pub fn refuse(&self, problem: Problem) {
        *self.refusing.borrow_mut() = Some(problem);
    }

    /// What everything is refused with, if so.
    #[must_use]
    pub fn refusing(&self) -> Option<Problem> {
        self.refusing.borrow().clone()
    }

    /// From now on asks the rules whether to wake for those who come; the first for whom they say so is heard. What they
    /// refuse is refused, with the word that nothing else is looked at before `until`.
    pub fn ask_to_wake(&self, until: Instant) -> oneshot::Receiver<Cause> {
        let (wakes, heard) = oneshot::channel();
        let wakes = Some(wakes);
        self.asleep.replace(Some(Asleep { wakes, until }));
        heard
    }

    /// From now on it decides as for an object that is awake, or about to be.
    pub fn asked_enough(&self) {
        self.asleep.replace(None);
    }

    /// What is decided for whoever meets the object asleep; none where it is not.
    fn met_asleep(
        &self,
        resident: &Resident,
        caller: impl FnOnce() -> Result<(Arc<Caller>, Request), Box<Refusal>>,
    ) -> Option<Admission<Permit>> {
        let mut asleep = self.asleep.borrow_mut();
        let asleep = asleep.as_mut()?;
        let Some(wakes) = asleep.wakes.take_if(|wakes| !wakes.is_closed()) else {
            return Some(Admission::Hold);
        };
        let refused = match caller() {
            Err(refusal) => refusal,
            Ok((caller, request)) => match resident.may_wake_for(caller, request) {
                Ok(cause) => {
                    // Nobody hears it whose machine is being stopped.
                    let _ = wakes.send(cause);
                    return Some(Admission::Hold);
                }
                Err(mut problem) => {
                    let waits = asleep.until.saturating_duration_since(Instant::now());
                    problem.retry_after = problem.retry_after.or(Some(waits.as_secs().max(1)));
                    Box::new(Refusal { problem })
                }
            },
        };
        asleep.wakes = Some(wakes);
        Some(Admission::Refuse(refused))
    }

    fn preset(&self) -> Option<Admission<Permit>> {
        let problem = self.refusing.borrow().clone()?;
        Some(Admission::Refuse(Box::new(Refusal { problem })))
    }
}

impl Authorizer for ObjectAuthorizer {
    type Permit = Permit;

    fn logs(&self) -> Option<Detail> {
        self.reports.borrow().as_ref()?.requests()
    }

    fn logged(&self, access: Access) {
        if let Some(reports) = &*self.reports.borrow() {
            reports.request(access);
        }
    }

    fn admit(&self, head: &RequestHead<'_>, out: &mut Forwarding) -> Admission<Permit> {
        if let Some(refusal) = self.preset() {
            return refusal;
        }
        match &*self.resident.borrow() {
            Some(resident) if resident.may_serve() => {
                if let Some(other) = other_scope(resident, head) {
                    return other;
                }
                let session = resident.proxied(head);
                let known;
                let head = match &session {
                    Some(session) => {
                        known = head.clone().with_tls(Some(session));
                        &known
                    }
                    None => head,
                };
                let asleep = self.met_asleep(resident, || asks(resident, head));
                asleep.unwrap_or_else(|| admit(resident, head, out))
            }
            _ => Admission::Hold,
        }
    }

    fn own(&self, head: &RequestHead<'_>) -> Own {
        if let Some(problem) = self.refusing() {
            return Own::Refuse(Box::new(Refusal { problem }));
        }
        match &*self.resident.borrow() {
            Some(resident) if resident.may_serve() && self.asleep.borrow().is_none() => own(resident, head),
            _ => Own::Hold,
        }
    }

    fn connect(&self, peer: Peer<'_>) -> Admission<Permit> {
        if let Some(refusal) = self.preset() {
            return refusal;
        }
        match &*self.resident.borrow() {
            Some(resident) if resident.may_serve() => {
                let connection = || {
                    let request = RequestView::connection(resident, peer);
                    let request = request.to_inputs(&resident.bundle().rules.vocabulary);
                    Ok((resident.anonymous(), request))
                };
                let asleep = self.met_asleep(resident, connection);
                asleep.unwrap_or_else(|| connect(resident, peer))
            }
            _ => Admission::Hold,
        }
    }

    fn unanswered(&self, code: &'static str, why: &dyn std::fmt::Display) {
        let resident = self.resident.borrow();
        let (Some(resident), Some(before)) = (&*resident, self.unanswered.count(Instant::now())) else {
            return;
        };
        let message = match before {
            0 => why.to_string(),
            before => format!("{why}; {before} more since the last of these lines"),
        };
        let code = code.to_owned();
        resident.reports().event(Event::Error { code, message });
    }
}

fn refuse(problem: Problem) -> Admission<Permit> {
    Admission::Refuse(Box::new(Refusal { problem }))
}

/// What becomes of a request for another object, or that another machine sent; none where it is for this one.
fn other_scope(resident: &Rc<Resident>, head: &RequestHead<'_>) -> Option<Admission<Permit>> {
    match resident.scope(head) {
        Scope::Ours => None,
        Scope::Elsewhere(answer) => Some(Admission::Answer(answer)),
        Scope::Looking => Some(Admission::Hold),
        Scope::Refused(problem) => Some(refuse(*problem)),
    }
}

fn admit(resident: &Resident, head: &RequestHead<'_>, out: &mut Forwarding) -> Admission<Permit> {
    if let Some(problem) = wrong_object(resident, head) {
        return refuse(problem);
    }
    let caller = match caller(resident, head) {
        Ok(caller) => caller,
        Err(problem) => return refuse(problem),
    };
    let request = match RequestView::of(&resident.bundle().rules.vocabulary, head) {
        Ok(request) => request,
        Err(reject) => return Admission::Refuse(Box::new(reject.into())),
    };
    let forwarded = push_identity(resident, &caller, out);
    let rates = resident.count_request(&caller.asker(request.peer.ip()));
    match authorize(resident, &caller, &request, &rates) {
        Ok(permit) if forwarded => Admission::Forward(permit),
        Ok(_) => refuse(Problem::new(
            500,
            "identity_header",
            "The identity headers cannot be written",
        )),
        Err(_refused) => refuse(explain(
            resident,
            caller,
            request.to_inputs(&resident.bundle().rules.vocabulary),
            &rates,
        )),
    }
}

/// Who asks an object that sleeps, and for what.
fn asks(resident: &Resident, head: &RequestHead<'_>) -> Result<(Arc<Caller>, Request), Box<Refusal>> {
    let refusal = |problem| Box::new(Refusal { problem });
    if let Some(problem) = wrong_object(resident, head) {
        return Err(refusal(problem));
    }
    let caller = caller(resident, head).map_err(refusal)?;
    let vocabulary = &resident.bundle().rules.vocabulary;
    let request = RequestView::of(vocabulary, head).map_err(|reject| Box::new(reject.into()))?;
    Ok((caller, request.to_inputs(vocabulary)))
}

/// Who showed a good token.
enum Shown {
    Caller(Arc<Caller>),
    /// An object that a depot has to know.
    Object(IdentityToken),
}

fn shown(resident: &Resident, head: &RequestHead<'_>) -> Result<Shown, Problem> {
    if let Some(token) = head.authorization.and_then(IdentityToken::read) {
        let good = token.and_then(|token| token.check(resident.id(), resident.now()).map(|()| token));
        return good.map(Shown::Object).map_err(|error| {
            Problem::new(401, "invalid_token", "The caller's token is not valid")
                .with_detail(error.to_string())
        });
    }
    let caller = caller(resident, head)?;
    if !caller.authenticated {
        return Err(caller_api::token_required(resident.id()));
    }
    Ok(Shown::Caller(caller))
}

/// What the object itself answers; who asks has to show who they are.
fn own(resident: &Rc<Resident>, head: &RequestHead<'_>) -> Own {
    if !resident.bundle().manifest.gate.api {
        return Own::Nothing;
    }
    let refuse = |problem: Problem| Own::Refuse(Box::new(problem.into()));
    if let Some(problem) = wrong_object(resident, head) {
        return refuse(problem);
    }
    if head.is_cross_site() {
        return refuse(caller_api::cross_site());
    }
    let shown = match shown(resident, head) {
        Ok(shown) => shown,
        Err(problem) => return refuse(problem),
    };
    let resident = resident.clone();
    let (method, path) = (head.method.to_owned(), head.path.to_string());
    let answer = move |body: Bytes| -> Answering {
        Box::pin(async move {
            let answered = async {
                let ask = Ask::of(&method, &path, &body)?;
                let principal = match shown {
                    Shown::Caller(caller) => Principal::Caller(Box::new(Arc::unwrap_or_clone(caller))),
                    Shown::Object(token) => {
                        let depot = resident.claim().depot();
                        caller_api::peer(depot, token.object, (token.epoch, token.key)).await?
                    }
                };
                resident.answer_caller(principal, &ask).await
            };
            answered
                .await
                .map(Reply::json)
                .map_err(|problem| Box::new(problem.into()))
        })
    };
    Own::Ask(OwnAsk {
        max_body: caller_api::MAX_BODY,
        answer: Box::new(answer),
    })
}

fn connect(resident: &Resident, peer: Peer<'_>) -> Admission<Permit> {
    let (caller, request) = (resident.anonymous(), RequestView::connection(resident, peer));
    let rates = resident.count_request(&caller.asker(peer.address.ip()));
    match authorize(resident, &caller, &request, &rates) {
        Ok(permit) => Admission::Forward(permit),
        Err(_refused) => refuse(explain(
            resident,
            caller,
            request.to_inputs(&resident.bundle().rules.vocabulary),
            &rates,
        )),
    }
}

/// A request may say which object it is for; the one that lives here answers no other name.
fn wrong_object(resident: &Resident, head: &RequestHead<'_>) -> Option<Problem> {
    // Who asks for another learns nothing of the one that lives here.
    let asked = head.object.is_some_and(|asked| asked != resident.id());
    (asked || resident.is_anothers(&head.host)).then(|| {
        let problem = Problem::new(421, "wrong_object", "Another object lives here");
        problem.with_detail("look up where that object lives now")
    })
}

fn caller(resident: &Resident, head: &RequestHead<'_>) -> Result<Arc<Caller>, Problem> {
    let Some(header) = head.authorization else {
        return Ok(resident.anonymous());
    };
    resident
        .verify_caller(header)
        .map_err(|why| Problem::new(401, "invalid_token", "The caller's token is not valid").with_detail(why))
}

fn push_identity(resident: &Resident, caller: &Caller, out: &mut Forwarding) -> bool {
    let subject = caller.subject.as_deref();
    let subject = subject.is_none_or(|subject| out.push(CALLER_HEADER, subject).is_ok());
    resident.push_identity(out) && subject
}

/// The fields that are the same for all requests of an epoch.
pub(crate) fn identity(object: &str, epoch: u64) -> Option<Forwarding> {
    let mut fields = Forwarding::default();
    fields.push(OBJECT_HEADER, object).ok()?;
    fields.push(EPOCH_HEADER, &epoch.to_string()).ok()?;
    Some(fields)
}

/// What rules may look at of one request, borrowed from its head.
struct RequestView<'a> {
    protocol: Protocol,
    peer: SocketAddr,
    method: &'a str,
    path: &'a str,
    query: &'a str,
    host: &'a str,
    port: Option<u16>,
    content_length: Option<i64>,
    headers: Vec<Option<Cow<'a, str>>>,
    tls: Option<&'a Session>,
}

impl<'a> RequestView<'a> {
    fn of(vocabulary: &Vocabulary, head: &'a RequestHead<'_>) -> Result<Self, Reject> {
        let protocol = match (head.upgrade, head.version) {
            (Some("websocket"), _) => Protocol::Websocket,
            (_, Version::Http2) => Protocol::Http2,
            _ => Protocol::Http1,
        };
        let headers = vocabulary.headers.iter();
        Ok(Self {
            protocol,
            peer: head.peer,
            method: head.method,
            path: &head.path,
            query: head.query.unwrap_or_default(),
            host: &head.host,
            port: head.port,
            content_length: head
                .content_length
                .map(|length| i64::try_from(length).unwrap_or(i64::MAX)),
            headers: headers.map(|name| head.exposed(name)).collect::<Result<_, _>>()?,
            tls: head.tls,
        })
    }

    fn connection(resident: &Resident, peer: Peer<'a>) -> Self {
        Self {
            protocol: Protocol::Tcp,
            peer: peer.address,
            tls: peer.tls,
            method: "",
            path: "",
            query: "",
            host: "",
            port: None,
            content_length: None,
            headers: vec![None; resident.bundle().rules.vocabulary.headers.len()],
        }
    }

    fn facts<'f>(&'f self, headers: &'f [Option<&'f str>]) -> RequestFacts<'f> {
        let (tls, client_cert) = self.tls.map(tls::facts).unzip();
        RequestFacts {
            protocol: self.protocol,
            peer_ip: self.peer.ip().to_canonical(),
            method: self.method,
            path: self.path,
            query: self.query,
            host: self.host,
            port: self.port.map(i64::from),
            content_length: self.content_length,
            headers,
            tls,
            client_cert: client_cert.flatten(),
        }
    }

    fn to_inputs(&self, vocabulary: &Vocabulary) -> Request {
        let names = vocabulary.headers.iter();
        let headers = names
            .zip(&self.headers)
            .filter_map(|(name, value)| Some((name.clone(), value.as_deref()?.to_owned())));
        let mut request = Request {
            method: self.method.to_owned(),
            path: self.path.to_owned(),
            query: self.query.to_owned(),
            host: self.host.to_owned(),
            port: self.port,
            protocol: self.protocol,
            peer_ip: self.peer.ip().to_canonical(),
            content_length: self.content_length.and_then(|length| u64::try_from(length).ok()),
            headers: headers.collect(),
            tls: None,
            client_cert: None,
        };
        tls::note(&mut request, self.tls);
        request
    }
}

fn authorize(
    resident: &Resident,
    caller: &Arc<Caller>,
    request: &RequestView<'_>,
    rates: &[i64],
) -> Result<Permit, Refused> {
    let answer = resident.with_residual(|view, object, residual| {
        let audience: Vec<&str> = caller.audience.iter().map(String::as_str).collect();
        let scopes: Vec<&str> = caller.scopes.iter().map(String::as_str).collect();
        let claims: Vec<_> = view
            .vocabulary
            .claims
            .keys()
            .map(|name| caller.claims.get(name).cloned())
            .collect();
        let principal = PrincipalFacts::Caller(suijuris_core::governance::Caller {
            authenticated: caller.authenticated,
            subject: caller.subject.as_deref(),
            issuer: caller.issuer.as_deref(),
            audience: &audience,
            scopes: &scopes,
            claims: &claims,
        });
        let mut facts = Facts::new(principal, object, resident.now(), resident.host_facts());
        let names = resident.hold_names();
        let holds: Vec<&str> = names.iter().map(String::as_str).collect();
        facts.holds = suijuris_core::governance::Holds { names: &holds };
        let headers: Vec<_> = request.headers.iter().map(Option::as_deref).collect();
        facts.request = Some(request.facts(&headers));
        facts.rates = rates;
        decide::admit(view, residual, &facts)
    });
    resident.count_admission(&answer);
    answer.map(|(permit, _)| permit)
}

/// The same decision in words, for the answer and the record.
fn explain(resident: &Resident, caller: Arc<Caller>, request: Request, rates: &[i64]) -> Problem {
    let principal = Principal::Caller(Box::new(Arc::unwrap_or_clone(caller)));
    let mut inputs = resident.inputs(principal);
    inputs.request = Some(request);
    inputs.rates = resident.named_rates(rates);
    let decision = resident.evaluate(Action::Admit, inputs);
    let id = resident.refused(&decision);
    resident.public_problem(&decision, &id)
}
