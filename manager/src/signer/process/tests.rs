#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use keywitness_circuits::codec::Canonical;
use keywitness_isolation::send_sockets;
use keywitness_verifier::wire::TokenAlgorithm;
use proptest::prelude::*;
use serde_json::json;

use super::{
    confine,
    listen::may_call,
    protocol::{Answer, MAX_FRAME, Request, receive, send},
    remote::Remote,
    serve::{serve, tell},
};
use crate::signer::{
    Guard, PublicKey, Signer, SignerError, jws, signing_input,
    tests::{refuses_what_keys_are_not_for, signs_one_log_that_only_grows, signs_tokens, spec},
};

/// A worker's part, in threads: lanes to a guard, until one is closed or `kill` is called.
struct Worker(Vec<UnixStream>);

impl Worker {
    fn start(control: &UnixStream, signer: Result<Arc<Guard>, SignerError>) -> Self {
        let pairs: Vec<_> = (0..2).map(|_| UnixStream::pair().unwrap()).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        send_sockets(control, &theirs).unwrap();
        let kept = ours.iter().map(|lane| lane.try_clone().unwrap()).collect();
        match signer {
            Ok(signer) => ours.into_iter().for_each(|lane| {
                let signer = Arc::clone(&signer);
                std::thread::spawn(move || serve(signer.as_ref(), lane));
            }),
            Err(error) => drop(std::thread::spawn(move || tell(&error, ours))),
        }
        Self(kept)
    }

    fn kill(self) {
        self.0.iter().for_each(|lane| lane.shutdown(std::net::Shutdown::Both).unwrap());
    }
}

fn guard(directory: &Path) -> Arc<Guard> {
    Arc::new(spec(directory).open().unwrap())
}

fn remote(directory: &Path) -> Remote {
    let (control, end) = UnixStream::pair().unwrap();
    Worker::start(&end, Ok(guard(directory)));
    Remote::over_control(control).unwrap()
}

#[test]
fn a_remote_signer_is_as_good_as_one_in_the_process_and_as_strict() {
    let directory = tempfile::tempdir().unwrap();
    let signer = remote(directory.path());
    TokenAlgorithm::ALL.into_iter().for_each(|algorithm| drop(signer.make(algorithm).unwrap()));
    signs_tokens(&signer);
    refuses_what_keys_are_not_for(&signer);
    assert_eq!(signer.newest().unwrap(), None);
    signs_one_log_that_only_grows(|| Box::new(remote(directory.path())));
    assert_eq!(signer.log_key(), guard(directory.path()).log_key());
}

#[test]
fn who_may_not_wait_is_not_kept_and_a_late_answer_is_nobody_elses() {
    let directory = tempfile::tempdir().unwrap();
    let (control, end) = UnixStream::pair().unwrap();
    let pairs: Vec<_> = (0..2).map(|_| UnixStream::pair().unwrap()).collect();
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    send_sockets(&end, &theirs).unwrap();
    // A signer that signs only while it is let.
    let (guard, gate) = (guard(directory.path()), Arc::new(Mutex::new(())));
    for mut lane in ours {
        let (guard, gate) = (Arc::clone(&guard), Arc::clone(&gate));
        std::thread::spawn(move || {
            while let Ok(Some(request)) = receive(&mut lane) {
                let answer = match request {
                    Request::LogKey => Answer::LogKey(guard.log_key().to_string()),
                    Request::Sign { kid, message } => {
                        let _let_in = gate.lock().unwrap();
                        Answer::Signature(guard.sign(&kid, &message).unwrap())
                    }
                    other => panic!("{other:?}"),
                };
                send(&mut lane, &answer).unwrap();
            }
        });
    }
    let signer = Remote::over_control(control).unwrap();
    let public = guard.make(TokenAlgorithm::EdDsa).unwrap();
    let kid = public.kid().unwrap();
    let key = ed25519_dalek::VerifyingKey::from_bytes(&public.bytes.try_into().unwrap()).unwrap();
    let input = |number: u32| signing_input((&kid, TokenAlgorithm::EdDsa), "eat+jwt", &json!({ "n": number })).unwrap();
    let right = |number: u32, signature: [u8; 64]| {
        key.verify_strict(input(number).as_bytes(), &ed25519_dalek::Signature::from_bytes(&signature)).unwrap();
    };
    let at_once = |number: u32| signer.sign_at_once(&kid, input(number).as_bytes());
    let in_the_end = |number: u32| right(number, signer.sign(&kid, input(number).as_bytes()).unwrap());
    // On a busy machine not every time.
    let signs_at_once = || {
        assert!((0..100).any(|number| match at_once(number) {
            Some(signature) => {
                right(number, signature);
                true
            }
            None => {
                in_the_end(number);
                false
            }
        }));
    };
    signs_at_once();

    let shut = gate.lock().unwrap();
    // More often than there are lanes: no call waits, and no lane is lost.
    for number in 100..110 {
        assert!(at_once(number).is_none());
    }
    drop(shut);
    for number in 200..210 {
        in_the_end(number);
        if let Some(signature) = at_once(number + 100) {
            right(number + 100, signature);
        }
    }
    signs_at_once();
}

