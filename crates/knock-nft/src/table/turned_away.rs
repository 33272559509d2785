//! How many packets the gate has dropped: the counter of its last rule.

use rustix::io::Errno;

use super::ManagedTable;
use crate::attribute::{Attributes, Request, rule};
use crate::error::{Error, Operation};
use crate::layout::FAMILY;
use crate::layout::object;

/// A reading of the counter of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCount {
    /// The handles of the table and of the nftables rule. The kernel gives neither of them twice, so another pair is
    /// another counter, which began at zero.
    pub counter: (u64, u64),
    /// The packets that it has counted.
    pub packets: u64,
}

impl ManagedTable {
    /// Reads the counter of the gate: one nftables rule, by its handle. `None` where another program has changed the table, and it
    /// is not repaired yet.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the kernel refuses.
    pub fn drop_count(&mut self) -> Result<Option<DropCount>, Error> {
        let Some((table, chain, handle)) = self.layout.as_ref().and_then(|layout| layout.drop_rule()) else {
            return Ok(None);
        };
        let request = Request::new(libc::NFT_MSG_GETRULE, FAMILY, libc::NLM_F_ACK)
            .string(rule::TABLE, &self.spec.name)
            .string(rule::CHAIN, chain)
            .be64(rule::HANDLE, handle);
        let mut packets = None;
        match self.connection.get(request, |message| packets = counted(message.attributes())) {
            Ok(()) => Ok(packets.map(|packets| DropCount { counter: (table, handle), packets })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::kernel(Operation::ReadRules, object(&self.spec.name), errno)),
        }
    }
}

/// The packets that the counter of a rule has counted.
fn counted(attributes: Attributes<'_>) -> Option<u64> {
    let expressions = attributes.get(rule::EXPRESSIONS)?.nested();
    expressions.map(|(_, expression)| expression.nested()).find_map(|expression| {
        let is_counter = expression.string(rule::EXPRESSION_NAME) == Some("counter");
        expression.get(rule::EXPRESSION_DATA).filter(|_| is_counter)?.nested().be64(rule::COUNTER_PACKETS)
    })
}
