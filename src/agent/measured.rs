//! Where an agent's measurements are told. A port that is taken keeps no key from being attested.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use keywitness_prover::{RunningServer, Stop, Watch};

/// How long a port that is taken is left alone.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Longest sleep of a thread that has nothing more to do.
const IDLE: Duration = Duration::from_secs(3600);

/// Tells what `watch` measures at `address`, and `began` once it does. Where it cannot now, it tries again in a thread of its own, so often as
/// `patience` lets it, until `stop` is raised.
pub(super) fn tell(
    watch: &Arc<Watch>,
    address: SocketAddr,
    patience: Duration,
    stop: &Stop,
    began: impl FnOnce(SocketAddr) + Send + 'static,
) -> io::Result<Option<RunningServer>> {
    match serve(watch, address) {
        Ok(server) => {
            began(server.address());
            return Ok(Some(server));
        }
        Err(error) => {
            tracing::warn!(%address, %error, wait = patience.as_secs(), "the agent's measurements cannot be told now");
        }
    }
    let (watch, stop) = (Arc::clone(watch), stop.clone());
    let run = move || {
        while !stop.wait(patience) {
            if let Ok(server) = serve(&watch, address) {
                began(server.address());
                while !stop.wait(IDLE) {}
                return;
            }
        }
    };
    std::thread::Builder::new().name("metrics-port".to_owned()).spawn(run)?;
    Ok(None)
}

fn serve(watch: &Arc<Watch>, address: SocketAddr) -> io::Result<RunningServer> {
    keywitness_prover::serve_watch(Arc::clone(watch), TcpListener::bind(address)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_port_that_is_taken_is_waited_for() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, watch, stop) = (taken.local_addr().unwrap(), Arc::new(Watch::new().unwrap()), Stop::new());
        let (told, begins) = mpsc::channel();
        let began = move |address| told.send(address).unwrap();
        let served = tell(&watch, address, Duration::from_millis(1), &stop, began).unwrap();
        assert!(served.is_none() && begins.try_recv().is_err());
        drop(taken);
        assert_eq!(begins.recv_timeout(Duration::from_secs(60)), Ok(address));
        stop.stop();
    }
}
