//! What must hold whatever the input is: the fuzz targets in `fuzz/` and the tests that replay their corpus call the
//! same functions.
//!
//! Each function takes the bytes that a fuzzer makes up and panics where something does not hold.

mod config;
mod engine;
mod history;
mod import;
mod packet;

pub use config::config;
pub use engine::engine;
pub use import::import;
pub use packet::packet;
