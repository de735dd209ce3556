//! How costs grow with size, and what their parts alone would cost: `--plots DIRECTORY`.
//!
//! Every chart is measured in one process, with the floors: the times of the library's own primitives that no method
//! with these equations can do without, added up. docs/performance.md derives each.

use std::path::Path;

use curve25519_dalek::{RistrettoPoint, Scalar, ristretto::CompressedRistretto, traits::VartimeMultiscalarMul as _};
use keywitness_circuits::{Digest, transcript::SchnorrTranscript};
use rand::rngs::OsRng;

use crate::{
    chart::{Chart, Line},
    groth16, halo2,
    harness::{Mode, Side, median},
    schnorr, shares,
};

type Measurement = fn(Mode) -> Chart;

/// Measures every chart, and writes each as an SVG file into `directory`.
pub(crate) fn write(directory: &Path, mode: Mode) {
    std::fs::create_dir_all(directory).unwrap();
    let charts: [(&str, Measurement); 6] = [
        ("schnorr-batch", schnorr_batch),
        ("share-proofs", share_proofs),
        ("groth16-batch", groth16_batch),
        ("halo2-batch", halo2_batch),
        ("many-keys-proving", many_keys_proving),
        ("many-keys-verifying", many_keys_verifying),
    ];
    for (name, chart) in charts {
        eprintln!("{name}");
        std::fs::write(directory.join(name).with_extension("svg"), chart(mode).svg()).unwrap();
    }
}

/// Sizes of an axis; the first two in quick mode.
fn sizes(mode: Mode, full: &[usize]) -> &[usize] {
    if mode == Mode::Full { full } else { &full[..2] }
}

fn line(label: &str, sizes: &[usize], seconds: impl FnMut(usize) -> f64) -> Line {
    points(label, false, sizes, seconds)
}

fn floor(label: &str, sizes: &[usize], seconds: impl FnMut(usize) -> f64) -> Line {
    points(label, true, sizes, seconds)
}

fn points(label: &str, floor: bool, sizes: &[usize], mut seconds: impl FnMut(usize) -> f64) -> Line {
    Line { label: label.to_owned(), floor, points: sizes.iter().map(|size| (*size as f64, seconds(*size))).collect() }
}

/// What the parts of a batch on ristretto255 cost, in seconds.
struct Parts {
    /// Decoding a point.
    decode: f64,
    /// Deriving a challenge.
    challenge: f64,
    /// A point with a scalar of 128 bits, in a multiplication of many.
    short: f64,
    /// A point with a full scalar, in a multiplication of many.
    full: f64,
    /// A scalar times a number of one word, added to a sum, without reduction.
    small: f64,
}

impl Parts {
    fn measure(mode: Mode) -> Self {
        let count = mode.size(4096, 8);
        let points: Vec<RistrettoPoint> = (0..count).map(|_| RistrettoPoint::random(&mut OsRng)).collect();
        let encoded: Vec<CompressedRistretto> = points.iter().map(RistrettoPoint::compress).collect();
        let short: Vec<Scalar> = (0..count).map(|_| Scalar::from(rand::random::<u128>())).collect();
        let full: Vec<Scalar> = (0..count).map(|_| Scalar::random(&mut OsRng)).collect();
        let multiply = |scalars: Vec<Scalar>| {
            let points = points.clone();
            Side::new(count, move || {
                std::hint::black_box(RistrettoPoint::vartime_multiscalar_mul(&scalars, &points));
            })
        };
        let [short, full] = [short, full].map(|scalars| median(mode, multiply(scalars)));
        let decode = Side::new(count, move || assert!(encoded.iter().all(|point| point.decompress().is_some())));
        let challenge = Side::new(1, || {
            let transcript = SchnorrTranscript::new("ristretto255", &Digest([1; 32]), &[2; 32]);
            std::hint::black_box::<[u8; 64]>(transcript.challenge(&[3; 32]));
        });
        let limbs: Vec<[u64; 4]> = (0..count).map(|_| rand::random()).collect();
        let small = Side::new(count, move || {
            let mut sums = [0u128; 4];
            for value in std::hint::black_box(&limbs) {
                for (limb, sum) in value.iter().zip(&mut sums) {
                    *sum = sum.wrapping_add(u128::from(*limb).wrapping_mul(1021));
                }
            }
            std::hint::black_box(sums);
        });
        Self {
            decode: median(mode, decode),
            challenge: median(mode, challenge),
            short,
            full,
            small: median(mode, small),
        }
    }

    /// A proof of which only R is its own.
    const fn proof(&self) -> f64 {
        self.decode + self.challenge + self.short
    }
}

