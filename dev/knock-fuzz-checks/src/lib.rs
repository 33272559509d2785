//! What must hold whatever the input is: the fuzz targets in `fuzz/` and the tests that replay their corpus call the
//! same functions.
//!
//! Each function takes the bytes that a fuzzer makes up and panics where something does not hold.

mod authorized_keys;
mod config;
mod engine;
mod history;
mod import;
mod knock_url;
mod packet;
mod private_key;
mod signed_packet;

pub use authorized_keys::authorized_keys;
pub use config::config;
pub use engine::engine;
pub use import::import;
pub use knock_url::knock_url;
pub use packet::packet;
pub use private_key::private_key;
pub use signed_packet::signed_packet;