#[test]
fn who_may_not_wait_does_not_wait_for_lanes_that_are_being_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (guard, (hung, is_hung)) = (guard(directory.path()), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        // The first caller is greeted, and left; the second waits for its greeting.
        let (mut lane, _) = listener.accept().unwrap();
        assert_eq!(receive(&mut lane).unwrap(), Some(Request::LogKey));
        send(&mut lane, &Answer::LogKey(guard.log_key().to_string())).unwrap();
        drop(lane);
        let second = listener.accept().unwrap();
        hung.send(second).unwrap();
    });
    let signer = Arc::new(Remote::connect(&path).unwrap());
    let waits = Arc::clone(&signer);
    let waiting = std::thread::spawn(move || waits.keys().is_err());
    let second = is_hung.recv().unwrap();
    let begun = Instant::now();
    assert!(signer.sign_at_once("kid", b"message").is_none());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(second);
    assert!(waiting.join().unwrap());
}

#[test]
fn a_dead_worker_is_replaced_and_nobody_gets_another_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (control, end) = UnixStream::pair().unwrap();
    let mut worker = Worker::start(&end, Ok(guard(directory.path())));
    let signer = Arc::new(Remote::over_control(control).unwrap());
    let public = signer.make(TokenAlgorithm::EdDsa).unwrap();
    let kid = public.kid().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4_u64)
        .map(|caller| {
            let (signer, stop, kid) = (Arc::clone(&signer), Arc::clone(&stop), kid.clone());
            std::thread::spawn(move || {
                let (mut signed, mut away) = (Vec::new(), 0);
                for number in 0.. {
                    let claims = json!({ "caller": caller, "number": number });
                    match jws(signer.as_ref(), (&kid, TokenAlgorithm::EdDsa), "eat+jwt", &claims) {
                        Ok(token) => signed.push(token),
                        Err(SignerError::Away(_)) => away += 1,
                        Err(other) => panic!("{other}"),
                    }
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
                (signed, away)
            })
        })
        .collect();
    for round in 0..5 {
        std::thread::sleep(Duration::from_millis(30));
        worker.kill();
        // Some rounds without anyone for a while.
        std::thread::sleep(Duration::from_millis(if round % 2 == 0 { 0 } else { 300 }));
        worker = Worker::start(&end, Ok(guard(directory.path())));
    }
    // Once it is there again, it answers.
    let deadline = Instant::now() + Duration::from_secs(20);
    while signer.keys().is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::SeqCst);
    let key = ed25519_dalek::VerifyingKey::from_bytes(&public.bytes.try_into().unwrap()).unwrap();
    for caller in callers {
        let (signed, _) = caller.join().unwrap();
        assert!(!signed.is_empty());
        // Each signature is of the very claims that were asked for.
        for token in signed {
            let (message, signature) = token.rsplit_once('.').unwrap();
            let signature = data_encoding::BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
            let signature = ed25519_dalek::Signature::from_slice(&signature).unwrap();
            key.verify_strict(message.as_bytes(), &signature).unwrap();
        }
    }
    // With nobody there, callers are told so, at once after the first.
    worker.kill();
    assert!(matches!(signer.keys(), Err(SignerError::Away(_))));
    let begun = Instant::now();
    (0..10).for_each(|_| assert!(matches!(signer.keys(), Err(SignerError::Away(_)))));
    assert!(begun.elapsed() < Duration::from_secs(2));
    drop(end);
    std::thread::sleep(Duration::from_millis(250));
    let error = signer.keys().unwrap_err().to_string();
    assert!(error.contains("ended"), "{error}");
}

