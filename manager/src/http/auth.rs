//! Reading requests: bodies under a cap, and who sent them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use actix_web::{
    HttpMessage, HttpRequest,
    http::header::AUTHORIZATION,
    rt::time::timeout,
    web::{Bytes, Data, Payload},
};
use keywitness_circuits::{Envelope, HsmId, codec::Canonical as _};
use keywitness_verifier::{
    identity::RequestAuth,
    wire::{MAX_BODY, Problem, ProblemKind, Role, split_envelopes},
};
use serde::de::DeserializeOwned;

use super::{PATIENCE, connections::Peer, observe::CallerKind, problem::Refusal};
use crate::{
    Manager,
    limits::Source,
    service::access::{Caller, HsmCaller, SignedRequest},
};

/// Reads a body of at most [`MAX_BODY`] bytes.
pub(super) async fn body(payload: Payload) -> Result<Bytes, Refusal> {
    body_of(payload, MAX_BODY).await
}

/// Reads a body of at most `cap` bytes.
pub(super) async fn body_of(payload: Payload, cap: usize) -> Result<Bytes, Refusal> {
    let slow = |_| Refusal::new(ProblemKind::Malformed, "the body did not arrive in time");
    let large = |_| Refusal::new(ProblemKind::TooLarge, format!("a body has at most {cap} bytes here"));
    let broken = |error: actix_web::Error| Refusal::new(ProblemKind::Malformed, format!("the body broke off: {error}"));
    timeout(PATIENCE, payload.to_bytes_limited(cap)).await.map_err(slow)?.map_err(large)?.map_err(broken)
}

/// Reads a JSON body: an object. Derived deserialisation would take a list of its members, too.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refusal::new(ProblemKind::Malformed, "the body: send a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::new(ProblemKind::Malformed, format!("the body: {error}")))
}

/// Reads a query.
pub(super) fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Refusal> {
    actix_web::web::Query::from_query(request.query_string())
        .map(actix_web::web::Query::into_inner)
        .map_err(|error| Refusal::new(ProblemKind::Malformed, format!("the query: {error}")))
}

fn authorization(request: &HttpRequest) -> Option<&str> {
    request.headers().get(AUTHORIZATION)?.to_str().ok()
}

/// Lets only holders of one of `roles` pass: `authorization: Bearer <secret>`.
pub(super) fn bearer(manager: &Manager, request: &HttpRequest, roles: &[Role]) -> Result<Caller, Refusal> {
    if let Some(hsm) = peer(request).and_then(|peer| peer.hsm().cloned()) {
        let why = format!("this connection is HSM {hsm}'s, by its client certificate; people call without it");
        return Err(Refusal::new(ProblemKind::Forbidden, why));
    }
    let secret = authorization(request)
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(|| Refusal::new(ProblemKind::Unauthenticated, "send a credential: authorization: Bearer kw_..."))?;
    // Two rows that everybody's requests keep in memory: a blocking thread would cost more than the look.
    let caller = run_here(|| manager.authorise(secret, roles))?;
    request.extensions_mut().insert(CallerKind(match caller.role() {
        Role::Operator => "operator",
        Role::Client => "client",
        Role::Viewer => "viewer",
        Role::Auditor => "auditor",
    }));
    Ok(caller)
}

/// Lets only enrolled HSMs pass that signed this very request.
pub(super) async fn hsm(manager: &Data<Manager>, request: &HttpRequest, body: &Bytes) -> Result<HsmCaller, Refusal> {
    let missing = || Refusal::new(ProblemKind::Unauthenticated, "sign the request: authorization: Keywitness-HSM ...");
    let authorization = authorization(request).ok_or_else(missing)?.to_owned();
    let peer = peer(request).cloned();
    // Before anything of the named HSM's is spent.
    if let Ok(named) = RequestAuth::from_header(&authorization) {
        is_peers(peer.as_deref(), &named.hsm)?;
    }
    let (method, path, body) = (request.method().to_string(), request.path().to_owned(), body.clone());
    let caller = run(manager, move |manager| {
        manager.authenticate(SignedRequest { authorization: &authorization, method: &method, path: &path, body: &body })
    })
    .await?;
    request.extensions_mut().insert(CallerKind("hsm"));
    Ok(caller)
}

/// Refuses an envelope that arrives over the connection of another HSM than it names.
pub(super) fn envelope_of_peer(request: &HttpRequest, envelope: &[u8]) -> Result<(), Refusal> {
    let Some(peer) = peer(request).filter(|peer| peer.hsm().is_some()) else { return Ok(()) };
    // What cannot be read is refused where envelopes are judged.
    Envelope::from_bytes(envelope).map_or(Ok(()), |envelope| is_peers(Some(peer), &envelope.context.hsm))
}

/// The same for every envelope of a batch.
pub(super) fn envelopes_of_peer(request: &HttpRequest, batch: &[u8]) -> Result<(), Refusal> {
    if peer(request).and_then(|peer| peer.hsm()).is_none() {
        return Ok(());
    }
    let envelopes = split_envelopes(batch).unwrap_or_default();
    envelopes.into_iter().try_for_each(|envelope| envelope_of_peer(request, envelope))
}

/// Whose budget a request spends, whoever makes it.
pub(super) fn address(request: &HttpRequest) -> Option<Source> {
    request.peer_addr().map(|address| Source::address(address.ip()))
}

/// Spends further requests of the address's budget, for an answer that takes as much work as so many.
pub(super) fn charge(manager: &Manager, request: &HttpRequest, more: u32) -> Result<(), Refusal> {
    match address(request) {
        Some(from) => Ok(manager.limits().spend(&from, more, manager.clock().now())?),
        None => Ok(()),
    }
}

fn peer(request: &HttpRequest) -> Option<&Arc<Peer>> {
    request.conn_data::<Arc<Peer>>()
}

/// Who shows a client certificate speaks for the HSM that it names, and for no other.
fn is_peers(peer: Option<&Peer>, hsm: &HsmId) -> Result<(), Refusal> {
    match peer.and_then(Peer::hsm) {
        Some(named) if named != hsm => {
            let why = format!("HSM {hsm} signed this, and the connection's certificate is HSM {named}'s");
            Err(Refusal::new(ProblemKind::Forbidden, why))
        }
        _ => Ok(()),
    }
}

/// Runs a use case on a blocking thread: it reads, writes and computes.
pub(super) async fn run<T: Send + 'static>(
    manager: &Data<Manager>,
    use_case: impl FnOnce(&Manager) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Refusal> {
    let (manager, span) = (manager.clone(), tracing::Span::current());
    match actix_web::web::block(move || span.in_scope(|| use_case(&manager))).await {
        Ok(result) => result.map_err(Refusal::from),
        Err(_) => Err(panicked()),
    }
}

/// Runs a use case on the thread that serves connections: a short one.
pub(super) fn run_here<T>(use_case: impl FnOnce() -> Result<T, Problem>) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(use_case)).map_err(|_| panicked())?.map_err(Refusal::from)
}

fn panicked() -> Refusal {
    tracing::error!("a use case panicked");
    Refusal::new(ProblemKind::Internal, "the manager's log has the reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_where_connections_are_served_is_an_answer() {
        let answer = run_here::<()>(|| panic!("a bug"));
        assert_eq!(answer.map_err(|refusal| refusal.0.kind()), Err(Some(ProblemKind::Internal)));
    }
}
