//! What anyone may ask.

use actix_web::{HttpResponse, http::header::CACHE_CONTROL, web::Data};
use keywitness_verifier::wire::ProblemKind;

use super::{Answer, answer};
use crate::{Manager, http::problem::Refusal};

/// Anyone: whether the process is alive and its ledger can write.
pub(in crate::http) async fn health(manager: Data<Manager>) -> Answer {
    if manager.alive() {
        Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n"))
    } else {
        Err(Refusal::new(ProblemKind::Unavailable, "the ledger has stopped; restart the manager"))
    }
}

/// Anyone: what the trust domain asks for.
pub(in crate::http) async fn trust_domain(manager: Data<Manager>) -> Answer {
    answer(&manager.trust_domain())
}

/// Anyone: the keys that sign verification tokens.
pub(in crate::http) async fn jwks(manager: Data<Manager>) -> Answer {
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "public, max-age=300")).json(manager.jwks()))
}
