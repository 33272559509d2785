//! The managed table as it is in the kernel.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::time::Duration;

use knock_proto::{Family, Port, PortRange};
use rustix::io::Errno;

use crate::attribute::{self, Message, Request, elements_request};
use crate::connection::Connection;
use crate::element::{Element, Lifetime, read_comment, read_elements};
use crate::error::{Error, Operation};
use crate::grant_set::{GrantSet, read_grant_key};
use crate::message::SetKind;
use crate::rules::{CHAINS, GATE, chains, rules};
use crate::sets::{GUARDED, is_without_grants, sets};
use crate::spec::TableSpec;

/// The family of the managed table.
pub(crate) const FAMILY: u8 = Family::Inet.number();
/// How the comment of each table begins that knockd made.
pub(crate) const MARK: &str = "managed by knockd";
/// The comment of a table of this layout.
pub(crate) const COMMENT: &str = "managed by knockd, layout 2";
/// The comment of a table of this layout that has doors.
const COMMENT_WITH_DOORS: &str = "managed by knockd, layout 3";
/// The comment of a shield.
pub(crate) const SHIELD: &str = "managed by knockd while its table is made again";

/// `NFT_TABLE_F_OWNER` (Linux 5.12) and `NFT_TABLE_F_PERSIST` (6.9). The first without the second destroys the table, and
/// so opens the gate, when this process is killed.
pub(crate) const FLAG_OWNER: u32 = 0x2;
pub(crate) const FLAG_PERSIST: u32 = 0x4;

/// The comment of the table.
pub(crate) fn comment(spec: &TableSpec) -> &'static str {
    if spec.doors.is_empty() { COMMENT } else { COMMENT_WITH_DOORS }
}

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
    pub(crate) comment: String,
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
    data_type: Option<u32>,
}

impl SetState {
    fn is(&self, kind: &SetKind) -> bool {
        // A set keeps the size that it was made with.
        (self.flags, self.key_type, self.key_length) == (kind.flags, kind.key_type, kind.key_length)
            && (self.size, self.data_type) == (kind.size, kind.data_type)
    }
}

/// What is to happen to the sets of a table, and to the guarded ports.
#[derive(Clone, Debug, Default)]
pub(crate) struct SetChanges {
    pub(crate) delete: Vec<CString>,
    pub(crate) add: Vec<(CString, SetKind)>,
    /// Elements of the set of guarded ports, which those that stay are not: on older kernels a lookup while they are
    /// replaced may find neither the old one nor the new one.
    pub(crate) unguard: Vec<PortRange>,
    pub(crate) guard: Vec<PortRange>,
    /// Whether a port may be unguarded for a moment. The elements of a set of intervals come into force all together, some
    /// microseconds after the rest of their transaction (`nft_set_commit_update`).
    pub(crate) has_gap: bool,
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
    guarded: Vec<PortRange>,
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

    /// The rule that drops at the gate: the handle of the table, the name of the chain, the handle of the rule.
    pub(crate) fn drop_rule(&self) -> Option<(u64, &'static str, u64)> {
        let gate = CHAINS.iter().position(|kind| kind.name == GATE)?;
        Some((self.table.handle, text(GATE), *self.rules[gate].last()?))
    }

    /// How sets and guarded ports become those of `spec`, where only they and rules need replacing. `None`: chains are
    /// others, or a set that may hold grants, or another program has added to the guarded ports.
    pub(crate) fn changes_to(&self, spec: &TableSpec) -> Option<SetChanges> {
        let found = self.chains.iter().map(|chain| (chain.name.as_str(), chain.hook, chain.policy));
        let accept = libc::NF_ACCEPT.cast_unsigned();
        let wanted_chains = chains(spec).map(|kind| {
            let hook = kind.hook.map(|(hook, priority)| (hook as u32, priority));
            (text(kind.name), hook, hook.map(|_| accept))
        });
        if self.table.comment != comment(spec) || !found.eq(wanted_chains) {
            return None;
        }
        let wanted = sets(spec);
        let is_wanted =
            |set: &SetState| wanted.iter().any(|(name, kind)| set.name.as_bytes() == name.as_bytes() && set.is(kind));
        let (kept, other): (Vec<&SetState>, Vec<&SetState>) = self.sets.iter().partition(|set| is_wanted(set));
        let is_kept = |name: &CString| kept.iter().any(|set| set.name.as_bytes() == name.as_bytes());
        let add: Vec<(CString, SetKind)> = wanted.iter().filter(|(name, _)| !is_kept(name)).cloned().collect();
        let holds_grants = |set: &&SetState| !is_without_grants(&set.name);
        let is_replaced = |set: &SetState| add.iter().any(|(name, _)| name.as_bytes() == set.name.as_bytes());
        if other.iter().copied().filter(holds_grants).any(is_replaced) {
            return None;
        }
        let new = spec.guarded_ranges();
        let is_new_set = add.iter().any(|(name, _)| name.as_c_str() == GUARDED);
        let old = if is_new_set { &[][..] } else { &self.guarded };
        if old.iter().any(|ports| ports.first == 0) {
            return None;
        }
        let without = |these: &[PortRange], those: &[PortRange]| {
            // Both are sorted.
            these.iter().filter(|ports| those.binary_search(ports).is_err()).copied().collect::<Vec<_>>()
        };
        let (unguard, guard) = (without(old, &new), without(&new, old));
        let has_gap = spec.guards_intervals() && (is_new_set || !unguard.is_empty() && !guard.is_empty());
        Some(SetChanges { delete: other.iter().map(|set| c_name(&set.name)).collect(), add, unguard, guard, has_gap })
    }

