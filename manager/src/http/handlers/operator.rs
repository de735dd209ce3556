//! What operators may do.

use actix_web::{
    HttpRequest,
    web::{Data, Payload},
};
use keywitness_verifier::wire::TokenKeyRequest;

use super::{Answer, OPERATOR, answer, done};
use crate::{
    Manager,
    http::auth::{bearer, body, json, run},
};

/// Operator: invites an HSM.
pub(in crate::http) async fn join_token(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.create_join_token(&caller, &asked)).await?)
}

/// Operator: revokes.
pub(in crate::http) async fn revoke(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.revoke(&caller, &asked)).await?)
}

/// Operator: suspends.
pub(in crate::http) async fn suspend(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.suspend(&caller, &asked)).await?)
}

/// Operator: ends a suspension, or frees a revoked key's name.
pub(in crate::http) async fn reinstate(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let asked = json(&body(payload).await?)?;
    run(&manager, move |manager| manager.reinstate(&caller, &asked)).await?;
    done()
}

/// Operator: backs up the store.
pub(in crate::http) async fn back_up(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    answer(&run(&manager, move |manager| manager.back_up(&caller)).await?)
}

/// Operator: makes another token key.
pub(in crate::http) async fn rotate_token_key(
    manager: Data<Manager>,
    request: HttpRequest,
    payload: Payload,
) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let TokenKeyRequest { alg } = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.rotate_token_key(&caller, alg)).await?)
}

/// Operator: the token keys.
pub(in crate::http) async fn token_keys(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    answer(&run(&manager, move |manager| manager.token_keys(&caller)).await?)
}
