//! One handler for each path of the API. Each says who may call it.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::CACHE_CONTROL,
    web::{Data, Payload},
};
use keywitness_verifier::wire::{KeyQuery, ProblemKind, Role};
use serde::{Deserialize, Serialize};

use super::{
    auth::{bearer, body, hsm, json, query, run},
    problem::Refusal,
};
use crate::Manager;

type Answer = Result<HttpResponse, Refusal>;

const OPERATOR: &[Role] = &[Role::Operator];
const CLIENT: &[Role] = &[Role::Client];
const OPERATOR_OR_VIEWER: &[Role] = &[Role::Operator, Role::Viewer];
const ANY_ROLE: &[Role] = &[Role::Operator, Role::Client, Role::Viewer];

/// Answers may hold secrets and are true only now: nothing on the way keeps them.
fn answer(value: &impl Serialize) -> Answer {
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(value))
}

fn done() -> Answer {
    Ok(HttpResponse::NoContent().finish())
}

/// Anyone: whether the process is alive and its ledger can write.
pub(super) async fn health(manager: Data<Manager>) -> Answer {
    if manager.alive() {
        Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n"))
    } else {
        Err(Refusal::new(ProblemKind::Unavailable, "the ledger has stopped; restart the manager"))
    }
}

/// Anyone: what the trust domain asks for.
pub(super) async fn trust_domain(manager: Data<Manager>) -> Answer {
    answer(&manager.trust_domain())
}

/// Anyone: the keys that sign verification tokens.
pub(super) async fn jwks(manager: Data<Manager>) -> Answer {
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "public, max-age=300")).json(manager.jwks()))
}

/// Operator: invites an HSM.
pub(super) async fn join_token(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    bearer(&manager, &request, OPERATOR).await?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.create_join_token(&asked)).await?)
}

/// Operator: makes a credential.
pub(super) async fn credential(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    bearer(&manager, &request, OPERATOR).await?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.create_credential(&asked)).await?)
}

/// Whoever holds a join token: enrols an HSM.
pub(super) async fn enrol(manager: Data<Manager>, payload: Payload) -> Answer {
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.enrol(&asked)).await?)
}

/// HSM: says where its channel is.
pub(super) async fn announce(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    run(&manager, move |manager| manager.announce_channel(&caller, &asked)).await?;
    done()
}

/// HSM: enrols a key.
pub(super) async fn enrol_key(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    run(&manager, move |manager| manager.enrol_key(&caller, &asked)).await?;
    done()
}

/// HSM: says which key shares are sealed to.
pub(super) async fn announce_sealing_key(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    run(&manager, move |manager| manager.announce_sealing_key(&caller, &asked)).await?;
    done()
}

/// HSM: who can hold shares.
pub(super) async fn holders(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    hsm(&manager, &request, &body(payload).await?).await?;
    answer(&run(&manager, Manager::holders).await?)
}

/// HSM: enrols a sharing that it dealt.
pub(super) async fn enrol_sharing(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.enrol_sharing(&caller, &asked)).await?)
}

/// HSM: the dealings with a share for it.
pub(super) async fn dealings(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = hsm(&manager, &request, &body(payload).await?).await?;
    answer(&run(&manager, move |manager| manager.dealings(&caller)).await?)
}

/// HSM: complains about the share that it was dealt.
pub(super) async fn complain(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.complain(&caller, &asked)).await?)
}

/// HSM: asks for a challenge.
pub(super) async fn challenge(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.challenge(&caller, &asked)).await?)
}

/// HSM: submits an envelope, whose identity signature says who it is.
pub(super) async fn attest(manager: Data<Manager>, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    answer(&run(&manager, move |manager| manager.attest(&bytes)).await?)
}

/// Operator, client or viewer: whether a key is attested.
pub(super) async fn attested(manager: Data<Manager>, request: HttpRequest) -> Answer {
    bearer(&manager, &request, ANY_ROLE).await?;
    let asked: KeyQuery = query(&request)?;
    answer(&run(&manager, move |manager| manager.attested(&asked)).await?)
}

/// Client: asks for a verification token. An operator cannot pass for a client.
pub(super) async fn token(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    bearer(&manager, &request, CLIENT).await?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.issue_token(&asked)).await?)
}

/// Operator: revokes.
pub(super) async fn revoke(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    bearer(&manager, &request, OPERATOR).await?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.revoke(&asked)).await?)
}

/// Operator, client or viewer: everything at a glance.
pub(super) async fn status(manager: Data<Manager>, request: HttpRequest) -> Answer {
    bearer(&manager, &request, ANY_ROLE).await?;
    answer(&run(&manager, Manager::status).await?)
}

/// Which events are asked for.
#[derive(Deserialize)]
struct After {
    /// Those after this number.
    #[serde(default)]
    after: u64,
}

/// Operator or viewer: what happened.
pub(super) async fn events(manager: Data<Manager>, request: HttpRequest) -> Answer {
    bearer(&manager, &request, OPERATOR_OR_VIEWER).await?;
    let After { after } = query(&request)?;
    answer(&run(&manager, move |manager| manager.events(after)).await?)
}
