//! The fleet: `knockctl fleet`.

mod keygen;

use super::args::Fleet;
use super::{Ask, Failure};

/// Does what is asked about the fleet.
pub(super) fn fleet(command: Fleet, ask: &Ask<'_>) -> Result<(), Failure> {
    match command {
        Fleet::Keygen { file } => keygen::keygen(&file, ask.json),
    }
}
