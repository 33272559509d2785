//! The parts of the configuration that each part of the daemon needs.

use std::collections::HashMap;
use std::ops::Deref;
use std::time::Duration;

use knock_config::{Allow, Config, Rule};
use knock_grant::{Opens, Policy, Signers, Vouchers};
use knock_nft::{Doors, GrantKind, TableSpec};
use knock_proto::{Access, InterfaceName, PortRange, RuleId, Settings};

use crate::daemon::doors::DoorPlan;
use crate::fleet::plan::{FleetError, FleetPlan};
use crate::os::clock::unix_now;
use crate::os::trusted::Owners;
use crate::triggers::one_time::OneTimeError;
use crate::triggers::sequences::SequencePlan;
use crate::triggers::signed_packets::plan::{SignedPlan, SpaError};

/// The configuration that is in force, with its rules by their names.
#[derive(Debug)]
pub(crate) struct ActiveConfig {
    config: Config,
    rules: HashMap<RuleId, usize>,
}

impl ActiveConfig {
    pub(crate) fn new(config: Config) -> ActiveConfig {
        let rules = config.rules.iter().enumerate().map(|(index, rule)| (rule.name.clone(), index)).collect();
        ActiveConfig { config, rules }
    }

    /// The rule of that name.
    pub(crate) fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.get(name).map(|&index| &self.config.rules[index])
    }

    /// The names of the rules, for the log.
    pub(crate) fn rule_names(&self) -> String {
        self.config.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Deref for ActiveConfig {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

/// The ports that only a grant opens, sorted, each once.
fn guarded_ports(config: &Config) -> Vec<PortRange> {
    let ports = config.rules.iter().filter_map(|rule| match &rule.allow {
        Some(Allow::Ports { ports, .. }) => Some(ports),
        _ => None,
    });
    PortRange::disjoint(ports.flatten().copied())
}

/// What a grant of the rule opens.
pub(super) fn opens(rule: &Rule) -> Opens {
    match &rule.allow {
        None => Opens::Nothing,
        // One element is enough for every guarded port.
        Some(Allow::Ports { any: true, .. }) => Opens::Ports(vec![Access::Any]),
        Some(Allow::Ports { ports, .. }) => Opens::Ports(ports.iter().map(|&ports| ports.into()).collect()),
        Some(Allow::Sets { v4, v6, .. }) => Opens::Sets { v4: v4.clone(), v6: v6.clone() },
    }
}

/// The rule with the lengths of the prefixes that its grants are for; `None` where they are for single addresses.
fn prefix(rule: &Rule) -> Option<(RuleId, (u8, u8))> {
    let prefixes = rule.allow.as_ref()?.prefixes();
    (prefixes != Allow::WHOLE).then(|| (rule.name.clone(), prefixes))
}

/// For the grant manager: the ports and sets of each rule, and the limits. `exempt`: the exempt interfaces, none of them
/// by an alternative name, which nftables does not know. `signers`: who may ask with signed packets. `vouchers`: the nodes of
/// the fleet. `doors`: where the kernel opens.
pub(crate) fn policy(
    config: &Config,
    exempt: Vec<InterfaceName>,
    signers: Signers,
    vouchers: Vouchers,
    doors: Doors,
) -> Policy {
    let rules: HashMap<RuleId, Opens> = config.rules.iter().map(|rule| (rule.name.clone(), opens(rule))).collect();
    let prefixes: HashMap<RuleId, (u8, u8)> = config.rules.iter().filter_map(prefix).collect();
    let kinds = rules.iter().flat_map(|(rule, opens)| {
        let accesses = match opens {
            Opens::Ports(accesses) => accesses.as_slice(),
            _ => &[],
        };
        let prefix = prefixes.get(rule).copied().unwrap_or(Allow::WHOLE);
        // Signed packets and other nodes may ask for the address alone.
        let can_be_alone = vouchers.fleet || signers.rules.contains(rule);
        let alone = Some(Allow::WHOLE).filter(|_| can_be_alone && prefix != Allow::WHOLE);
        let lengths = [Some(prefix), alone].into_iter().flatten();
        lengths
            .flat_map(|(prefix4, prefix6)| accesses.iter().map(move |&access| GrantKind { access, prefix4, prefix6 }))
    });
    let guarded = guarded_ports(config);
    let table = (!guarded.is_empty()).then(|| TableSpec {
        name: config.nftables.table.clone(),
        guarded,
        grants: kinds.collect(),
        exempt_interfaces: exempt,
        owner: config.nftables.owner,
        doors,
    });
    Policy { table, limit: config.limits.grants as usize, rules, prefixes, signers, vouchers }
}

/// What the triggers need of the configuration, and of the files that it names. With many rules or keys it takes a while to
/// make, which a reload does off the event loop.
pub(crate) struct Plans {
    pub(crate) sequences: SequencePlan,
    pub(crate) signed: Option<SignedPlan>,
    /// Who may ask with signed packets.
    pub(crate) signers: Signers,
    pub(crate) fleet: Option<FleetPlan>,
    pub(crate) doors: DoorPlan,
}

/// A file that the configuration names can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// It holds one-time sequences.
    #[error(transparent)]
    OneTime(#[from] OneTimeError),
    /// It is one for signed packets.
    #[error(transparent)]
    Spa(#[from] SpaError),
    /// It is the key of the node, or that is no node of the fleet.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}

impl Plans {
    /// Reads the files, which must be of these owners.
    ///
    /// # Errors
    ///
    /// Where one can't be used or trusted.
    pub(crate) fn load(config: &Config, owners: Owners) -> Result<Plans, PlanError> {
        let sequences = SequencePlan::load(config, engine_settings(config), owners)?;
        let now = unix_now();
        let signed = SignedPlan::load(config, owners, now)?;
        let signers = signed.as_ref().map(|plan| plan.signers(now)).unwrap_or_default();
        let fleet = FleetPlan::load(config, signed.as_ref(), owners)?;
        let doors = DoorPlan::new(config, &sequences);
        Ok(Plans { sequences, signed, signers, fleet, doors })
    }

    /// The nodes of the fleet.
    pub(crate) fn vouchers(&self) -> Vouchers {
        self.fleet.as_ref().map(FleetPlan::vouchers).unwrap_or_default()
    }

    /// For the ear, which is to listen with these packet sockets.
    pub(crate) fn for_the_ear(&self, sockets: Vec<u32>) -> crate::ear::plan::Plan {
        self.sequences.for_the_ear(self.signed.as_ref(), &self.doors.rules, sockets)
    }
}

/// The cooldown of each rule that has one.
pub(crate) fn cooldowns(config: &Config) -> HashMap<RuleId, Duration> {
    config.rules.iter().filter_map(|rule| Some((rule.name.clone(), rule.cooldown?))).collect()
}

/// For the engine: its limits.
pub(crate) fn engine_settings(config: &Config) -> Settings {
    Settings { sources: config.limits.sources, tripwires: config.tripwires, guarded: guarded_ports(config) }
}
