//! Makes load: keep-alive connections, each with a thread of its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// One HTTP request, but for its path.
pub(crate) struct Request {
    pub(crate) authorization: Option<String>,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
}

/// A connection that is kept.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// Status and body of the answer.
    pub(crate) fn post(&mut self, path: &str, request: &Request) -> (u16, Vec<u8>) {
        let authorization =
            request.authorization.as_ref().map(|value| format!("authorization: {value}\r\n")).unwrap_or_default();
        let mut message = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\n{authorization}content-type: {}\r\ncontent-length: {}\r\n\r\n",
            request.content_type,
            request.body.len()
        )
        .into_bytes();
        message.extend_from_slice(&request.body);
        self.0.get_mut().write_all(&message).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).expect("an HTTP answer").parse().unwrap();
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, body)
    }
}

/// Posts every request once, over so many connections, each as soon as its connection is free. Gives the answers in the
/// requests' order, and how long it took.
pub(crate) fn all(
    address: SocketAddr,
    path: &str,
    requests: &[Request],
    connections: usize,
) -> (Vec<(u16, Vec<u8>)>, Duration) {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let mut answers: Vec<(usize, (u16, Vec<u8>))> = thread::scope(|scope| {
        let work = || {
            let (mut connection, mut answers) = (Connection::open(address), Vec::new());
            while let Some((place, request)) = Some(next.fetch_add(1, Ordering::Relaxed))
                .and_then(|place| requests.get(place).map(|request| (place, request)))
            {
                answers.push((place, connection.post(path, request)));
            }
            answers
        };
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let took = begun.elapsed();
    answers.sort_by_key(|(place, _)| *place);
    (answers.into_iter().map(|(_, answer)| answer).collect(), took)
}

/// Latencies of an open loop: those of the requests that were due in each second, sorted.
pub(crate) struct Latencies(Vec<Vec<Duration>>);

fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let place = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[place].as_secs_f64() * 1e3
}

impl Latencies {
    /// Of all requests together, in milliseconds.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        quantile(&self.all(), share)
    }

    /// The median of the seconds' quantiles, in milliseconds: what else runs on the machine spoils some seconds.
    pub(crate) fn usual(&self, share: f64) -> f64 {
        let mut seconds: Vec<f64> = self.0.iter().map(|second| quantile(second, share)).collect();
        seconds.sort_unstable_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }

    pub(crate) fn summary(&self) -> String {
        let all = self.all();
        let [p50, p90, worst] = [0.5, 0.9, 1.0].map(|share| quantile(&all, share));
        let usual = self.usual(0.99);
        format!(
            "of {}: p50 {p50:.2}, p90 {p90:.2}, worst {worst:.1} ms; median of the seconds' p99s {usual:.2}",
            all.len()
        )
    }

    fn all(&self) -> Vec<Duration> {
        let mut all = self.0.concat();
        all.sort_unstable();
        all
    }
}

/// Posts requests at a steady rate, whether or not earlier ones were answered. A latency counts from when a request was
/// due, so that a manager that stalls is charged for those that had to wait for their turn.
pub(crate) fn open_loop(
    address: SocketAddr,
    path: &str,
    (rate, time, connections): (u32, Duration, usize),
    request: impl Fn(usize) -> Request + Sync,
) -> Latencies {
    let count = (f64::from(rate) * time.as_secs_f64()) as usize;
    // Connections are there before the first request is due.
    let begun = Instant::now() + Duration::from_millis(200);
    let latencies: Vec<(Duration, Duration)> = thread::scope(|scope| {
        let request = &request;
        let work = move |first: usize| {
            let (mut connection, mut latencies) = (Connection::open(address), Vec::new());
            for number in (first..count).step_by(connections) {
                let due = begun + Duration::from_secs_f64(number as f64 / f64::from(rate));
                let request = request(number);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let (status, body) = connection.post(path, &request);
                latencies.push((due - begun, due.elapsed()));
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            }
            latencies
        };
        let threads: Vec<_> = (0..connections).map(|first| scope.spawn(move || work(first))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut seconds = vec![Vec::new(); time.as_secs() as usize];
    for (due, latency) in latencies {
        seconds[due.as_secs() as usize].push(latency);
    }
    seconds.iter_mut().for_each(|second| second.sort_unstable());
    Latencies(seconds)
}
