//! Many readers of a real store in one thread of this process: each has a connection of its own and asks as `reader.rs` of the
//! program does, with BLOCK, and with 200 ms between reads where more than 20 entries come in a second.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use knock_fleet::link::RecordBytes;
use knock_fleet::{NodeKey, RECORD_LENGTH as RECORD, Record, What};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::knockd::{REALM, now};

const BUSY: usize = 20;
const SPACE: Duration = Duration::from_millis(200);
/// Where the time of a record is in it, in microseconds since the start: its counter.
const STAMP: usize = 104;

struct Reader {
    stream: TcpStream,
    position: String,
    /// What came of the answer so far.
    answer: Vec<u8>,
    /// When it asks again; `None`: it has asked.
    due: Option<Instant>,
    second: (Instant, usize),
    rate: usize,
}

/// What all readers together have got.
#[derive(Default)]
pub(crate) struct Deliveries {
    pub(crate) bytes: usize,
    /// How long each took, in microseconds, sorted.
    pub(crate) times: Vec<u32>,
}

impl Deliveries {
    /// The time in which so many of a hundred came, in milliseconds.
    pub(crate) fn percentile(&self, part: usize) -> f64 {
        let at = (self.times.len() * part / 100).min(self.times.len().saturating_sub(1));
        self.times.get(at).map_or(f64::NAN, |&time| f64::from(time) / 1000.0)
    }
}

/// A record that may be one, with the time; its signature is not of that.
pub(crate) fn record(start: Instant) -> RecordBytes {
    static ONE: OnceLock<RecordBytes> = OnceLock::new();
    let key = NodeKey::from_seed([9; 32]);
    let mut record = *ONE.get_or_init(|| {
        let record = Record {
            what: What::Sequence { grant: [4; 16] },
            wide: false,
            lifetime: 3600.try_into().expect("not zero"),
            time: now(),
            address: "192.0.2.7".parse().expect("an address"),
            rule: Some("ssh".parse().expect("a name")),
            node: key.id(),
            counter: 0,
        };
        record.sign(&key, &REALM.parse().expect("a realm"))
    });
    let since = u64::try_from(start.elapsed().as_micros()).expect("soon");
    record[STAMP..STAMP + 8].copy_from_slice(&since.to_be_bytes());
    record
}

/// Reads with all of these connections, from now on, until that time.
pub(crate) fn read(streams: &[TcpStream], key: &str, start: Instant, until: Instant) -> Deliveries {
    let mut readers: Vec<Reader> = streams.iter().map(Reader::new).collect();
    let (mut deliveries, mut buffer) = (Deliveries::default(), vec![0; 1 << 20]);
    while Instant::now() < until {
        for reader in &mut readers {
            reader.ask_if_due(key);
        }
        let asked: Vec<usize> = (0..readers.len()).filter(|&index| readers[index].due.is_none()).collect();
        let fd = |&index: &usize| PollFd::new(&streams[index], PollFlags::IN);
        let mut polled: Vec<PollFd<'_>> = asked.iter().map(fd).collect();
        let wait = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        poll(&mut polled, Some(&wait)).expect("descriptors");
        let ready: Vec<usize> =
            asked.iter().zip(&polled).filter(|(_, fd)| !fd.revents().is_empty()).map(|(&index, _)| index).collect();
        for index in ready {
            readers[index].receive(&mut buffer, start, &mut deliveries);
        }
    }
    deliveries.times.sort_unstable();
    deliveries
}

impl Reader {
    fn new(stream: &TcpStream) -> Reader {
        let stream = stream.try_clone().expect("a descriptor");
        stream.set_nonblocking(true).expect("a socket");
        let now = Instant::now();
        let (position, answer) = ("$".to_owned(), Vec::new());
        Reader { stream, position, answer, due: Some(now), second: (now, 0), rate: 0 }
    }

    fn ask_if_due(&mut self, key: &str) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            let command = format!("XREAD COUNT 1000 BLOCK 5000 STREAMS {key} {}\r\n", self.position);
            self.stream.write_all(command.as_bytes()).expect("the store reads");
            self.due = None;
        }
    }

    fn receive(&mut self, buffer: &mut [u8], start: Instant, deliveries: &mut Deliveries) {
        match self.stream.read(buffer) {
            Ok(0) => panic!("the store has closed a connection"),
            Ok(length) => {
                self.answer.extend(&buffer[..length]);
                deliveries.bytes += length;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
        let Some(entries) = entries(&self.answer) else { return };
        let count = entries.len();
        for (position, record) in entries {
            self.position.clear();
            self.position.push_str(position);
            let stamp = record[STAMP..STAMP + 8].try_into().map(u64::from_be_bytes).expect("8 bytes");
            let took = u64::try_from(start.elapsed().as_micros()).expect("soon").saturating_sub(stamp);
            deliveries.times.push(u32::try_from(took).expect("soon"));
        }
        self.answer.clear();
        self.second.1 += count;
        if self.second.0.elapsed() >= Duration::from_secs(1) {
            self.rate = self.second.1;
            self.second = (Instant::now(), 0);
        }
        let is_busy = self.rate.max(self.second.1) > BUSY;
        self.due = Some(Instant::now() + if is_busy { SPACE } else { Duration::ZERO });
    }
}

/// The entries of an answer with their positions; `None`: it is not whole.
fn entries(mut answer: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    if answer == b"*-1\r\n" {
        return Some(Vec::new());
    }
    // `*1`, `*2`, the key with its length, `*n`.
    let head = [line(&mut answer)?, line(&mut answer)?, line(&mut answer)?, line(&mut answer)?];
    assert_eq!(&head[..2], ["*1", "*2"]);
    let count = line(&mut answer)?[1..].parse().ok()?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        // `*2`, the position with its length, `*2`, `$1`, `r`, `$416`, the record.
        let _ = (line(&mut answer)?, line(&mut answer)?);
        let position = line(&mut answer)?;
        let _ = (line(&mut answer)?, line(&mut answer)?, line(&mut answer)?, line(&mut answer)?);
        entries.push((position, answer.get(..RECORD)?));
        answer = answer.get(RECORD + 2..)?;
    }
    Some(entries)
}

/// The next line, which is short.
fn line<'b>(rest: &mut &'b [u8]) -> Option<&'b str> {
    let end = rest.iter().take(100).position(|&byte| byte == b'\r')?;
    let line = std::str::from_utf8(&rest[..end]).ok()?;
    *rest = rest.get(end + 2..)?;
    Some(line)
}
