//! The managed table as messages: its sets, its chains and its rules.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::net::IpAddr;
use std::time::Duration;

use knock_proto::{Port, PortRange};
use nftnl::{Chain, ChainType, MsgType, Policy, ProtoFamily, Rule, Table};

use crate::connection::Connection;
use crate::door::Doors;
use crate::element::{Element, ElementKey, KeyBytes, comment_record, milliseconds};
use crate::error::Operation;
use crate::grant_set::GrantSet;
use crate::ip_version::IpVersion;
use crate::layout::{FAMILY, SetChanges};
use crate::message::{Destroyed, ElementsMessage, SetMessage, TableMessage, Timeout};
use crate::rules::doors::number;
use crate::rules::{ChainKind, chains, rules};
use crate::sets::{GUARDED, WATCHED, sets};
use crate::spec::TableSpec;

/// Writes the managed table into the transaction of a connection.
pub(crate) struct Writer<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) name: &'a CStr,
}

impl Writer<'_> {
    fn table(&mut self, operation: Operation, flags: u32, comment: Option<&str>, kind: MsgType) {
        let record = comment.map(comment_record).unwrap_or_default();
        let message = TableMessage::new(self.name, FAMILY, flags, &record, comment.is_some());
        self.connection.push(operation, &message, kind);
    }

    /// Deletes the table.
    pub(crate) fn delete(&mut self) {
        self.table(Operation::DeleteTable, 0, None, MsgType::Del);
    }

    /// Claims an orphaned table.
    pub(crate) fn claim(&mut self, flags: u32) {
        self.table(Operation::AddTable, flags, None, MsgType::Add);
    }

    /// Makes the whole table, without grants. There must be none of that name.
    pub(crate) fn create(&mut self, spec: &TableSpec, flags: u32, comment: &str) {
        self.table(Operation::AddTable, flags, Some(comment), MsgType::Add);
        for (set, kind) in sets(spec) {
            self.connection.push(Operation::AddSet, &SetMessage::new(FAMILY, self.name, &set, kind), MsgType::Add);
        }
        let table = Table::new(self.name, ProtoFamily::Inet);
        for ChainKind { name, hook, .. } in chains(spec) {
            let mut chain = Chain::new(name, &table);
            if let Some((hook, priority)) = hook {
                chain.set_type(ChainType::Filter);
                chain.set_hook(hook, priority);
                chain.set_policy(Policy::Accept);
            }
            self.connection.push(Operation::AddChain, &chain, MsgType::Add);
        }
        self.ports(Operation::AddGuarded, &spec.guarded_ranges(), spec, MsgType::Add);
        self.watched(spec);
        self.add_rules(spec, &table);
    }

    /// Replaces rules, guarded ports and sets of an existing table, whose base chains stay: while the kernel takes one away, a
    /// packet can pass.
    pub(crate) fn replace(&mut self, spec: &TableSpec, changes: &SetChanges) {
        let table = Table::new(self.name, ProtoFamily::Inet);
        for kind in chains(spec) {
            let chain = Chain::new(kind.name, &table);
            self.connection.push(Operation::FlushChain, &Rule::new(&chain), MsgType::Del);
        }
        for set in &changes.delete {
            let message = SetMessage::to_delete(FAMILY, self.name, set);
            self.connection.push(Operation::DeleteSet, &message, MsgType::Del);
        }
        for (set, kind) in &changes.add {
            self.connection.push(Operation::AddSet, &SetMessage::new(FAMILY, self.name, set, *kind), MsgType::Add);
        }
        self.ports(Operation::DeleteGuarded, &changes.unguard, spec, MsgType::Del);
        self.ports(Operation::AddGuarded, &changes.guard, spec, MsgType::Add);
        if !spec.doors.is_empty() {
            self.disarm_all();
            let all = ElementsMessage::new(FAMILY, self.name, WATCHED);
            self.connection.push(Operation::DeleteElement, &all, MsgType::Del);
            self.watched(spec);
        }
        self.add_rules(spec, &table);
    }

    /// Adds the knock ports and tripwires to their set, which is empty.
    fn watched(&mut self, spec: &TableSpec) {
        let watched = if spec.doors.is_empty() { &[][..] } else { &spec.doors.watched };
        for knocks in watched.chunks(ElementsMessage::CAPACITY) {
            let mut message = ElementsMessage::new(FAMILY, self.name, WATCHED);
            for knock in knocks {
                let port = Port { protocol: knock.protocol, number: knock.port };
                message.push(KeyBytes::port(port).as_slice(), None, &[]);
            }
            self.connection.push(Operation::AddElement, &message, MsgType::Add);
        }
    }

    /// Makes a source pending, and armed for no door.
    pub(crate) fn pend(&mut self, source: IpAddr, lasts: Duration) {
        let version = IpVersion::of(source);
        let whole = milliseconds(lasts);
        let mut message = ElementsMessage::new(FAMILY, self.name, version.pending());
        message.push(KeyBytes::address(source).as_slice(), Some(Timeout { whole, remaining: whole }), &[]);
        self.destroy_in(version.armed(), source);
        self.destroy_in(version.spoiled(), source);
        self.connection.push(Operation::AddElement, &message, MsgType::Add);
    }

    /// Arms a source that is pending and not armed; the transaction fails where it is not pending.
    ///
    /// The order matters: a packet that comes in between, or before the transaction takes effect, deletes both elements, that which
    /// is not in force yet too. And an armed element of before would be in its way: of two with one key, a packet deletes one.
    pub(crate) fn arm(&mut self, source: IpAddr, door: usize, lasts: Duration) {
        let version = IpVersion::of(source);
        let key = KeyBytes::address(source);
        let whole = milliseconds(lasts.min(Doors::LASTS));
        let mut armed = ElementsMessage::new(FAMILY, self.name, version.armed());
        armed.push_mapped(key.as_slice(), number(door), Timeout { whole, remaining: whole });
        self.connection.push(Operation::AddElement, &armed, MsgType::Add);
        let mut pending = ElementsMessage::new(FAMILY, self.name, version.pending());
        pending.push(key.as_slice(), None, &[]);
        self.connection.push(Operation::DeleteElement, &pending, MsgType::Del);
    }

    /// Makes a source neither pending nor armed.
    pub(crate) fn disarm(&mut self, source: IpAddr) {
        let version = IpVersion::of(source);
        self.destroy_in(version.pending(), source);
        self.destroy_in(version.armed(), source);
    }

    fn destroy_in(&mut self, set: &CStr, source: IpAddr) {
        let mut message = ElementsMessage::new(FAMILY, self.name, set);
        message.push(KeyBytes::address(source).as_slice(), None, &[]);
        self.connection.push(Operation::DeleteElement, &Destroyed(message), MsgType::Del);
    }

    /// Makes no source pending or armed.
    pub(crate) fn disarm_all(&mut self) {
        for set in
            IpVersion::BOTH.into_iter().flat_map(|version| [version.pending(), version.spoiled(), version.armed()])
        {
            let all = ElementsMessage::new(FAMILY, self.name, set);
            self.connection.push(Operation::DeleteElement, &all, MsgType::Del);
        }
    }

    /// Adds or deletes elements of the set of guarded ports.
    fn ports(&mut self, operation: Operation, ranges: &[PortRange], spec: &TableSpec, kind: MsgType) {
        let intervals = spec.guards_intervals();
        for ranges in ranges.chunks(ElementsMessage::CAPACITY) {
            let mut message = ElementsMessage::new(FAMILY, self.name, GUARDED);
            for range in ranges {
                let key = |number| KeyBytes::port(Port { protocol: range.protocol, number });
                match intervals {
                    // Also a single port: nft takes elements without an end for ends of others.
                    true => message.push_interval(key(range.first).as_slice(), key(range.last).as_slice()),
                    false => message.push(key(range.first).as_slice(), None, &[]),
                }
            }
            self.connection.push(operation, &message, kind);
        }
    }

    fn add_rules(&mut self, spec: &TableSpec, table: &Table) {
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
        let mut messages: BTreeMap<GrantSet, ElementsMessage> = BTreeMap::new();
        for element in elements {
            let set = GrantSet::of(&element.key);
            let message = messages.entry(set).or_insert_with(|| self.message(set));
            if message.is_full() {
                self.connection.push(Operation::AddElement, message, MsgType::Add);
                *message = self.message(set);
            }
            push_element(message, element);
        }
        for message in messages.values() {
            self.connection.push(Operation::AddElement, message, MsgType::Add);
        }
    }

    /// Empties a set of grants.
    pub(crate) fn empty(&mut self, set: GrantSet) {
        // Without an element, it empties the set.
        let all = self.message(set);
        self.connection.push(Operation::DeleteElement, &all, MsgType::Del);
    }

    fn message(&self, set: GrantSet) -> ElementsMessage {
        ElementsMessage::new(FAMILY, self.name, &set.c_name())
    }

    /// Adds a grant, or restarts its time where it exists. A mere ADD leaves the expiry of an element that exists, on
    /// kernels up to 6.11 whatever the timeout; a DEL alone fails where there is none. ADD, DEL and ADD work always.
    pub(crate) fn grant(&mut self, element: &Element) {
        let mut message = self.message(GrantSet::of(&element.key));
        push_element(&mut message, element);
        for kind in [MsgType::Add, MsgType::Del, MsgType::Add] {
            self.connection.push(Operation::AddElement, &message, kind);
        }
    }

    /// Deletes a grant, in a message of its own, so that the answer shows whether there was one.
    pub(crate) fn revoke(&mut self, key: &ElementKey) {
        let message = self.message_of(key);
        self.connection.push(Operation::DeleteElement, &message, MsgType::Del);
    }

    /// Deletes a grant that may be missing. The kernel answers with it where there was one.
    pub(crate) fn destroy(&mut self, key: &ElementKey) {
        let message = Destroyed(self.message_of(key));
        self.connection.push(Operation::DeleteElement, &message, MsgType::Del);
    }

    fn message_of(&self, key: &ElementKey) -> ElementsMessage {
        let mut message = self.message(GrantSet::of(key));
        message.push(KeyBytes::grant(key).as_slice(), None, &[]);
        message
    }
}

fn push_element(message: &mut ElementsMessage, element: &Element) {
    let whole = milliseconds(element.timeout);
    let timeout = Timeout { whole, remaining: milliseconds(element.remaining).min(whole) };
    message.push(KeyBytes::grant(&element.key).as_slice(), Some(timeout), &comment_record(&element.comment));
}
