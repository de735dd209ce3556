//! A manager in a process of its own, with its signer in another.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use keywitness_circuits::{Parameters, Suite, Timestamp};
use keywitness_manager::{Clock, Config, Manager, OPERATOR_CREDENTIAL, SystemClock, http, signer::process::Remote};

/// This very program.
pub(crate) const PROGRAM: &str = "/proc/self/exe";

/// The longest life of a record: none expires but where a measurement wants it.
pub(crate) const TTL: u64 = 24 * 60 * 60;

/// The configuration of every manager that is measured here.
pub(crate) fn config(directory: &Path) -> Config {
    let mut config = Config::new(directory, "bench.example".parse().unwrap(), "m1".parse().unwrap());
    config.suites = vec![Suite::Halo2Pasta];
    config.record_ttl = TTL;
    // The load is prepared beforehand, and is to find its challenges good.
    config.challenge_ttl = TTL / 2;
    config
}

/// The system's clock, set to another time.
struct Shifted(i64);

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0.saturating_add_signed(self.0))
    }
}

/// A clock by which it is `time` now.
pub(crate) fn shifted(time: u64) -> Arc<dyn Clock> {
    Arc::new(Shifted(time as i64 - SystemClock.now().0 as i64))
}

/// What the child does: serves until it is killed, or its standard input ends.
pub(crate) fn serve(directory: &Path, time: Option<u64>) {
    let clock = shifted(time.unwrap_or(SystemClock.now().0));
    let config = config(directory);
    let spec = config.signer();
    std::fs::create_dir_all(&config.data_dir).unwrap();
    let signer = Remote::spawn(Path::new(PROGRAM), &[], &spec).unwrap();
    let manager = Manager::open_with_signer(config, Parameters::transparent(), clock, Box::new(signer)).unwrap();
    let manager = Arc::new(manager);
    let _background = manager.background().unwrap();
    let server = http::serve(manager, TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    println!("{}", server.address());
    let _end = std::io::stdin().read_line(&mut String::new());
    server.stop().unwrap();
}

/// A running manager.
pub(crate) struct Serving {
    child: Child,
    pub(crate) address: SocketAddr,
    /// From the start of the process until it serves.
    pub(crate) started_in: Duration,
}

impl Serving {
    /// Starts one, whose clock begins at `time`, or is right.
    pub(crate) fn start(directory: &Path, time: Option<u64>) -> Self {
        let begun = Instant::now();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--serve").arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(time) = time {
            command.arg("--time").arg(time.to_string());
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().parse().expect("the manager starts");
        Self { child, address, started_in: begun.elapsed() }
    }

    /// CPU time of the process so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // proc(5): fields 14 and 15 are user and system time in hundredths of a second; the name in field 2 may hold blanks.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(10 * ticks)
    }

    /// The most memory that the process had resident, in MiB.
    pub(crate) fn peak_memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    /// Stops it as an operator would.
    pub(crate) fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// Ends it without warning: `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The first operator's credential.
pub(crate) fn operator(directory: &Path) -> String {
    fs::read_to_string(directory.join(OPERATOR_CREDENTIAL)).unwrap().trim().to_owned()
}
