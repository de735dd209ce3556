//! Where evidence comes from: a program of the operator's, which speaks to the device.
//!
//! It is started once, before the agent gives up starting programs, and answers one line of JSON with one line of JSON, as
//! `docs/evidence.md` has it. It gets no secret of the HSM: what it answers is public, and the manager alone judges it.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    thread,
    time::Duration,
};

use data_encoding::BASE64;
use keywitness_circuits::Digest;
use keywitness_verifier::evidence::{Evidence, Format, MAX_EVIDENCE};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How long it may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 2 * MAX_EVIDENCE as u64;

/// The variables that it gets, by name and by how names begin. An agent has others, some of which open its store or its token.
const PASSED: [&str; 6] = ["PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ"];
const PASSED_PREFIXES: [&str; 3] = ["EVIDENCE_", "TPM2TOOLS_", "TSS2_"];

fn is_passed(name: &std::ffi::OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    PASSED.contains(&name) || PASSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// It could not be started.
    #[error("the evidence program {program} cannot be started: {error}")]
    Start {
        /// Its path.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// It has ended.
    #[error("the evidence program has ended; see why, and start the agent again")]
    Ended,
    /// It took too long.
    #[error("the evidence program did not answer within {} s", PATIENCE.as_secs())]
    Late,
    /// It has not answered the question before.
    #[error("the evidence program still has not answered the question before")]
    Busy,
    /// Its answer is none.
    #[error("the evidence program's answer cannot be read: {0}")]
    Malformed(String),
    /// It says that it cannot.
    #[error("the evidence program says: {0}")]
    Refused(String),
}

/// The certificates of a TPM's endorsement key, and the attestation key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endorsement {
    /// DER, from the endorsement key's to the root.
    pub chain: Vec<u8>,
    /// TPMT_PUBLIC.
    pub attestation_key: Vec<u8>,
}

/// What is asked of an evidence program, and of what stands for one in tests.
pub trait EvidenceSource: Send {
    /// Evidence that is bound to a context, of a key where its SubjectPublicKeyInfo is given.
    ///
    /// # Errors
    /// [`ProviderError`]
    fn evidence(&mut self, context: &Digest, key: Option<&[u8]>) -> Result<Evidence, ProviderError>;

    /// What vouches for the device, where that is a TPM.
    ///
    /// # Errors
    /// [`ProviderError`]; [`ProviderError::Refused`] for a device that needs none.
    fn endorsement(&mut self) -> Result<Endorsement, ProviderError>;

    /// Opens a credential.
    ///
    /// # Errors
    /// [`ProviderError`]
    fn activate(&mut self, blob: &[u8], secret: &[u8]) -> Result<Vec<u8>, ProviderError>;
}

#[derive(Serialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
enum Question {
    Evidence { context: Digest, key: Option<String> },
    Endorsement,
    Activation { blob: String, secret: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Refused { error: String },
    Given(T),
}

#[derive(Deserialize)]
struct GivenEvidence {
    format: Format,
    parts: Vec<String>,
}

#[derive(Deserialize)]
struct GivenEndorsement {
    chain: String,
    attestation_key: String,
}

#[derive(Deserialize)]
struct GivenAnswer {
    answer: String,
}

/// The program, and the two ends of its pipes until they are first used.
pub struct Provider {
    /// Ends by itself once nobody asks any more.
    _child: Child,
    pipes: Option<(ChildStdin, ChildStdout)>,
    lane: Option<Lane>,
}

/// The thread that speaks to it.
struct Lane {
    questions: Sender<Vec<u8>>,
    answers: Receiver<io::Result<Vec<u8>>>,
    /// An answer is owed that nobody waits for.
    owed: bool,
}

impl Provider {
    /// Starts the program. No thread is started yet.
    ///
    /// # Errors
    /// [`ProviderError::Start`]
    pub fn start(program: &Path) -> Result<Self, ProviderError> {
        let failed = |error| ProviderError::Start { program: program.display().to_string(), error };
        let environment = std::env::vars_os().filter(|(name, _)| is_passed(name));
        let mut child = Command::new(program)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        Ok(Self { _child: child, pipes, lane: None })
    }

