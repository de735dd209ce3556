//! `keywitness audit bundle` and `keywitness verify bundle`: one file that shows what a token rests on.

use std::{fs, path::PathBuf};

use anyhow::Context;
use keywitness_circuits::{Nonce, Timestamp};
use keywitness_manager::audit::bundle::{Question, check};
use keywitness_verifier::bundle::{Bundle, BundleRequest};

use crate::{Global, audit, connection::Connection, data, output, token::KeyArgs};

/// Make one file that shows what a token rests on, for machines that have never seen the manager (client or auditor).
#[derive(clap::Args)]
#[command(after_help = "Example: keywitness audit bundle --key signing-1 --out signing-1.bundle")]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    key: KeyArgs,
    /// Who will check the bundle: the audience of its token
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
    let (response, _) = crate::token::fetch(&client, args.key.query(), &args.audience, Nonce::random())?;
    let bundle = client.bundle(&BundleRequest { token: response.token, cosignatures: args.cosignatures })?;
    let bytes = bundle.to_file();
    fs::write(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;
    if global.json {
        return output::json(&serde_json::json!({ "bundle": args.out, "bytes": bytes.len() }));
    }
    say!("wrote {} ({} bytes); anyone checks it with `keywitness verify bundle`", args.out.display(), bytes.len());
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct VerifyArgs {
    /// File with the bundle, or - for standard input
    file: PathBuf,
    /// File with trust anchors that you have compared over another channel
    #[arg(long, value_name = "FILE")]
    anchors: PathBuf,
    /// As of when, in seconds since 1970; when the bundle was made, where left out
    #[arg(long, value_name = "TIME")]
    at: Option<u64>,
    /// Your own name, as the token's audience
    #[arg(long, default_value = "keywitness-cli")]
    audience: String,
    /// Groth16 parameter files of the proofs in the bundle
    #[arg(long, value_name = "FILE")]
    groth16_parameters: Vec<PathBuf>,
}

pub(crate) fn verify(global: &Global, args: &VerifyArgs) -> anyhow::Result<()> {
    let (anchors, checker) = (audit::anchors(&args.anchors)?, audit::checker(&args.groth16_parameters)?);
    let bundle = Bundle::from_file(&data::read(&args.file)?).map_err(output::No)?;
    let at = args.at.map_or(bundle.as_of, Timestamp);
    let question = Question { anchors: &anchors, checker: &checker, at, audience: &args.audience };
    let findings = check(&bundle, &question);
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
    if holds { Ok(()) } else { Err(output::No(format!("the bundle does not hold as of {}", at.0)).into()) }
}
