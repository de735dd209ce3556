//! The process that has the keys.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
};

use keywitness_isolation::{
    Gap, LockedBytes, MAX_LANES,
    calls::Calls,
    confine::{self, Place, Profile, Protection},
    frame, process, receive_sockets, send_sockets,
};

use super::{
    Planted, Secrets, Spec, Strictness,
    examine::Witnessed,
    remote::PROCESS,
    rules::Rules,
    serve::{Served, serve, tell},
};
use crate::{
    clock::SystemClock,
    store::{KeyStore, StoreError, TokenStore},
};

/// Shuts itself in, opens the store, sends lanes to the agent, and answers on them until one is closed: a worker serves all of
/// its lanes or none.
///
/// # Errors
/// [`StoreError`], which the agent is told too.
pub fn work(spec: &Spec) -> Result<(), StoreError> {
    let stdin = Path::new("standard input");
    let (mut parent, gaps) = process::begin().map_err(StoreError::io(stdin))?;
    let (control, secrets) = instructed(&mut parent).map_err(StoreError::io(stdin))?;
    drop(parent);
    let (ours, theirs) = process::pairs(MAX_LANES).map_err(StoreError::io(stdin))?;
    let mut witnessed = Witnessed::new(&spec.directory());
    witnessed.gaps = gaps;
    let opened = open(spec, &secrets, witnessed);
    drop(secrets);
    send_sockets(&control, &theirs).map_err(StoreError::io(stdin))?;
    drop((theirs, control));
    match opened {
        Ok(served) => {
            let served = Arc::new(served);
            let answer = move |lane| serve(&served, lane);
            process::answer(ours, answer).map_err(|error| StoreError::Process(format!("a lane broke: {error}")))
        }
        Err(error) => {
            let told = error.to_string();
            let told = if error.is_of_login() { StoreError::PinRefused(told) } else { StoreError::Process(told) };
            tell(error, ours);
            Err(told)
        }
    }
}

/// The agent's socket, and what opens the store.
fn instructed(parent: &mut UnixStream) -> io::Result<(UnixStream, Secrets)> {
    let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let control = receive_sockets(parent)?.pop().ok_or_else(gone)?;
    let secrets = LockedBytes::new(&frame::receive(parent, Secrets::MAX)?.ok_or_else(gone)?);
    let secrets = Secrets::decode(&secrets).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((control, secrets))
}

/// Opens the store of a process that has given up everything else.
fn open(spec: &Spec, secrets: &Secrets, mut witnessed: Witnessed) -> Result<Served, StoreError> {
    // Counted here: afterwards the limits of the container cannot be read.
    let threads = spec.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    if spec.planted == Planted::Unconfined {
        let gap = |protection| Gap { protection, why: "it was left out, for a test".to_owned() };
        witnessed.gaps.0.extend([Protection::Files, Protection::Calls].map(gap));
    } else {
        let gaps = confine::harden().and(confine::lock_memory_for_good());
        let before = std::mem::take(&mut witnessed.gaps);
        witnessed.gaps = before.and(gaps).and(confine::single_thread()).and(profile(spec).shut_in().1);
    }
    match (spec.strictness, witnessed.gaps.0.as_slice()) {
        (_, []) => {}
        (Strictness::Preferred, _) => witnessed.gaps.warn(PROCESS),
        (Strictness::Required, gaps) => {
            let named: Vec<_> = gaps.iter().map(|gap| format!("{gap} ({})", gap.protection.advice())).collect();
            return Err(StoreError::NotIsolated(named.join("; ")));
        }
    }
    if let Some(threads) = threads {
        // The proof systems work on this pool, and on no other. Its threads are shut in as this one is.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        pool.map_err(|error| StoreError::Process(error.to_string()))?;
    }
    // What a library does as it is loaded, and the threads that it begins, are shut in as this process is.
    let token = spec.open_token(secrets)?;
    let software = spec.open_file(secrets)?;
    let parameters = spec.open_parameters()?;
    let unsteady = token.is_some();
    let store: Box<dyn KeyStore> = match token {
        None => Box::new(software),
        Some(token) => {
            let identity = spec.token.as_ref().and_then(|token| token.identity.as_ref());
            Box::new(TokenStore::new(software, token, identity)?)
        }
    };
    let (peers, sharing, clock) = (spec.peers.clone(), spec.sharing.clone(), Arc::new(SystemClock));
    Ok(Served::new(store, parameters, witnessed, Rules { unsteady, peers, sharing, clock }))
}

/// What a proving process keeps: the store's directory, where a changed store is written beside the old one before it takes its
/// place, and the files that it reads. A PKCS#11 library, whose needs are its vendor's, may read and load files, write where it is allowed to, and make
/// sockets unless it is to be offline.
fn profile(spec: &Spec) -> Profile {
    let mut places = vec![(spec.directory(), Place::Own)];
    let read = spec.key_file.iter().chain(spec.parameters.iter().map(|file| &file.path));
    places.extend(read.map(|path| (path.clone(), Place::Read)));
    let Some(token) = &spec.token else { return Profile { places, network: false, calls: Calls::Listed } };
    let everywhere = PathBuf::from("/");
    match token.paths.as_slice() {
        [] => places.push((everywhere, Place::All)),
        paths => {
            places.push((everywhere, Place::Load));
            places.extend(paths.iter().map(|path| (path.clone(), Place::All)));
        }
    }
    Profile { places, network: !token.offline, calls: Calls::AllBut }
}
