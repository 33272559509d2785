//! Waiting for a condition, never for a time.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that does much else; nothing waits this long when all is well.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Something that holds (`true`, `Some`) or not yet.
pub trait Held {
    /// What there is when it holds.
    type Value;
    /// `None` as long as it does not hold.
    fn held(self) -> Option<Self::Value>;
}

impl Held for bool {
    type Value = ();
    fn held(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Held for Option<T> {
    type Value = T;
    fn held(self) -> Option<T> {
        self
    }
}

/// Looks until `condition` holds.
///
/// # Panics
///
/// Where it does not hold within [`DEADLINE`]; the message names `what`.
#[track_caller]
pub fn wait_until<H: Held>(what: &str, mut condition: impl FnMut() -> H) -> H::Value {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().held() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(3));
    }
}
