//! The API's description: OpenAPI 3.1, made of one table of operations and `schemas.json`.
//!
//! A new path is one row of [`OPERATIONS`], and its types are in `schemas.json`. A test holds the table against the routes,
//! and schemathesis the document against a manager that runs.

mod operations;
mod page;

use std::{collections::BTreeMap, sync::OnceLock};

use actix_web::HttpResponse;
use keywitness_verifier::wire::ProblemKind;
use serde_json::{Map, Value, json};

pub(super) use self::{
    operations::{OPERATIONS, Operation},
    page::page,
};
use super::problem::PROBLEM_TYPE;

const SCHEMAS: &str = include_str!("schemas.json");

/// Anyone: the description.
pub(super) async fn document() -> HttpResponse {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| describe().to_string());
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(("cache-control", "public, max-age=300"))
        .body(text.as_str())
}

/// The methods that a route takes, by its template; none for what is no route of the API.
pub(super) fn methods(path: &str) -> Vec<&'static str> {
    OPERATIONS.iter().filter(|operation| operation.path == path).map(|operation| operation.method).collect()
}

/// Whether a body of this media type is read by an operation; one that is not named is taken for what is read.
pub(super) fn reads(method: &str, path: &str, media: Option<&str>) -> bool {
    let Some(media) = media.and_then(|media| media.split(';').next()).map(str::trim) else { return true };
    let operation = OPERATIONS.iter().find(|operation| operation.path == path && operation.method == method);
    match operation.map(|operation| operation.takes) {
        Some(Media::Json(_)) => media.eq_ignore_ascii_case("application/json"),
        Some(Media::Bytes(read)) => {
            [read, "application/octet-stream"].into_iter().any(|read| media.eq_ignore_ascii_case(read))
        }
        Some(Media::Nothing | Media::Text | Media::Html) | None => true,
    }
}

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::http) enum Who {
    /// Anyone.
    Anyone,
    /// Holders of a credential with one of these roles.
    Roles(&'static [&'static str]),
    /// An HSM that signs the request.
    Hsm,
    /// Whoever can make the body: it says itself who is allowed.
    Body,
}

/// What travels in a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::http) enum Media {
    Nothing,
    /// JSON, with the name of its schema.
    Json(&'static str),
    /// Plain text.
    Text,
    /// HTML.
    Html,
    /// Bytes of a media type.
    Bytes(&'static str),
}

impl Media {
    fn content(self) -> Option<Value> {
        let text = |media: &str| json!({ media: { "schema": { "type": "string" } } });
        match self {
            Self::Nothing => None,
            Self::Json(name) => Some(json!({ "application/json": { "schema": reference(name) } })),
            Self::Text => Some(text("text/plain")),
            Self::Html => Some(text("text/html")),
            Self::Bytes(media) => Some(json!({ media: { "schema": { "type": "string", "format": "binary" } } })),
        }
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The whole document.
pub(super) fn describe() -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for operation in OPERATIONS {
        paths.entry(operation.template()).or_default().insert(operation.method.to_lowercase(), described(operation));
    }
    let schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Keywitness manager",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HSMs prove in zero knowledge that they hold keys; the manager checks, keeps records and issues tokens. \
                            Digests are hexadecimal, other bytes base64url without padding, times seconds since the Unix epoch.",
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {
                "RequestId": {
                    "description": "What this request is called in the manager's log: the caller's own x-request-id, if it sent a plain one.",
                    "required": true,
                    "schema": { "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" },
                },
                "RetryAfter": {
                    "description": "When to come back, in seconds.",
                    "required": true,
                    "schema": { "type": "integer", "minimum": 0 },
                },
            },
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "A credential, kw_<role>_..." },
                "hsm": {
                    "type": "http", "scheme": "Keywitness-HSM",
                    "description": "The HSM's Ed25519 signature of this very request, and when it was made.",
                },
            },
        },
    })
}

/// One operation's part of it.
pub(super) fn described(operation: &Operation) -> Value {
    let mut entry = json!({
        "summary": operation.summary,
        "operationId": operation.id(),
        "tags": [operation.tag],
        "description": match operation.who {
            Who::Anyone => "Anyone.".to_owned(),
            Who::Roles(roles) => format!("Credential with role {}.", roles.join(" or ")),
            Who::Hsm => "An enrolled HSM, which signs the request.".to_owned(),
            Who::Body => "Whoever can make the body: what it carries says who that is.".to_owned(),
        },
        "security": match operation.who {
            Who::Anyone | Who::Body => json!([]),
            // Each role is an alternative (OpenAPI 3.1, section 4.8.30: the names of roles).
            Who::Roles(roles) => roles.iter().map(|role| json!({ "bearer": [role] })).collect(),
            Who::Hsm => json!([{ "hsm": [] }]),
        },
        "responses": responses(operation),
    });
    let parameters: Vec<Value> = operation
        .parameters
        .iter()
        .map(|parameter| {
            json!({
                "name": parameter.name, "in": parameter.place, "required": parameter.required,
                "description": parameter.doc, "schema": reference(parameter.schema),
            })
        })
        .collect();
    if let Some(members) = entry.as_object_mut() {
        if !parameters.is_empty() {
            members.insert("parameters".to_owned(), parameters.into());
        }
        if let Some(content) = operation.takes.content() {
            members.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
        }
    }
    entry
}

fn responses(operation: &Operation) -> Value {
    let id = json!({ "$ref": "#/components/headers/RequestId" });
    let mut success = json!({ "description": "Done.", "headers": { "x-request-id": id } });
    if let (Some(members), Some(content)) = (success.as_object_mut(), operation.gives.content()) {
        members.insert("content".to_owned(), content);
    }
    let mut all = Map::from_iter([(operation.status.to_string(), success)]);
    if let Some((status, name, doc)) = operation.otherwise {
        let content = Media::Json(name).content();
        all.insert(
            status.to_string(),
            json!({ "description": doc, "headers": { "x-request-id": id }, "content": content }),
        );
    }
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for kind in ProblemKind::ALL.iter().filter(|kind| operation.refuses_with(**kind)) {
        by_status.entry(kind.status()).or_default().push(kind.slug());
    }
    for (status, slugs) in by_status {
        let mut headers = Map::from_iter([("x-request-id".to_owned(), id.clone())]);
        if matches!(status, 429 | 503) {
            headers.insert("retry-after".to_owned(), json!({ "$ref": "#/components/headers/RetryAfter" }));
        }
        let entry = json!({
            "description": format!("Refused: {}.", slugs.join(", ")),
            "headers": headers,
            "content": { PROBLEM_TYPE: { "schema": reference("Problem") } },
        });
        all.entry(status.to_string()).or_insert(entry);
    }
    all.into()
}

#[cfg(test)]
mod tests;
