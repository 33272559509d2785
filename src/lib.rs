//! The daemon `knockd` and its control tool `knockctl`.

mod commands;
mod control;
mod ctl;
mod daemon;
mod ear;
mod fleet;
mod logging;
mod os;
mod runner;
mod triggers;

pub use ctl::args::Args as KnockctlArgs;
pub use ctl::import::{ImportOptions, import};
pub use ctl::knockctl_main;
pub use daemon::args::Args as KnockdArgs;
pub use daemon::startup::knockd_main;
/// For the test that tries from inside what a confined process may not do.
#[doc(hidden)]
pub use os::privileges::{Confinement, Missing, Protections, confine_ear};
