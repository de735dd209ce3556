//! WHAT is proven: statements, transcripts, constraint systems, parameters and the wire envelope.
//!
//! A *statement* relates a public instance to a secret witness. A [`Kind`] is one statement under one
//! proof system; [`registry`] maps every kind to its code. Every proof is bound to a [`ClaimContext`],
//! and travels in an [`Envelope`].
//!
//! Nothing in this crate reads a clock, a file or a socket, except [`params`] and [`ceremony`],
//! which keep keys on disk.

#[cfg(feature = "prove")]
pub mod ceremony;
pub mod codec;
pub mod combination;
pub mod context;
pub mod envelope;
mod error;
pub mod fingerprint;
mod gadgets;
pub mod id;
pub mod key;
pub mod key_derivation;
pub mod key_knowledge;
pub mod key_possession;
pub mod params;
#[cfg(feature = "peers")]
pub mod peers;
#[cfg(all(test, feature = "prove"))]
mod pins;
pub mod power_sums;
pub mod registry;
pub mod share_correctness;
pub mod sharing_of_key;
pub mod sigma;
pub mod snarkjs;
#[cfg(all(test, feature = "prove"))]
mod soundness;
pub mod statement;
pub mod tagged_key;
pub mod transcript;

pub use context::{ClaimContext, KeyClaim};
pub use envelope::Envelope;
pub use error::Error;
pub use fingerprint::{Fingerprint, Suite};
pub use id::{ClusterId, Digest, HsmId, KeyId, ManagerId, Nonce, Timestamp, TrustDomain};
pub use key::{KeyAlgorithm, KeyAttributes, KeyOrigin, Mechanisms, TokenAttributes};
pub use params::Parameters;
pub use registry::{Instance, Verified, Witness};
pub use statement::{Kind, ProofSystem, Shown, Statement};
