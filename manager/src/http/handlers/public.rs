//! What anyone may ask.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header::CACHE_CONTROL},
    web::Data,
};
use keywitness_circuits::Timestamp;
use keywitness_verifier::wire::ProblemKind;

use serde::Deserialize;

use super::{Answer, answer};
use crate::{
    Manager,
    http::{
        auth::{charge, query, run},
        problem::Refusal,
    },
    service::token_key::JWKS_MAX_AGE,
};

/// Media type of a status list.
const STATUS_LIST_TYPE: &str = "application/statuslist+jwt";

/// How many further requests a status list of the past costs its address: it is computed anew each time.
const PAST_LIST: u32 = 49;

/// Anyone: whether the process is alive and its ledger can write.
pub(in crate::http) async fn health(manager: Data<Manager>) -> Answer {
    if manager.alive() {
        Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n"))
    } else {
        Err(Refusal::new(ProblemKind::Unavailable, "the ledger has stopped; restart the manager"))
    }
}

/// Anyone: whether the manager can serve, and what keeps it from it.
pub(in crate::http) async fn ready(manager: Data<Manager>) -> Answer {
    let readiness = run(&manager, |manager| Ok(manager.readiness())).await?;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(HttpResponse::build(status).insert_header((CACHE_CONTROL, "no-store")).json(readiness))
}

/// Anyone: what the trust domain asks for.
pub(in crate::http) async fn trust_domain(manager: Data<Manager>) -> Answer {
    answer(&manager.trust_domain())
}

/// Anyone: the keys that sign verification tokens.
pub(in crate::http) async fn jwks(manager: Data<Manager>) -> Answer {
    let keys = run(&manager, Manager::jwks).await?;
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, format!("public, max-age={JWKS_MAX_AGE}"))).json(keys))
}

/// As of when a status list is asked for.
#[derive(Deserialize)]
struct AsOf {
    /// Seconds since the Unix epoch; now when left out.
    time: Option<u64>,
}

/// Anyone: a status list.
pub(in crate::http) async fn status_list(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let nothing = || Refusal::new(ProblemKind::NotFound, "a status list is named by its number");
    let number = request.match_info().get("number").and_then(|text| text.parse().ok()).ok_or_else(nothing)?;
    let AsOf { time } = query(&request)?;
    if time.is_some() {
        charge(&manager, &request, PAST_LIST)?;
    }
    let list = run(&manager, move |manager| manager.status_list(number, time.map(Timestamp))).await?;
    let fresh = format!("public, max-age={}", manager.config().status_ttl.div_ceil(2));
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, fresh)).content_type(STATUS_LIST_TYPE).body(list))
}
