//! Refusals: RFC 9457 problem documents, from one table.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! problems {
    ($($(#[$doc:meta])* $variant:ident = $slug:literal, $status:literal, $title:literal;)*) => {
        /// Every way in which the manager refuses.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum ProblemKind {
            $($(#[$doc])* $variant,)*
        }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The last part of the problem's type URI.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$variant => $slug,)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// One line for people.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

problems! {
    /// The request cannot be read. Nothing was consumed or counted.
    Malformed = "malformed", 400, "The request cannot be read";
    /// The caller is not known, or its signature does not verify. Nothing was consumed or counted.
    Unauthenticated = "unauthenticated", 401, "The caller could not be authenticated";
    /// The caller's clock is too far from the manager's.
    ClockSkew = "clock-skew", 401, "The request's time is too far from the manager's clock";
    /// The caller is known, and may not do this.
    Forbidden = "forbidden", 403, "The caller may not do this";
    /// The join token is unknown, used, expired, or for another HSM.
    JoinTokenRefused = "join-token-refused", 403, "The join token cannot be used";
    /// The HSM is revoked.
    HsmRevoked = "hsm-revoked", 403, "The HSM is revoked";
    /// The key is revoked.
    KeyRevoked = "key-revoked", 403, "The key is revoked";
    /// The HSM, the key or its cluster is suspended.
    Suspended = "suspended", 403, "This is suspended";
    /// The statement's verifying key is revoked: its circuit was found unsound.
    VerifyingKeyRevoked = "verifying-key-revoked", 403, "The statement's verifying key is revoked";
    /// There is no such thing.
    NotFound = "not-found", 404, "There is no such thing";
    /// The path exists and does not take this method.
    MethodNotAllowed = "method-not-allowed", 405, "The method is not one of this path's";
    /// An HSM of that name is enrolled with an identity of its own.
    AlreadyEnrolled = "already-enrolled", 409, "An HSM of this name is already enrolled";
    /// The key is enrolled with other material or attributes at this epoch, or at a later one.
    KeyConflict = "key-conflict", 409, "The key is enrolled differently at this epoch";
    /// Several clusters have a key of that name.
    AmbiguousKey = "ambiguous-key", 409, "Several clusters have a key of this name";
    /// The HSMs of a cluster prove different keys under one name.
    DisputedKey = "disputed-key", 409, "HSMs of the cluster prove different keys under this name";
    /// The key is not attested now.
    NotAttested = "not-attested", 409, "The key is not attested now";
    /// Nobody could let anybody in any more.
    LastOperator = "last-operator", 409, "The last operator's credential cannot be withdrawn";
    /// The request's body is too large.
    TooLarge = "too-large", 413, "The request is too large";
    /// The body is of another media type.
    UnsupportedMediaType = "unsupported-media-type", 415, "The body is of a media type that is not read here";
    /// The challenge was never given, or is long gone.
    UnknownChallenge = "unknown-challenge", 422, "The challenge is not known";
    /// The challenge expired before it was answered.
    ChallengeExpired = "challenge-expired", 422, "The challenge has expired";
    /// The challenge was given to another HSM.
    ForeignChallenge = "foreign-challenge", 422, "The challenge was given to another HSM";
    /// The challenge was answered before, with other bytes.
    ChallengeConsumed = "challenge-consumed", 422, "The challenge was already answered";
    /// The claim's context differs from what the challenge asked for.
    ContextMismatch = "context-mismatch", 422, "The claim's context is not the one that was asked for";
    /// No statement kind of that name is in force.
    UnknownStatement = "unknown-statement", 422, "The statement kind is not known";
    /// The HSM has not enrolled that key at that epoch.
    UnknownKey = "unknown-key", 422, "The HSM has not enrolled this key";
    /// The proof does not verify.
    ProofRefused = "proof-refused", 422, "The proof does not verify";
    /// The caller asks too often.
    TooManyRequests = "too-many-requests", 429, "The caller asks too often";
    /// The manager failed.
    Internal = "internal", 500, "The manager failed to answer";
    /// The manager cannot answer now.
    Unavailable = "unavailable", 503, "The manager cannot answer now";
    /// Evidence of where the HSM or a key lives is not what the evidence policy accepts.
    EvidenceRefused = "evidence-refused", 422, "The evidence is refused";
}

/// What every problem's type URI begins with.
const TYPE_PREFIX: &str = "urn:keywitness:problem:";

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.slug())
    }
}

/// An RFC 9457 problem document, `application/problem+json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{title}: {detail} [{}]", self.slug())]
pub struct Problem {
    /// Type URI: `urn:keywitness:problem:` and the kind's slug.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// One line for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong this time, and what to do.
    pub detail: String,
    /// After how many seconds to come back. It travels in the header `retry-after` (RFC 9110, section 10.2.3) and is not
    /// kept with the problem.
    #[serde(skip)]
    pub retry_after: Option<u16>,
}

impl Problem {
    /// A problem of `kind`, with what was wrong this time.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            type_uri: format!("{TYPE_PREFIX}{}", kind.slug()),
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// This problem, with when to come back: after so many seconds.
    #[must_use]
    pub const fn after(mut self, seconds: u16) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The kind, if this build knows it.
    pub fn kind(&self) -> Option<ProblemKind> {
        self.slug().parse().ok()
    }

    fn slug(&self) -> &str {
        self.type_uri.strip_prefix(TYPE_PREFIX).unwrap_or(&self.type_uri)
    }
}

/// No problem kind has that slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no problem kind has this name")]
pub struct UnknownProblem;

impl FromStr for ProblemKind {
    type Err = UnknownProblem;
    fn from_str(text: &str) -> Result<Self, UnknownProblem> {
        Self::ALL.iter().copied().find(|kind| kind.slug() == text).ok_or(UnknownProblem)
    }
}
