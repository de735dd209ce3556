//! The manager's end: a signer that is another process.

use std::{os::unix::net::UnixStream, path::Path, process::Child, sync::OnceLock, time::Duration};

use keywitness_circuits::{Digest, codec::Canonical};
use keywitness_isolation::{
    Away, Lane, Lanes,
    lanes::{Caller, Patience, Source},
    process,
};
use keywitness_verifier::{
    log::{Checkpoint, Note, VerifierKey},
    wire::TokenAlgorithm,
};

use super::protocol::{Answer, MAX_FRAME, Request, read};
use crate::signer::{PublicKey, Signer, SignerError, Spec};

/// How long callers wait. A PKCS#11 library may have to look for its hardware, at first.
const PATIENCE: Patience = Patience {
    start: Duration::from_secs(30),
    restart: Duration::from_millis(250),
    rest: Duration::from_millis(200),
    answer: Duration::from_secs(10),
};

/// A signer in another process.
pub struct Remote(Lanes<Log>);

/// Which log the signer signs for.
#[derive(Default)]
struct Log(OnceLock<VerifierKey>);

impl From<Away> for SignerError {
    fn from(Away(why): Away) -> Self {
        Self::Away(why)
    }
}

impl Caller for Log {
    type Error = SignerError;

    /// Asks a new worker for its log key: whether it is there, opened its keys, and is the same log's as the one before.
    fn greet(&self, lane: &mut Lane) -> Result<(), SignerError> {
        let answer = lane.exchange(&Request::LogKey.to_bytes()).and_then(|answer| read(&answer)).map_err(away)?;
        let key: VerifierKey = match answer {
            Answer::LogKey(key) => {
                key.parse().map_err(|error| SignerError::Failed(format!("the log's key: {error}")))?
            }
            Answer::Failed(error) => return Err(error),
            _ => return Err(unexpected()),
        };
        if *self.0.get_or_init(|| key.clone()) == key {
            return Ok(());
        }
        Err(SignerError::Failed("the signer came back with another log key".to_owned()))
    }

    fn is_away(error: &SignerError) -> bool {
        matches!(error, SignerError::Away(_))
    }
}

fn away(error: impl std::fmt::Display) -> SignerError {
    SignerError::Away(error.to_string())
}

impl Remote {
    /// Starts a signer: `program` is called with these flags, `signer --supervise` and the spec. It ends with this value, or
    /// with this process.
    ///
    /// # Errors
    /// [`SignerError`]: what keeps the signer from opening its keys, too.
    pub fn spawn(program: &Path, flags: &[&str], spec: &Spec) -> Result<Self, SignerError> {
        let (control, other) = UnixStream::pair().map_err(away)?;
        let child = start((program, flags), "--supervise", spec, other)?;
        Self::over(Source::Control(control), Some(child))
    }

    /// Calls a signer that listens at a socket in the file system.
    ///
    /// # Errors
    /// [`SignerError`]
    pub fn connect(socket: &Path) -> Result<Self, SignerError> {
        Self::over(Source::Socket(socket.to_owned()), None)
    }

    #[cfg(test)]
    pub(super) fn over_control(control: UnixStream) -> Result<Self, SignerError> {
        Self::over(Source::Control(control), None)
    }

    fn over(source: Source, supervisor: Option<Child>) -> Result<Self, SignerError> {
        Lanes::open(Log::default(), source, supervisor, MAX_FRAME, PATIENCE).map(Self)
    }

    /// Asks, and once more of the next worker where this one is gone: to sign the same twice does no harm.
    fn ask(&self, request: &Request) -> Result<Answer, SignerError> {
        let bytes = request.to_bytes();
        if bytes.len() > MAX_FRAME {
            return Err(SignerError::Refused("the message is longer than any token or status list".to_owned()));
        }
        // A new key that nobody was told of is of no use, but a second one is of less.
        let again = !matches!(request, Request::Make(_));
        match self.0.ask(&bytes, again, None, read)? {
            Answer::Failed(error) => Err(error),
            answer => Ok(answer),
        }
    }
}

fn unexpected() -> SignerError {
    SignerError::Failed("it answers what it was not asked".to_owned())
}

/// Starts the program as a part of the signer, whose standard input is the control socket.
pub(super) fn start(
    (program, flags): (&Path, &[&str]),
    part: &str,
    spec: &Spec,
    control: UnixStream,
) -> Result<Child, SignerError> {
    let failed = |error: &dyn std::fmt::Display| SignerError::Failed(format!("it cannot be started: {error}"));
    let spec_text = serde_json::to_string(spec).map_err(|error| failed(&error))?;
    let variables = spec.pkcs11.iter().flat_map(|config| &config.environment).map(String::as_str);
    let arguments = [flags, &["signer", part, &spec_text]].concat();
    process::start(program, &arguments, variables.chain(["KEYWITNESS_LOG"]), control).map_err(|error| failed(&error))
}

impl Signer for Remote {
    fn keys(&self) -> Result<Vec<PublicKey>, SignerError> {
        match self.ask(&Request::Keys)? {
            Answer::Keys(keys) => Ok(keys),
            _ => Err(unexpected()),
        }
    }

    fn make(&self, algorithm: TokenAlgorithm) -> Result<PublicKey, SignerError> {
        match self.ask(&Request::Make(algorithm))? {
            Answer::Made(key) => Ok(key),
            _ => Err(unexpected()),
        }
    }

    fn sign(&self, kid: &str, message: &[u8]) -> Result<[u8; 64], SignerError> {
        match self.ask(&Request::Sign { kid: kid.to_owned(), message: message.to_vec() })? {
            Answer::Signature(signature) => Ok(signature),
            _ => Err(unexpected()),
        }
    }

    fn sign_at_once(&self, kid: &str, message: &[u8]) -> Option<[u8; 64]> {
        let request = Request::Sign { kid: kid.to_owned(), message: message.to_vec() };
        match self.0.ask_at_once(&request.to_bytes(), read)? {
            Answer::Signature(signature) => Some(signature),
            _ => None,
        }
    }

    fn log_key(&self) -> VerifierKey {
        // A signer that was greeted has told it.
        self.0.caller().0.get().cloned().expect("a greeted signer")
    }

    fn newest(&self) -> Result<Option<Note>, SignerError> {
        match self.ask(&Request::Newest)? {
            Answer::Newest(note) => note.map(|note| note.parse().map_err(|_| unexpected())).transpose(),
            _ => Err(unexpected()),
        }
    }

    fn sign_checkpoint(&self, checkpoint: &Checkpoint, consistency: &[Digest]) -> Result<Note, SignerError> {
        let request = Request::Checkpoint { text: checkpoint.to_string(), consistency: consistency.to_vec() };
        match self.ask(&request)? {
            Answer::Checkpoint(note) => note.parse().map_err(|_| unexpected()),
            _ => Err(unexpected()),
        }
    }
}
