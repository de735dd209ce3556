//! A statistical check that secrets do not show in running times: `cargo bench --bench constant_time`.
//!
//! As dudect does it (Reparaz, Balasch, Verbauwhede, "Dude, is my code constant time?", DATE 2017): the same operation
//! is timed for one fixed secret of low weight and for random ones, in random order; Welch's t-test compares the two
//! classes, over all times and with the slowest ones cropped at several percentiles. |t| at or above 10 is a
//! difference; below it, none was seen with that many samples, on this machine, which is less than a proof that there
//! is none. What exceeds the threshold is measured once more, with four times the samples, before it counts: machines
//! are noisy. Two controls take time that depends on the secret, and must be found out.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    hint::black_box,
    process::ExitCode,
    time::{Duration, Instant},
};

use comfy_table::{Table, presets};
use curve25519_dalek::{RistrettoPoint, Scalar};
use keywitness_circuits::{
    ClaimContext, Digest, HsmId, KeyAlgorithm, KeyClaim, Nonce, Parameters, ProofSystem, Suite, Timestamp, TrustDomain,
    key_knowledge::{
        Instance, KeyKnowledge, Witness,
        eddsa::Ed25519,
        schnorr::{P256, Ristretto255, Schnorr, SchnorrGroup, Secp256k1},
    },
    transcript::SchnorrTranscript,
};
use keywitness_verifier::channel;
use rand::{Rng as _, RngCore as _, rngs::OsRng};

/// Where a difference begins.
const THRESHOLD: f64 = 10.0;
/// Shares of the times that are kept, the slowest being cropped.
const CROPS: [f64; 7] = [1.0, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25];
/// Inputs that are prepared, and then timed, at a time.
const BATCH: usize = 512;
/// Fewest samples of a verdict.
const FEWEST: usize = 4 * BATCH;
/// What each subject is given at first.
const TIME: Duration = Duration::from_millis(2_200);

/// Times of both classes, in nanoseconds.
#[derive(Default)]
struct Samples {
    fixed: Vec<f64>,
    random: Vec<f64>,
}

impl Samples {
    fn len(&self) -> usize {
        self.fixed.len() + self.random.len()
    }

    /// Welch's t between the classes, the greatest over all crops; and the smallest difference, as a share of the
    /// time, that would have reached the threshold.
    fn t(&self) -> (f64, f64) {
        let mut all: Vec<f64> = self.fixed.iter().chain(&self.random).copied().collect();
        all.sort_by(f64::total_cmp);
        let crop = |share: f64| {
            let limit = all[((all.len() as f64 * share) as usize).saturating_sub(1)];
            let (fixed, random) = (moments(&self.fixed, limit), moments(&self.random, limit));
            let error = (fixed.1 / fixed.2 + random.1 / random.2).sqrt();
            // A crop that leaves next to nothing of a class says nothing; the crops above it do.
            let enough = fixed.2.min(random.2) >= 100.0 && error > 0.0;
            if !enough {
                return (0.0, f64::INFINITY);
            }
            (((fixed.0 - random.0) / error).abs(), THRESHOLD * error / random.0)
        };
        let crops = CROPS.into_iter().map(crop);
        crops.fold((0.0, f64::INFINITY), |(t, least), (other, seen)| (t.max(other), least.min(seen)))
    }
}

/// Mean, variance and number of the times up to `limit`.
fn moments(times: &[f64], limit: f64) -> (f64, f64, f64) {
    let kept = || times.iter().filter(|time| **time <= limit);
    let number = kept().count() as f64;
    let mean = kept().sum::<f64>() / number;
    (mean, kept().map(|time| (time - mean).powi(2)).sum::<f64>() / (number - 1.0), number)
}

/// Something that is done with a secret.
struct Subject {
    name: &'static str,
    /// Whether the time depends on the secret, on purpose.
    control: bool,
    measure: Box<dyn Fn(Duration) -> Samples>,
}

