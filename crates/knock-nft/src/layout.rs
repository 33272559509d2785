//! The managed table as it is in the kernel.

use std::time::Duration;

use knock_proto::Port;
use rustix::io::Errno;

use crate::attribute::{self, Message, Request};
use crate::connection::Connection;
use crate::element::{Element, Lifetime, read_comment, read_elements, read_grant_key, read_port};
use crate::error::{Error, Operation};
use crate::rules::{CHAINS, GRANTS4, GRANTS6, GUARDED, rules};
use crate::spec::TableSpec;
use crate::writer::{COMMENT, FAMILY, FLAG_OWNER, MARK, sets};

/// How an error names the managed table.
pub(crate) fn object(table: &str) -> String {
    format!("table inet {table}")
}

/// A table as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableState {
    handle: u64,
    pub(crate) flags: u32,
    /// The netlink port of the process that owns it and lives.
    pub(crate) owner: Option<u32>,
    comment: String,
}

impl TableState {
    /// Reads the table; `None`: there is none.
    pub(crate) fn read(connection: &mut Connection, table: &str) -> Result<Option<TableState>, Error> {
        use attribute::table::{FLAGS, HANDLE, NAME, OWNER, USERDATA};
        let mut state = TableState::default();
        let request = Request::new(libc::NFT_MSG_GETTABLE, FAMILY, libc::NLM_F_ACK).string(NAME, table);
        let result = connection.get(request, |message| {
            let attributes = message.attributes();
            let flags = attributes.be32(FLAGS).unwrap_or(0);
            state = TableState {
                handle: attributes.be64(HANDLE).unwrap_or(0),
                flags,
                owner: attributes.be32(OWNER).filter(|_| flags & FLAG_OWNER != 0),
                comment: attributes.get(USERDATA).and_then(|record| read_comment(record.0)).unwrap_or("").to_owned(),
            };
        });
        match result {
            Ok(()) => Ok(Some(state)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::kernel(Operation::ReadTable, object(table), errno)),
        }
    }

    /// Whether knockd made it.
    pub(crate) fn is_ours(&self) -> bool {
        self.comment.starts_with(MARK)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ChainState {
    name: String,
    handle: u64,
    hook: Option<(u32, i32)>,
    policy: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SetState {
    name: String,
    handle: u64,
    flags: u32,
    key_type: u32,
    key_length: u32,
    size: u32,
}

/// The whole table but for its grants and what others added beside.
///
/// The kernel numbers tables, and within a table chains, sets and rules, with handles that it never gives twice, and a rule
/// never changes. So equal handles are equal rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    table: TableState,
    chains: Vec<ChainState>,
    sets: Vec<SetState>,
    /// The handles in their order, chain by chain as in `CHAINS`.
    rules: [Vec<u64>; CHAINS.len()],
    guarded: Vec<Port>,
}

impl Layout {
    /// Reads the table with its contents; `None`: there is no table.
    pub(crate) fn read(connection: &mut Connection, table: &str) -> Result<Option<Layout>, Error> {
        let Some(state) = TableState::read(connection, table)? else { return Ok(None) };
        let fail = |operation| move |errno| Error::kernel(operation, object(table), errno);

        let mut chains = Vec::new();
        for name in CHAINS.map(|kind| text(kind.name)) {
            match read_chain(connection, table, name) {
                Ok(chain) => chains.push(chain),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(fail(Operation::ReadChain)(errno)),
            }
        }
        let sets = read_sets(connection, table).map_err(fail(Operation::ReadSet))?;
        let rules = read_rules(connection, table).map_err(fail(Operation::ReadRules))?;
        let guarded = match read_guarded(connection, table) {
            Err(Errno::NOENT) => Vec::new(),
            result => result.map_err(fail(Operation::ReadElements))?,
        };
        Ok(Some(Layout { table: state, chains, sets, rules, guarded }))
    }

    pub(crate) fn table(&self) -> &TableState {
        &self.table
    }

    /// Whether sets and chains are those that `spec` asks for, so that only rules and guarded ports need replacing.
    pub(crate) fn fits(&self, spec: &TableSpec) -> bool {
        let chains = self.chains.iter().map(|chain| (chain.name.as_str(), chain.hook, chain.policy));
        let accept = libc::NF_ACCEPT.cast_unsigned();
        let wanted_chains = CHAINS.iter().map(|kind| {
            let hook = kind.hook.map(|(hook, priority)| (hook as u32, priority));
            (text(kind.name), hook, hook.map(|_| accept))
        });
        let wanted_sets = sets(spec.max_grants);
        self.table.comment == COMMENT
            && chains.eq(wanted_chains)
            && self.sets.len() == wanted_sets.len()
            && wanted_sets.iter().all(|(name, kind)| {
                self.sets.iter().any(|set| {
                    set.name == text(name)
                        && (set.flags, set.key_type, set.key_length, set.size)
                            == (kind.flags, kind.key_type, kind.key_length, kind.size)
                })
            })
    }

    /// Whether this is the table that was just made of `spec`, with as many rules as it has and its guarded ports.
    pub(crate) fn is_made_of(&self, spec: &TableSpec) -> bool {
        let mut guarded = spec.guarded.clone();
        guarded.sort_unstable();
        guarded.dedup();
        let made = rules(spec);
        let counts = CHAINS.iter().map(|kind| made.iter().filter(|(chain, _)| *chain == kind.name).count());
        self.fits(spec) && self.guarded == guarded && self.rules.iter().map(Vec::len).eq(counts)
    }
}

/// The names of the ruleset are ASCII.
fn text(name: &'static std::ffi::CStr) -> &'static str {
    name.to_str().unwrap_or("")
}

fn read_chain(connection: &mut Connection, table: &str, name: &str) -> Result<ChainState, Errno> {
    use attribute::chain::{HANDLE, HOOK, HOOK_NUMBER, HOOK_PRIORITY, NAME, POLICY, TABLE};
    let mut chain = ChainState::default();
    let request = Request::new(libc::NFT_MSG_GETCHAIN, FAMILY, libc::NLM_F_ACK).string(TABLE, table).string(NAME, name);
    connection.get(request, |message| {
        let attributes = message.attributes();
        let hook = attributes.get(HOOK).map(|hook| hook.nested());
        chain = ChainState {
            name: name.to_owned(),
            handle: attributes.be64(HANDLE).unwrap_or(0),
            hook: hook.and_then(|hook| Some((hook.be32(HOOK_NUMBER)?, hook.be32(HOOK_PRIORITY)?.cast_signed()))),
            policy: attributes.be32(POLICY),
        };
    })?;
    Ok(chain)
}

fn read_sets(connection: &mut Connection, table: &str) -> Result<Vec<SetState>, Errno> {
    use attribute::set::{DESCRIPTION, FLAGS, HANDLE, KEY_LENGTH, KEY_TYPE, NAME, SIZE, TABLE};
    let request = |flags| Request::new(libc::NFT_MSG_GETSET, FAMILY, flags).string(TABLE, table);
    connection.dump(request, |sets: &mut Vec<SetState>, message: Message<'_>| {
        let attributes = message.attributes();
        let name = attributes.string(NAME).unwrap_or("");
        if attributes.string(TABLE) == Some(table) && [GUARDED, GRANTS4, GRANTS6].map(text).contains(&name) {
            sets.push(SetState {
                name: name.to_owned(),
                handle: attributes.be64(HANDLE).unwrap_or(0),
                flags: attributes.be32(FLAGS).unwrap_or(0),
                key_type: attributes.be32(KEY_TYPE).unwrap_or(0),
                key_length: attributes.be32(KEY_LENGTH).unwrap_or(0),
                size: attributes.get(DESCRIPTION).and_then(|d| d.nested().be32(SIZE)).unwrap_or(0),
            });
        }
    })
}

fn read_rules(connection: &mut Connection, table: &str) -> Result<[Vec<u64>; CHAINS.len()], Errno> {
    use attribute::rule::{CHAIN, HANDLE, TABLE};
    let request = |flags| Request::new(libc::NFT_MSG_GETRULE, FAMILY, flags).string(TABLE, table);
    connection.dump(request, |rules: &mut [Vec<u64>; CHAINS.len()], message: Message<'_>| {
        let attributes = message.attributes();
        if attributes.string(TABLE) != Some(table) {
            return;
        }
        let chain = attributes.string(CHAIN).and_then(|name| CHAINS.iter().position(|kind| text(kind.name) == name));
        if let Some(chain) = chain {
            rules[chain].push(attributes.be64(HANDLE).unwrap_or(0));
        }
    })
}

/// In ascending order; an element that is not a port, which only another program can have added, counts as 0/tcp.
fn read_guarded(connection: &mut Connection, table: &str) -> Result<Vec<Port>, Errno> {
    let request = |flags| elements_request(FAMILY, table, text(GUARDED), flags);
    let mut guarded = connection.dump(request, |ports: &mut Vec<Port>, message: Message<'_>| {
        read_elements(message, |listed| ports.push(read_port(listed.key).unwrap_or(Port::tcp(0))));
    })?;
    guarded.sort_unstable();
    Ok(guarded)
}

