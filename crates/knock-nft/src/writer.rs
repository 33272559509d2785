//! The managed table as messages: its sets, its chains and its rules.

use std::ffi::CStr;
use std::net::IpAddr;

use knock_proto::Family;
use nftnl::{Chain, ChainType, MsgType, Policy, ProtoFamily, Rule, Table};

use crate::connection::Connection;
use crate::element::{Element, ElementKey, KeyBytes, comment_record, milliseconds};
use crate::error::Operation;
use crate::message::{ElementsMessage, SetKind, SetMessage, TableMessage, Timeout};
use crate::rules::{CHAINS, ChainKind, GRANTS4, GRANTS6, GUARDED, rules};
use crate::spec::TableSpec;

/// The family of the managed table.
pub(crate) const FAMILY: u8 = Family::Inet.number();
/// How the comment of each table begins that knockd made.
pub(crate) const MARK: &str = "managed by knockd";
/// The comment of a table of this layout.
pub(crate) const COMMENT: &str = "managed by knockd, layout 2";

/// `NFT_TABLE_F_OWNER` (Linux 5.12) and `NFT_TABLE_F_PERSIST` (6.9). The first without the second destroys the table, and
/// so opens the gate, when this process is killed.
pub(crate) const FLAG_OWNER: u32 = 0x2;
pub(crate) const FLAG_PERSIST: u32 = 0x4;

// The numbers by which nft knows types, and the bits that each takes in a concatenation (nftables, include/datatype.h).
const TYPE_BITS: u32 = 6;
pub(crate) const TYPE_IPV4: u32 = 7;
pub(crate) const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_PORT: u32 = TYPE_PROTOCOL << TYPE_BITS | TYPE_SERVICE;

/// The three sets and what they are, for a table with room for `max_grants` grants to each IP version.
pub(crate) fn sets(max_grants: u32) -> [(&'static CStr, SetKind); 3] {
    let flags = libc::NFT_SET_TIMEOUT.cast_unsigned();
    let grants = |id, address_type: u32, address_length: u32| SetKind {
        id,
        flags,
        key_type: address_type << (2 * TYPE_BITS) | TYPE_PORT,
        key_length: address_length + 8,
        size: max_grants,
    };
    let guarded = SetKind { id: 1, flags: 0, key_type: TYPE_PORT, key_length: 8, size: 0 };
    [(GUARDED, guarded), (GRANTS4, grants(2, TYPE_IPV4, 4)), (GRANTS6, grants(3, TYPE_IPV6, 16))]
}

/// The set that holds grants to the address.
pub(crate) fn grants_of(address: IpAddr) -> &'static CStr {
    match address.to_canonical() {
        IpAddr::V4(_) => GRANTS4,
        IpAddr::V6(_) => GRANTS6,
    }
}

/// Writes the managed table into the transaction of a connection.
pub(crate) struct Writer<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) name: &'a CStr,
}