#[test]
fn a_worker_that_cannot_open_its_keys_says_why_and_another_log_key_is_refused() {
    let wrong = SignerError::NoKey("token-key.pem".to_owned());
    let (control, end) = UnixStream::pair().unwrap();
    Worker::start(&end, Err(wrong.clone()));
    assert_eq!(Remote::over_control(control).err(), Some(wrong));
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (control, end) = UnixStream::pair().unwrap();
    let worker = Worker::start(&end, Ok(guard(one.path())));
    let signer = Remote::over_control(control).unwrap();
    worker.kill();
    Worker::start(&end, Ok(guard(other.path())));
    let error = signer.keys().unwrap_err().to_string();
    assert!(error.contains("another log key"), "{error}");
}

/// Sends bytes to a signer, and reads all that comes back.
fn answers(bytes: &[u8]) -> (Vec<u8>, bool) {
    let directory = tempfile::tempdir().unwrap();
    let signer = guard(directory.path());
    let (mut lane, end) = UnixStream::pair().unwrap();
    let served = std::thread::spawn(move || serve(signer.as_ref(), end));
    // The other end may close before it has read all of it.
    let _ = lane.write_all(bytes);
    let _ = lane.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = lane.read_to_end(&mut answer);
    (answer, served.join().unwrap().is_ok())
}

#[test]
fn garbage_is_not_answered_and_ends_the_lane() {
    assert_eq!(answers(b""), (Vec::new(), true));
    let frame = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
    for garbage in [
        vec![0],
        vec![0; 4],
        vec![0xff; 4],
        u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes().to_vec(),
        frame(&[0, 0]),
        frame(&[1, 2]),
        frame(&[99]),
        frame(&[2, 0, 0, 0, 1]),
        frame(&[2, 0xff, 0xff, 0xff, 0xff]),
        frame(&[5, 0, 0, 0, 1, b'a', 0xff, 0xff]),
        // Cut short.
        frame(&[0])[..4].to_vec(),
        vec![0, 0, 0, 200, 1, 2, 3],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        assert_eq!(answers(&garbage), (Vec::new(), false), "{garbage:?}");
    }
    // What came before it was answered.
    let mut mixed = frame(&[0]);
    mixed.extend([0xff; 8]);
    let (answer, whole) = answers(&mixed);
    assert!(!whole && receive::<Answer>(&mut answer.as_slice()).unwrap() == Some(Answer::Keys(Vec::new())));
}

#[test]
fn an_oversized_message_is_not_sent() {
    let directory = tempfile::tempdir().unwrap();
    let signer = remote(directory.path());
    let kid = signer.make(TokenAlgorithm::Es256).unwrap().kid().unwrap();
    assert!(signer.sign(&kid, &vec![b'a'; MAX_FRAME]).is_err());
    assert!(send(&mut Vec::new(), &Request::Sign { kid, message: vec![0; MAX_FRAME] }).is_err());
}

