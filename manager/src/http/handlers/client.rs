//! What clients and people who look may ask.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::CACHE_CONTROL,
    web::{Data, Payload},
};
use keywitness_circuits::ClusterId;
use keywitness_verifier::wire::{KeyQuery, MAX_BATCH_BODY};
use serde::Deserialize;

use super::{ANY_ROLE, Answer, CLIENT, RELIERS, WATCHERS, answer};
use crate::{
    Manager,
    http::{
        auth::{bearer, body, body_of, json, query, run},
        swift::Swift,
    },
};

/// Any role: whether a key is attested.
pub(in crate::http) async fn attested(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, ANY_ROLE)?;
    let asked: KeyQuery = query(&request)?;
    answer(&run(&manager, move |manager| manager.attested(&caller, &asked)).await?)
}

/// Any role: whether many keys are attested.
pub(in crate::http) async fn attested_batch(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, ANY_ROLE)?;
    let asked = json(&body_of(payload, MAX_BATCH_BODY).await?)?;
    answer(&run(&manager, move |manager| manager.attested_batch(&caller, &asked)).await?)
}

/// Client: asks for a verification token. An operator cannot pass for a client.
pub(in crate::http) async fn token(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, CLIENT)?;
    let asked = json(&body(payload).await?)?;
    let swift = request.app_data::<Swift>().filter(|swift| swift.is_swift());
    let Some(swift) = swift else {
        return answer(&run(&manager, move |manager| manager.issue_token(&caller, &asked)).await?);
    };
    let signed = swift.run(|| Ok(manager.sign_token_at_once(manager.unsigned_token(&caller, &asked)?)))?;
    match signed {
        Ok(token) => answer(&token),
        Err(token) => answer(&run(&manager, move |manager| manager.sign_token(*token)).await?),
    }
}

/// Client or auditor: what a token rests on, for whoever will check it without the manager.
pub(in crate::http) async fn bundle(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    let caller = bearer(&manager, &request, RELIERS)?;
    let asked = json(&body(payload).await?)?;
    answer(&run(&manager, move |manager| manager.bundle(&caller, &asked)).await?)
}

/// Any role: everything at a glance.
pub(in crate::http) async fn status(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, ANY_ROLE)?;
    answer(&run(&manager, move |manager| manager.status(&caller)).await?)
}

/// Which cluster is asked for.
#[derive(Deserialize)]
struct Which {
    /// All of the caller's when left out.
    cluster: Option<ClusterId>,
}

/// Operator, viewer or auditor: how far the HSMs of a cluster agree on its keys.
pub(in crate::http) async fn clusters(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, WATCHERS)?;
    let Which { cluster } = query(&request)?;
    answer(&run(&manager, move |manager| manager.clusters(&caller, cluster.as_ref())).await?)
}

/// Which events are asked for.
#[derive(Deserialize)]
struct After {
    /// Those after this number.
    #[serde(default)]
    after: u64,
}

/// Operator, viewer or auditor: what happened.
pub(in crate::http) async fn events(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, WATCHERS)?;
    let After { after } = query(&request)?;
    answer(&run(&manager, move |manager| manager.events(&caller, after)).await?)
}

/// Operator, viewer or auditor: measurements. Who reads them learns how busy the trust domain is, so that loopback alone
/// lets nobody in: a proxy's callers come from there too.
pub(in crate::http) async fn metrics(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, WATCHERS)?;
    let text = run(&manager, move |manager| manager.measurements(&caller)).await?;
    Ok(HttpResponse::Ok().content_type(crate::metrics::TEXT).insert_header((CACHE_CONTROL, "no-store")).body(text))
}
