//! The transparency log.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    web::{Data, Path, Payload},
};
use keywitness_verifier::{
    log::{Note, OPENINGS_TYPE},
    wire::{ProblemKind, Retained, Role},
};
use serde::Deserialize;

use super::{Answer, OPERATOR, answer, done};
use crate::{
    Manager,
    http::{
        auth::{bearer, body, charge, query, run},
        problem::Refusal,
    },
};

const AUDITOR: &[Role] = &[Role::Auditor];
const OPERATOR_OR_AUDITOR: &[Role] = &[Role::Operator, Role::Auditor];

/// How many openings a page has where nobody says.
const PAGE: usize = 1024;

fn note(note: &Note) -> Answer {
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, "text/plain; charset=utf-8"));
    Ok(response.insert_header((CACHE_CONTROL, "no-cache")).body(note.to_string()))
}

fn private(media_type: &'static str, bytes: Vec<u8>) -> Answer {
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, media_type));
    Ok(response.insert_header((CACHE_CONTROL, "no-store")).body(bytes))
}

/// Anyone: the keys that sign for the log.
pub(in crate::http) async fn key(manager: Data<Manager>) -> Answer {
    answer(&manager.log_key())
}

/// Anyone: the newest checkpoint.
pub(in crate::http) async fn checkpoint(manager: Data<Manager>) -> Answer {
    note(&run(&manager, Manager::checkpoint).await?)
}

/// How many cosignatures are asked for.
#[derive(Deserialize)]
struct Cosigned {
    #[serde(default = "one")]
    witnesses: usize,
}

const fn one() -> usize {
    1
}

/// Anyone: the newest checkpoint with enough cosignatures.
pub(in crate::http) async fn cosigned(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let Cosigned { witnesses } = query(&request)?;
    note(&run(&manager, move |manager| manager.cosigned(witnesses)).await?)
}

/// Anyone: a tile. What a path names never changes.
pub(in crate::http) async fn tile(manager: Data<Manager>, path: Path<String>) -> Answer {
    let wrong =
        |_| Refusal::new(ProblemKind::NotFound, "no tile has this path: <L>/<N>[.p/<W>] or entries/<N>[.p/<W>]");
    let tile = path.parse().map_err(wrong)?;
    let bytes = run(&manager, move |manager| manager.tile(&tile)).await?;
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, "application/octet-stream"));
    Ok(response.insert_header((CACHE_CONTROL, "public, max-age=31536000, immutable")).body(bytes))
}

/// How many further requests a proof costs its address: its hashes are computed anew each time.
const PROOF: u32 = 9;

/// Which entry, in which tree.
#[derive(Deserialize)]
struct Place {
    index: u64,
    size: Option<u64>,
}

/// Anyone: an inclusion proof.
pub(in crate::http) async fn inclusion(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let Place { index, size } = query(&request)?;
    charge(&manager, &request, PROOF)?;
    answer(&run(&manager, move |manager| manager.inclusion_proof(index, size)).await?)
}

/// Which trees.
#[derive(Deserialize)]
struct Trees {
    from: u64,
    to: u64,
}

/// Anyone: a consistency proof.
pub(in crate::http) async fn consistency(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let Trees { from, to } = query(&request)?;
    charge(&manager, &request, PROOF)?;
    answer(&run(&manager, move |manager| manager.consistency_proof(from, to)).await?)
}

/// Which openings.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

/// Auditor: a page of openings.
pub(in crate::http) async fn openings(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, AUDITOR)?;
    let Page { after, limit } = query(&request)?;
    let page = run(&manager, move |manager| manager.openings(&caller, after, limit.unwrap_or(PAGE))).await?;
    private(OPENINGS_TYPE, page)
}

/// Auditor: brings a cosignature.
pub(in crate::http) async fn cosign(manager: Data<Manager>, request: HttpRequest, payload: Payload) -> Answer {
    bearer(&manager, &request, AUDITOR)?;
    let text = String::from_utf8(body(payload).await?.to_vec())
        .map_err(|_| Refusal::new(ProblemKind::Malformed, "the body is no signed note: it is not UTF-8"))?;
    run(&manager, move |manager| manager.cosign(&text)).await?;
    done()
}

/// Operator: seals the state.
pub(in crate::http) async fn seal(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    answer(&run(&manager, move |manager| manager.seal(&caller)).await?)
}

/// Operator or auditor: the seals so far.
pub(in crate::http) async fn seals(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR_OR_AUDITOR)?;
    answer(&run(&manager, move |manager| manager.seals(&caller)).await?)
}

/// Which part of a snapshot.
#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    offset: u64,
}

/// Auditor: the state that a seal is of, part by part.
pub(in crate::http) async fn snapshot(manager: Data<Manager>, request: HttpRequest, path: Path<String>) -> Answer {
    let caller = bearer(&manager, &request, AUDITOR)?;
    let Part { offset } = query(&request)?;
    let sequence = path.parse().map_err(|_| Refusal::new(ProblemKind::NotFound, "a seal is named by its number"))?;
    let part = run(&manager, move |manager| manager.snapshot(&caller, sequence, offset)).await?;
    private("application/octet-stream", part)
}

/// Operator: deletes the openings that are old enough.
pub(in crate::http) async fn retain(manager: Data<Manager>, request: HttpRequest) -> Answer {
    let caller = bearer(&manager, &request, OPERATOR)?;
    let deleted_through = run(&manager, move |manager| manager.retain(&caller)).await?;
    answer(&Retained { deleted_through })
}