    /// Whether this is the table that was just made of `spec`, with as many rules as it has and its guarded ports.
    pub(crate) fn is_made_of(&self, spec: &TableSpec) -> bool {
        let made = rules(spec);
        let counts = CHAINS.iter().map(|kind| made.iter().filter(|(chain, _)| *chain == kind.name).count());
        let is_wanted = |changes: SetChanges| {
            changes.delete.is_empty()
                && changes.add.is_empty()
                && changes.unguard.is_empty()
                && changes.guard.is_empty()
        };
        self.changes_to(spec).is_some_and(is_wanted) && self.rules.iter().map(Vec::len).eq(counts)
    }
}

/// The names of the ruleset are ASCII.
fn text(name: &'static std::ffi::CStr) -> &'static str {
    name.to_str().unwrap_or("")
}

/// A name for C; one from the kernel has no NUL.
fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
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
    use attribute::set::{DATA_TYPE, DESCRIPTION, FLAGS, HANDLE, KEY_LENGTH, KEY_TYPE, NAME, SIZE, TABLE};
    let request = |flags| Request::new(libc::NFT_MSG_GETSET, FAMILY, flags).string(TABLE, table);
    connection.dump(request, |sets: &mut Vec<SetState>, message: Message<'_>| {
        let attributes = message.attributes();
        let name = attributes.string(NAME).unwrap_or("");
        let is_ours = is_without_grants(name) || name.parse::<GrantSet>().is_ok();
        if attributes.string(TABLE) == Some(table) && is_ours {
            sets.push(SetState {
                name: name.to_owned(),
                handle: attributes.be64(HANDLE).unwrap_or(0),
                flags: attributes.be32(FLAGS).unwrap_or(0),
                key_type: attributes.be32(KEY_TYPE).unwrap_or(0),
                key_length: attributes.be32(KEY_LENGTH).unwrap_or(0),
                size: attributes.get(DESCRIPTION).and_then(|d| d.nested().be32(SIZE)).unwrap_or(0),
                data_type: attributes.be32(DATA_TYPE),
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

/// In ascending order; an element that is not of ports, which only another program can have added, counts as 0/tcp.
fn read_guarded(connection: &mut Connection, table: &str) -> Result<Vec<PortRange>, Errno> {
    let request = |flags| elements_request(FAMILY, table, text(GUARDED), flags);
    let read = |ports: &mut HashMap<PortRange, PortRange>, message: Message<'_>| {
        read_elements(message, |listed| {
            let range = listed.ports().unwrap_or(Port::tcp(0).into());
            ports.insert(range, range);
        });
    };
    let mut guarded = connection.dump_elements(request, read)?;
    guarded.sort_unstable();
    Ok(guarded)
}

/// The grants in the table. Elements of other protocols are left out; one without a timeout remains for [`Duration::MAX`].
pub(crate) fn read_grants(connection: &mut Connection, table: &str) -> Result<Vec<Element>, Error> {
    let fail = |errno| Error::kernel(Operation::ReadElements, object(table), errno);
    let mut grants = Vec::new();
    for set in read_grant_sets(connection, table)? {
        match read_grant_set(connection, table, set) {
            Ok(found) => grants.extend(found),
            // The others are only in some tables.
            Err(Errno::NOENT) if !GrantSet::SINGLE.contains(&set) => {}
            Err(errno) => return Err(fail(errno)),
        }
    }
    Ok(grants)
}

/// The grants that are left in a table which others may have damaged. An element without a timeout is not from knockd.
pub(crate) fn read_remaining_grants(connection: &mut Connection, table: &str) -> Result<Vec<Element>, Error> {
    let mut grants = Vec::new();
    for set in read_grant_sets(connection, table)? {
        match read_grant_set(connection, table, set) {
            Ok(found) => grants.extend(found.into_iter().filter(|grant| grant.remaining < Duration::MAX)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::kernel(Operation::ReadElements, object(table), errno)),
        }
    }
    Ok(grants)
}

/// The sets of grants in the table, and those that every managed table has.
fn read_grant_sets(connection: &mut Connection, table: &str) -> Result<BTreeSet<GrantSet>, Error> {
    let found = match read_sets(connection, table) {
        Ok(sets) => sets,
        Err(Errno::NOENT) => Vec::new(),
        Err(errno) => return Err(Error::kernel(Operation::ReadSet, object(table), errno)),
    };
    Ok(found.iter().filter_map(|set| set.name.parse().ok()).chain(GrantSet::SINGLE).collect())
}

fn read_grant_set(connection: &mut Connection, table: &str, set: GrantSet) -> Result<Vec<Element>, Errno> {
    let name = set.to_string();
    let request = |flags| elements_request(FAMILY, table, &name, flags);
    connection.dump_elements(request, |found, message| {
        read_elements(message, |listed| {
            if let Some(key) = read_grant_key(set, listed.key) {
                let lifetime = listed.lifetime(None).unwrap_or(Lifetime::whole(Duration::MAX));
                let comment = listed.comment.to_owned();
                let (timeout, remaining) = (lifetime.timeout, lifetime.remaining);
                found.insert(key, Element { key, comment, timeout, remaining });
            }
        });
    })
}
