//! `keywitness cluster`: how far the HSMs of a cluster agree on its keys.

use keywitness_circuits::ClusterId;
use keywitness_verifier::wire::{AttestationState, ClusterKey, ClusterStatus, Clusters, Coherence};

use crate::{Global, connection::Connection, output};

/// Clusters: whether their HSMs prove the same keys.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show whether every HSM of a cluster proves the same keys now; exits with 1 if not
    ///
    /// coherent: every HSM proves the same fingerprint. stale: it did, and a proof is no longer in force. partial: an HSM has
    /// not proven the key, or its copy is revoked. drifting: HSMs prove different keys under one name, which raises an alert too where
    /// they are of one suite.
    #[command(after_help = "Example: keywitness cluster status payments")]
    Status(StatusArgs),
}

#[derive(clap::Args)]
struct StatusArgs {
    #[command(flatten)]
    connection: Connection,
    /// Only this cluster
    cluster: Option<ClusterId>,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<()> {
    let Command::Status(args) = &args.command;
    let clusters = args.connection.operator(global)?.clusters(args.cluster.as_ref())?;
    if global.json {
        output::json(&clusters)?;
    } else {
        show(&clusters);
    }
    let wrong = clusters.clusters.iter().filter(|cluster| cluster.coherence != Coherence::Coherent).count();
    match wrong {
        0 => Ok(()),
        _ => Err(output::No(format!("{wrong} of {} clusters are not coherent", clusters.clusters.len())).into()),
    }
}

fn show(clusters: &Clusters) {
    if clusters.clusters.is_empty() {
        say!("no HSM is enrolled");
    }
    for cluster in &clusters.clusters {
        let ClusterStatus { cluster, coherence, hsms, keys, coherent, incoherent } = cluster;
        say!("cluster {cluster}: {coherence}; {coherent} of {keys} keys are coherent");
        for hsm in hsms {
            let last = hsm
                .last_proof
                .map_or("never".to_owned(), |at| format!("{} ago", output::duration(clusters.now.since(at))));
            say!("  HSM {}: {}, proves {} of {keys} keys, last proof {last}", hsm.hsm, hsm.standing, hsm.attested);
        }
        for key in incoherent {
            say!("  {} {}: {}", key.coherence, key.key, copies(key));
        }
    }
}

/// `hsm-1 attested, hsm-2 missing`
fn copies(key: &ClusterKey) -> String {
    let copy = |copy: &keywitness_verifier::wire::KeyCopy| {
        let state = copy.state.as_ref().map_or("missing".to_owned(), AttestationState::to_string);
        let proven = copy.fingerprints.first().map(|fingerprint| fingerprint.bytes.to_string());
        match proven.filter(|_| key.coherence == Coherence::Drifting) {
            Some(fingerprint) => format!("{} {state} with {}", copy.hsm, fingerprint.get(..16).unwrap_or_default()),
            None => format!("{} {state}", copy.hsm),
        }
    };
    key.copies.iter().map(copy).collect::<Vec<_>>().join(", ")
}
