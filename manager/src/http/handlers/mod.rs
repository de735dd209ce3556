//! One handler for each path of the API. Each says who may call it.

pub(super) mod client;
pub(super) mod credential;
pub(super) mod evidence;
pub(super) mod fraud;
pub(super) mod hsm;
pub(super) mod log;
pub(super) mod operator;
pub(super) mod public;
pub(super) mod stream;
pub(super) mod webhook;

use actix_web::{HttpResponse, http::header::CACHE_CONTROL};
use keywitness_verifier::wire::Role;
use serde::Serialize;

use super::problem::Refusal;

type Answer = Result<HttpResponse, Refusal>;

const OPERATOR: &[Role] = &[Role::Operator];
const CLIENT: &[Role] = &[Role::Client];
const RELIERS: &[Role] = &[Role::Client, Role::Auditor];
const WATCHERS: &[Role] = &[Role::Operator, Role::Viewer, Role::Auditor];
const ANY_ROLE: &[Role] = &[Role::Operator, Role::Client, Role::Viewer, Role::Auditor];

/// Answers may hold secrets and are true only now: nothing on the way keeps them.
fn answer(value: &impl Serialize) -> Answer {
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(value))
}

fn done() -> Answer {
    Ok(HttpResponse::NoContent().finish())
}