fn schnorr_batch(mode: Mode) -> Chart {
    let sizes = sizes(mode, &[1, 4, 16, 64, 256, 1024, 4096, 16_384]);
    let parts = Parts::measure(mode);
    Chart {
        title: "Schnorr on ristretto255: time a proof in a batch".to_owned(),
        x: "proofs in the batch",
        y: "CPU time a proof, one thread",
        lines: vec![
            line("ours, each another key", sizes, |n| median(mode, schnorr::ours(n, n))),
            line("ours, 8 proofs a key", sizes, |n| median(mode, schnorr::ours(n, n.div_ceil(8)))),
            line("ed25519-dalek verify_batch", sizes, |n| median(mode, schnorr::dalek(n, n))),
            floor("parts, each another key", sizes, |_| parts.proof() + parts.full),
            floor("parts, 8 proofs a key", sizes, |_| parts.proof() + parts.full / 8.0),
        ],
    }
}

fn share_proofs(mode: Mode) -> Chart {
    let sizes = sizes(mode, &[4, 16, 64, 128, 256, 512, 1000]);
    let parts = Parts::measure(mode);
    let threshold = |n: usize| (2 * n).div_ceil(3);
    Chart {
        title: "All n holders' shares of one dealing, t = 2n/3".to_owned(),
        x: "holders, n",
        y: "CPU time a dealing, one thread",
        lines: vec![
            line("frost-core, one by one", sizes, |n| median(mode, shares::frost(n, threshold(n))) * n as f64),
            line("our share proofs", sizes, |n| median(mode, shares::one_dealing(n, threshold(n))) * n as f64),
            line("our degree check", sizes, |n| median(mode, shares::one_degree(n, threshold(n))) * n as f64),
            floor("parts of share proofs", sizes, |n| {
                let (n, t) = (n as f64, threshold(n) as f64);
                n * parts.proof() + t * parts.full + n * t * parts.small
            }),
        ],
    }
}

fn groth16_batch(mode: Mode) -> Chart {
    let sizes = sizes(mode, &[1, 2, 4, 16, 64, 256, 1000]);
    let proofs = groth16::one_key(sizes[sizes.len() - 1]);
    let parts = groth16::parts(mode);
    let ark = median(mode, groth16::ark(&proofs[..2]));
    Chart {
        title: "Groth16 on BN254: time a proof in a batch".to_owned(),
        x: "proofs in the batch",
        y: "CPU time a proof, one thread",
        lines: vec![
            line("ours", sizes, |n| median(mode, groth16::verification(proofs[..n].to_vec()))),
            line("ark-groth16, one by one", sizes, |_| ark),
            floor("parts, counted", sizes, |_| parts),
        ],
    }
}

fn halo2_batch(mode: Mode) -> Chart {
    let sizes = sizes(mode, &[1, 2, 4, 16, 64, 256]);
    let proofs = halo2::one_key(sizes[sizes.len() - 1]);
    let parts = halo2::parts(mode, &proofs[0]);
    Chart {
        title: "halo2 on Pasta: time a proof in a batch".to_owned(),
        x: "proofs in the batch",
        y: "CPU time a proof, one thread",
        lines: vec![
            line("ours", sizes, |n| median(mode, halo2::verification(proofs[..n].to_vec()))),
            line("halo2_proofs BatchVerifier", sizes, |n| median(mode, halo2::library(&proofs[..n]))),
            floor("parts", sizes, |_| parts),
        ],
    }
}

const KEYS: [usize; 4] = [1, 4, 16, 64];

fn many_keys_proving(mode: Mode) -> Chart {
    let sizes = sizes(mode, &KEYS);
    let [groth16_one, halo2_one] = [groth16::proving(), halo2::proving()].map(|side| median(mode, side));
    Chart {
        title: "Proving many keys in one proof: time a key".to_owned(),
        x: "keys in the proof, of 64 slots",
        y: "CPU time a key, one thread",
        lines: vec![
            line("halo2, many keys", sizes, |keys| median(mode, halo2::many_proving(keys))),
            line("halo2, one key a proof", sizes, |_| halo2_one),
            line("Groth16, many keys", sizes, |keys| median(mode, groth16::many_proving(keys))),
            line("Groth16, one key a proof", sizes, |_| groth16_one),
        ],
    }
}

fn many_keys_verifying(mode: Mode) -> Chart {
    let sizes = sizes(mode, &KEYS);
    let [groth16_one, halo2_one] = [groth16::verification(groth16::one_key(1)), halo2::verification(halo2::one_key(1))]
        .map(|side| median(mode, side));
    Chart {
        title: "Verifying many keys in one proof: time a key".to_owned(),
        x: "keys in the proof, of 64 slots",
        y: "CPU time a key, one thread",
        lines: vec![
            line("halo2, many keys", sizes, |keys| {
                median(mode, halo2::many_verification(halo2::many_keys(1, keys), keys))
            }),
            line("Groth16, many keys", sizes, |keys| {
                median(mode, groth16::many_verification(groth16::many_keys(1, keys), keys))
            }),
            floor("halo2, floor", sizes, |keys| halo2_one / keys as f64),
            floor("Groth16, floor", sizes, |keys| groth16_one / keys as f64),
        ],
    }
}
