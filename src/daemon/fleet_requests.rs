//! What the daemon does for requests about the fleet.

use std::net::IpAddr;

use knock_proto::Time;

use crate::control::protocol::{self, Code, FleetRevoked, Refusal};
use crate::control::response::Response;
use crate::daemon::Daemon;
use crate::fleet::Fleet;
use crate::os::clock::unix_now;
use crate::os::local_socket::Peer;

impl Daemon {
    pub(super) fn fleet_status(&self) -> Result<Response, Refusal> {
        Ok(Response::result(&self.fleet()?.status(unix_now())))
    }

    pub(super) fn fleet_nodes(&self) -> Result<Response, Refusal> {
        let nodes = self.fleet()?.node_list(unix_now());
        Ok(Response::list("nodes", nodes.into_iter()))
    }

    pub(super) fn fleet_grants(&self, rule: Option<&str>, address: Option<IpAddr>) -> Result<Response, Refusal> {
        let fleet = self.fleet()?;
        if let Some(rule) = rule {
            self.rule(rule)?;
        }
        let grants = fleet.grant_list(unix_now(), rule, address);
        Ok(Response::list("grants", grants.into_iter()))
    }

    /// Ends the grants to an address here, and has the other nodes do the same.
    pub(super) fn fleet_revoke(
        &mut self,
        now: Time,
        peer: Peer,
        rule: Option<&str>,
        address: IpAddr,
    ) -> Result<Response, Refusal> {
        self.fleet()?;
        let of_rule = rule.map(|name| self.rule(name).map(|rule| rule.name.clone())).transpose()?;
        log::info!("uid {} revokes the grants to {address} on all nodes of the fleet", peer.uid);
        // The others first: what fails here does not keep their ports open.
        if let Some(fleet) = &mut self.fleet {
            fleet.revoke(now, of_rule.as_ref(), address);
        }
        let protocol::Revoked { revoked, strays } = self.revoke_by_hand(now, peer, rule, address)?;
        let (connected, writes) = self.fleet()?.reach();
        Ok(Response::result(&FleetRevoked { revoked, strays, connected, writes }))
    }

    pub(super) fn fleet_settings(&self, peer: Peer) -> Result<Response, Refusal> {
        let fleet = self.fleet()?;
        if !peer.may_know_secrets() {
            let message = "only root and the daemon's own user may ask for the settings of the store";
            return Err(Refusal::new(Code::NotPermitted, message));
        }
        Ok(Response::result(fleet.settings()))
    }

    fn fleet(&self) -> Result<&Fleet, Refusal> {
        self.fleet.as_ref().ok_or_else(|| {
            let message =
                "the configuration has no `fleet`, so no grant is shared with other nodes; begin with: knockctl fleet keygen";
            Refusal::new(Code::NoFleet, message)
        })
    }
}
