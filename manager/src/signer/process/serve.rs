//! The signer's end of a lane.

use std::{io, os::unix::net::UnixStream};

use keywitness_verifier::log::Checkpoint;

use super::protocol::{Answer, Request, receive, send};
use crate::signer::{Signer, SignerError};

/// Answers on a lane until the other end closes it.
///
/// # Errors
/// Where the lane breaks, or what comes is no request: nothing is answered then.
pub(super) fn serve(signer: &dyn Signer, mut lane: UnixStream) -> io::Result<()> {
    while let Some(request) = receive(&mut lane)? {
        send(&mut lane, &answer(signer, request))?;
    }
    Ok(())
}

/// Answers the first request on each lane with what is wrong.
pub(super) fn tell(error: &SignerError, lanes: Vec<UnixStream>) {
    for mut lane in lanes {
        // Whoever asked may be gone.
        if matches!(receive::<Request>(&mut lane), Ok(Some(_))) {
            let _ = send(&mut lane, &Answer::Failed(error.clone()));
            return;
        }
    }
}

fn answer(signer: &dyn Signer, request: Request) -> Answer {
    let answered = match request {
        Request::Keys => signer.keys().map(Answer::Keys),
        Request::Make(algorithm) => signer.make(algorithm).map(Answer::Made),
        Request::Sign { kid, message } => signer.sign(&kid, &message).map(Answer::Signature),
        Request::LogKey => Ok(Answer::LogKey(signer.log_key().to_string())),
        Request::Newest => signer.newest().map(|note| Answer::Newest(note.map(|note| note.to_string()))),
        Request::Checkpoint { text, consistency } => text
            .parse::<Checkpoint>()
            .map_err(|error| SignerError::Refused(error.to_string()))
            .and_then(|checkpoint| signer.sign_checkpoint(&checkpoint, &consistency))
            .map(|note| Answer::Checkpoint(note.to_string())),
    };
    answered.unwrap_or_else(|error| {
        if matches!(error, SignerError::Refused(_) | SignerError::Fork { .. }) {
            tracing::error!(%error, "the manager asked for what is not signed");
        }
        Answer::Failed(error)
    })
}
