//! A fleet: nodes with knockd and knockd-fleet, and a real store between them.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use knock_fleet::NodeKey;
use knock_testkit::{Host, Network, Packet, SERVER_V4, Wire, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::spa::{SPA_PORT, Signer, SpaFiles};
use super::{Daemon, network, program};

/// The realm of the fleet.
pub(crate) const REALM: &str = "web.example.com";
/// The sequence of the rule `ssh`.
pub(crate) const KNOCK: [u16; 3] = [7000, 9000, 8000];

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
        let knockd = Daemon::start(self.host(number), self.configuration(number));
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
            status["in_step"] == json!(true) && status["writes"] == json!(true)
        });
    }

    /// Knocks the rule `ssh` at this node.
    pub(crate) fn knock(&self, source: IpAddr) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let (from, host) = (SocketAddr::new(source, 40_000), self.host().address(source));
        let next = || NEXT.fetch_add(1, Ordering::Relaxed) << 8;
        let syns: Vec<Packet> = KNOCK.iter().map(|&port| Packet::syn(from, (host, port).into(), next())).collect();
        self.fleet.wire(self.number).send_all(&syns).expect("sent");
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
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