/// Landlock holds a thread, so that a test can give up what a manager gives up.
#[test]
fn a_manager_cannot_read_the_keys_nor_write_outside_its_directory() {
    let data = tempfile::tempdir().unwrap();
    let (signer, own) = (data.path().join("signer"), data.path().join("manager"));
    std::fs::create_dir(&signer).unwrap();
    std::fs::create_dir(&own).unwrap();
    std::fs::write(signer.join("log-key.pem"), "key").unwrap();
    std::fs::write(data.path().join("manager.toml"), "settings").unwrap();
    std::os::unix::fs::symlink(&signer, data.path().join("link")).unwrap();
    let (inner, key) = (data.path().to_owned(), signer.join("log-key.pem"));
    let held = std::thread::spawn(move || {
        let enforced = confine::keep_out(&signer, std::slice::from_ref(&own));
        if enforced == confine::Enforced::Not {
            // A kernel without landlock, which the log says.
            return;
        }
        for path in [&key, &inner.join("link/log-key.pem"), &inner.join("manager/../signer/log-key.pem")] {
            assert_eq!(std::fs::read(path).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        }
        assert!(std::fs::write(signer.join("log-checkpoint"), "older").is_err());
        assert!(std::fs::remove_file(&key).is_err() && std::fs::rename(&key, own.join("key")).is_err());
        assert!(std::fs::hard_link(&key, own.join("key")).is_err());
        assert!(std::fs::rename(&signer, own.join("signer")).is_err());
        assert!(std::fs::write(inner.join("new"), "").is_err());
        // Nor can a program that it starts.
        assert!(!std::process::Command::new("cat").arg(&key).output().unwrap().status.success());
        assert_eq!(std::fs::read_to_string(inner.join("manager.toml")).unwrap(), "settings");
        std::fs::write(own.join("ledger.redb"), "rows").unwrap();
        std::fs::rename(own.join("ledger.redb"), own.join("other")).unwrap();
        std::fs::File::open(&own).unwrap().sync_all().unwrap();
    });
    held.join().unwrap();
    assert_eq!(std::fs::read(data.path().join("signer/log-key.pem")).unwrap(), b"key");
}

#[test]
fn callers_are_known_by_their_user() {
    let (one, _other) = UnixStream::pair().unwrap();
    assert!(may_call(&one, &[]));
}

fn key() -> impl Strategy<Value = PublicKey> {
    proptest::collection::vec(any::<u8>(), 0..65)
        .prop_map(|bytes| PublicKey { algorithm: TokenAlgorithm::EdDsa, bytes })
}

proptest! {
    #[test]
    fn reading_is_total_and_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200), tag in 0_u8..24) {
        let bytes = [&[tag], bytes.as_slice()].concat();
        if let Ok(request) = Request::from_bytes(&bytes) {
            prop_assert_eq!(request.to_bytes(), bytes.clone());
        }
        if let Ok(answer) = Answer::from_bytes(&bytes) {
            prop_assert_eq!(answer.to_bytes(), bytes);
        }
    }

    #[test]
    fn what_is_written_is_read(keys in proptest::collection::vec(key(), 0..4), text in ".{0,40}", number: u64) {
        let answers = [
            Answer::Keys(keys.clone()),
            Answer::LogKey(text.clone()),
            Answer::Newest(Some(text.clone())),
            Answer::Failed(SignerError::Fork { before: number, found: 1 }),
            Answer::Failed(SignerError::Refused(text)),
        ];
        for answer in answers {
            prop_assert_eq!(Answer::from_bytes(&answer.to_bytes()), Ok(answer));
        }
    }
}

/// Round trips a second, in this process and over a lane to a thread.
#[test]
#[ignore = "a measurement: cargo test --release -p keywitness-manager round_trips -- --ignored --nocapture"]
fn round_trips() {
    let directory = tempfile::tempdir().unwrap();
    let there = remote(directory.path());
    for algorithm in TokenAlgorithm::ALL {
        let kid = there.make(algorithm).unwrap().kid().unwrap();
        let here = spec(directory.path()).open().unwrap();
        let claims = json!({ "claims": "x".repeat(1500) });
        let rate = |signer: &dyn Signer| {
            let begun = Instant::now();
            let mut count = 0_u32;
            while begun.elapsed() < Duration::from_secs(2) {
                jws(signer, (&kid, algorithm), "eat+jwt", &claims).unwrap();
                count += 1;
            }
            f64::from(count) / begun.elapsed().as_secs_f64()
        };
        let (inside, outside) = (rate(&here), rate(&there));
        println!("{algorithm}: {inside:.0}/s in-process, {outside:.0}/s over a lane: {:.2}", outside / inside);
    }
}
