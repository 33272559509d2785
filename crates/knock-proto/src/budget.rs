//! How much of something that anybody can cause is let through.

use std::time::Duration;

use crate::Time;

/// Lets some through at once, and then one for each time that has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    spent: u32,
    refilled: Time,
}

impl Budget {
    /// Whether one more is let through: fewer than `burst` at once, and one more for each `refill` that has passed.
    pub fn admit(&mut self, now: Time, burst: u32, refill: Duration) -> bool {
        let refills = now.since(self.refilled).as_nanos() / refill.as_nanos().max(1);
        if refills > 0 {
            self.spent = self.spent.saturating_sub(u32::try_from(refills).unwrap_or(u32::MAX));
            self.refilled = now;
        }
        let may = self.spent < burst;
        self.spent += u32::from(may);
        may
    }
}
