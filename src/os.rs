//! What the program needs of the operating system: clocks, events, signals, the service manager, privileges, users,
//! and files that it may trust.

pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod local_socket;
pub(crate) mod poller;
pub(crate) mod privileges;
pub(crate) mod service_manager;
pub(crate) mod signals;
pub(crate) mod trusted;
pub(crate) mod users;
