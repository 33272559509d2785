//! Sources that the kernel waits for: pending, armed, and neither.
//!
//! A packet to a knock port or a tripwire takes the kernel's patience from its source at once, and the daemon reads it
//! later. So a source is armed in two stages. A packet that came before [`ManagedTable::pend`] is in the daemon's queue of packets
//! by then, and one that came after it has ended that the source is pending. Whoever finds the queue empty in between, and
//! the source still in want of its last knock, has seen all that came before; [`ManagedTable::arm`] fails where one came after.

use std::net::IpAddr;
use std::time::Duration;

use rustix::io::Errno;

use super::ManagedTable;
use crate::error::{Error, Operation};
use crate::layout::object;
use crate::writer::Writer;

impl ManagedTable {
    /// Whether the table has doors: it was set up with them, and it is owned.
    pub fn has_doors(&self) -> bool {
        !self.spec.doors.is_empty()
    }

    /// Makes a source pending, for so long.
    ///
    /// # Errors
    /// [`Error::Kernel`]: [`Error::is_full`] where there is no room, [`Error::is_missing`] where there are no doors.
    pub fn pend(&mut self, source: IpAddr, lasts: Duration) -> Result<(), Error> {
        self.change(|writer, _| writer.pend(source, lasts))
    }

    /// Arms a pending source for the door at that place in the list: for so long, its last knock opens. `false`: it is not pending
    /// any more, and nothing has changed. The kernel takes milliseconds to say that.
    ///
    /// # Errors
    /// As [`ManagedTable::pend`].
    pub fn arm(&mut self, source: IpAddr, door: usize, lasts: Duration) -> Result<bool, Error> {
        self.connection.begin();
        Writer { connection: &mut self.connection, name: &self.name }.arm(source, door, lasts);
        match self.connection.commit() {
            Ok(()) => Ok(true),
            Err(refusal)
                if refusal.first.operation == Operation::DeleteElement && refusal.first.errno == Errno::NOENT =>
            {
                Ok(false)
            }
            Err(refusal) => Err(refusal.into_error(object(&self.spec.name))),
        }
    }

    /// Makes sources neither pending nor armed. They need not be.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the kernel refuses.
    pub fn disarm(&mut self, sources: &[IpAddr]) -> Result<(), Error> {
        if sources.is_empty() || !self.has_doors() {
            return Ok(());
        }
        self.change(|writer, _| sources.iter().for_each(|&source| writer.disarm(source)))
    }
}
