//! Webhooks of the program itself: what was delivered and not yet noted when the manager was killed is sent again.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use keywitness_circuits::KeyAlgorithm;
use keywitness_verifier::wire::{Notification, NotificationKind, WEBHOOK_ID};

use crate::support::{Hsm, Key, Manager, eventually, keywitness, keywitness_json};

const KEY: Key = Key { name: "k", algorithm: KeyAlgorithm::Ristretto255, secret: 9 };

/// A message, and what lets the receiver answer it.
struct Message {
    id: String,
    body: Vec<u8>,
    answer: Sender<&'static str>,
}

impl Message {
    fn notification(&self) -> Notification {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Takes it. Whether anyone is there to hear so does not matter.
    fn take(self) -> Notification {
        let notification = self.notification();
        let _gone = self.answer.send("204 No Content");
        notification
    }
}

/// Hears one connection after the other, for as long as the test runs.
fn receiver() -> (SocketAddr, Receiver<Message>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (messages, received) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            if hear(stream.unwrap(), &messages).is_none() {
                return;
            }
        }
    });
    (address, received)
}

/// None once nobody wants to know any more.
fn hear(mut stream: TcpStream, messages: &Sender<Message>) -> Option<()> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(read) if read > 0 => bytes.extend_from_slice(&part[..read]),
            _ => return Some(()),
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let header = |name: &str| {
                head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
            };
            let (id, length) =
                (header(WEBHOOK_ID).unwrap(), header("content-length").unwrap().parse::<usize>().unwrap());
            bytes.drain(..end + 4);
            break (id, length);
        }
    };
    let mut rest = vec![0; length - bytes.len()];
    stream.read_exact(&mut rest).ok()?;
    let (answer, answered) = channel();
    messages.send(Message { id: head, body: [bytes, rest].concat(), answer }).ok()?;
    if let Ok(status) = answered.recv() {
        let _gone = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    Some(())
}

fn next(received: &Receiver<Message>) -> Message {
    received.recv_timeout(Duration::from_secs(60)).expect("a message comes")
}

#[test]
fn killed_between_delivery_and_its_note_the_manager_sends_the_same_again() {
    let (address, received) = receiver();
    let setting = format!("webhooks.sinks=pager.url=http://{address}/hook");
    let mut manager = Manager::start(&["--set", &setting]);
    let hsms =
        [("eu", "hsm-1"), ("us", "hsm-2"), ("us", "hsm-3")].map(|(cluster, name)| Hsm::enrol(&manager, cluster, name));
    for hsm in &hsms {
        hsm.enrol_key(&KEY);
    }
    // The receiver has the first alert, and the manager dies before it hears so.
    hsms[0].attest(&KEY).unwrap();
    hsms[1].attest(&KEY).unwrap();
    let first = next(&received);
    assert_eq!(first.notification().data.alert.unwrap().number, 1);
    manager.kill();
    let (id, body) = (first.id.clone(), first.body.clone());
    first.take();
    manager.restart();
    let again = next(&received);
    assert_eq!((&again.id, &again.body), (&id, &body));
    again.take();
    // From then on each once.
    let third = Hsm { client: manager.anonymous(), ..hsms.into_iter().nth(2).unwrap() };
    third.attest(&KEY).unwrap();
    assert_eq!(next(&received).take().data.alert.unwrap().number, 2);
    let list = || keywitness_json(&manager.data, &["webhook", "list"])["webhooks"][0].clone();
    eventually("the note", || (list()["behind"] == 0 && list()["failures"] == 0).then_some(()));
    // Killed at rest, nothing is sent again: its note is one commit behind a delivery.
    thread::sleep(Duration::from_secs(1));
    manager.kill_and_restart();
    assert_eq!(received.recv_timeout(Duration::from_secs(3)).err(), Some(RecvTimeoutError::Timeout));
    operates(&manager, &received, &id);
}

/// The command line: told again from the beginning, and a test that is taken and one that is not.
fn operates(manager: &Manager, received: &Receiver<Message>, first: &str) {
    keywitness_json(&manager.data, &["webhook", "replay", "pager", "--after", "0"]);
    let told = [(), ()].map(|()| {
        let message = next(received);
        (message.id.clone(), message.take())
    });
    assert_eq!(told[0].0, first);
    let numbers = told.map(|(_, notification)| notification.data.alert.unwrap().number);
    assert_eq!(numbers, [1, 2]);
    for (status, code) in [("204 No Content", 0), ("400 Bad Request", 1)] {
        let output = thread::scope(|scope| {
            let test = scope.spawn(|| keywitness(&manager.data, &["webhook", "test", "pager"]));
            let message = next(received);
            assert_eq!(message.notification().kind, NotificationKind::Test);
            message.answer.send(status).unwrap();
            test.join().unwrap()
        });
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let unknown = keywitness(&manager.data, &["webhook", "test", "none"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no webhook of this name"));
}
