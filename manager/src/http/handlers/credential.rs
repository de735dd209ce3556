//! What operators do with credentials.

use actix_web::{
    HttpRequest,
    web::{Data, Path, Payload},
};
use keywitness_verifier::wire::{CredentialId, ProblemKind};

use super::{Answer, OPERATOR, answer, done};
use crate::{
    Manager,
    http::{
        auth::{bearer, body, json, run},
        problem::Refusal,
    },
};

/// Operator: makes a credential.
pub(in crate::http) async fn create(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.create_credential(&caller, &asked)).await?)
}

/// Operator: every credential within the operator's clusters.
pub(in crate::http) async fn list(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    answer(&run(&manager, move |manager| manager.credentials(&caller)).await?)
}

/// Operator: withdraws a credential.
pub(in crate::http) async fn withdraw(manager: Data<Manager>, request: HttpRequest, id: Path<String>) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let id: CredentialId =
        id.parse().map_err(|error| Refusal::new(ProblemKind::Malformed, format!("the path: {error}")))?;
    run(&manager, move |manager| manager.withdraw_credential(&caller, id)).await?;
    done()
}
