//! From refusals to responses: one table, without a wildcard.

use std::fmt;

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use keywitness_verifier::wire::{Problem, ProblemKind};

/// Media type of a problem document (RFC 9457).
pub(super) const PROBLEM_TYPE: &str = "application/problem+json";

/// A refusal on its way out.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) Problem);

impl Refusal {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self(Problem::new(kind, detail))
    }

    /// The problem document of one request (RFC 9457, section 3.1.5): its `instance` is that request.
    pub(super) fn document(&self, request: &super::observe::RequestId) -> Vec<u8> {
        let mut document = serde_json::to_value(&self.0).unwrap_or_default();
        if let Some(members) = document.as_object_mut() {
            members.insert("instance".to_owned(), format!("urn:keywitness:request:{request}").into());
        }
        // A problem document has only text and numbers: it always encodes.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a kind of problem adds to its response.
enum Advice {
    Nothing,
    Authenticate,
    Retry,
}

/// Status and advice of every kind.
fn response_of(kind: ProblemKind) -> (StatusCode, Advice) {
    match kind {
        ProblemKind::Malformed => (StatusCode::BAD_REQUEST, Advice::Nothing),
        ProblemKind::Unauthenticated | ProblemKind::ClockSkew => (StatusCode::UNAUTHORIZED, Advice::Authenticate),
        ProblemKind::Forbidden
        | ProblemKind::JoinTokenRefused
        | ProblemKind::HsmRevoked
        | ProblemKind::KeyRevoked
        | ProblemKind::VerifyingKeyRevoked
        | ProblemKind::Suspended => (StatusCode::FORBIDDEN, Advice::Nothing),
        ProblemKind::NotFound => (StatusCode::NOT_FOUND, Advice::Nothing),
        ProblemKind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, Advice::Nothing),
        ProblemKind::AlreadyEnrolled
        | ProblemKind::KeyConflict
        | ProblemKind::AmbiguousKey
        | ProblemKind::DisputedKey
        | ProblemKind::LastOperator
        | ProblemKind::NotAttested => (StatusCode::CONFLICT, Advice::Nothing),
        ProblemKind::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Advice::Nothing),
        ProblemKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Advice::Nothing),
        ProblemKind::UnknownChallenge
        | ProblemKind::ChallengeExpired
        | ProblemKind::ForeignChallenge
        | ProblemKind::ChallengeConsumed
        | ProblemKind::ContextMismatch
        | ProblemKind::UnknownStatement
        | ProblemKind::UnknownKey
        | ProblemKind::ProofRefused
        | ProblemKind::EvidenceRefused => (StatusCode::UNPROCESSABLE_ENTITY, Advice::Nothing),
        ProblemKind::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, Advice::Retry),
        ProblemKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Advice::Nothing),
        ProblemKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Advice::Retry),
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        response_of(self.0.kind().unwrap_or(ProblemKind::Internal)).0
    }

    fn error_response(&self) -> HttpResponse {
        let (status, advice) = response_of(self.0.kind().unwrap_or(ProblemKind::Internal));
        let mut response = HttpResponse::build(status);
        response.insert_header((CONTENT_TYPE, PROBLEM_TYPE)).insert_header((CACHE_CONTROL, "no-store"));
        match advice {
            Advice::Nothing => {}
            Advice::Authenticate => drop(response.insert_header((WWW_AUTHENTICATE, "Bearer, Keywitness-HSM"))),
            Advice::Retry => drop(response.insert_header((RETRY_AFTER, u32::from(self.0.retry_after.unwrap_or(1))))),
        }
        // A problem document has only text and numbers: it always encodes.
        response.body(serde_json::to_vec(&self.0).unwrap_or_default())
    }
}

/// Answers paths that are none of the API's.
pub(super) async fn nothing_here(request: HttpRequest) -> Result<HttpResponse, Refusal> {
    Err(Refusal::new(ProblemKind::NotFound, format!("this manager has nothing at {}", request.path())))
}

/// Answers methods that a path of the API does not take.
pub(super) async fn wrong_method(request: HttpRequest) -> Result<HttpResponse, Refusal> {
    let why = format!("{} does not take {}", request.path(), request.method());
    Err(Refusal::new(ProblemKind::MethodNotAllowed, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_status_that_its_document_says() {
        for kind in ProblemKind::ALL {
            assert_eq!(response_of(*kind).0.as_u16(), kind.status(), "{kind}");
            assert_eq!(Refusal::new(*kind, "").error_response().status().as_u16(), kind.status());
        }
    }

    #[test]
    fn who_is_turned_away_is_told_when_to_come_back() {
        let header = |problem: Problem| {
            let response = Refusal(problem).error_response();
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        assert_eq!(header(Problem::new(ProblemKind::Unavailable, "")).as_deref(), Some("1"));
        assert_eq!(header(Problem::new(ProblemKind::Unavailable, "").after(7)).as_deref(), Some("7"));
        assert_eq!(header(Problem::new(ProblemKind::NotFound, "").after(7)), None);
    }
}
