//! A fleet: nodes with knockd and knockd-fleet, and a real store between them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use knock_fleet::link::RecordBytes;
use knock_fleet::{NodeKey, Proof, Record, What};
use knock_spa::{AuthorizedKeys, Keyring, Realm, Request};
use knock_testkit::{DEADLINE, Host, Network, Packet, SERVER_V4, Store, Wire, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::spa::{SPA_PORT, Signer, SpaFiles, clock};
use super::{Daemon, Options, elements, network, program};

/// The realm of the fleet.
pub(crate) const REALM: &str = "web.example.com";
/// The sequence of the rule `ssh`.
pub(crate) const KNOCK: [u16; 3] = [7000, 9000, 8000];

/// An address that nobody has, whose packets come from the client, and the answers go there.
pub(crate) fn source(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

/// The same, of IPv6.
pub(crate) fn source6(number: u16) -> IpAddr {
    [0xfd99, 0, 0, 0, 0, 0, 0, number].into()
}

/// The hosts of a fleet, and what their configurations have in common. The store is on the server of the network, a node on each
/// client but the last, from which packets come.
pub(crate) struct Fleet {
    pub(crate) network: Network,
    pub(crate) spa: SpaFiles,
    pub(crate) alice: Signer,
    directory: TempDir,
    /// The rules for which the word of each node is enough.
    pub(crate) vouch: Value,
    /// What the object `fleet` has beside the defaults of the tests.
    pub(crate) more: Value,
    /// More seconds of the rule `ssh`, whose grants last an hour.
    pub(crate) rules: Value,
}

/// A node that runs.
pub(crate) struct Node<'f> {
    pub(crate) fleet: &'f Fleet,
    pub(crate) number: usize,
    pub(crate) knockd: Daemon,
    /// knockd-fleet; `None`: it is not started.
    pub(crate) program: Option<Program>,
}

/// A process that is killed when this is dropped.
pub(crate) struct Program(pub(crate) Child);

impl Fleet {
    /// So many nodes, none of which runs.
    pub(crate) fn new(nodes: u8) -> Fleet {
        let spa = SpaFiles::new("");
        let alice = Signer::new(1, &spa.cover);
        spa.write_keys(&alice.line("address=\"any\"", "alice"));
        let fleet = Fleet {
            network: network(nodes + 1),
            alice,
            spa,
            directory: tempfile::tempdir().expect("a directory"),
            vouch: json!(["ssh"]),
            more: json!({}),
            rules: json!([{ "name": "ssh", "spa": true, "sequence": KNOCK, "allow": { "ports": [22], "timeout": "1h" } }]),
        };
        for number in 0..nodes.into() {
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(fleet.key_file(number));
            std::io::Write::write_all(&mut file.expect("a file"), fleet.key(number).to_file().as_bytes())
                .expect("written");
            let (host, client) = (fleet.host(number), fleet.client());
            let routes = format!("route add 198.18.0.0/15 via {}\nroute add fd99::/16 via {}", client.v4, client.v6);
            host.namespace.ip(&routes).expect("the way back to the client");
        }
        fleet
    }

    pub(crate) fn size(&self) -> usize {
        self.network.clients.len() - 1
    }

    /// The private key of a node.
    pub(crate) fn key(&self, number: usize) -> NodeKey {
        NodeKey::from_seed([u8::try_from(number + 1).expect("few nodes"); 32])
    }

    fn key_file(&self, number: usize) -> std::path::PathBuf {
        self.directory.path().join(format!("node{number}.key"))
    }

    /// The host of a node.
    pub(crate) fn host(&self, number: usize) -> &Host {
        &self.network.clients[number]
    }

    /// Where packets come from.
    pub(crate) fn client(&self) -> &Host {
        self.network.clients.last().expect("a client")
    }

    /// The configuration of a node.
    pub(crate) fn configuration(&self, number: usize) -> Value {
        let node = |number| json!({ "name": format!("web{}", number + 1), "key": self.key(number).public().to_string(), "vouch": self.vouch });
        let nodes: Vec<Value> = (0..self.size()).map(node).collect();
        let mut configuration = self.spa.configuration(self.rules.clone(), std::time::Duration::from_secs(60));
        configuration["fleet"] = json!({
            "realm": REALM,
            "servers": [format!("{SERVER_V4}:6379")],
            "node_key": self.key_file(number),
            "nodes": nodes,
        });
        let more = self.more.as_object().expect("an object").clone();
        configuration["fleet"].as_object_mut().expect("an object").extend(more);
        configuration
    }

    /// Starts a node, with knockd-fleet.
    pub(crate) fn start(&self, number: usize) -> Node<'_> {
        self.start_with(number, self.configuration(number), Options::default())
    }

    /// Starts a node without knockd-fleet.
    pub(crate) fn start_alone(&self, number: usize) -> Node<'_> {
        let knockd = Daemon::start(self.host(number), self.configuration(number));
        Node { fleet: self, number, knockd, program: None }
    }

    /// Starts a node with another configuration, or with options.
    pub(crate) fn start_with(&self, number: usize, configuration: Value, options: Options<'_>) -> Node<'_> {
        let knockd = Daemon::start_with(self.host(number), configuration, options);
        let mut node = Node { fleet: self, number, knockd, program: None };
        node.start_program();
        node
    }

    /// Starts all nodes, and waits until they have read the store.
    pub(crate) fn start_all(&self) -> Vec<Node<'_>> {
        let nodes: Vec<Node<'_>> = (0..self.size()).map(|number| self.start(number)).collect();
        nodes.iter().for_each(Node::wait_until_in_step);
        nodes
    }

    /// What a node would write of the completed sequence of the rule `ssh` that came from there just now.
    pub(crate) fn sequence(&self, source: IpAddr) -> Record {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut grant = [0; 16];
        grant[..4].copy_from_slice(&number.to_be_bytes());
        Record {
            what: What::Sequence { grant },
            wide: false,
            lifetime: 3600.try_into().expect("not zero"),
            time: clock(0),
            address: source,
            rule: Some("ssh".parse().expect("a name")),
            node: self.key(0).id(),
            counter: number.into(),
        }
    }

    /// What a node would write of a packet of a client that asks for this.
    pub(crate) fn packet(&self, signer: &Signer, source: IpAddr, request: &Request) -> Record {
        let keys = AuthorizedKeys::parse(signer.line("", "a user").as_bytes()).keys;
        let fingerprint = keys[0].key.fingerprint();
        let (realm, covers) = ("example.com".parse().expect("a realm"), [self.spa.cover.clone()]);
        let opened =
            Keyring::new(&realm, &covers, keys, request.time).open(&signer.payload(request)).expect("a packet");
        let proof = Proof { fingerprint, request: opened.signed_request(), observed: request.address.is_none() };
        Record {
            what: What::Packet(Box::new(proof)),
            wide: request.widen,
            rule: request.rule.clone(),
            ..self.sequence(source)
        }
    }

    /// A record, signed by a node.
    pub(crate) fn sign(&self, number: usize, record: &Record) -> RecordBytes {
        record.sign(&self.key(number), &realm())
    }

    /// Has a node say something, which need not run.
    pub(crate) fn put(&self, store: &Store<'_>, number: usize, record: &Record) {
        store.put(REALM, &self.sign(number, record), record.end().as_millis());
    }

    /// Packets from the client to a node.
    pub(crate) fn wire(&self, number: usize) -> Wire {
        self.client().wire(self.host(number)).expect("a packet socket")
    }
}

