//! The store: a connection to a Valkey or Redis server, and the commands that are used. Those of Redis 6.2 are enough.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use knock_fleet::link::{Claim, Digest, RecordBytes, Seen, Settings};
use knock_fleet::{NodeId, RECORD_LENGTH, Record};
use redis::streams::StreamReadReply;
use redis::{
    Client, Cmd, Connection, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, TlsCertificates, cmd, pipe,
};

use crate::session::{Claiming, now};

/// How long the store has to answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long the store waits for new entries.
const BLOCK: Duration = Duration::from_secs(5);
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

/// The store does not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A file can't be read.
    #[error("{}: cannot read the {what}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// Not `host:port`.
    #[error("`{server}` is not a server with its port")]
    Server {
        /// The text.
        server: String,
    },
    /// The server, or the way to it.
    #[error("the store {server}: {}", explained(.error))]
    Redis {
        /// Which.
        server: String,
        /// What it said.
        error: RedisError,
    },
}

/// What the server said, and what to do.
fn explained(error: &RedisError) -> String {
    let text = error.to_string();
    let hint = match error.code() {
        _ if error.kind() == ErrorKind::AuthenticationFailed => {
            "; check `fleet.user` and the file `fleet.password_file`"
        }
        Some("NOPERM") => "; give the user the commands and keys that docs/fleet-protocol.md lists",
        Some("READONLY") => "; it is a replica: write the primary first in `fleet.servers`",
        _ if error.is_timeout() => "; it does not answer",
        _ => "",
    };
    format!("{text}{hint}")
}

