//! A knockd that a test plays, with the real knockd-fleet beside it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use knock_fleet::link::{Claim, Digest, FromFleet, MESSAGE_MAX, RecordBytes, Seen, Settings, State, ToFleet};
use knock_fleet::{NodeId, NodeKey, Record, What};
use knock_spa::UnixTime;
use knock_testkit::{Namespace, wait_until};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, recv,
    send, shutdown, socket_with,
};
use tempfile::TempDir;

pub(crate) const REALM: &str = "web.example.com";

/// What has come from knockd-fleet.
#[derive(Default)]
struct Heard {
    /// How often each record came.
    records: HashMap<RecordBytes, usize>,
    /// When it came first.
    when: HashMap<RecordBytes, Instant>,
    claims: HashMap<[u8; 24], Claim>,
    state: Option<State>,
    nodes: HashMap<NodeId, Seen>,
    /// Whether messages are left unread.
    paused: bool,
}

type Shared = Arc<(Mutex<Heard>, Condvar)>;

/// A node: the program, and the socket that it is connected to.
pub(crate) struct Node {
    pub(crate) key: NodeKey,
    settings: Settings,
    program: Child,
    connection: OwnedFd,
    heard: Shared,
    counter: u64,
    listener: OwnedFd,
    directory: TempDir,
}

pub(crate) fn settings(servers: &[String]) -> Settings {
    Settings {
        realm: REALM.to_owned(),
        node: String::new(),
        servers: servers.to_vec(),
        read_from: Vec::new(),
        tls: None,
        user: None,
        password_file: None,
        digest: "ab".repeat(32),
        version: "1.2.3".to_owned(),
    }
}

impl Node {
    /// Starts the program in that namespace; the node's key is of that number.
    pub(crate) fn start(namespace: &Namespace, number: u8, settings: Settings) -> Node {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fleet.sock");
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let listener = listener.expect("a socket");
        bind(&listener, &SocketAddrUnix::new(&path).expect("a short path")).expect("a free path");
        listen(&listener, 1).expect("a socket");
        let mut command = Command::new(env!("CARGO_BIN_EXE_knockd-fleet"));
        let log = std::fs::File::create(directory.path().join("log")).expect("a directory");
        command.arg("--socket").arg(&path).stdin(Stdio::null()).stderr(log);
        let program = namespace.run(move || command.spawn()).expect("a namespace").expect("the program is built");
        let key = NodeKey::from_seed([number; 32]);
        let settings = Settings { node: key.id().to_string(), ..settings };
        let (connection, heard) = attend(&listener, &settings);
        Node { key, settings, program, connection, heard, counter: 0, listener, directory }
    }

    /// knockd starts again: the program connects to it again.
    pub(crate) fn reconnect(&mut self) {
        shutdown(&self.connection, Shutdown::Both).expect("connected");
        (self.connection, self.heard) = attend(&self.listener, &self.settings);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.id()
    }

    pub(crate) fn tell(&self, message: &ToFleet) {
        send(&self.connection, &message.encode(), SendFlags::NOSIGNAL).expect("the program reads");
    }

    /// Sends a message, unless the program does not read.
    pub(crate) fn try_tell(&self, message: &ToFleet) -> bool {
        match send(&self.connection, &message.encode(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::AGAIN) => false,
            sent => sent.map(|_| true).expect("connected"),
        }
    }

