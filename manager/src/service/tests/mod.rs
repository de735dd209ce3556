//! Every rule of the manager, over its service layer and a clock that tests move.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod access;
mod attestation;
pub(crate) mod batch;
mod budgets;
mod cluster;
mod enrolment;
pub(crate) mod evidence;
mod fraud;
mod hardening;
pub(crate) mod many;
mod possession;
pub(crate) mod rules;
pub(crate) mod sharing;
mod simulation;
pub(crate) mod standing;
pub(crate) mod statements;
mod status;
mod status_list;
mod takeover;
mod token;
