//! What HSMs do, and whoever enrols one.

use actix_web::{
    HttpRequest,
    web::{Data, Payload},
};
use keywitness_verifier::wire::MAX_BATCH_BODY;

use super::{Answer, answer, done};
use crate::{
    Manager,
    http::auth::{address, body, body_of, envelope_of_peer, envelopes_of_peer, hsm, json, run},
};

/// Whoever holds a join token: enrols an HSM.
pub(in crate::http) async fn enrol(manager: Data<Manager>, payload: Payload) -> Answer {
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.enrol(&asked)).await?)
}

/// HSM: says where its channel is.
pub(in crate::http) async fn announce(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    run(&manager, move |manager| manager.announce_channel(&caller, &asked)).await?;
    done()
}

/// HSM: enrols a key.
pub(in crate::http) async fn enrol_key(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    run(&manager, move |manager| manager.enrol_key(&caller, &asked)).await?;
    done()
}

/// HSM: says which key shares are sealed to.
pub(in crate::http) async fn announce_sealing_key(
    manager: Data<Manager>,
    request: HttpRequest,
    payload: Payload,
) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    run(&manager, move |manager| manager.announce_sealing_key(&caller, &asked)).await?;
    done()
}

/// HSM: asks for a client certificate.
pub(in crate::http) async fn certify(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.certify(&caller, &asked)).await?)
}

/// HSM: who can hold shares.
pub(in crate::http) async fn holders(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    hsm(&manager, &request, &body(payload).await?).await?;
    answer(&run(&manager, Manager::holders).await?)
}

/// HSM: the other HSMs of its cluster, and what they have that it has not.
pub(in crate::http) async fn peers(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = hsm(&manager, &request, &body(payload).await?).await?;
    answer(&run(&manager, move |manager| manager.peers(&caller)).await?)
}

/// HSM: asks to be allowed to give copies of its keys to another HSM.
pub(in crate::http) async fn transfer(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.transfer(&caller, &asked)).await?)
}

/// HSM: enrols a sharing that it dealt.
pub(in crate::http) async fn enrol_sharing(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.enrol_sharing(&caller, &asked)).await?)
}

/// HSM: the dealings with a share for it.
pub(in crate::http) async fn dealings(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = hsm(&manager, &request, &body(payload).await?).await?;
    answer(&run(&manager, move |manager| manager.dealings(&caller)).await?)
}

/// HSM: complains about the share that it was dealt.
pub(in crate::http) async fn complain(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.complain(&caller, &asked)).await?)
}

/// HSM: asks for a challenge.
pub(in crate::http) async fn challenge(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.challenge(&caller, &asked)).await?)
}

/// HSM: submits an envelope, whose identity signature says who it is.
pub(in crate::http) async fn attest(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body(payload).await?;
    envelope_of_peer(&request, &bytes)?;
    answer(&run(&manager, move |manager| manager.attest(&bytes)).await?)
}

/// HSM: asks for many challenges.
pub(in crate::http) async fn challenges(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body_of(payload, MAX_BATCH_BODY).await?;
    let caller = hsm(&manager, &request, &bytes).await?;
    let asked = json(&bytes)?;
    answer(&run(&manager, move |manager| manager.challenges(&caller, &asked)).await?)
}

/// HSM: submits many envelopes, each of which says whose it is.
pub(in crate::http) async fn attest_batch(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let bytes = body_of(payload, MAX_BATCH_BODY).await?;
    envelopes_of_peer(&request, &bytes)?;
    let from = address(&request);
    answer(&run(&manager, move |manager| manager.attest_batch(from.as_ref(), &bytes)).await?)
}