    /// What the program has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("its log")
    }

    /// Publishes a record of this node that ends at that time, and returns it.
    pub(crate) fn publish_until(&mut self, end: UnixTime) -> RecordBytes {
        self.counter += 1;
        let mut grant = [0; 16];
        grant[..8].copy_from_slice(&self.counter.to_be_bytes());
        let record = Record {
            what: What::Sequence { grant },
            wide: false,
            lifetime: 3600.try_into().expect("not zero"),
            time: UnixTime::from_millis(end.as_millis() - 3_600_000),
            address: "192.0.2.7".parse().expect("an address"),
            rule: Some("ssh".parse().expect("a name")),
            node: self.key.id(),
            counter: self.counter,
        };
        let bytes = record.sign(&self.key, &REALM.parse().expect("a realm"));
        self.tell(&ToFleet::Publish(Box::new(bytes)));
        bytes
    }

    /// Publishes a record of a grant of an hour.
    pub(crate) fn publish(&mut self) -> RecordBytes {
        self.publish_until(UnixTime::from_millis(now().as_millis() + 3_600_000))
    }

    /// Asks for a claim and waits for the answer.
    pub(crate) fn claim(&self, nonce: u8) -> Claim {
        self.tell(&ToFleet::Claim { nonce: [nonce; 24], lifetime: 120 });
        self.wait_for("the answer to a claim", |heard| heard.claims.remove(&[nonce; 24]))
    }

    pub(crate) fn wait_for_record(&self, record: &RecordBytes) {
        self.wait_for("a record", |heard| heard.records.contains_key(record).then_some(()));
    }

    pub(crate) fn wait_for_state(&self, what: &str, wanted: impl Fn(&State) -> bool) -> State {
        self.wait_for(what, |heard| heard.state.clone().filter(&wanted))
    }

    /// Waits until it reads and writes, and everything in the store has been read.
    pub(crate) fn wait_until_ready(&self) {
        self.wait_for_state("a connection to the store", |state| state.writes && state.reads && state.in_step);
    }

    pub(crate) fn wait_for_node(&self, node: NodeId) -> (Digest, String) {
        self.wait_for("a node", |heard| heard.nodes.get(&node).map(|seen| (seen.digest, seen.version.clone())))
    }

    /// How often that record came.
    pub(crate) fn count(&self, record: &RecordBytes) -> usize {
        self.heard.0.lock().expect("no panic").records.get(record).copied().unwrap_or_default()
    }

    pub(crate) fn records(&self) -> usize {
        self.heard.0.lock().expect("no panic").records.len()
    }

    pub(crate) fn came(&self, record: &RecordBytes) -> Option<Instant> {
        self.heard.0.lock().expect("no panic").when.get(record).copied()
    }

    /// Stops or begins to read.
    pub(crate) fn pause(&self, paused: bool) {
        self.heard.0.lock().expect("no panic").paused = paused;
        self.heard.1.notify_all();
    }

    #[track_caller]
    fn wait_for<T>(&self, what: &str, mut wanted: impl FnMut(&mut Heard) -> Option<T>) -> T {
        wait_until(what, || {
            let mut heard = self.heard.0.lock().expect("no panic");
            let found = wanted(&mut heard);
            if found.is_none() {
                // Sooner than after the pause between two looks.
                drop(self.heard.1.wait_timeout(heard, Duration::from_millis(100)));
            }
            found
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
        if thread::panicking() {
            eprintln!("the log of knockd-fleet:\n{}", self.log());
        }
    }
}

fn attend(listener: &OwnedFd, settings: &Settings) -> (OwnedFd, Shared) {
    let connection = accept(listener).expect("the program connects");
    let settings = ToFleet::Settings(Box::new(settings.clone()));
    send(&connection, &settings.encode(), SendFlags::NOSIGNAL).expect("connected");
    let heard = Shared::default();
    let (reader, shared) = (connection.try_clone().expect("a descriptor"), Arc::clone(&heard));
    thread::spawn(move || listen_to(&reader, &shared));
    (connection, heard)
}

fn listen_to(connection: &OwnedFd, shared: &Shared) {
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        let heard = shared.0.lock().expect("no panic");
        drop(shared.1.wait_while(heard, |heard| heard.paused).expect("no panic"));
        let length = match recv(connection, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return,
            received => received.expect("a connection").0,
        };
        let message = FromFleet::decode(&buffer[..length]).expect("a message");
        let mut heard = shared.0.lock().expect("no panic");
        match message {
            FromFleet::Record(record) => {
                *heard.records.entry(*record).or_default() += 1;
                heard.when.entry(*record).or_insert_with(Instant::now);
            }
            FromFleet::Claimed { nonce, claim } => drop(heard.claims.insert(nonce, claim)),
            FromFleet::State(state) => heard.state = Some(*state),
            FromFleet::Seen(seen) => drop(heard.nodes.insert(seen.node, *seen)),
        }
        drop(heard);
        shared.1.notify_all();
    }
}

pub(crate) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    UnixTime::from_millis(u64::try_from(since.as_millis()).expect("before the year 500,000,000"))
}

/// A file with that content, in that directory.
pub(crate) fn file(directory: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, content).expect("a directory that can be written to");
    path
}
