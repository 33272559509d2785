//! The store: a Valkey or Redis server, and the commands that are used. Those of Redis 6.2 are enough.

use std::time::Duration;

use knock_fleet::link::{Claim, Digest, RecordBytes, Seen, Settings};
use knock_fleet::{NodeId, RECORD_LENGTH, Record};

use crate::connection::{Connection, TIMEOUT};
use crate::problem::{Problem, StoreError};
use crate::resp::{Answer, Command};
use crate::session::{Claiming, now};

/// How long the store waits for new entries.
pub(crate) const BLOCK: Duration = Duration::from_secs(5);
/// How long its answer is waited for then.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(7);
/// How many entries and members are read at once.
const COUNT: usize = 1000;
/// How many entries the stream keeps, about.
const LOG_MAX: usize = 100_000;
/// How long ended records stay in the store: clocks differ.
const KEPT: u64 = 60_000;
/// The position in front of the first entry.
const START: &str = "0-0";

/// A connection to a store.
pub(crate) struct Store {
    connection: Connection,
    /// `knock:{realm}:`
    prefix: String,
    /// How much the clock of the store is ahead, in milliseconds.
    ahead: i64,
}

/// A part of what is in the store.
pub(crate) struct Page {
    /// Members with their scores, the longest lived first.
    pub(crate) members: Vec<(Vec<u8>, f64)>,
    pub(crate) is_last: bool,
}