    fn ask<T: DeserializeOwned>(&mut self, question: &Question) -> Result<T, ProviderError> {
        let mut line = serde_json::to_vec(question).map_err(|error| ProviderError::Malformed(error.to_string()))?;
        line.push(b'\n');
        if let Some((stdin, stdout)) = self.pipes.take() {
            self.lane = Some(Lane::open(stdin, stdout));
        }
        let answer = self.lane.as_mut().ok_or(ProviderError::Ended)?.ask(line)?;
        match serde_json::from_slice(&answer).map_err(|error| ProviderError::Malformed(error.to_string()))? {
            Answer::Given(given) => Ok(given),
            Answer::Refused { error } => Err(ProviderError::Refused(error)),
        }
    }
}

impl Lane {
    fn open(mut stdin: ChildStdin, stdout: ChildStdout) -> Self {
        let (questions, asked) = mpsc::channel::<Vec<u8>>();
        let (answer, answers) = mpsc::channel();
        let mut stdout = BufReader::new(stdout);
        thread::spawn(move || {
            for question in asked {
                let mut line = Vec::new();
                let told = stdin.write_all(&question).and_then(|()| stdin.flush());
                let read = told.and_then(|()| stdout.by_ref().take(MAX_ANSWER).read_until(b'\n', &mut line));
                let whole = read.and_then(|_| match line.last() {
                    Some(b'\n') => Ok(line),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                });
                let ended = whole.is_err();
                if answer.send(whole).is_err() || ended {
                    return;
                }
            }
        });
        Self { questions, answers, owed: false }
    }

    fn ask(&mut self, question: Vec<u8>) -> Result<Vec<u8>, ProviderError> {
        if self.owed {
            match self.answers.try_recv() {
                Ok(Ok(_)) => self.owed = false,
                Ok(Err(_)) | Err(TryRecvError::Disconnected) => return Err(ProviderError::Ended),
                Err(TryRecvError::Empty) => return Err(ProviderError::Busy),
            }
        }
        self.questions.send(question).map_err(|_| ProviderError::Ended)?;
        match self.answers.recv_timeout(PATIENCE) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(ProviderError::Ended),
            Err(RecvTimeoutError::Timeout) => {
                self.owed = true;
                Err(ProviderError::Late)
            }
        }
    }
}

fn decode(text: &str) -> Result<Vec<u8>, ProviderError> {
    BASE64.decode(text.as_bytes()).map_err(|error| ProviderError::Malformed(error.to_string()))
}

impl EvidenceSource for Provider {
    fn evidence(&mut self, context: &Digest, key: Option<&[u8]>) -> Result<Evidence, ProviderError> {
        let key = key.map(|spki| BASE64.encode(spki));
        let given: GivenEvidence = self.ask(&Question::Evidence { context: *context, key })?;
        let parts = given.parts.iter().map(|part| decode(part)).collect::<Result<_, _>>()?;
        Evidence::new(given.format, parts).map_err(|error| ProviderError::Malformed(error.to_string()))
    }

    fn endorsement(&mut self) -> Result<Endorsement, ProviderError> {
        let given: GivenEndorsement = self.ask(&Question::Endorsement)?;
        Ok(Endorsement { chain: decode(&given.chain)?, attestation_key: decode(&given.attestation_key)? })
    }

