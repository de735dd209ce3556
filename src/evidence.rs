//! `keywitness evidence`: where HSMs and keys live, and the devices that HSMs are enrolled with.

use keywitness_circuits::HsmId;
use keywitness_verifier::wire::{DeviceRequest, EvidenceOverview, EvidenceStanding, HsmEvidence};

use crate::{Global, connection::Connection, output};

/// Evidence of where HSMs and keys live.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show how the evidence of every HSM stands; exits with 1 if one lacks what its cluster must give
    #[command(after_help = "Example: keywitness evidence list")]
    List(ListArgs),
    /// Let an HSM enrol its device, once (operator)
    ///
    /// The HSM's evidence is held to that device from then on. A TPM shows by its endorsement key that it has the attestation key; any
    /// other device is that of the HSM's next good evidence. An HSM that was suspended because something else ran there than the
    /// evidence policy lists is reinstated by its first good evidence after this.
    #[command(after_help = "Example: keywitness evidence enrol hsm-1")]
    Enrol(EnrolArgs),
}

#[derive(clap::Args)]
struct ListArgs {
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args)]
struct EnrolArgs {
    #[command(flatten)]
    connection: Connection,
    /// The HSM
    hsm: HsmId,
    /// The only device that it may enrol, as evidence names it
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// How long it may, such as 1h
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    valid_for: humantime::Duration,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::List(args) => list(global, args),
        Command::Enrol(args) => enrol(global, args),
    }
}

fn enrol(global: &Global, args: &EnrolArgs) -> anyhow::Result<()> {
    let (hsm, device, valid_for) = (args.hsm.clone(), args.device.clone(), args.valid_for.as_secs());
    args.connection.operator(global)?.allow_device(&DeviceRequest { hsm, device, valid_for })?;
    if !global.json {
        say!("HSM {} may enrol its device for {}", args.hsm, output::duration(valid_for));
    }
    Ok(())
}

fn list(global: &Global, args: &ListArgs) -> anyhow::Result<()> {
    let overview = args.connection.operator(global)?.evidence()?;
    if global.json {
        output::json(&overview)?;
    } else {
        show(&overview);
    }
    let good = |hsm: &HsmEvidence| hsm.standing == EvidenceStanding::Good || hsm.keys > 0;
    let lacks = |hsm: &&HsmEvidence| hsm.required && (hsm.demoted > 0 || !good(hsm));
    match overview.hsms.iter().filter(lacks).count() {
        0 => Ok(()),
        lacking => Err(output::No(format!("{lacking} HSMs lack the evidence that their clusters must give")).into()),
    }
}

fn show(overview: &EvidenceOverview) {
    if !overview.accepted {
        say!("this manager accepts no evidence: name a policy in its settings, evidence.policy (docs/evidence.md)");
    }
    for hsm in &overview.hsms {
        let HsmEvidence {
            hsm: name,
            cluster,
            required,
            standing,
            refusal,
            newest,
            device,
            may_enrol_until,
            keys,
            demoted,
        } = hsm;
        let must = if *required { ", which must give it" } else { "" };
        say!("HSM {name} of cluster {cluster}{must}: {standing}");
        if let Some(newest) = newest {
            let (at, format) = (overview.now.since(newest.appraisal.at), newest.appraisal.format);
            let claims = newest.appraisal.trust.claims();
            let claims: Vec<_> = claims.iter().map(|(name, value)| format!("{name} {value}")).collect();
            say!("  {format} of {} ago: {}", output::duration(at), claims.join(", "));
        }
        if let Some(why) = refusal {
            say!("  refused: {}", output::printable(why));
        }
        if let Some(device) = device {
            say!("  device {}, let in by {}", output::printable(&device.device), output::printable(&device.by));
        }
        if let Some(until) = may_enrol_until {
            say!("  may enrol its device for {}", output::duration(until.since(overview.now)));
        }
        if *demoted > 0 {
            say!("  {demoted} of its keys are demoted");
        }
        if *keys > 0 {
            say!("  {keys} of its keys are named by evidence");
        }
    }
}
