//! Bundles that are cut, damaged, short of a piece, or put together from two.

use std::sync::OnceLock;

use keywitness_verifier::bundle::Bundle;
use proptest::prelude::*;

use super::{Case, log_of, opening_number, proven, refused};

#[test]
fn a_file_that_is_cut_or_too_long_is_no_bundle() {
    let file = Case::new().bundle().to_file();
    for length in (0..file.len()).step_by(97).chain([file.len() - 1]) {
        let why = Bundle::from_file(&file[..length]).unwrap_err();
        assert!(why.contains("no audit bundle") || why.contains("damaged"), "{why}");
    }
    let mut long = file;
    long.resize(keywitness_verifier::bundle::MAX_BUNDLE + 1, b' ');
    assert!(Bundle::from_file(&long).unwrap_err().contains("at most"));
}

#[test]
fn a_bundle_without_one_of_its_entries_does_not_hold() {
    let case = Case::new();
    let whole = case.bundle();
    for missing in 0..whole.entries.len() {
        let mut bundle = whole.clone();
        bundle.entries.remove(missing);
        refused(case.check(&bundle), "the bundle has no entry");
    }
}

#[test]
fn entries_of_two_logs_make_no_bundle() {
    let case = Case::new();
    let whole = case.bundle();
    let mut bundle = whole.clone();
    // The same manager, a little later: every proof holds, under another checkpoint.
    case.hsm.attest(&case.world, "eu", &case.key).unwrap();
    let later = log_of(&case.world);
    bundle.entries[0] = proven(&later, &[opening_number(&bundle.entries[0])], &[1, 2]).remove(0);
    refused(case.check(&bundle), "another checkpoint");
    let mut bundle = whole;
    let proof = bundle.entries[1].proof.clone();
    bundle.entries[0].proof = proof;
    refused(case.check(&bundle), "another entry");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damage anywhere is seen, and lies in whatever the bundle rests on are seen where the checksum was made up for.
    #[test]
    fn a_flipped_bit_anywhere_in_a_bundle_is_caught(
        place in any::<prop::sample::Index>(), part in 0..4_usize, entry in 0..4_usize, bit in 0..8_u8,
    ) {
        static CASE: OnceLock<(Case, Bundle)> = OnceLock::new();
        let (case, whole) = CASE.get_or_init(|| {
            let case = Case::new();
            let bundle = case.bundle();
            (case, bundle)
        });
        let flip = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[place.index(text.len())] ^= 1 << bit;
            String::from_utf8(bytes).ok()
        };
        let mut bundle = whole.clone();
        match part {
            0 => {
                let mut bytes = whole.to_file();
                let length = bytes.len();
                bytes[place.index(length)] ^= 1 << bit;
                prop_assert!(Bundle::from_file(&bytes).is_err());
                return Ok(());
            }
            1 => {
                let opening = &mut bundle.entries[entry].opening.0;
                let length = opening.len();
                opening[place.index(length)] ^= 1 << bit;
            }
            2 => match flip(&bundle.entries[entry].proof) {
                Some(proof) => bundle.entries[entry].proof = proof,
                None => return Ok(()),
            },
            _ => match flip(&bundle.token) {
                Some(token) => bundle.token = token,
                None => return Ok(()),
            },
        }
        let mended = Bundle::from_file(&bundle.to_file()).unwrap();
        prop_assert!(case.check(&mended).is_err());
    }
}
