//! Around every handler: a request id, a span, a line of the log, and measurements.

use std::{fmt, time::Instant};

use actix_web::{
    Error, HttpMessage,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue},
    middleware::Next,
    web::Data,
};
use keywitness_verifier::wire::{ENVELOPE_TYPE, ProblemKind};
use tracing::Instrument;

use super::{openapi, problem::Refusal};
use crate::Manager;

/// The header that has the request's id, in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken from a caller.
const LONGEST: usize = 64;

/// What one request is called in the log, in its answer and in its problem document: the caller's own name for it where
/// that is short and plain, else a random one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RequestId(String);

impl RequestId {
    fn of(given: Option<&HeaderValue>) -> Self {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let given = given.and_then(|value| value.to_str().ok());
        let kept = given.filter(|id| (1..=LONGEST).contains(&id.len()) && id.bytes().all(plain));
        Self(kept.map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What kind of caller was let in: a role, or `hsm`. Who it was, the ledger's own log says.
#[derive(Clone, Copy)]
pub(super) struct CallerKind(pub(super) &'static str);

/// Wraps every route.
pub(super) async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = RequestId::of(request.headers().get(REQUEST_ID));
    let method = request.method().to_string();
    let manager = request.app_data::<Data<Manager>>().cloned();
    if let Some(manager) = &manager {
        manager.metrics().began();
    }
    let span = tracing::info_span!("request", request_id = %id);
    let readable = {
        let media = request.headers().get(CONTENT_TYPE).map(|media| media.to_str().unwrap_or("?"));
        openapi::reads(&method, &request.match_pattern().unwrap_or_default(), media)
    };
    let result = if readable {
        next.call(request).instrument(span.clone()).await.map(ServiceResponse::map_into_boxed_body)
    } else {
        let why = format!("send JSON as application/json, an envelope as {ENVELOPE_TYPE}");
        Ok(request.error_response(Refusal::new(ProblemKind::UnsupportedMediaType, why)))
    };
    let (took, status) = (started.elapsed(), result.as_ref().map_or(500, |response| response.status().as_u16()));
    // The template, not the path: it is one of few, and has nobody's name in it.
    let route = result.as_ref().ok().and_then(|response| response.request().match_pattern());
    let route = route.as_deref().unwrap_or("none");
    let caller = result.as_ref().ok().and_then(|response| response.request().extensions().get::<CallerKind>().copied());
    let refusal = result.as_ref().ok().and_then(|response| response.response().error()?.as_error::<Refusal>());
    let problem = refusal.and_then(|refusal| refusal.0.kind());
    if let Some(manager) = &manager {
        manager.metrics().answered(route, &method, status, problem, took);
    }
    span.in_scope(|| {
        let (caller, problem) = (caller.map(|caller| caller.0), problem.map(|kind| kind.slug()));
        tracing::info!(%method, route, status, seconds = took.as_secs_f64(), caller, problem, "answered");
    });
    let document = refusal.map(|refusal| refusal.document(&id));
    let allowed = (status == 405).then(|| openapi::methods(route).join(", "));
    let mut response = result?;
    if let Some(allowed) = allowed.and_then(|allowed| HeaderValue::from_str(&allowed).ok()) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    if let Some(document) = document {
        response = response.map_body(|_, _| BoxBody::new(document));
    }
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_kept_where_it_is_short_and_plain() {
        let of = |text: &str| RequestId::of(Some(&HeaderValue::from_str(text).unwrap())).0;
        assert_eq!(of("a-B_c.9"), "a-B_c.9");
        let longest = "x".repeat(LONGEST);
        assert_eq!(of(&longest), longest);
        for refused in [String::new(), format!("{longest}x"), "a b".to_owned(), "a\"b".to_owned(), "a,b".to_owned()] {
            let made = of(&refused);
            assert_eq!(made.len(), 32, "{refused:?}");
            assert_ne!(made, of(&refused));
        }
        assert_eq!(RequestId::of(None).0.len(), 32);
    }
}