/// Asks for the elements of a set.
pub(crate) fn elements_request(family: u8, table: &str, set: &str, flags: libc::c_int) -> Request {
    use attribute::element::{LIST_SET, LIST_TABLE};
    Request::new(libc::NFT_MSG_GETSETELEM, family, flags).string(LIST_TABLE, table).string(LIST_SET, set)
}

/// The grants in the table. Elements of other protocols are left out; one without a timeout remains for [`Duration::MAX`].
pub(crate) fn read_grants(connection: &mut Connection, table: &str) -> Result<Vec<Element>, Error> {
    let fail = |errno| Error::kernel(Operation::ReadElements, object(table), errno);
    let mut grants = read_grant_set(connection, table, text(GRANTS4)).map_err(fail)?;
    grants.extend(read_grant_set(connection, table, text(GRANTS6)).map_err(fail)?);
    Ok(grants)
}

/// The grants that are left in a table which others may have damaged. An element without a timeout is not from knockd.
pub(crate) fn read_remaining_grants(connection: &mut Connection, table: &str) -> Result<Vec<Element>, Error> {
    let mut grants = Vec::new();
    for set in [GRANTS4, GRANTS6].map(text) {
        match read_grant_set(connection, table, set) {
            Ok(found) => grants.extend(found.into_iter().filter(|grant| grant.remaining < Duration::MAX)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::kernel(Operation::ReadElements, object(table), errno)),
        }
    }
    Ok(grants)
}

fn read_grant_set(connection: &mut Connection, table: &str, set: &str) -> Result<Vec<Element>, Errno> {
    let request = |flags| elements_request(FAMILY, table, set, flags);
    connection.dump_elements(request, |found, message| {
        read_elements(message, |listed| {
            if let Some(key) = read_grant_key(listed.key) {
                let lifetime = listed.lifetime(None).unwrap_or(Lifetime::whole(Duration::MAX));
                let comment = listed.comment.to_owned();
                let (timeout, remaining) = (lifetime.timeout, lifetime.remaining);
                found.insert(key, Element { key, comment, timeout, remaining });
            }
        });
    })
}
