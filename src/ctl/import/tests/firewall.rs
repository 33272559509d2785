//! Commands of firewalls, in the forms that people write: those that become grants, and the reasons of the others.

use super::{imported, notes};

/// A door with these commands; `stop` may be empty.
fn door(start: &str, stop: &str) -> String {
    let stop = if stop.is_empty() { String::new() } else { format!("stop_command={stop}\n") };
    format!("[options]\ninterface=eth0\n[a]\nsequence=1,2\ntcpflags=syn,!ack\nstart_command={start}\n{stop}")
}

#[track_caller]
fn assert_allows(text: &str, expected: &str) {
    let json = imported(text, true).json;
    assert!(json.contains(&format!("\"allow\": {expected}")), "{text}\n{json}");
    assert!(!json.contains("command"), "{text}\n{json}");
}

/// The reason why the rule keeps its command.
#[track_caller]
fn reason(text: &str) -> String {
    let imported = imported(text, true);
    assert!(imported.json.contains("\"command\"") && !imported.json.contains("\"allow\""), "{text}\n{}", imported.json);
    let reason =
        notes(&imported).iter().find_map(|note| note.split_once(" keeps its command: ").map(|it| it.1.to_owned()));
    reason.unwrap_or_else(|| panic!("{text}: {:#?}", notes(&imported)))
}

#[test]
fn a_start_and_a_stop_command_of_a_known_firewall_become_a_grant() {
    let ssh = r#"{"ports": [22], "timeout": 10}"#;
    for (start, stop, expected) in [
        (
            "/sbin/iptables -I INPUT 1 -s %IP% -p tcp --dport ssh -j ACCEPT",
            "/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT",
            ssh,
        ),
        (
            "sudo iptables -w 5 -t filter -I INPUT -s %IP% -p tcp -m tcp --dport=22 -m comment --comment \"for knock\" -j ACCEPT",
            "iptables --wait --delete INPUT --source=%IP% --protocol tcp --destination-port 22 --jump ACCEPT",
            ssh,
        ),
        (
            "ip6tables --append INPUT --source %IP%/128 --protocol udp --destination-port 51820 --jump ACCEPT",
            "ip6tables --delete INPUT --source %IP%/128 --protocol udp --destination-port 51820 --jump ACCEPT",
            r#"{"ports": ["51820/udp"], "timeout": 10}"#,
        ),
        (
            "iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT && iptables -I INPUT -s %IP% -p udp --dport 53 -j ACCEPT",
            "iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; iptables -D INPUT -s %IP% -p udp --dport 53 -j ACCEPT;",
            r#"{"ports": [22, "53/udp"], "timeout": 10}"#,
        ),
        (
            "/bin/sh -c 'iptables -A INPUT -m state --state NEW,ESTABLISHED -s %IP% -p tcp --dport 22 -j ACCEPT'",
            "iptables -D INPUT -m state --state NEW,ESTABLISHED -s %IP% -p tcp --dport 22 -j ACCEPT",
            ssh,
        ),
        (
            "ufw allow from %IP% to any port 22 proto tcp",
            "ufw --force delete allow from %IP% to any port 22 proto tcp",
            ssh,
        ),
        (
            "sudo ufw insert 1 allow proto udp from %IP% to any port 53 comment 'my dns'",
            "ufw delete allow proto udp from %IP% to any port domain",
            r#"{"ports": ["53/udp"], "timeout": 10}"#,
        ),
        (
            "iptables -I INPUT -s %IP% -p udp --dport 60000:61000 -j ACCEPT",
            "iptables -D INPUT -s %IP% -p udp --dport 60000:61000 -j ACCEPT",
            r#"{"ports": ["60000-61000/udp"], "timeout": 10}"#,
        ),
        (
            "iptables -I INPUT -s %IP% -p tcp -m multiport --dports 22,2000:3000,64000: -j ACCEPT",
            "iptables -D INPUT -s %IP% -p tcp -m multiport --dports 22,2000:3000,64000:65535 -j ACCEPT",
            r#"{"ports": [22, "2000-3000", "64000-65535"], "timeout": 10}"#,
        ),
        (
            "ufw allow from %IP% to any port 5900:5910 proto tcp",
            "ufw delete allow from %IP% to any port 5900:5910 proto tcp",
            r#"{"ports": ["5900-5910"], "timeout": 10}"#,
        ),
        (
            "firewall-cmd --add-rich-rule='rule family=ipv4 source address=%IP% port port=\"5900-5910\" protocol=tcp accept'",
            "firewall-cmd --remove-rich-rule='rule family=ipv4 source address=%IP% port port=5900-5910 protocol=tcp accept'",
            r#"{"ports": ["5900-5910"], "timeout": 10}"#,
        ),
        (
            "/usr/sbin/ufw allow from %IP% to any port 53",
            "ufw delete allow from %IP% to any port 53",
            r#"{"ports": [53, "53/udp"], "timeout": 10}"#,
        ),
        (
            "firewall-cmd --add-rich-rule='rule family=\"ipv4\" source address=\"%IP%\" port port=\"22\" protocol=\"tcp\" accept'",
            "firewall-cmd --remove-rich-rule 'rule family=ipv4 source address=%IP% port protocol=tcp port=22 accept'",
            ssh,
        ),
        (
            "/bin/firewall-cmd --zone=public --add-rich-rule=\"rule family=\"ipv4\" source address=\"%IP%\" service name=\"ssh\" accept\"",
            "/bin/firewall-cmd --zone=public --remove-rich-rule='rule family=\"ipv4\" source address=\"%IP%\" service name=\"ssh\" accept'",
            ssh,
        ),
        (
            "nft add element inet filter knock '{ %IP% timeout 1h }'",
            "nft delete element inet filter knock { %IP% }",
            r#"{"set": "inet filter knock", "timeout": 10}"#,
        ),
        (
            "nft add element inet filter knock '{ %IP% timeout 5s }'",
            "nft delete element inet filter knock { %IP% }",
            r#"{"set": "inet filter knock", "timeout": 5}"#,
        ),
        (
            "nft add element ip6 filter knock {%IP%}",
            "nft delete element ip6 filter knock {%IP%}",
            r#"{"set6": "ip6 filter knock", "timeout": 10}"#,
        ),
    ] {
        assert_allows(&door(start, stop), expected);
    }
}