impl Store {
    pub(crate) fn connect(settings: &Settings, server: &str) -> Result<Store, StoreError> {
        let mut connection = Connection::open(settings, server)?;
        connection.log_in(settings)?;
        let mut store = Store { connection, prefix: prefix(settings), ahead: 0 };
        store.measure_clock()?;
        Ok(store)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn ask(&mut self, command: &Command) -> Result<Answer, StoreError> {
        self.connection.ask(command, TIMEOUT)
    }

    /// What the answer to that command means; without a meaning it is a problem.
    fn meaning<T>(&self, command: &Command, meaning: Option<T>) -> Result<T, StoreError> {
        meaning.ok_or_else(|| self.connection.error(Problem::Answer(command.name)))
    }

    pub(crate) fn error(&self, problem: Problem) -> StoreError {
        self.connection.error(problem)
    }

    /// How much the clock of the store is ahead, in milliseconds.
    pub(crate) fn measure_clock(&mut self) -> Result<i64, StoreError> {
        let (before, time) = (now(), Command::new("TIME"));
        let answer = self.ask(&time)?;
        let here = before + now().saturating_sub(before) / 2;
        let [(seconds, microseconds)] = &self.meaning(&time, answer.pairs())?[..] else {
            return self.meaning(&time, None);
        };
        let (seconds, microseconds) = (seconds.clone().parse::<u64>(), microseconds.clone().parse::<u64>());
        let there = self.meaning(&time, seconds)?.saturating_mul(1000);
        let there = there.saturating_add(self.meaning(&time, microseconds)? / 1000);
        self.ahead = i64::try_from(there).unwrap_or(i64::MAX).saturating_sub_unsigned(here);
        Ok(self.ahead)
    }

    /// The time by the clock of the store, in milliseconds since 1970.
    pub(crate) fn time(&self) -> u64 {
        now().saturating_add_signed(self.ahead)
    }

    /// Up to when records have ended for everybody. One clock that is ahead removes nothing.
    fn ended(&self) -> u64 {
        self.time().min(now()).saturating_sub(KEPT)
    }

    /// Claims a nonce for this node.
    pub(crate) fn claim(&mut self, claiming: &Claiming, node: NodeId) -> Result<Claim, StoreError> {
        let nonce: String = claiming.nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = self.key(&format!("seen:{nonce}"));
        let milliseconds = u64::from(claiming.lifetime) * 1000;
        let set = Command::new("SET").arg(&key).arg(node.as_bytes()).arg("NX").arg("PX").number(milliseconds);
        // OK, or nothing: the key is there.
        match self.ask(&set)? {
            Answer::Text(_) => return Ok(Claim::Ours),
            Answer::Nothing => {}
            _ => return self.meaning(&set, None),
        }
        let holder = self.ask(&Command::new("GET").arg(&key))?.text();
        Ok(match holder.and_then(|holder| <[u8; 8]>::try_from(holder).ok()).map(NodeId::from_bytes) {
            // The answer to an earlier attempt was lost. knockd itself accepts a packet once.
            Some(holder) if holder == node => Claim::Ours,
            Some(by) => Claim::Taken { by },
            // It has ended just now, so the packet is old; or somebody else wrote it.
            None => Claim::Taken { by: NodeId::from_bytes([0; 8]) },
        })
    }

    /// Writes records. All of them are in the store then, or none.
    pub(crate) fn publish(&mut self, batch: &[RecordBytes]) -> Result<(), StoreError> {
        let (live, log, ended) = (self.key("live"), self.key("log"), self.ended());
        let mut zadd = Command::new("ZADD").arg(&live);
        for record in batch {
            let end = Record::decode(record).map_or(0, |record| record.end().as_millis());
            zadd = zadd.number(end).arg(record);
        }
        let mut commands = vec![Command::new("MULTI"), zadd];
        commands.push(Command::new("ZREMRANGEBYSCORE").arg(&live).arg("-inf").number(ended));
        commands.extend(batch.iter().map(|record| {
            let xadd = Command::new("XADD").arg(&log).arg("MAXLEN").arg("~").number(LOG_MAX);
            xadd.arg("*").arg("r").arg(record)
        }));
        commands.push(Command::new("EXEC"));
        self.transact(&commands)
    }

    /// Sends commands of which each has to be accepted, and those of a transaction have to be done.
    pub(crate) fn transact(&mut self, commands: &[Command]) -> Result<(), StoreError> {
        let all: Vec<&Command> = commands.iter().collect();
        let answers = self.connection.ask_all(&all, TIMEOUT)?;
        for (command, answer) in commands.iter().zip(answers) {
            let done = match answer {
                Answer::List(done) => done,
                other if command.name != "EXEC" => vec![other],
                Answer::Error(text) => vec![Answer::Error(text)],
                _ => return self.meaning(command, None),
            };
            let refused =
                done.into_iter().find_map(|one| if let Answer::Error(text) = one { Some(text) } else { None });
            if let Some(text) = refused {
                return Err(self.connection.error(Problem::Refused { command: command.name, text }));
            }
        }
        Ok(())
    }

    /// The epoch of the store: random, and another one in another store or an emptied one.
    pub(crate) fn epoch(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let get = Command::new("GET").arg(self.key("epoch"));
        match self.ask(&get)? {
            Answer::Text(epoch) => Ok(Some(epoch)),
            Answer::Nothing => Ok(None),
            _ => self.meaning(&get, None),
        }
    }

    /// Gives the store an epoch, if it has none, and returns the one that it has.
    pub(crate) fn make_epoch(&mut self, random: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.key("epoch");
        self.ask(&Command::new("SET").arg(key).arg(random).arg("NX"))?;
        self.epoch()
    }

    /// Says that this node is there. A replica refuses it.
    pub(crate) fn greet(&mut self, node: NodeId, digest: &Digest, version: &str) -> Result<(), StoreError> {
        let mut value = self.time().to_be_bytes().to_vec();
        value.extend(digest);
        value.extend(version.as_bytes().iter().take(24));
        let hset = Command::new("HSET").arg(self.key("nodes")).arg(node.as_bytes()).arg(value);
        self.ask(&hset).map(drop)
    }

    /// The nodes that were there.
    pub(crate) fn nodes(&mut self) -> Result<Vec<Seen>, StoreError> {
        let hgetall = Command::new("HGETALL").arg(self.key("nodes"));
        let fields = self.ask(&hgetall)?.pairs();
        let fields = self.meaning(&hgetall, fields)?;
        Ok(fields.into_iter().filter_map(|(node, value)| seen(&node.text()?, &value.text()?)).collect())
    }

    /// The position behind the newest entry of the stream.
    pub(crate) fn newest(&mut self) -> Result<String, StoreError> {
        Ok(self.before("+")?.unwrap_or(START.to_owned()))
    }

    /// Whether the entry at that position is still in the stream, so that none behind it is missing.
    pub(crate) fn has_entry(&mut self, position: &str) -> Result<bool, StoreError> {
        Ok(self.before(position)?.is_some_and(|found| found == position))
    }

    /// The position of the last entry up to there.
    fn before(&mut self, position: &str) -> Result<Option<String>, StoreError> {
        let xrevrange = Command::new("XREVRANGE").arg(self.key("log")).arg(position).arg("-").arg("COUNT").arg("1");
        let found = entries(self.ask(&xrevrange)?);
        Ok(self.meaning(&xrevrange, found)?.into_iter().next().map(|(position, _)| position))
    }

    /// The records that have not ended, from those that end at `from` on, the longest lived first: a revocation comes before
    /// what it ends. `known`: how many of those with the score `from` were read already.
    pub(crate) fn page(&mut self, from: Option<f64>, known: usize) -> Result<Page, StoreError> {
        let zrange = Command::new("ZRANGE").arg(self.key("live"));
        let zrange = match from {
            Some(score) => zrange.number(score),
            None => zrange.arg("+inf"),
        };
        let zrange = zrange.number(self.ended()).arg("BYSCORE").arg("REV");
        let zrange = zrange.arg("LIMIT").number(known).number(COUNT).arg("WITHSCORES");
        let pairs = self.ask(&zrange)?.pairs();
        let members = self.meaning(&zrange, pairs)?.into_iter().map(|(member, score)| {
            let score = score.parse().filter(|score: &f64| !score.is_nan());
            Some((member.text()?, score?))
        });
        let members = members.collect::<Option<Vec<_>>>();
        let members = self.meaning(&zrange, members)?;
        let is_last = members.len() < COUNT;
        Ok(Page { members, is_last })
    }

    /// The entries behind a position. Waits some seconds where there is none.
    pub(crate) fn read(&mut self, position: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let xread = Command::new("XREAD").arg("COUNT").number(COUNT).arg("BLOCK").number(BLOCK.as_millis());
        let xread = xread.arg("STREAMS").arg(self.key("log")).arg(position);
        let found = match self.connection.ask(&xread, BLOCK_TIMEOUT)? {
            Answer::Nothing => Some(Vec::new()),
            // One stream was asked for: its key, and its entries.
            answer => answer.list().and_then(|mut streams| streams.pop()?.list()?.pop()).and_then(entries),
        };
        self.meaning(&xread, found)
    }
}

/// What the keys of the realm start with.
pub(crate) fn prefix(settings: &Settings) -> String {
    format!("knock:{{{}}}:", settings.realm)
}

/// Entries of the stream: their positions, and their fields `r`.
fn entries(answer: Answer) -> Option<Vec<(String, Vec<u8>)>> {
    let entry = |entry: Answer| {
        let [position, fields] = <[Answer; 2]>::try_from(entry.list()?).ok()?;
        let position = String::from_utf8(position.text()?).ok()?;
        let (time, number) = position.split_once('-')?;
        let _: (u64, u64) = (time.parse().ok()?, number.parse().ok()?);
        let mut fields = fields.pairs()?.into_iter();
        let record = fields.find_map(|(name, value)| if name.text()? == b"r" { value.text() } else { None });
        Some((position, record.unwrap_or_default()))
    };
    answer.list()?.into_iter().map(entry).collect()
}

/// A value of the hash of nodes, which others may have written.
fn seen(node: &[u8], value: &[u8]) -> Option<Seen> {
    let node = NodeId::from_bytes(node.try_into().ok()?);
    let (time, rest) = value.split_first_chunk()?;
    let (digest, version) = rest.split_first_chunk()?;
    let version = String::from_utf8_lossy(version).into_owned();
    Some(Seen { node, time: u64::from_be_bytes(*time), digest: *digest, version })
}

/// When an entry was written, in milliseconds since 1970, by the clock of the store.
pub(crate) fn written(position: &str) -> Option<u64> {
    position.split_once('-')?.0.parse().ok()
}

/// A member or an entry that may be a record.
pub(crate) fn record(bytes: &[u8]) -> Option<(RecordBytes, Record)> {
    let record = Record::decode(bytes).ok()?;
    Some((<[u8; RECORD_LENGTH]>::try_from(bytes).ok()?, record))
}
