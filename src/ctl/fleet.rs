//! The fleet: `knockctl fleet`.

mod check;
mod keygen;
mod lists;
pub(super) mod metrics;
pub(super) mod state;

use super::args::Fleet;
use super::{Ask, EXIT_OTHER, Failure, json, print, request};
use crate::control::protocol::{Command, FleetGrants, FleetNodes, FleetRevoked, FleetStatus};

/// Does what is asked about the fleet.
pub(super) fn fleet(command: Fleet, ask: &Ask<'_>) -> Result<(), Failure> {
    match command {
        Fleet::Status => {
            let status: FleetStatus = request(ask.socket, &Command::FleetStatus {})?;
            if ask.json {
                return print(&json(&status));
            }
            print(&state::text(&status))?;
            // The reasons were printed.
            if state::problems(&status).is_empty() { Ok(()) } else { Err(Failure::new(EXIT_OTHER, "")) }
        }
        Fleet::Nodes => ask.show::<FleetNodes>(&Command::FleetNodes {}, lists::nodes),
        Fleet::Grants { rule, address } => {
            ask.show::<FleetGrants>(&Command::FleetGrants { rule, address }, lists::grants)
        }
        Fleet::Revoke { address, rule } => {
            ask.show::<FleetRevoked>(&Command::FleetRevoke { address, rule }, lists::revoked)
        }
        Fleet::Check => check::check(ask.socket),
        Fleet::Keygen { file } => keygen::keygen(&file, ask.json),
    }
}