impl Node<'_> {
    pub(crate) fn host(&self) -> &Host {
        self.fleet.host(self.number)
    }

    /// Starts knockd-fleet.
    pub(crate) fn start_program(&mut self) {
        let socket = self.knockd.path("fleet.sock");
        let mut command = program("knockd-fleet", &["--socket", socket.to_str().expect("UTF-8")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            self.host().namespace.run(move || command.spawn()).expect("a namespace").expect("knockd-fleet runs");
        self.program = Some(Program(child));
    }

    /// What `knockctl fleet status` says.
    pub(crate) fn status(&self) -> Value {
        self.knockd.control_status()["fleet"].take()
    }

    pub(crate) fn wait_until_in_step(&self) {
        wait_until("the node has read the store", || {
            let status = self.status();
            status["in_step"] == json!(true) && status["writes"] == json!(true) && status["verifying"] == json!(0)
        });
    }

    /// Kills knockd, as a crash would, and starts it again. knockd-fleet goes on.
    pub(crate) fn restart(self) -> Self {
        let Node { fleet, number, knockd, program } = self;
        let knockd = Daemon::start_again(fleet.host(number), knockd.kill());
        Node { fleet, number, knockd, program }
    }

    /// Knocks the rule `ssh` at this node.
    pub(crate) fn knock(&self, source: IpAddr) {
        self.knock_at(source, &KNOCK);
    }

    /// Knocks these ports of this node.
    pub(crate) fn knock_at(&self, source: IpAddr, ports: &[u16]) {
        self.knock_by(&self.fleet.wire(self.number), source, ports);
    }

    /// The same, by that wire.
    pub(crate) fn knock_by(&self, wire: &Wire, source: IpAddr, ports: &[u16]) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let (from, host) = (SocketAddr::new(source, 40_000), self.host().address(source));
        let next = || NEXT.fetch_add(1, Ordering::Relaxed) << 8;
        let syns: Vec<Packet> = ports.iter().map(|&port| Packet::syn(from, (host, port).into(), next())).collect();
        wire.send_all(&syns).expect("sent");
    }

    /// Sends a signed packet to this node.
    pub(crate) fn send(&self, source: IpAddr, payload: &[u8]) {
        let to = SocketAddr::new(self.host().address(source), SPA_PORT);
        let packet = Packet { payload: payload.to_vec(), ..Packet::udp(SocketAddr::new(source, 40_000), to) };
        self.fleet.wire(self.number).send(&packet).expect("sent");
    }

    /// Whether the kernel of this node has a grant of the rule `ssh` for that address.
    pub(crate) fn is_open(&self, source: IpAddr) -> bool {
        super::element(self.host(), source, ("tcp", 22)).is_some()
    }

    /// Whether port 22 of this node answers a SYN from there, be it that nothing is behind it.
    pub(crate) fn answers(&self, source: IpAddr) -> bool {
        let port = SocketAddr::new(self.host().address(source), 22);
        self.fleet.wire(self.number).syn_answer((source, 50_000).into(), port).expect("a SYN").is_some()
    }

    /// The addresses that have the rule `ssh`, by the record of knockd.
    fn of_record(&self) -> BTreeSet<String> {
        let grants = self.knockd.ask("grants");
        let grants = grants["grants"].as_array().expect("a list").iter().filter(|grant| grant["rule"] == "ssh");
        grants.map(|grant| grant["address"].as_str().expect("a text").to_owned()).collect()
    }

    /// The same, by the kernel.
    fn of_kernel(&self) -> BTreeSet<String> {
        let sets = ["grants4", "grants6"].into_iter().flat_map(|set| elements(self.host(), set));
        sets.filter(|element| element.service.1 == 22).map(|element| element.address.to_string()).collect()
    }

    /// Waits until exactly these have the rule `ssh`, by the record of knockd and by the kernel.
    #[track_caller]
    pub(crate) fn wait_until_granted(&self, open: &[IpAddr]) {
        let expected: BTreeSet<String> = open.iter().map(ToString::to_string).collect();
        let (start, number) = (Instant::now(), self.number + 1);
        loop {
            let (record, kernel) = (self.of_record(), self.of_kernel());
            if record == expected && kernel == expected {
                break;
            }
            assert!(start.elapsed() < DEADLINE, "web{number}: {record:?} in the record, {kernel:?} in the kernel");
        }
    }

    /// The same, and asks the port: it answers these, and none of the `others`.
    #[track_caller]
    pub(crate) fn wait_until_exactly(&self, open: &[IpAddr], others: &[IpAddr]) {
        self.wait_until_granted(open);
        let number = self.number + 1;
        let closed = others.iter().filter(|other| !open.contains(other));
        for (source, is_open) in open.iter().map(|open| (open, true)).chain(closed.map(|closed| (closed, false))) {
            assert_eq!(self.answers(*source), is_open, "web{number}, {source}");
        }
    }
}

/// Waits until a source has the rule `ssh` at all these nodes.
#[track_caller]
pub(crate) fn wait_until_open(nodes: &[Node<'_>], source: IpAddr) {
    for node in nodes {
        wait_until(&format!("web{} is open to {source}", node.number + 1), || node.is_open(source));
    }
}

/// [`Node::wait_until_exactly`] for all these nodes.
#[track_caller]
pub(crate) fn wait_until_exactly(nodes: &[Node<'_>], open: &[IpAddr], others: &[IpAddr]) {
    nodes.iter().for_each(|node| node.wait_until_exactly(open, others));
}

fn realm() -> Realm {
    REALM.parse().expect("a realm")
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