    fn activate(&mut self, blob: &[u8], secret: &[u8]) -> Result<Vec<u8>, ProviderError> {
        let question = Question::Activation { blob: BASE64.encode(blob), secret: BASE64.encode(secret) };
        decode(&self.ask::<GivenAnswer>(&question)?.answer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// A program that runs these lines of shell for each question, which is in `$line`.
    fn program(lines: &str) -> (tempfile::TempDir, Provider) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("provider");
        fs::write(&path, format!("#!/bin/sh\nwhile read -r line; do\n{lines}\ndone\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let provider = Provider::start(&path).unwrap();
        (directory, provider)
    }

    const CONTEXT: Digest = Digest([7; 32]);

    #[test]
    fn answers_are_read_and_refusals_told() {
        let (_here, mut provider) = program(
            r#"case $line in
                *'"key":null'*) echo '{"format":"nitro","parts":["AAEC"]}';;
                *'"key":"AQI="'*) echo '{"error":"no such key"}';;
                *endorsement*) echo '{"chain":"AA==","attestation_key":"AQ=="}';;
                *'"blob":"BQ==","secret":"Bg=="'*) echo '{"answer":"Bw=="}';;
            esac"#,
        );
        let evidence = provider.evidence(&CONTEXT, None).unwrap();
        assert_eq!((evidence.format(), evidence.parts()), (Format::Nitro, &[vec![0, 1, 2]][..]));
        let error = provider.evidence(&CONTEXT, Some(&[1, 2])).unwrap_err();
        assert_eq!(error.to_string(), "the evidence program says: no such key");
        let endorsement = provider.endorsement().unwrap();
        assert_eq!((endorsement.chain, endorsement.attestation_key), (vec![0], vec![1]));
        assert_eq!(provider.activate(&[5], &[6]).unwrap(), [7]);
    }

    #[test]
    fn no_secret_of_the_agent_is_passed_on() {
        for (name, passed) in [
            ("PATH", true),
            ("EVIDENCE_TPM2_DIR", true),
            ("TPM2TOOLS_TCTI", true),
            ("KEYWITNESS_PASSPHRASE", false),
            ("PIN", false),
        ] {
            assert_eq!(is_passed(name.as_ref()), passed, "{name}");
        }
    }

    #[test]
    fn the_context_is_told_in_hexadecimal() {
        let context = "07".repeat(32);
        let (_here, mut provider) = program(&format!(
            r#"case $line in *'"context":"{context}"'*) echo '{{"format":"nitro","parts":["AA=="]}}';; esac"#
        ));
        provider.evidence(&CONTEXT, None).unwrap();
    }

    #[test]
    fn noise_is_no_answer_and_the_next_question_is_asked() {
        let (_here, mut provider) = program(
            r#"case $line in
                *'"key":"AQ=="'*) echo noise;;
                *'"key":"Ag=="'*) echo '{"format":"nitro","parts":["AA==","AA=="]}';;
                *'"key":"Aw=="'*) echo '{"format":"nitro","parts":["!"]}';;
                *) echo '{"format":"nitro","parts":["AA=="]}';;
            esac"#,
        );
        for wrong in [[1], [2], [3]] {
            assert!(matches!(provider.evidence(&CONTEXT, Some(&wrong)), Err(ProviderError::Malformed(_))));
        }
        provider.evidence(&CONTEXT, None).unwrap();
    }

    #[test]
    fn a_program_that_ended_says_so_each_time() {
        let (_here, mut provider) = program("exit 1");
        for _ in 0..2 {
            assert!(matches!(provider.evidence(&CONTEXT, None), Err(ProviderError::Ended)));
        }
        // Half a line is none.
        let (_here, mut provider) = program("printf '{\"error\":\"x\"}'; exit 0");
        assert!(matches!(provider.evidence(&CONTEXT, None), Err(ProviderError::Ended)));
        assert!(matches!(Provider::start(Path::new("/nowhere")), Err(ProviderError::Start { .. })));
    }

    #[test]
    fn an_answer_without_an_end_is_given_up() {
        let (_here, mut provider) = program("yes x | tr -d '\\n'");
        assert!(matches!(provider.evidence(&CONTEXT, None), Err(ProviderError::Ended)));
    }
}
