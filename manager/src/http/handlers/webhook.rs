//! Webhooks, for whoever looks after them.

use actix_web::{
    HttpRequest,
    web::{Data, Path, Payload},
};

use super::{Answer, OPERATOR, answer};
use crate::{
    Manager,
    http::auth::{bearer, body, json, run},
};

/// Operator of every cluster: the webhooks.
pub(in crate::http) async fn webhooks(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    answer(&run(&manager, move |manager| manager.webhooks(&caller)).await?)
}

/// Operator of every cluster: has a webhook be told again.
pub(in crate::http) async fn replay(
    manager: Data<Manager>,
    request: HttpRequest,
    payload: Payload,
    name: Path<String>,
) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.replay_webhook(&caller, &name, asked)).await?)
}

/// Operator of every cluster: sends a test.
pub(in crate::http) async fn test(manager: Data<Manager>, request: HttpRequest, name: Path<String>) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    answer(&run(&manager, move |manager| manager.test_webhook(&caller, &name)).await?)
}
