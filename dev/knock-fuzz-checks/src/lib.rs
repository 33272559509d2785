//! What must hold whatever the input is: the fuzz targets in `fuzz/` and the tests that replay their corpus call the
//! same functions.
//!
//! Each function takes the bytes that a fuzzer makes up and panics where something does not hold.

mod agent_answer;
mod authorized_keys;
mod config;
mod engine;
mod fleet_record;
mod history;
mod import;
mod knock_url;
mod packet;
mod private_key;
mod replay_file;
// Written for the tests of knock-spa: it seals what no client sends.
#[path = "../../../crates/knock-spa/tests/support/sealer.rs"]
mod sealer;
mod signed_packet;

pub use agent_answer::agent_answer;
pub use authorized_keys::authorized_keys;
pub use config::config;
pub use engine::engine;
pub use fleet_record::fleet_record;
pub use import::import;
pub use knock_url::knock_url;
pub use packet::packet;
pub use private_key::private_key;
pub use replay_file::replay_file;
pub use signed_packet::signed_packet;