/// A connection to a store.
pub(crate) struct Store {
    connection: Connection,
    server: String,
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
    /// Connects to the server that is `index` in its list.
    pub(crate) fn connect(settings: &Settings, server: &str) -> Result<Store, StoreError> {
        let client = client(settings, server)?;
        let failed = |error| StoreError::Redis { server: server.to_owned(), error };
        let connection = client.get_connection_with_timeout(TIMEOUT).map_err(failed)?;
        connection.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        connection.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
        let prefix = format!("knock:{{{}}}:", settings.realm);
        let mut store = Store { connection, server: server.to_owned(), prefix, ahead: 0 };
        store.measure_clock()?;
        Ok(store)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, StoreError> {
        command.query(&mut self.connection).map_err(|error| StoreError::Redis { server: self.server.clone(), error })
    }

    /// How much the clock of the store is ahead, in milliseconds.
    pub(crate) fn measure_clock(&mut self) -> Result<i64, StoreError> {
        let before = now();
        let (seconds, microseconds): (u64, u64) = self.query(&cmd("TIME"))?;
        let here = before + now().saturating_sub(before) / 2;
        let there = seconds.saturating_mul(1000).saturating_add(microseconds / 1000);
        self.ahead = i64::try_from(there).unwrap_or(i64::MAX).saturating_sub_unsigned(here);
        Ok(self.ahead)
    }

    /// The time by the clock of the store, in milliseconds since 1970.
    pub(crate) fn time(&self) -> u64 {
        now().saturating_add_signed(self.ahead)
    }

    /// Up to when records have ended for everybody.
    fn ended(&self) -> u64 {
        self.time().saturating_sub(KEPT)
    }

    /// Claims a nonce for this node.
    pub(crate) fn claim(&mut self, claiming: &Claiming, node: NodeId) -> Result<Claim, StoreError> {
        let nonce: String = claiming.nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = self.key(&format!("seen:{nonce}"));
        let milliseconds = u64::from(claiming.lifetime) * 1000;
        let mut set = cmd("SET");
        set.arg(&key).arg(node.as_bytes()).arg("NX").arg("PX").arg(milliseconds);
        // OK, or nothing: the key is there.
        if self.query::<Option<String>>(&set)?.is_some() {
            return Ok(Claim::Ours);
        }
        let holder: Option<Vec<u8>> = self.query(cmd("GET").arg(&key))?;
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
        let mut pipe = pipe();
        pipe.atomic();
        let zadd = pipe.cmd("ZADD").arg(&live);
        for record in batch {
            let end = Record::decode(record).map_or(0, |record| record.end().as_millis());
            zadd.arg(end).arg(&record[..]);
        }
        zadd.ignore();
        pipe.cmd("ZREMRANGEBYSCORE").arg(&live).arg("-inf").arg(ended).ignore();
        for record in batch {
            let xadd = pipe.cmd("XADD").arg(&log).arg("MAXLEN").arg("~").arg(LOG_MAX).arg("*");
            xadd.arg("r").arg(&record[..]).ignore();
        }
        pipe.exec(&mut self.connection).map_err(|error| StoreError::Redis { server: self.server.clone(), error })
    }

    /// The epoch of the store: random, and another one in another store or an emptied one.
    pub(crate) fn epoch(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.key("epoch");
        self.query(cmd("GET").arg(key))
    }

    /// Gives the store an epoch, if it has none, and returns the one that it has.
    pub(crate) fn make_epoch(&mut self, random: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.key("epoch");
        self.query::<Option<String>>(cmd("SET").arg(key).arg(random).arg("NX"))?;
        self.epoch()
    }

    /// Says that this node is there.
    pub(crate) fn greet(&mut self, node: NodeId, digest: &Digest, version: &str) -> Result<(), StoreError> {
        let mut value = self.time().to_be_bytes().to_vec();
        value.extend(digest);
        value.extend(version.as_bytes().iter().take(24));
        let key = self.key("nodes");
        self.query(cmd("HSET").arg(key).arg(node.as_bytes()).arg(value))
    }

    /// The nodes that were there.
    pub(crate) fn nodes(&mut self) -> Result<Vec<Seen>, StoreError> {
        let key = self.key("nodes");
        let fields: Vec<(Vec<u8>, Vec<u8>)> = self.query(cmd("HGETALL").arg(key))?;
        Ok(fields.into_iter().filter_map(|(node, value)| seen(&node, &value)).collect())
    }

    /// The position behind the newest entry of the stream.
    pub(crate) fn newest(&mut self) -> Result<String, StoreError> {
        let key = self.key("log");
        let newest: redis::streams::StreamRangeReply =
            self.query(cmd("XREVRANGE").arg(key).arg("+").arg("-").arg("COUNT").arg(1))?;
        Ok(newest.ids.into_iter().next().map_or(START.to_owned(), |entry| entry.id))
    }

    /// Whether the entry at that position is still in the stream, so that none behind it is missing.
    pub(crate) fn has_entry(&mut self, position: &str) -> Result<bool, StoreError> {
        let key = self.key("log");
        let mut xrevrange = cmd("XREVRANGE");
        xrevrange.arg(key).arg(position).arg("-").arg("COUNT").arg(1);
        let found: redis::streams::StreamRangeReply = self.query(&xrevrange)?;
        Ok(found.ids.first().is_some_and(|entry| entry.id == position))
    }

    /// The records that have not ended, from those that end at `from` on, the longest lived first: a revocation comes before
    /// what it ends. `known`: how many of those with the score `from` are known.
    pub(crate) fn page(&mut self, from: Option<f64>, known: usize) -> Result<Page, StoreError> {
        let (key, ended) = (self.key("live"), self.ended());
        let mut zrange = cmd("ZRANGE");
        zrange.arg(key);
        match from {
            Some(score) => zrange.arg(score),
            None => zrange.arg("+inf"),
        };
        let count = COUNT + known;
        zrange.arg(ended).arg("BYSCORE").arg("REV").arg("LIMIT").arg(0).arg(count).arg("WITHSCORES");
        let members: Vec<(Vec<u8>, f64)> = self.query(&zrange)?;
        let is_last = members.len() < count;
        Ok(Page { members, is_last })
    }

    /// The entries behind a position. Waits some seconds where there is none.
    pub(crate) fn read(&mut self, position: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let failed = |error| StoreError::Redis { server: self.server.clone(), error };
        self.connection.set_read_timeout(Some(BLOCK_TIMEOUT)).map_err(failed)?;
        let key = self.key("log");
        let mut xread = cmd("XREAD");
        xread.arg("COUNT").arg(COUNT).arg("BLOCK").arg(BLOCK.as_millis().to_string());
        xread.arg("STREAMS").arg(key).arg(position);
        let reply: Option<StreamReadReply> = self.query(&xread)?;
        let failed = |error| StoreError::Redis { server: self.server.clone(), error };
        self.connection.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        Ok(entries.map(|entry| (entry.id.clone(), entry.get("r").unwrap_or_default())).collect())
    }
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

fn client(settings: &Settings, server: &str) -> Result<Client, StoreError> {
    let wrong = || StoreError::Server { server: server.to_owned() };
    let (host, port) = server.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = port.parse().map_err(|_| wrong())?;
    let address = match settings.tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    };
    let mut user = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(name) = &settings.user {
        user = user.set_username(name);
    }
    if let Some(path) = &settings.password_file {
        user = user.set_password(read(path, "password")?.trim_end_matches(['\r', '\n']));
    }
    let failed = |error| StoreError::Redis { server: server.to_owned(), error };
    let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    let info: ConnectionInfo = address.into_connection_info().map_err(failed)?;
    let info = info.set_redis_settings(user).set_tcp_settings(tcp);
    match &settings.tls {
        None => Client::open(info).map_err(failed),
        Some(tls) => {
            let root_cert = match &tls.ca {
                Some(path) => Some(read(path, "certificate of the authority")?.into_bytes()),
                None => None,
            };
            Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert }).map_err(failed)
        }
    }
}

fn read(path: &PathBuf, what: &'static str) -> Result<String, StoreError> {
    fs::read_to_string(path).map_err(|error| StoreError::File { path: path.clone(), what, error })
}

impl StoreError {
    /// Whether another server of the list may do it.
    pub(crate) fn is_of_replica(&self) -> bool {
        matches!(self, StoreError::Redis { error, .. } if error.kind() == ErrorKind::Server(redis::ServerErrorKind::ReadOnly))
    }
}