impl Writer<'_> {
    fn table(&mut self, operation: Operation, flags: u32, exclusive: bool, kind: MsgType) {
        let comment = comment_record(COMMENT);
        let comment: &[u8] = if exclusive { &comment } else { &[] };
        self.connection.push(operation, &TableMessage::new(self.name, FAMILY, flags, comment, exclusive), kind);
    }

    /// Deletes the table.
    pub(crate) fn delete(&mut self) {
        self.table(Operation::DeleteTable, 0, false, MsgType::Del);
    }

    /// Claims an orphaned table.
    pub(crate) fn claim(&mut self, flags: u32) {
        self.table(Operation::AddTable, flags, false, MsgType::Add);
    }

    /// Makes the whole table, without grants.
    pub(crate) fn create(&mut self, spec: &TableSpec, flags: u32) {
        self.table(Operation::AddTable, flags, true, MsgType::Add);
        for (set, kind) in sets(spec.max_grants) {
            self.connection.push(Operation::AddSet, &SetMessage::new(FAMILY, self.name, set, kind), MsgType::Add);
        }
        let table = Table::new(self.name, ProtoFamily::Inet);
        for ChainKind { name, hook } in CHAINS {
            let mut chain = Chain::new(name, &table);
            if let Some((hook, priority)) = hook {
                chain.set_type(ChainType::Filter);
                chain.set_hook(hook, priority);
                chain.set_policy(Policy::Accept);
            }
            self.connection.push(Operation::AddChain, &chain, MsgType::Add);
        }
        self.fill(spec, &table);
    }

    /// Replaces rules and guarded ports of an existing table.
    pub(crate) fn replace(&mut self, spec: &TableSpec) {
        let table = Table::new(self.name, ProtoFamily::Inet);
        for kind in CHAINS {
            let chain = Chain::new(kind.name, &table);
            self.connection.push(Operation::FlushChain, &Rule::new(&chain), MsgType::Del);
        }
        let all = ElementsMessage::new(FAMILY, self.name, GUARDED);
        self.connection.push(Operation::FlushSet, &all, MsgType::Del);
        self.fill(spec, &table);
    }

    fn fill(&mut self, spec: &TableSpec, table: &Table) {
        let mut guarded = ElementsMessage::new(FAMILY, self.name, GUARDED);
        for &port in &spec.guarded {
            if guarded.is_full() {
                self.connection.push(Operation::AddGuarded, &guarded, MsgType::Add);
                guarded = ElementsMessage::new(FAMILY, self.name, GUARDED);
            }
            guarded.push(KeyBytes::port(port).as_slice(), None, &[]);
        }
        if !guarded.is_empty() {
            self.connection.push(Operation::AddGuarded, &guarded, MsgType::Add);
        }

        for (chain, expressions) in rules(spec) {
            let chain = Chain::new(chain, table);
            let mut rule = Rule::new(&chain);
            for expression in expressions {
                rule.add_expr(&expression);
            }
            self.connection.push(Operation::AddRule, &rule, MsgType::Add);
        }
    }

    /// Adds grants to sets that hold none of them; many to a message.
    pub(crate) fn add_elements<'e>(&mut self, elements: impl IntoIterator<Item = &'e Element>) {
        let mut messages = [GRANTS4, GRANTS6].map(|set| (set, ElementsMessage::new(FAMILY, self.name, set)));
        for element in elements {
            let wanted = grants_of(element.key.address);
            for (set, message) in &mut messages {
                if *set != wanted {
                    continue;
                }
                if message.is_full() {
                    self.connection.push(Operation::AddElement, message, MsgType::Add);
                    *message = ElementsMessage::new(FAMILY, self.name, set);
                }
                push_element(message, element);
            }
        }
        for (_, message) in &messages {
            if !message.is_empty() {
                self.connection.push(Operation::AddElement, message, MsgType::Add);
            }
        }
    }

    /// Adds a grant, or restarts its time where it exists. A mere ADD leaves the expiry of an element that exists, on
    /// kernels up to 6.11 whatever the timeout; a DEL alone fails where there is none. ADD, DEL and ADD work always.
    pub(crate) fn grant(&mut self, element: &Element) {
        let mut message = ElementsMessage::new(FAMILY, self.name, grants_of(element.key.address));
        push_element(&mut message, element);
        for kind in [MsgType::Add, MsgType::Del, MsgType::Add] {
            self.connection.push(Operation::AddElement, &message, kind);
        }
    }

    /// Deletes a grant, in a message of its own, so that the answer shows whether there was one.
    pub(crate) fn revoke(&mut self, key: &ElementKey) {
        let mut message = ElementsMessage::new(FAMILY, self.name, grants_of(key.address));
        message.push(KeyBytes::grant(key).as_slice(), None, &[]);
        self.connection.push(Operation::DeleteElement, &message, MsgType::Del);
    }
}

fn push_element(message: &mut ElementsMessage, element: &Element) {
    let whole = milliseconds(element.timeout);
    let timeout = Timeout { whole, remaining: milliseconds(element.remaining).min(whole) };
    message.push(KeyBytes::grant(&element.key).as_slice(), Some(timeout), &comment_record(&element.comment));
}
