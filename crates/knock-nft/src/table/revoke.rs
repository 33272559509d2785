//! The end of grants whose elements may be missing: the kernel's timeout may have been faster.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use knock_proto::Port;
use rustix::io::Errno;

use super::ManagedTable;
use crate::attribute::{Message, element};
use crate::connection::{Failure, REVOKE_ATTEMPTS};
use crate::element::{ElementKey, read_elements};
use crate::error::{Error, Operation};
use crate::grant_set::read_grant_key;
use crate::layout::object;
use crate::writer::Writer;

impl ManagedTable {
    /// Ends grants, up to [`ManagedTable::FEW_KEYS`] in a transaction. Those that do not exist, or no longer, do no harm.
    /// Returns those that did exist. Each takes some microseconds, whatever else the table holds. On kernels before Linux 6.3 a
    /// missing one costs several milliseconds.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the kernel refuses.
    pub fn revoke(&mut self, keys: &[ElementKey]) -> Result<Vec<ElementKey>, Error> {
        let mut keys: Vec<ElementKey> = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let mut revoked = Vec::new();
        for keys in keys.chunks(ManagedTable::FEW_KEYS) {
            revoked.extend(if self.destroys { self.destroy(keys) } else { self.delete_present(keys) }?);
        }
        Ok(revoked)
    }

    /// Whether the kernel has `NFT_MSG_DESTROYSETELEM`. It asks with a key that no packet has and no grant is made for, so that
    /// nothing changes.
    pub(super) fn can_destroy(&mut self) -> bool {
        let key = ElementKey { prefix: IpAddr::V4(Ipv4Addr::UNSPECIFIED).into(), access: Port::tcp(0).into() };
        self.change(|writer, _| writer.destroy(&key)).is_ok()
    }

    /// Deletes grants, with a message that does not fail where they are missing.
    fn destroy(&mut self, keys: &[ElementKey]) -> Result<Vec<ElementKey>, Error> {
        self.connection.begin();
        let mut writer = Writer { connection: &mut self.connection, name: &self.name };
        keys.iter().for_each(|key| writer.destroy(key));
        let mut existed = HashSet::new();
        match self.connection.commit_with_echo(|message| read_keys(message, &mut existed)) {
            Ok(()) => Ok(keys.iter().filter(|key| existed.contains(key)).copied().collect()),
            // The table or a set is missing.
            Err(refusal) if refusal.all().all(is_missing) => self.delete_present(keys),
            Err(refusal) => Err(refusal.into_error(object(&self.spec.name))),
        }
    }

    /// Deletes grants on kernels that refuse a transaction where one is missing: then without those. The kernel waits for
    /// all packets on their way before it answers a refused transaction (`__nf_tables_abort`).
    fn delete_present(&mut self, keys: &[ElementKey]) -> Result<Vec<ElementKey>, Error> {
        let mut keys: Vec<ElementKey> = keys.to_vec();
        let mut last = None;
        for _ in 0..REVOKE_ATTEMPTS {
            if keys.is_empty() {
                return Ok(keys);
            }
            self.connection.begin();
            let mut writer = Writer { connection: &mut self.connection, name: &self.name };
            keys.iter().for_each(|key| writer.revoke(key));
            let Err(refusal) = self.connection.commit() else { return Ok(keys) };
            if !refusal.all().all(is_missing) {
                return Err(refusal.into_error(object(&self.spec.name)));
            }
            let missing: HashSet<usize> = refusal.all().filter_map(|failure| failure.index).collect();
            let mut index = 0..keys.len();
            keys.retain(|_| index.next().is_some_and(|index| !missing.contains(&index)));
            last = Some(refusal);
        }
        last.map_or(Ok(Vec::new()), |refusal| Err(refusal.into_error(object(&self.spec.name))))
    }
}

fn is_missing(failure: &Failure) -> bool {
    failure.operation == Operation::DeleteElement && failure.errno == Errno::NOENT
}

