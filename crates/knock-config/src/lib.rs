//! The configuration of knockd: the JSON file, its schema, and the errors of an invalid file.
//!
//! [`load`] and [`parse`] go from text to a [`Config`] that needs no further check, or to a [`ConfigError`] that
//! names each problem with file, line, column and field.

mod allow;
mod checker;
pub mod client;
mod concerns;
mod contained;
mod document;
mod duration;
mod excerpt;
mod file;
mod fleet;
mod fleet_cause;
mod format;
mod keys;
mod model;
mod nearest;
mod path;
mod port;
mod problem;
mod raw;
mod rules;
mod schema;
mod spa;
mod spa_cause;
mod tcp_flags;
mod validate;
mod value;
mod warning;

pub use concerns::WARNINGS_MAX;
pub use duration::grant_timeout;
pub use excerpt::{excerpt, printable};
pub use file::{Loaded, load, load_open, parse, state_dir_of_invalid};
pub use fleet::{FLEET_NODES_MAX, FLEET_SERVERS_MAX, NODE_KEY};
pub use fleet_cause::FleetCause;
pub use format::{Format, format};
pub use model::{
    Allow, Command, Config, Fleet, FleetNode, FleetTls, Interfaces, LastKnock, Limits, Log, LogTarget, Nftables,
    OnOutage, OnStop, Rule, Spa, Stop, StopOnShutdown, Trigger,
};
pub use nearest::nearest;
pub use path::FieldPath;
pub use problem::{Cause, ConfigError, FILE_MAX, PROBLEMS_MAX, Position, Problem};
pub use rules::{RULES_MAX, is_name, target_address};
pub use schema::schema;
pub use spa::{COVER_FILES_MAX, SPA_PORTS_MAX};
pub use tcp_flags::tcp_flags;
pub use warning::{Concern, Place, ScanOrder, Warning};