impl Subject {
    /// `prepare` makes a secret ready, untimed; `work` is timed.
    fn new<T: 'static, R>(
        name: &'static str,
        fixed: [u8; 32],
        prepare: impl Fn(&[u8; 32]) -> T + 'static,
        work: impl Fn(&T) -> R + 'static,
    ) -> Self {
        let measure = move |time: Duration| {
            let (mut samples, start, mut warm) = (Samples::default(), Instant::now(), false);
            while start.elapsed() < time || samples.len() < FEWEST {
                let batch: Vec<(bool, T)> = (0..BATCH)
                    .map(|_| {
                        let (is_fixed, random) = (OsRng.r#gen::<bool>(), scalar());
                        // The random secret is drawn for both classes, so that what comes before is the same.
                        (is_fixed, prepare(if is_fixed { &fixed } else { &random }))
                    })
                    .collect();
                for (is_fixed, secret) in &batch {
                    let begin = Instant::now();
                    black_box(work(black_box(secret)));
                    let nanoseconds = begin.elapsed().as_nanos() as f64;
                    match (warm, is_fixed) {
                        (false, _) => {}
                        (true, true) => samples.fixed.push(nanoseconds),
                        (true, false) => samples.random.push(nanoseconds),
                    }
                }
                warm = true;
            }
            samples
        };
        Self { name, control: false, measure: Box::new(measure) }
    }

    fn control(self) -> Self {
        Self { control: true, ..self }
    }
}

/// Random bytes that are a scalar of every group here, in either byte order.
fn scalar() -> [u8; 32] {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    bytes[0] &= 0x0f;
    bytes[31] &= 0x0f;
    bytes
}

/// The scalar 2, little-endian or big-endian.
fn two(little: bool) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[if little { 0 } else { 31 }] = 2;
    bytes
}

fn context(trust_domain: TrustDomain, instance: &Instance) -> ClaimContext {
    ClaimContext {
        statement: instance.kind().unwrap().name().to_owned(),
        verifying_key: Digest([1; 32]),
        trust_domain,
        manager: "manager-1".parse().unwrap(),
        cluster: "payments".parse().unwrap(),
        hsm: "hsm-1".parse().unwrap(),
        enrolment: 1,
        keys: vec![KeyClaim { key: "k".parse().unwrap(), epoch: 1, attributes: Digest([2; 32]) }],
        instance: instance.digest(),
        challenge: Nonce([7; 32]),
        not_before: Timestamp(0),
        not_after: Timestamp(1),
        checkpoint: None,
        evidence: None,
    }
}

/// Proving. Context and instance are the same for both classes: only the secret differs.
fn proving<P: ProofSystem<Statement = KeyKnowledge>>(
    name: &'static str,
    algorithm: KeyAlgorithm,
    fixed: [u8; 32],
) -> Subject {
    let trust_domain: TrustDomain = "acme.example".parse().unwrap();
    let instance = Witness::new(algorithm, &fixed).unwrap().instance(&trust_domain, Suite::PublicKey).unwrap();
    let context = context(trust_domain, &instance);
    let parameters = Parameters::transparent();
    let prepare = move |secret: &[u8; 32]| Witness::new(algorithm, secret).unwrap();
    Subject::new(name, fixed, prepare, move |witness| P::prove(&parameters, &context, &instance, witness).unwrap())
}

/// The response r + c·x alone, which proving hides among slower work.
fn response<G: SchnorrGroup + 'static>(name: &'static str, fixed: [u8; 32]) -> Subject
where
    G::Scalar: 'static,
{
    let (r, c) = (G::scalar_from_uniform(&[0x5a; 64]), G::scalar_from_uniform(&[0xa5; 64]));
    let prepare = |secret: &[u8; 32]| G::scalar_from_bytes(secret).unwrap();
    Subject::new(name, fixed, prepare, move |x| {
        for _ in 0..64 {
            black_box(G::respond(black_box(&r), black_box(&c), black_box(x)));
        }
    })
}

