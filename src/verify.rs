//! `keywitness verify`: check a token or an envelope offline.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use keywitness_circuits::{
    Digest, Envelope, Instance, Nonce, Parameters, TrustDomain, codec::Canonical, params::Groth16Parameters,
};
use keywitness_verifier::{
    envelope,
    identity::IdentityKey,
    token::{self, Expected},
    wire::Standing,
};

use crate::{Global, data, output};

/// Check a token or an envelope offline: nobody is asked, nothing is trusted but what you give.
#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness verify token token.jwt --jwks jwks.json --trust-domain acme.example --audience shop"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Check a verification token against a manager's key set
    Token(TokenArgs),
    /// Check an envelope's identity signature and proof
    Envelope(EnvelopeArgs),
    /// Check an audit bundle, as of a time, on a machine that has never seen the manager
    Bundle(crate::bundle::VerifyArgs),
}

#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness verify token token.jwt --jwks jwks.json --trust-domain acme.example --audience shop"
)]
struct TokenArgs {
    /// File with the token, or - for standard input
    file: PathBuf,
    /// File with the manager's key set (/.well-known/jwks.json); the anchored keys of the bundle when left out
    #[arg(long, value_name = "FILE", required_unless_present = "bundle")]
    jwks: Option<PathBuf>,
    /// The trust domain that the key set belongs to; that of the anchors when left out
    #[arg(long, required_unless_present = "bundle")]
    trust_domain: Option<TrustDomain>,
    /// Your own name, as the token's audience
    #[arg(long, default_value = "keywitness-cli")]
    audience: String,
    /// The nonce that you sent (43 characters of base64url); without it a token that was issued earlier passes too
    #[arg(long, allow_hyphen_values = true, value_name = "BASE64URL")]
    nonce: Option<Nonce>,
    /// File with the status list that the token names: says whether it was revoked or suspended since
    #[arg(long, value_name = "FILE")]
    status_list: Option<PathBuf>,
    #[command(flatten)]
    beside: crate::bundle::Beside,
}

#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness verify envelope storage-1.envelope --identity-key $(keywitness key identity --store hsm-1/store)"
)]
struct EnvelopeArgs {
    /// File with the envelope's bytes, or - for standard input
    file: PathBuf,
    /// The HSM's public identity key: 64 hexadecimal digits, which `keywitness key identity` prints where the HSM is
    ///
    /// Learn it from whoever runs the HSM, over a channel that you trust: a key that came with the envelope shows nothing.
    #[arg(long, value_name = "DIGITS")]
    identity_key: Digest,
    /// Groth16 parameter file, where the proof is of that suite
    #[arg(long, value_name = "FILE")]
    groth16_parameters: Option<PathBuf>,
    /// The same for a proof of many keys
    #[arg(long, value_name = "FILE")]
    groth16_many_parameters: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.what {
        What::Token(args) => check_token(global, args),
        What::Envelope(args) => check_envelope(global, args),
        What::Bundle(args) => crate::bundle::verify(global, args),
    }
}

fn check_token(global: &Global, args: &TokenArgs) -> anyhow::Result<()> {
    let text = String::from_utf8(data::read(&args.file)?).context("the token is not text")?;
    let beside = args.beside.read()?;
    let keys = match (&args.jwks, &beside) {
        (Some(path), _) => {
            serde_json::from_slice(&data::read(path)?).with_context(|| format!("{} is no key set", path.display()))?
        }
        (None, Some((bundle, anchors))) => anchors.anchored(&bundle.keys),
        (None, None) => anyhow::bail!("give the manager's key set with --jwks"),
    };
    let anchored = beside.as_ref().map(|(_, anchors)| &anchors.trust_domain);
    let trust_domain = args.trust_domain.as_ref().or(anchored).context("give the --trust-domain")?;
    let expected = Expected { trust_domain, audience: &args.audience, nonce: args.nonce.as_ref() };
    let verified = token::verify(text.trim(), &keys, &expected, data::now())?;
    if let Some(path) = &args.status_list {
        let list = String::from_utf8(data::read(path)?).context("the status list is not text")?;
        let (standing, _) = token::status(&verified, list.trim(), &keys, None, data::now())?;
        if standing != Standing::Active {
            return Err(output::No(format!("the token verifies, and what it speaks of is {standing} since")).into());
        }
    }
    if let Some(beside) = &beside {
        args.beside.verify(global, beside, text.trim(), &args.audience)?;
        // Its findings are the answer.
        if global.json {
            return Ok(());
        }
    }
    if global.json {
        return output::json(verified.claims());
    }
    say!("the token verifies");
    crate::token::describe(&verified);
    Ok(())
}

fn check_envelope(global: &Global, args: &EnvelopeArgs) -> anyhow::Result<()> {
    let mut parameters = Parameters::transparent();
    if let Some(path) = &args.groth16_parameters {
        parameters = parameters.with_groth16(Groth16Parameters::read(path)?);
    }
    if let Some(path) = &args.groth16_many_parameters {
        parameters = parameters.with_groth16_many(Groth16Parameters::read_many(path)?);
    }
    let no = |error: keywitness_circuits::Error| output::No(error.to_string());
    let envelope = Envelope::from_bytes(&data::read(&args.file)?).map_err(no)?;
    let identity = IdentityKey::try_from(args.identity_key).map_err(no)?;
    let verified = envelope::verify(&parameters, &identity, &envelope)?;
    let context = &envelope.context;
    let fingerprints = match verified.instance() {
        Instance::ManyKeys(many) => many.keys().map(|(_, fingerprint)| fingerprint).collect(),
        one => vec![one.fingerprint()?],
    };
    let keys: Vec<_> = context.keys.iter().map(|claim| format!("{} @{}", claim.key, claim.epoch)).collect();
    if global.json {
        return output::json(&serde_json::json!({ "statement": verified.kind(), "hsm": context.hsm,
            "cluster": context.cluster, "trust_domain": context.trust_domain, "manager": context.manager,
            "enrolment": context.enrolment, "keys": keys, "fingerprints": fingerprints,
            "not_before": context.not_before, "not_after": context.not_after, "envelope": envelope.digest() }));
    }
    say!("the envelope verifies: {} proves {} under {}", context.hsm, keys.join(", "), verified.kind());
    say!("it claims so from {} to {}", output::time(context.not_before), output::time(context.not_after));
    say!("whether its challenge was fresh, only the manager that gave it can say");
    Ok(())
}
