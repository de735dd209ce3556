//! Alerts and migrations.

use actix_web::{
    HttpRequest,
    web::{Data, Path, Payload},
};

use keywitness_verifier::wire::ProblemKind;

use super::{Answer, OPERATOR, WATCHERS, answer};
use crate::{
    Manager,
    http::{
        auth::{bearer, body, json, query, run},
        problem::Refusal,
    },
};

/// Operator, viewer or auditor: alerts.
pub(in crate::http) async fn alerts(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, WATCHERS)?;
    let asked = query(&request)?;
    answer(&run(&manager, move |manager| manager.alerts(&caller, &asked)).await?)
}

fn parsed(number: &str) -> Result<u64, Refusal> {
    number.parse().map_err(|_| Refusal::new(ProblemKind::Malformed, "the path: an alert has a number"))
}

/// Operator, viewer or auditor: one alert.
pub(in crate::http) async fn alert(manager: Data<Manager>, request: HttpRequest, number: Path<String>) -> Answer {
    let caller = bearer(&manager, &request, WATCHERS)?;
    let number = parsed(&number)?;
    answer(&run(&manager, move |manager| manager.alert(&caller, number)).await?)
}

/// Operator: acknowledges an alert.
pub(in crate::http) async fn acknowledge(
    manager: Data<Manager>,
    request: HttpRequest,
    payload: Payload,
    number: Path<String>,
) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let asked = json(&body(payload).await?)?;
    let number = parsed(&number)?;
    answer(&run(&manager, move |manager| manager.acknowledge_alert(&caller, number, &asked)).await?)
}

/// Operator: declares a migration.
pub(in crate::http) async fn declare(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.declare_migration(&caller, &asked)).await?)
}

/// Operator, viewer or auditor: the migrations that are remembered.
pub(in crate::http) async fn migrations(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, WATCHERS)?;
    answer(&run(&manager, move |manager| manager.migrations(&caller)).await?)
}
