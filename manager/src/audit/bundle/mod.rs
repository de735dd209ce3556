//! Audit bundles: finding what a token rests on in the log, and checking a bundle that somebody brings.

mod appraisal;
mod check;
mod evidence;
mod gather;

pub use check::{Finding, Question, check};
pub use gather::{Missing, gather};