/// The grants that a report of the kernel says were deleted.
fn read_keys(message: Message<'_>, keys: &mut HashSet<ElementKey>) {
    let set = message.attributes().string(element::LIST_SET).and_then(|name| name.parse().ok());
    if let Some(set) = set {
        read_elements(message, |listed| keys.extend(read_grant_key(set, listed.key)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use knock_proto::TableName;
    use knock_testkit::in_namespace;

    use super::*;
    use crate::{Element, TableSpec};

    const HOUR: Duration = Duration::from_secs(3600);

    fn made() -> ManagedTable {
        let spec = TableSpec {
            name: TableName::default(),
            guarded: vec![Port::tcp(22).into()],
            grants: Vec::new(),
            exempt_interfaces: Vec::new(),
            owner: false,
            doors: crate::Doors::default(),
        };
        ManagedTable::set_up(spec).expect("set up").0
    }

    /// The table as the kernel that runs this has it, and as an older one has it.
    fn both_ways(test: impl Fn(ManagedTable) + Sync) {
        in_namespace(|| {
            let new = made();
            assert!(new.destroys, "Linux 6.3 or later runs the tests");
            test(new);
            let mut old = made();
            old.destroys = false;
            test(old);
        });
    }

    fn key(address: &str) -> ElementKey {
        ElementKey { prefix: address.parse::<IpAddr>().expect("an address").into(), access: Port::tcp(22).into() }
    }

    fn grant(key: ElementKey) -> Element {
        Element { key, comment: "r".repeat(127), timeout: HOUR, remaining: HOUR }
    }

    fn many(count: u32) -> Vec<ElementKey> {
        (0..count).map(|index| key(&IpAddr::from((0x0a00_0000 + index).to_be_bytes()).to_string())).collect()
    }

    #[test]
    fn what_existed_is_deleted_and_returned_and_what_is_missing_is_not() {
        both_ways(|mut table| {
            let keys = many(1000);
            let there: Vec<Element> = keys.iter().step_by(3).copied().map(grant).collect();
            table.grant(&there).expect("granted");
            table.grant(&[grant(key("2001:db8::1")), grant(key("192.0.2.1"))]).expect("granted");
            let mut asked = keys.clone();
            asked.extend([key("2001:db8::1"), key("2001:db8::2"), key("2001:db8::1")]);
            let mut revoked = table.revoke(&asked).expect("revoked");
            let mut expected: Vec<_> = there.iter().map(|element| element.key).chain([key("2001:db8::1")]).collect();
            revoked.sort_unstable();
            expected.sort_unstable();
            assert_eq!(revoked, expected);
            let left: Vec<_> = table.list().expect("listed").iter().map(|element| element.key).collect();
            assert_eq!(left, [key("192.0.2.1")]);
            assert_eq!(table.revoke(&asked).expect("again"), []);
            table.remove().expect("removed");
        });
    }

    #[test]
    fn without_the_table_nothing_is_revoked_and_that_is_no_error() {
        both_ways(|mut table| {
            let name = table.name.clone();
            table.connection.begin();
            Writer { connection: &mut table.connection, name: &name }.delete();
            assert!(table.connection.commit().is_ok());
            assert_eq!(table.revoke(&many(2)).expect("no table, so no grant"), []);
        });
    }

    #[test]
    fn a_question_for_the_message_changes_nothing() {
        in_namespace(|| {
            let mut table = made();
            table.grant(&[grant(key("192.0.2.1"))]).expect("granted");
            assert!(table.can_destroy() && table.intact().expect("read"));
            assert_eq!(table.list().expect("listed").len(), 1);
        });
    }

    /// `cargo test --release -p knock-nft -- --ignored --nocapture a_missing`.
    #[test]
    #[ignore = "a measurement"]
    fn a_missing_grant_costs_no_more_than_one_that_is_there() {
        in_namespace(|| {
            let mut table = made();
            let mut times = [const { Vec::new() }; 4];
            for _ in 0..200 {
                let ways = [(false, false), (true, false), (false, true), (true, true)];
                for (times, (destroys, there)) in times.iter_mut().zip(ways) {
                    table.destroys = destroys;
                    // After milliseconds of waiting the caches are cold.
                    for _ in 0..5 {
                        table.grant(&[grant(key("192.0.2.2"))]).expect("granted");
                    }
                    if there {
                        table.grant(&[grant(key("192.0.2.1"))]).expect("granted");
                    }
                    let start = Instant::now();
                    assert_eq!(table.revoke(&[key("192.0.2.1")]).expect("revoked").len(), usize::from(there));
                    times.push(start.elapsed());
                }
            }
            let names =
                ["missing, DELSETELEM", "missing, DESTROYSETELEM", "there, DELSETELEM", "there, DESTROYSETELEM"];
            for (name, mut times) in names.into_iter().zip(times) {
                times.sort_unstable();
                println!("{name}: median {:?}, p90 {:?}", times[100], times[180]);
            }
        });
    }
}
