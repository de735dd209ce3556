//! What clients and people who look may ask.

use actix_web::{
    HttpRequest,
    web::{Data, Payload},
};
use keywitness_verifier::wire::KeyQuery;
use serde::Deserialize;

use super::{ANY_ROLE, Answer, CLIENT, OPERATOR_OR_VIEWER, answer};
use crate::{
    Manager,
    http::auth::{bearer, body, json, query, run},
};

/// Operator, client or viewer: whether a key is attested.
pub(in crate::http) async fn attested(manager: Data<Manager>, request: HttpRequest) -> Answer {
    bearer(&manager, &request, ANY_ROLE).await?;
    let asked: KeyQuery = query(&request)?;
    answer(&run(&manager, move |manager| manager.attested(&asked)).await?)
}

/// Client: asks for a verification token. An operator cannot pass for a client.
pub(in crate::http) async fn token(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    bearer(&manager, &request, CLIENT).await?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.issue_token(&asked)).await?)
}

/// Operator, client or viewer: everything at a glance.
pub(in crate::http) async fn status(manager: Data<Manager>, request: HttpRequest) -> Answer {
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
pub(in crate::http) async fn events(manager: Data<Manager>, request: HttpRequest) -> Answer {
    bearer(&manager, &request, OPERATOR_OR_VIEWER).await?;
    let After { after } = query(&request)?;
    answer(&run(&manager, move |manager| manager.events(after)).await?)
}
