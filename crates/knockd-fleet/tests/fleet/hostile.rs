//! A store that a test plays, which answers with anything: the program stays within its memory, and goes on.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use knock_fleet::link::{Claim, Settings, ToFleet};
use knock_testkit::{Namespace, wait_until};

use crate::knockd::{Node, file, settings};

/// The most memory that the program may take, in MiB: it reads answers of 4 MiB in two threads.
const MEMORY: u64 = 64;

/// What a hostile store does with a command; an error ends the connection.
type Answer = dyn Fn(&[Vec<u8>], &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// A command as its words; `None`: the connection is over.
fn command(from: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    for _ in 0..number(from)? {
        let mut word = vec![0; number(from)? + 2];
        from.read_exact(&mut word).ok()?;
        word.truncate(word.len() - 2);
        words.push(word);
    }
    Some(words)
}

/// The number behind the first byte of a line.
fn number(from: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

/// What a server that is no enemy and has nothing says.
fn honest(command: &[Vec<u8>], to: &mut TcpStream) -> std::io::Result<()> {
    let time = crate::knockd::now().as_millis();
    let (seconds, rest) = ((time / 1000).to_string(), ((time % 1000) * 1000).to_string());
    match &command[0][..] {
        b"TIME" => {
            write!(to, "*2\r\n${}\r\n{seconds}\r\n${}\r\n{rest}\r\n", seconds.len(), rest.len())
        }
        b"GET" => to.write_all(b"$5\r\nepoch\r\n"),
        b"HSET" => to.write_all(b":1\r\n"),
        b"XREAD" => {
            thread::sleep(Duration::from_millis(500));
            to.write_all(b"*-1\r\n")
        }
        b"HGETALL" | b"ZRANGE" | b"XREVRANGE" => to.write_all(b"*0\r\n"),
        _ => to.write_all(b"+OK\r\n"),
    }
}

/// A store that answers one command in its own way, with the settings for it and the number of connections that it has had.
fn store(hostile: &'static str, answer: Arc<Answer>) -> (Settings, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let settings = settings(&[listener.local_addr().expect("bound").to_string()]);
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                while let Some(words) = command(&mut reader) {
                    let done = match words[0] == hostile.as_bytes() {
                        true => answer(&words, &mut stream),
                        false => honest(&words, &mut stream),
                    };
                    if done.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (settings, connections)
}

fn start(settings: Settings) -> Node {
    Node::start(&Namespace::current().expect("a namespace"), 1, settings)
}

/// The most memory that the program has taken, in MiB.
fn memory(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// Sends that again and again, up to 512 MiB.
fn repeat(to: &mut TcpStream, what: &[u8]) -> std::io::Result<()> {
    let block = what.repeat((64 << 10) / what.len() + 1);
    (0..(512 << 20) / block.len()).try_for_each(|_| to.write_all(&block))
}

/// What a hostile store says instead of an answer.
fn lies() -> Vec<(&'static str, Arc<Answer>)> {
    fn lie(name: &'static str, start: &'static [u8], then: &'static [u8]) -> (&'static str, Arc<Answer>) {
        let answer = move |_: &[Vec<u8>], to: &mut TcpStream| {
            to.write_all(start)?;
            if then.is_empty() { Ok(()) } else { repeat(to, then) }
        };
        (name, Arc::new(answer))
    }
    vec![
        lie("a text of 1 TB", b"$1000000000000\r\n", b"xxxxxxxx"),
        lie("a length that no number has", b"$99999999999999999999999\r\n", b""),
        lie("a negative length", b"$-7\r\n", b""),
        lie("a line without end", b"+", b"xxxxxxxx"),
        lie("an error without end", b"-ERR ", b"xxxxxxxx"),
        lie("a length without end", b"$", b"11111111"),
        lie("a million entries", b"*1000000\r\n", b"$-1\r\n"),
        lie("more entries than memory", b"*9223372036854775807\r\n", b":1\r\n"),
        lie("lists of one", b"*4000000\r\n", b"*1\r\n:1\r\n"),
        lie("lists in lists", b"", b"*1\r\n"),
        lie("a kind of a later protocol", b"%1000000000\r\n", b"_\r\n"),
        lie("another type", b":7\r\n", b""),
        lie("nothing", b"$-1\r\n", b""),
        lie("a list of wrong types", b"*3\r\n:1\r\n$1\r\nx\r\n*1\r\n+x\r\n", b""),
        lie("bytes that are no text", b"*2\r\n$2\r\n\xff\xfe\r\n$1\r\n\xff\r\n", b""),
        lie("garbage", b"HTTP/1.1 400 Bad Request\r\n\r\n", b""),
        lie("an error that drives a terminal", b"-ERR \x1b[2Jgone\r\n", b""),
    ]
}

#[test]
fn a_hostile_store_gets_no_memory_and_ends_nothing() {
    let commands = ["TIME", "GET", "HGETALL", "XREVRANGE", "ZRANGE", "XREAD", "MULTI", "EXEC"];
    thread::scope(|scope| {
        for command in commands {
            scope.spawn(move || {
                for (name, answer) in lies() {
                    let (settings, connections) = store(command, answer);
                    let mut node = start(settings);
                    wait_until("it connects", || connections.load(Ordering::Relaxed) > 1);
                    node.publish();
                    node.tell(&ToFleet::Claim { nonce: [1; 24], lifetime: 120 });
                    let began = Instant::now();
                    wait_until("it reads", || began.elapsed() > Duration::from_millis(1500));
                    let memory = memory(&node);
                    assert!(memory < MEMORY, "{name} to {command}: {memory} MiB");
                    // It still serves knockd.
                    node.claim(7);
                    let log = node.log();
                    assert!(!log.contains("panicked") && !log.contains('\u{1b}'), "{name} to {command}: {log}");
                    assert!(log.len() < 10_000, "{name} to {command}: {} bytes of log", log.len());
                }
            });
        }
    });
}

#[test]
fn a_store_that_sends_a_byte_now_and_then_holds_no_claim() {
    for command in ["SET", "TIME"] {
        let slow = |_: &[Vec<u8>], to: &mut TcpStream| {
            (0..100).try_for_each(|_| {
                thread::sleep(Duration::from_secs(1));
                to.write_all(b"+")
            })
        };
        let node = start(store(command, Arc::new(slow)).0);
        if command == "SET" {
            node.wait_until_ready();
        }
        let began = Instant::now();
        assert_eq!(node.claim(1), Claim::Unknown);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        node.wait_for_state("the problem", |state| state.problem.contains("no answer"));
    }
}

#[test]
fn a_store_that_has_nothing_new_at_once_is_not_asked_without_end() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let nothing = move |_: &[Vec<u8>], to: &mut TcpStream| {
        counted.fetch_add(1, Ordering::Relaxed);
        to.write_all(b"*-1\r\n")
    };
    let node = start(store("XREAD", Arc::new(nothing)).0);
    node.wait_until_ready();
    let (began, before) = (Instant::now(), asked.load(Ordering::Relaxed));
    wait_until("some seconds are over", || began.elapsed() > Duration::from_secs(2));
    assert!(asked.load(Ordering::Relaxed) - before < 30, "{}", asked.load(Ordering::Relaxed));
}

#[test]
fn a_store_whose_records_have_no_end_is_named() {
    let up = AtomicUsize::new(0);
    let pages = move |_: &[Vec<u8>], to: &mut TcpStream| {
        let score = up.fetch_add(1, Ordering::Relaxed).to_string();
        let member = format!("$1\r\nx\r\n${}\r\n{score}\r\n", score.len());
        write!(to, "*2000\r\n{}", member.repeat(1000))
    };
    let node = start(store("ZRANGE", Arc::new(pages)).0);
    node.wait_for_state("the problem", |state| state.problem.contains("answer to ZRANGE"));
}

#[test]
fn a_table_of_nodes_that_is_too_long_stops_no_claim() {
    let long = |_: &[Vec<u8>], to: &mut TcpStream| write!(to, "*100000\r\n{}", "$1\r\nx\r\n".repeat(100_000));
    let node = start(store("HGETALL", Arc::new(long)).0);
    wait_until("it claims", || node.claim(1) == Claim::Ours);
    assert!(node.log().contains("delete knock:{web.example.com}:nodes"), "{}", node.log());
}

#[test]
fn a_store_that_ends_each_connection_is_not_stormed() {
    let ends = |_: &[Vec<u8>], _: &mut TcpStream| Err(std::io::ErrorKind::Other.into());
    let (settings, connections) = store("XREAD", Arc::new(ends));
    let node = start(settings);
    let began = Instant::now();
    wait_until("some seconds are over", || began.elapsed() > Duration::from_secs(6));
    let connections = connections.load(Ordering::Relaxed);
    assert!((3..20).contains(&connections), "{connections}");
    assert!(node.log().lines().count() < 40, "{}", node.log());
}

#[test]
fn a_knockd_that_does_not_read_costs_no_memory() {
    let records = |_: &[Vec<u8>], to: &mut TcpStream| {
        // Again and again a thousand entries that look like records.
        let mut record = vec![0; 416];
        (record[0], record[1], record[7]) = (1, 4, 60);
        record[26..28].fill(0xff);
        record[28..32].copy_from_slice(&[192, 0, 2, 7]);
        let mut bytes = b"*1\r\n*2\r\n$3\r\nlog\r\n*1000\r\n".to_vec();
        for _ in 0..1000 {
            bytes.extend(b"*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nr\r\n$416\r\n");
            bytes.extend(&record);
            bytes.extend(b"\r\n");
        }
        to.write_all(&bytes)
    };
    let node = start(store("XREAD", Arc::new(records)).0);
    node.wait_for_state("records", |state| state.received > 0 || state.in_step);
    node.pause(true);
    // What knockd asks for meanwhile is bounded too.
    let ask = ToFleet::Claim { nonce: [1; 24], lifetime: 120 };
    assert!((0..100_000).any(|_| !node.try_tell(&ask)), "it takes more and more");
    let began = Instant::now();
    wait_until("some seconds are over", || began.elapsed() > Duration::from_secs(2));
    assert!(memory(&node) < MEMORY, "{} MiB", memory(&node));
    node.pause(false);
    // Those that waited come first.
    wait_until("it answers again", || node.claim(251) == Claim::Ours);
}

#[test]
fn a_password_is_in_no_message_and_in_nothing_that_others_can_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let password_file = Some(file(&directory, "password", "example-password\n"));
    // As servers do with a command that they do not know.
    let echo = |words: &[Vec<u8>], to: &mut TcpStream| {
        let words = words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ");
        write!(to, "-ERR unknown command, with args beginning with: {words}\r\n")
    };
    let (settings, _) = store("AUTH", Arc::new(echo));
    let node = start(Settings { user: Some("web".to_owned()), password_file, ..settings });
    let state = node.wait_for_state("a problem", |state| state.problem.contains("authentication failed"));
    let of_process = |name: &str| std::fs::read(format!("/proc/{}/{name}", node.pid())).expect("it runs");
    let all = [state.problem.into_bytes(), node.log().into_bytes(), of_process("cmdline"), of_process("environ")];
    for text in all {
        assert!(!text.is_empty());
        assert!(!String::from_utf8_lossy(&text).contains("example-password"));
    }
}

#[test]
fn a_knockd_that_ends_each_connection_at_once_starts_no_threads_without_end() {
    // Packets to there are lost, so each attempt to connect takes its whole time.
    let namespace = Namespace::new().expect("a namespace");
    let link = "link add nowhere type veth peer name away\nlink set away up\naddr add 192.0.2.1/24 dev nowhere\n\
        link set nowhere up\nneigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev nowhere";
    namespace.ip(link).expect("a link");
    let mut node = Node::start(&namespace, 1, settings(&["192.0.2.9:6379".to_owned()]));
    let began = Instant::now();
    let mut connections = 0;
    while began.elapsed() < Duration::from_secs(4) {
        node.reconnect();
        connections += 1;
    }
    assert!((2..=10).contains(&connections), "{connections}");
    let threads = std::fs::read_dir(format!("/proc/{}/task", node.pid())).expect("it runs").count();
    assert!(threads < 40, "{threads}");
    assert!(node.log().lines().count() < 40, "{}", node.log());
}
