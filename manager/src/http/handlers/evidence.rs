//! Evidence of where HSMs and keys live, and the devices that HSMs are enrolled with.

use actix_web::{
    HttpRequest,
    web::{Data, Payload},
};
use keywitness_verifier::wire::MAX_EVIDENCE_BODY;

use super::{Answer, OPERATOR, WATCHERS, answer, done};
use crate::{
    Manager,
    http::auth::{bearer, body, body_of, hsm, json, run},
};

/// HSM: asks what evidence is to be bound to.
pub(in crate::http) async fn challenge(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.evidence_challenge(&caller, &asked)).await?)
}

/// HSM: has evidence appraised.
pub(in crate::http) async fn submit(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body_of(payload, MAX_EVIDENCE_BODY).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.submit_evidence(&caller, &asked)).await?)
}

/// Operator, viewer or auditor: how the evidence of every HSM stands.
pub(in crate::http) async fn overview(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, WATCHERS)?;
    answer(&run(&manager, move |manager| manager.evidence_overview(&caller)).await?)
}

/// Operator: lets an HSM enrol its device.
pub(in crate::http) async fn allow(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let asked = json(&body(payload).await?)?;
    run(&manager, move |manager| manager.allow_device(&caller, &asked)).await?;
    done()
}

/// HSM: asks for a credential that its TPM alone can open.
pub(in crate::http) async fn credential(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.device_credential(&caller, &asked)).await?)
}

/// HSM: enrols the device that opened the credential.
pub(in crate::http) async fn answer_credential(
    manager: Data<Manager>,
    request: HttpRequest,
    payload: Payload,
) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.answer_credential(&caller, &asked)).await?)
}