#[test]
fn a_firewall_that_closes_by_itself_gives_the_grant_its_time() {
    for (start, expected) in [
        (
            "nft add element inet filter knock { %IP% timeout 1h30m }",
            r#"{"set": "inet filter knock", "timeout": 5400}"#,
        ),
        (
            "firewall-cmd --add-rich-rule='rule family=ipv4 source address=%IP% service name=wireguard accept' --timeout=10m",
            r#"{"ports": ["51820/udp"], "timeout": 600}"#,
        ),
    ] {
        assert_allows(&door(start, ""), expected);
    }
}

#[test]
fn the_limits_of_a_command_that_no_grant_has_are_noted() {
    let start = "iptables -A INPUT -i wan0 -s %IP% -p tcp --dport 22 -j ACCEPT";
    let imported = imported(&door(start, &start.replace("-A", "-D")), true);
    let note = "; the grant is for all interfaces, the command was for `-i wan0`;";
    assert!(notes(&imported).iter().any(|text| text.contains(note)), "{:#?}", notes(&imported));
}

#[test]
fn commands_for_both_kinds_of_address_become_one_grant() {
    let text = "[a]\nsequence=1,2\nstart_command=nft add element inet f k4 {%IP%}\nstart_command_6=nft add element inet f k6 {%IP%}\n\
                stop_command=nft delete element inet f k4 {%IP%}\nstop_command_6=nft delete element inet f k6 {%IP%}\n";
    assert_allows(text, r#"{"set": "inet f k4", "set6": "inet f k6", "timeout": 10}"#);
    let text = "[a]\nsequence=1,2\nstart_command=iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\n\
                start_command_6=ip6tables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\n\
                stop_command=iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\n\
                stop_command_6=ip6tables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\n";
    assert_allows(text, r#"{"ports": [22], "timeout": 10}"#);
    let only_ipv4 = "[a]\nsequence=1,2\nstart_command=nft add element inet f k4 {%IP%}\nstart_command_6=\n\
                     stop_command=nft delete element inet f k4 {%IP%}\nstop_command_6=\n";
    assert_allows(only_ipv4, r#"{"set": "inet f k4", "timeout": 10}"#);
    let only_ipv4 = text.replace("ip6tables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", "");
    assert_eq!(reason(&only_ipv4), "it does nothing for IPv6 sources, but a grant of ports is for both IP versions");
    let other =
        text.replace("ip6tables -I INPUT -s %IP% -p tcp --dport 22", "ip6tables -I INPUT -s %IP% -p tcp --dport 23");
    assert_eq!(reason(&other), "its stop command closes something else than the command opens");
}

#[test]
fn a_rule_that_keeps_its_command_has_a_reason() {
    let drop = "iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT";
    for (start, expected) in [
        (
            "iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT; mail root",
            "`mail` is not a firewall command that import knows",
        ),
        (
            "iptables -C INPUT -s %IP% -j ACCEPT || iptables -A INPUT -s %IP% -j ACCEPT",
            "import reads no shell commands with `|`; replace the command yourself",
        ),
        (
            "/usr/local/sbin/open-port %IP% 22",
            "`/usr/local/sbin/open-port` is not a firewall command that import knows",
        ),
        (
            "iptables -A FORWARD -s %IP% -p tcp --dport 22 -j ACCEPT",
            "it changes the chain `FORWARD`; a grant is for what INPUT sees",
        ),
        (
            "iptables -A INPUT -s %IP% -p tcp --dport 23 -j ACCEPT",
            "its stop command closes something else than the command opens",
        ),
        ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j DROP", "it drops packets of the address, which no grant does"),
        ("iptables -A INPUT -s %IP% -p tcp --dport 22 -j MARK", "its target is `MARK`, not ACCEPT"),
        (
            "iptables -A INPUT -s %IP% -p tcp --dport 23:22 -j ACCEPT",
            "its range `23:22` ends below its start, which the firewall refuses",
        ),
        (
            "iptables -A INPUT -s %IP% -p tcp --dport gopher -j ACCEPT",
            "`gopher` is not a port that import knows; write its number",
        ),
        (
            "iptables -A INPUT -s %IP% -p tcp --syn -j ACCEPT",
            "it is for every port, but a grant opens the ports that it names; name them in `allow.ports`",
        ),
        (
            "iptables -A INPUT -s %IP% --dport 22 -j ACCEPT",
            "it names a port without a protocol, which the firewall refuses",
        ),
        ("iptables -A INPUT -p tcp --dport 22 -j ACCEPT", "it is for every address, not for %IP% alone"),
        ("iptables -A INPUT -p tcp --dport 22 -j DROP", "it closes ports for everybody, which no rule of knockd does"),
        ("iptables -D INPUT -p tcp --dport 22 -j DROP", "it opens ports for everybody, which no grant does"),
        ("iptables -A INPUT -s 10.0.0.1 -p tcp --dport 22 -j ACCEPT", "it is for the address `10.0.0.1`, not for %IP%"),
        ("iptables -t nat -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT", "no grant has the condition `-t nat`"),
        ("iptables -A INPUT ! -s %IP% -p tcp --dport 22 -j ACCEPT", "no grant has the condition `! -s`"),
        ("iptables -D INPUT 3", "it deletes a rule by its number, which says not which one"),
        (
            "iptables -A INPUT -s '%IP% -p tcp --dport 22 -j ACCEPT",
            "import reads no shell commands with `'`; replace the command yourself",
        ),
        ("iptables", "it adds and deletes nothing"),
        (
            "ufw allow from %IP%",
            "it is for every port, but a grant opens the ports that it names; name them in `allow.ports`",
        ),
        ("ufw allow 22/tcp", "it is for every address, not for %IP% alone"),
        ("ufw allow from %IP% to any app OpenSSH", "import does not know `app` of ufw"),
        ("firewall-cmd --zone=public --add-service=ssh", "it is for every address, not for %IP% alone"),
        (
            "firewall-cmd --permanent --add-rich-rule='rule family=ipv4 source address=%IP% service name=ssh accept'",
            "with --permanent it changes the firewall at its next reload only",
        ),
        (
            "firewall-cmd --zone=trusted --add-source=%IP%",
            "it gives the address a whole zone, but a grant opens ports; name them in `allow.ports`",
        ),
        (
            "firewall-cmd --add-rich-rule='rule family=ipv4 source address=%IP% service name=ssh log accept'",
            "no grant has the condition `log` of its rich rule",
        ),
        (
            "nft add rule inet filter input ip saddr %IP% tcp dport 22 accept",
            "an nftables rule is deleted by its handle, which import cannot follow; use `allow.ports`, or a set with the \
             timeout flag and `allow.set`",
        ),
        (
            "nft add element inet filter knock { %IP% . 22 }",
            "its element is not %IP% alone, and a user set of knockd has addresses as keys",
        ),
        (
            "ipset add knock %IP% timeout 3600",
            "an ipset is not an nftables set; make a set with the timeout flag, and name it in `allow.set`",
        ),
    ] {
        assert_eq!(reason(&door(start, drop)), expected, "{start}");
    }
    let open = "iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT";
    for (start, stop, expected) in [
        (open, "", "no stop command and no other rule closes what it opens, so there is no `timeout` for a grant"),
        (drop, "", "no rule with `allow` opens what it closes"),
        (drop, open, "it closes something first and opens it later"),
        (
            open,
            "/usr/local/bin/close %IP%",
            "its stop command cannot be replaced: `/usr/local/bin/close` is not a firewall command that import knows",
        ),
    ] {
        assert_eq!(reason(&door(start, stop)), expected, "{start} {stop}");
    }
    // Without --native no rule has to be replaced.
    assert!(!notes(&imported(&door(drop, ""), false)).iter().any(|note| note.contains("keeps its command")));
}
