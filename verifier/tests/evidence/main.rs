//! Evidence of where a key lives: real documents of vendors at an injected time, and our own ones with every fault we can think
//! of. `README.md` beside this file says where each sample comes from.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod dcap;
mod encoding;
mod marvell;
mod nitro;
mod sev_snp;
mod support;
mod tpm2;
mod yubihsm2;