fn hedged_nonce() -> Subject {
    let copy = |secret: &[u8; 32]| *secret;
    Subject::new("hedged nonce derivation", [0; 32], copy, |secret| {
        let transcript = SchnorrTranscript::new("ristretto255", &Digest([1; 32]), &[2; 32]);
        transcript.hedged_nonce::<64>(secret, &mut OsRng)
    })
}

/// Opening what was sealed to another key, so that both classes fail, at the same place.
fn channel_opening() -> Subject {
    let (domain, hsm): (TrustDomain, HsmId) = ("acme.example".parse().unwrap(), "hsm-1".parse().unwrap());
    let (sealed, _) = channel::seal_request(&domain, &hsm, &channel::generate_key().1, &[7; 200]).unwrap();
    let copy = |secret: &[u8; 32]| *secret;
    Subject::new("channel key: opening a request", two(true), copy, move |secret| {
        assert!(channel::open_request(&domain, &hsm, secret, &sealed).is_err());
    })
}

/// Compares byte by byte, and stops at the first difference.
fn early_exit() -> Subject {
    let reference = two(true);
    let copy = |secret: &[u8; 32]| *secret;
    Subject::new("control: comparison with early exit", reference, copy, move |secret| {
        for _ in 0..64 {
            let mut pairs = black_box(secret).iter().zip(black_box(&reference));
            black_box(pairs.any(|(one, other)| black_box(one != other)));
        }
    })
    .control()
}

/// A multiplication that is meant for public scalars.
fn vartime_multiplication() -> Subject {
    let prepare = |secret: &[u8; 32]| Scalar::from_bytes_mod_order(*secret);
    Subject::new("control: vartime multiplication", two(true), prepare, |x| {
        let point = curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT;
        RistrettoPoint::vartime_double_scalar_mul_basepoint(x, &point, &Scalar::ZERO)
    })
    .control()
}

fn subjects() -> Vec<Subject> {
    let (little, big) = (two(true), two(false));
    vec![
        early_exit(),
        vartime_multiplication(),
        proving::<Schnorr<Ristretto255>>("ristretto255: Schnorr proving", KeyAlgorithm::Ristretto255, little),
        proving::<Schnorr<P256>>("P-256: Schnorr proving", KeyAlgorithm::P256, big),
        proving::<Schnorr<Secp256k1>>("secp256k1: Schnorr proving", KeyAlgorithm::Secp256k1, big),
        proving::<Ed25519>("Ed25519: EdDSA signing", KeyAlgorithm::Ed25519, [0; 32]),
        response::<Ristretto255>("ristretto255: r + c·x, 64 times", little),
        response::<P256>("P-256: r + c·x, 64 times", big),
        response::<Secp256k1>("secp256k1: r + c·x, 64 times", big),
        hedged_nonce(),
        channel_opening(),
    ]
}

fn main() -> ExitCode {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["operation", "samples", "|t|", "would see", "verdict"]);
    let mut failed = false;
    for subject in subjects() {
        let mut samples = (subject.measure)(TIME);
        let (first, _) = samples.t();
        let mut verdict = String::new();
        // The classes differ where they should not, or the other way round: look again.
        if (first >= THRESHOLD) != subject.control {
            samples = (subject.measure)(4 * TIME);
            verdict = format!(" (measured again: {first:.1} at first)");
        }
        let (t, least) = samples.t();
        let (good, words) = match (t >= THRESHOLD, subject.control) {
            (false, false) => (true, "no difference seen"),
            (true, false) => (false, "TIME DEPENDS ON THE SECRET"),
            (true, true) => (true, "found out, as it must be"),
            (false, true) => (false, "NOT FOUND OUT: this check sees nothing here"),
        };
        failed |= !good;
        verdict.insert_str(0, words);
        let least = format!("{:.2}%", 100.0 * least);
        table.add_row([subject.name.to_owned(), samples.len().to_string(), format!("{t:.1}"), least, verdict]);
    }
    println!("{table}\n|t| of {THRESHOLD} or more is a difference; a difference is measured again before it counts.");
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
