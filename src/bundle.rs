//! `keywitness audit bundle` and `keywitness verify bundle`: one file that shows what a token rests on.

use std::{fs, path::PathBuf};

use anyhow::Context;
use keywitness_circuits::{Nonce, Timestamp};
use keywitness_manager::audit::{
    Anchors,
    bundle::{Question, check},
};
use keywitness_verifier::bundle::{Bundle, BundleRequest, MAX_BUNDLE};

use crate::{Global, audit, connection::Connection, data, output, token::KeyArgs};

/// Make one file that shows what a token rests on, for machines that have never seen the manager (client or auditor).
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness audit bundle --key signing-1 --out signing-1.bundle")]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// File with a token that is in force, or - for standard input; a new one is asked for when left out
    #[arg(long, value_name = "FILE", required_unless_present = "key", conflicts_with = "key")]
    token: Option<PathBuf>,
    #[command(flatten)]
    key: Option<KeyArgs>,
    /// Who will check the bundle: the audience of the new token
    #[arg(long, default_value = "keywitness-cli")]
    audience: String,
    /// Rest on a checkpoint that so many witnesses have cosigned
    #[arg(long, default_value_t = 0)]
    cosignatures: usize,
    /// Where to write it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let client = args.connection.client(global)?;
    let token = match (&args.token, &args.key) {
        (Some(file), _) => String::from_utf8(data::read(file)?).context("the token is not text")?.trim().to_owned(),
        (None, Some(key)) => crate::token::fetch(&client, key.query(), &args.audience, Nonce::random())?.0.token,
        (None, None) => anyhow::bail!("name a key with --key, or a token with --token"),
    };
    let bundle = client.bundle(&BundleRequest { token, cosignatures: args.cosignatures })?;
    let bytes = bundle.to_file();
    fs::write(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;
    if global.json {
        return output::json(&serde_json::json!({ "bundle": args.out, "bytes": bytes.len() }));
    }
    say!("wrote {} ({} bytes); anyone checks it with `keywitness verify bundle`", args.out.display(), bytes.len());
    Ok(())
}

#[derive(clap::Args)]
#[command(
    after_help = "Example: keywitness verify bundle signing-1.bundle --anchors anchors.json --at 2026-01-31T12:00:00Z"
)]
pub(crate) struct VerifyArgs {
    /// File with the bundle, or - for standard input
    file: PathBuf,
    /// File with trust anchors that you have compared over another channel
    #[arg(long, value_name = "FILE")]
    anchors: PathBuf,
    /// As of when: 2026-01-31T12:00:00Z, 2026-01-31, or seconds since 1970; when the bundle was made, where left out
    #[arg(long, value_name = "TIME", value_parser = data::time)]
    at: Option<Timestamp>,
    /// Your own name, as the token's audience
    #[arg(long, default_value = "keywitness-cli")]
    audience: String,
    /// So many witnesses must have cosigned the checkpoint, where the anchors ask for fewer
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    require_cosignatures: usize,
    /// Groth16 parameter files of the proofs in the bundle
    #[arg(long, value_name = "FILE")]
    groth16_parameters: Vec<PathBuf>,
}

pub(crate) fn verify(global: &Global, args: &VerifyArgs) -> anyhow::Result<()> {
    let anchors = audit::anchors(&args.anchors, args.require_cosignatures)?;
    let checker = audit::checker(&args.groth16_parameters)?;
    let bundle = Bundle::from_file(&data::read_at_most(&args.file, MAX_BUNDLE)?).map_err(output::No)?;
    let at = args.at.unwrap_or(bundle.as_of);
    tell(global, &bundle, &Question { anchors: &anchors, checker: &checker, at, audience: &args.audience })
}

/// What a relying party has beside a token to hold the log against: the token's bundle, and trust anchors.
#[derive(clap::Args)]
#[group(id = "beside")]
pub(crate) struct Beside {
    /// File with the token's bundle: the token must be in a log, and stand there now (needs --anchors)
    #[arg(long, value_name = "FILE", requires = "anchors")]
    bundle: Option<PathBuf>,
    /// File with trust anchors that you have compared over another channel
    #[arg(long, value_name = "FILE", requires = "bundle")]
    anchors: Option<PathBuf>,
    /// So many witnesses must have cosigned the log's checkpoint (needs --bundle)
    #[arg(long, value_name = "COUNT", default_value_t = 0, requires = "bundle")]
    require_cosignatures: usize,
    /// Groth16 parameter files of the proofs in the bundle
    #[arg(long, value_name = "FILE", requires = "bundle")]
    groth16_parameters: Vec<PathBuf>,
}

impl Beside {
    /// Reads them, where they were given.
    pub(crate) fn read(&self) -> anyhow::Result<Option<(Bundle, Anchors)>> {
        let (Some(file), Some(anchors)) = (&self.bundle, &self.anchors) else { return Ok(None) };
        let anchors = audit::anchors(anchors, self.require_cosignatures)?;
        let bundle = Bundle::from_file(&data::read_at_most(file, MAX_BUNDLE)?).map_err(output::No)?;
        Ok(Some((bundle, anchors)))
    }

    /// Checks a token's bundle as of now.
    pub(crate) fn verify(
        &self,
        global: &Global,
        (bundle, anchors): &(Bundle, Anchors),
        token: &str,
        audience: &str,
    ) -> anyhow::Result<()> {
        if bundle.token != token {
            return Err(output::No("the bundle is of another token".to_owned()).into());
        }
        let checker = audit::checker(&self.groth16_parameters)?;
        tell(global, bundle, &Question { anchors, checker: &checker, at: data::now(), audience })
    }
}

/// Checks a bundle, and prints each finding.
fn tell(global: &Global, bundle: &Bundle, question: &Question<'_>) -> anyhow::Result<()> {
    let at = question.at;
    let findings = check(bundle, question);
    let holds = findings.iter().all(|finding| finding.result.is_ok());
    if global.json {
        let told: Vec<_> = findings
            .iter()
            .map(|finding| {
                let text = finding.result.as_ref().unwrap_or_else(|why| why);
                serde_json::json!({ "what": finding.what, "holds": finding.result.is_ok(), "text": text })
            })
            .collect();
        output::json(&serde_json::json!({ "verified": holds, "as_of": at, "findings": told }))?;
    } else {
        for finding in &findings {
            match &finding.result {
                Ok(text) => say!("✓ {}: {}", output::printable(&finding.what), output::printable(text)),
                Err(why) => say!("✗ {}: {}", output::printable(&finding.what), output::printable(why)),
            }
        }
    }
    if holds { Ok(()) } else { Err(output::No(format!("the bundle does not hold as of {}", output::time(at))).into()) }
}
