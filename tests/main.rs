//! The whole system, and every statement kind through one harness.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod agent;
mod agreement;
mod api;
mod ceremony;
mod cluster;
mod crash;
mod docs;
mod evidence;
mod faults;
mod guides;
mod isolation;
mod packaging;
mod program;
mod shares;
mod signer;
mod snarkjs;
mod soak;
mod soundness;
mod statements;
mod support;
mod takeover;
mod token;
mod token_ways;
mod tpm_token;
mod vectors;
mod webhooks;
