//! The way of one request: read, entered in the log, met by a fault or not, processed, answered. Owns that order. Does not
//! know what an endpoint does. Invariant: processing runs in a task of its own, so a client that hangs up undoes
//! nothing, as at servers people run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::entropy::Entropy;

use super::call::{Call, Reply};
use super::client::named;
use super::fate::{Unanswered, answered, unanswered};
use super::fault::Fault;
use super::ledger::{Ledger, Moment, TokenRef};
use super::log::{Log, Reader, Ticket};
use super::record::{Endpoint, Exchange, Fingerprint, GrantType, Subject};
use super::script::Script;
use super::server::ConnectionNumber;

/// Bytes of a request body that are read.
const BODY_LIMIT: usize = 64 * 1024;

/// What an endpoint does with a request.
pub(super) type Process = fn(&mut Ledger, Moment<'_>, &Call) -> Reply;

/// Somebody who looks at requests as they arrive. May block.
pub(super) type Witness = Arc<dyn Fn(&Exchange) + Send + Sync>;

/// What every request needs.
pub(super) struct World {
    pub(super) ledger: Mutex<Ledger>,
    pub(super) log: Log,
    pub(super) script: Script,
    /// Looks at every request when it has been entered in the log and has no effect yet.
    pub(super) witness: Mutex<Option<Witness>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) issuer: String,
    /// The port it listens on.
    pub(super) port: u16,
    /// Ends when the sandbox is gone.
    pub(super) stopped: watch::Receiver<()>,
}

impl World {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn moment(&self) -> Moment<'_> {
        Moment { now: self.clock.now(), entropy: &*self.entropy, issuer: &self.issuer }
    }
}

/// Answers one request.
pub(super) async fn exchange(
    world: Arc<World>,
    endpoint: Endpoint,
    process: Process,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_LIMIT).await else {
        // Too long, or broken off: either way it was never a request, so it is not in the log.
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let connection = head.extensions.get::<ConnectionNumber>().map_or(0, |number| number.0);
    let call = Call::new(head.method, head.uri, head.headers, body);
    let (ticket, fault) = received(&world, endpoint, connection, &call);
    let fault_name = fault.name;
    let reader = Reader(ticket.clone());
    let work = worked(Arc::clone(&world), process, call, fault, ticket.clone());
    let response = match tokio::spawn(work).await {
        Ok(Some((reply, fault))) => answered(reply, fault.answer, ticket),
        // The sandbox stops.
        Ok(None) | Err(_) => unanswered(&ticket),
    };
    drop(reader);
    let is_answered = response.extensions().get::<Unanswered>().is_none();
    let status = is_answered.then(|| response.status().as_u16());
    tracing::debug!(?endpoint, status, fault = fault_name, "the sandbox is done with a request");
    response
}

/// Enters the request in the log. The books are closed meanwhile, so nothing comes between looking and entering.
fn received(world: &World, endpoint: Endpoint, connection: u64, call: &Call) -> (Ticket, Fault) {
    let ledger = world.ledger();
    let subject = subject(&ledger, endpoint, call);
    let fault = world.script.meet(endpoint, &subject);
    let fault_name = fault.as_ref().map(|f| f.name);
    let ticket = world.log.received(endpoint, connection, world.clock.now(), subject, fault_name);
    (ticket, fault.unwrap_or_else(Fault::none))
}

/// Lets the witness look, if there is one, before anything else happens to the request.
async fn witnessed(world: &World, ticket: &Ticket) {
    let witness = world.witness.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let (Some(witness), Some(exchange)) = (witness, ticket.exchange()) {
        // A witness that panics has seen nothing, which is its own to report.
        let _ = tokio::task::spawn_blocking(move || witness(&exchange)).await;
    }
}

/// Does what the fault leaves of the work. `None` when the sandbox stops first.
async fn worked(
    world: Arc<World>,
    process: Process,
    call: Call,
    mut fault: Fault,
    ticket: Ticket,
) -> Option<(Option<Reply>, Fault)> {
    let mut stopped = world.stopped.clone();
    let work = async {
        witnessed(&world, &ticket).await;
        fault.before.over().await;
        let reply = fault.is_processed.then(|| processed(&world, process, &call, &ticket));
        fault.after.over().await;
        (reply, fault)
    };
    tokio::select! {
        biased;
        _ = stopped.changed() => None,
        done = work => Some(done),
    }
}

/// Lets the request take effect, and says so in the log before anybody else can touch the books.
fn processed(world: &World, process: Process, call: &Call, ticket: &Ticket) -> Reply {
    let mut ledger = world.ledger();
    let was_spent = is_spent(&ledger, call);
    let reply = process(&mut ledger, world.moment(), call);
    ticket.processed(reply.effect.clone(), was_spent);
    reply
}

fn is_spent(ledger: &Ledger, call: &Call) -> bool {
    let token = call.form.first("refresh_token").and_then(|token| ledger.token(token));
    let Some(TokenRef::Refresh(id, generation)) = token else { return false };
    ledger.grant(id).is_some_and(|grant| grant.family.is_spent(generation))
}

/// Whom and what the request names.
fn subject(ledger: &Ledger, endpoint: Endpoint, call: &Call) -> Subject {
    let grant_type = || match call.form.first("grant_type") {
        Some("authorization_code") => GrantType::AuthorizationCode,
        Some("refresh_token") => GrantType::RefreshToken,
        _ => GrantType::Other,
    };
    let value = match endpoint {
        Endpoint::Token => call.form.first("refresh_token").or_else(|| call.form.first("code")),
        Endpoint::Revoke => call.form.first("token"),
        Endpoint::UserInfo | Endpoint::Echo => call.authorization("bearer"),
        Endpoint::Discovery | Endpoint::Authorize | Endpoint::Consent => None,
    };
    let token = value.and_then(|value| ledger.token(value));
    let grant = token.and_then(|token| ledger.grant(token.grant()));
    let from_code = value.and_then(|value| ledger.authorizations.account(value)).map(str::to_owned);
    Subject {
        grant_type: (endpoint == Endpoint::Token).then(grant_type),
        client_id: named(call).filter(|id| ledger.client(id).is_some()),
        account: grant.map(|grant| grant.account.clone()).or(from_code),
        grant: token.map(TokenRef::grant),
        generation: token.and_then(TokenRef::generation),
        fingerprint: value.map(Fingerprint::of),
        spent: is_spent(ledger, call),
        dead: grant.is_some_and(|grant| grant.family.ended().is_some()),
    }
}
