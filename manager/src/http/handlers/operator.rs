//! What operators may do.

use actix_web::{
    HttpRequest,
    web::{Data, Payload},
};

use super::{Answer, OPERATOR, answer};
use crate::{
    Manager,
    http::auth::{bearer, body, json, run},
};

/// Operator: invites an HSM.
pub(in crate::http) async fn join_token(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR).await?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.create_join_token(&caller, &asked)).await?)
}

/// Operator: revokes.
pub(in crate::http) async fn revoke(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR).await?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.revoke(&caller, &asked)).await?)
}
