//! Threshold custody: one sharing primitive, pure and without I/O.
//!
//! A *dealer* shares a scalar of ristretto255 among *holders*, so that any `t` of them can reconstruct it and fewer learn
//! nothing. Two forms, for two needs:
//!
//! - [`dealing`]: a holder receives its share as a **scalar**, which threshold signing needs. The dealing carries commitments
//!   (Feldman's, or Pedersen's where the secret has low entropy) and the shares sealed to the holders' keys ([`seal`]). Only a
//!   holder can see that its share is bad; it then publishes a [`complaint`], which anyone can judge. Shares of many
//!   dealings are checked together ([`received`]).
//! - [`public`]: every share is checked by **anyone**, before a holder has seen it, with no complaint; but what is
//!   reconstructed is a group element. It serves group secrets, such as encryption keys and beacons.
//!
//! A holder proves that it still has its share by the statement `share_correctness` of `keywitness-circuits`, for the
//! instance that [`dealing::Dealing::instance`] gives.
//!
//! The feature `prove` adds the secret side: dealing, complaining, decrypting. Judging builds without it. Randomness that
//! secrets depend on comes from the operating system.

pub mod complaint;
pub mod dealing;
mod error;
mod polynomial;
pub mod public;
pub mod received;
pub mod seal;
pub mod sharing;
#[cfg(all(test, feature = "prove"))]
mod testing;

pub use complaint::{Complaint, Fault, Verdict};
pub use dealing::Dealing;
pub use error::Error;
pub use keywitness_circuits::share_correctness::{Commitments, MAX_HOLDERS, MIN_THRESHOLD, Scheme};
pub use public::{DecryptedShare, GroupKey, PublicDealing};
pub use received::verify_shares;
pub use seal::{HolderKey, SealingKey};
pub use sharing::{Member, Opening, Purpose, Share, SharingId, Terms};
