//! `knockctl fleet nodes`, `grants` and `revoke`: the answers of the daemon, as text for people.

use crate::control::protocol::{FleetGrant, FleetGrants, FleetNode, FleetNodes, FleetRevoked, Revoked};
use crate::ctl::report;
use crate::ctl::table::{duration, table};

/// The nodes, and what is known of each.
pub(super) fn nodes(nodes: &FleetNodes) -> String {
    let rows: Vec<Vec<String>> = nodes.nodes.iter().map(node_row).collect();
    table(&["NODE", "ID", "SEEN", "VERSION", "RULES", "VOUCHES FOR"], &rows)
}

fn node_row(node: &FleetNode) -> Vec<String> {
    let none = || "-".to_owned();
    let name = match &node.name {
        Some(name) if node.this => format!("{name} (this one)"),
        Some(name) => name.clone(),
        None => "not in `fleet.nodes`".to_owned(),
    };
    let same = node.same_rules.map(|same| if same { "same" } else { "OTHER" });
    vec![
        name,
        node.id.clone(),
        node.seen_seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", duration(seconds))),
        node.version.clone().unwrap_or_else(none),
        same.map_or_else(none, str::to_owned),
        if node.vouch.is_empty() { none() } else { node.vouch.join(", ") },
    ]
}

/// The live grants that other nodes have made.
pub(super) fn grants(grants: &FleetGrants) -> String {
    if grants.grants.is_empty() {
        return "no live grants of other nodes\n".to_owned();
    }
    let row = |grant: &FleetGrant| {
        let prefix = if grant.wide { " and its prefix" } else { "" };
        vec![
            grant.rule.clone(),
            format!("{}{prefix}", grant.address),
            grant.node.clone(),
            format!("{} ago", duration(grant.age_seconds)),
            duration(grant.remaining_seconds),
            grant.user.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let rows: Vec<Vec<String>> = grants.grants.iter().map(row).collect();
    table(&["RULE", "ADDRESS", "NODE", "SINCE", "REMAINING", "USER"], &rows)
}

/// How many grants were revoked here, and when the other nodes follow.
pub(super) fn revoked(revoked: &FleetRevoked) -> String {
    let here = report::revoked(&Revoked { revoked: revoked.revoked, strays: revoked.strays });
    let others = match (revoked.connected, revoked.writes) {
        (true, true) => "the revocation goes to the other nodes",
        (true, false) => "the store is away; the other nodes revoke when it is back: knockctl fleet status",
        (false, _) => "knockd-fleet is not connected; the other nodes revoke when it is: systemctl start knockd-fleet",
    };
    format!("here: {here}elsewhere: {others}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn each_node_has_a_line_also_one_that_only_the_store_knows() {
        let node = |name: Option<&str>| FleetNode {
            name: name.map(str::to_owned),
            id: "34750f98bd59fcfc".to_owned(),
            seen_seconds: Some(3.2),
            version: Some("0.1.0".to_owned()),
            same_rules: Some(true),
            vouch: Vec::new(),
            this: false,
        };
        let list = vec![
            FleetNode { this: true, vouch: vec!["ssh".to_owned(), "web".to_owned()], ..node(Some("web1")) },
            FleetNode { same_rules: Some(false), ..node(Some("web2")) },
            FleetNode { seen_seconds: None, version: None, same_rules: None, ..node(Some("web3")) },
            FleetNode { version: Some("\u{1b}[2J".to_owned()), ..node(None) },
        ];
        assert_eq!(
            lines(&nodes(&FleetNodes { nodes: list })),
            [
                "NODE ID SEEN VERSION RULES VOUCHES FOR",
                "web1 (this one) 34750f98bd59fcfc 3s ago 0.1.0 same ssh, web",
                "web2 34750f98bd59fcfc 3s ago 0.1.0 OTHER -",
                "web3 34750f98bd59fcfc never - - -",
                "not in `fleet.nodes` 34750f98bd59fcfc 3s ago \\u{1b}[2J same -",
            ]
        );
    }

    #[test]
    fn a_grant_names_its_node_and_its_user() {
        let grant = FleetGrant {
            rule: "ssh".to_owned(),
            address: "192.0.2.7".to_owned(),
            wide: false,
            node: "web2".to_owned(),
            user: Some("alice".to_owned()),
            age_seconds: 5.0,
            remaining_seconds: 60.0,
        };
        let wide = FleetGrant { wide: true, user: None, ..grant.clone() };
        assert_eq!(
            lines(&grants(&FleetGrants { grants: vec![grant, wide] })),
            [
                "RULE ADDRESS NODE SINCE REMAINING USER",
                "ssh 192.0.2.7 web2 5s ago 1m 0s alice",
                "ssh 192.0.2.7 and its prefix web2 5s ago 1m 0s -",
            ]
        );
        assert_eq!(grants(&FleetGrants { grants: Vec::new() }), "no live grants of other nodes\n");
    }

    #[test]
    fn a_revocation_says_whether_the_other_nodes_get_it() {
        let text = |connected, writes| revoked(&FleetRevoked { revoked: 2, strays: 1, connected, writes });
        assert_eq!(
            text(true, true),
            "here: 2 grants revoked; 1 stray element deleted\nelsewhere: the revocation goes to the other nodes\n"
        );
        assert!(text(true, false).contains("the store is away"));
        assert!(text(false, true).contains("knockd-fleet is not connected"));
    }
}
