//! Signed packets over loopback: what they ask for, and what is said about them.

mod support;

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use knock_client::spa::{Operation, Request};
use serde_json::json;
use support::ssh::{Agent, Home, accepted, askpass, now, received, rule};
use support::*;

/// What a packet asks for that nothing else is said about.
fn plain() -> Request {
    Request { operation: Operation::Open, address: None, widen: false, lifetime: None, time: now(), rule: None }
}

#[test]
fn a_packet_asks_for_what_the_command_line_and_the_rule_say() {
    let home = Home::new();
    let public = home.key("id_ed25519", "ed25519", "");
    let (udp, port) = udp();
    let mut named = rule("named", port);
    named["spa"]["rule"] = "ssh".into();
    home.rules(
        json!([rule("web", port), named, { "name": "both", "host": ["127.0.0.1", "127.0.0.2"], "sequence": [1] }]),
    );
    let other: IpAddr = "192.0.2.9".parse().expect("an address");
    let name = |name: &str| Some(name.parse().expect("a name"));
    // The own address is one of loopback, which no server sees.
    for (arguments, expected) in [
        (&["web"][..], plain()),
        (&["-r", "web", "-h", "127.0.0.1"], plain()),
        (&["127.0.0.1"], plain()),
        (&["--widen", "web"], Request { widen: true, ..plain() }),
        (&["--lifetime", "10m", "web"], Request { lifetime: NonZeroU32::new(600), ..plain() }),
        (&["--address", "192.0.2.9", "web"], Request { address: Some(other), ..plain() }),
        (&["--address", "source", "web"], plain()),
        (&["--close", "web"], Request { operation: Operation::Close, ..plain() }),
        (&["named"], Request { rule: name("ssh"), ..plain() }),
        // A rule of the server that the file does not have, at a host that it has.
        (&["-r", "vpn", "-h", "127.0.0.1"], Request { rule: name("vpn"), ..plain() }),
    ] {
        let output = home.client(arguments).output().expect("it runs");
        let end = if arguments.contains(&"--close") { ", which ends the grant" } else { "" };
        let asked = if arguments.contains(&"vpn") { " for the server's rule vpn" } else { "" };
        let said = format!("sent a signed packet{asked} to 127.0.0.1{end}\n");
        assert_eq!((stdout(&output), stderr(&output).as_str()), (said, ""), "{arguments:?}");
        let packets = received(&udp);
        assert_eq!(packets.len(), 1, "{arguments:?}");
        let request = accepted(&packets[0], &public);
        assert_eq!(request, Request { time: request.time, ..expected }, "{arguments:?}");
    }
    // The hosts of another rule; nobody listens at the second.
    let output = home.client(&["-r", "web", "-h", "@both"]).output().expect("it runs");
    assert_eq!(stdout(&output), "sent a signed packet to 127.0.0.1\nsent a signed packet to 127.0.0.2\n");
    assert_eq!(received(&udp).len(), 1);
}

#[test]
fn hosts_of_another_rule_get_knocks_too() {
    let home = Home::new();
    let (udp, port) = udp();
    home.rules(json!([{ "name": "all", "host": ["127.0.0.1", "127.0.0.2"], "sequence": [1] }, { "name": "none", "sequence": [1] }]));
    let output = home.client(&["-s", &format!("{port}/udp"), "-h", "@all"]).output().expect("it runs");
    assert_eq!(stdout(&output), "knocked at 1 port of 127.0.0.1\nknocked at 1 port of 127.0.0.2\n");
    assert_eq!(received(&udp).len(), 1);
    for (group, expected) in
        [("@none", "rule `none` has no host"), ("@alll", "has no rule `alll`; did you mean `all`?")]
    {
        let output = home.client(&["-s", "7", "-h", group]).output().expect("it runs");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(78));
    }
}

#[test]
fn while_nothing_opens_each_round_sends_another_packet() {
    let home = Home::new();
    let public = home.key("id_ed25519", "ed25519", "");
    let (udp, port) = udp();
    let shut = closed_port();
    let mut waiting = rule("web", port);
    waiting["wait"] = shut.into();
    home.rules(json!([waiting]));
    let output = home.client(&["--within", "1.3", "web"]).output().expect("it runs");
    let packets = received(&udp);
    assert!(packets.len() >= 2, "{}", packets.len());
    let nonces: HashSet<&[u8]> = packets.iter().map(|packet| &packet[8..32]).collect();
    assert_eq!(nonces.len(), packets.len(), "a server accepts a nonce once");
    packets.iter().for_each(|packet| drop(accepted(packet, &public)));
    let said = stderr(&output);
    let beginning = format!(
        "knock-cli: 127.0.0.1:{shut} did not open: {} signed packets over IPv4 in 1.3 s, connections were refused.\n",
        packets.len()
    );
    assert!(said.starts_with(&beginning), "{said}");
    let date = &now().to_string()[..10];
    assert!(said.contains(&format!("This machine's clock says {date}T")), "{said}");
    assert!(said.contains(&format!("let UDP port {port} out?")) && said.contains("Is the key SHA256:"), "{said}");
    assert_eq!(output.status.code(), Some(75));
}

#[test]
fn an_open_port_ends_the_waiting_and_a_grant_for_elsewhere_or_its_end_waits_for_nothing() {
    let home = Home::new();
    home.key("id_ed25519", "ed25519", "");
    let (_listener, open) = listener();
    let (udp, port) = udp();
    let mut waiting = rule("web", port);
    waiting["wait"] = open.into();
    home.rules(json!([waiting]));
    let output = home.client(&["web"]).output().expect("it runs");
    assert!(stdout(&output).starts_with(&format!("127.0.0.1:{open} is open, after ")), "{}", stderr(&output));
    for arguments in [&["--close", "web"][..], &["--address", "192.0.2.9", "web"], &["-r", "other", "-h", "127.0.0.1"]]
    {
        let output = home.client(arguments).output().expect("it runs");
        assert!(stdout(&output).starts_with("sent a signed packet"), "{}", stderr(&output));
    }
    assert_eq!(received(&udp).len(), 4);
    let output = home.client(&["--json", "web"]).output().expect("it runs");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&document["result"], &document["rule"], &document["knocked"]),
        (&json!("open"), &json!("web"), &json!(1))
    );
}

#[test]
fn a_signature_that_somebody_has_to_confirm_is_asked_for_once() {
    let home = Home::new();
    let public = home.key("id_ed25519", "ed25519", "");
    // Somebody who takes a while to find the button.
    let script = askpass(&home, &format!("echo asked >> {}; sleep 0.6", home.path("asked").display()));
    let agent = Agent::start(Some(&script));
    agent.add(&["-c", &home.path(".ssh/id_ed25519").display().to_string()], &script);
    let (udp, port) = udp();
    home.rules(json!([rule("web", port)]));
    let shut = closed_port().to_string();
    let mut client = home.client(&["--within", "1.3", "--wait", &shut, "web"]);
    let output = client.env("SSH_AUTH_SOCK", agent.socket()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    let packets = received(&udp);
    assert!(packets.len() >= 2 && packets.iter().all(|packet| *packet == packets[0]), "{}", packets.len());
    accepted(&packets[0], &public);
    assert_eq!(std::fs::read_to_string(home.path("asked")).expect("written"), "asked\n");
}

#[test]
fn verbose_and_a_rehearsal_name_the_key_and_not_the_cover() {
    let home = Home::new();
    home.key("id_ed25519", "ed25519", "");
    let (udp, port) = udp();
    home.rules(json!([rule("web", port)]));
    let rehearsal = home.client(&["-n", "--close", "web"]).output().expect("it runs");
    let key = home.path(".ssh/id_ed25519").display().to_string();
    let text = stdout(&rehearsal);
    let expected =
        format!("would send a signed packet to UDP port {port} of 127.0.0.1 (127.0.0.1), signed with SHA256:");
    assert!(text.starts_with(&expected) && text.ends_with(&format!(", in {key}, which ends the grant\n")), "{text}");
    let document = home.client(&["-n", "--json", "web"]).output().expect("it runs");
    assert!(stdout(&document).contains("\"key\":\"SHA256:"), "{}", stdout(&document));
    udp.set_nonblocking(true).expect("a socket can be non-blocking");
    assert!(udp.recv(&mut [0; 9]).is_err(), "nothing was sent");
    udp.set_nonblocking(false).expect("a socket can be blocking");
    let verbose = home.client(&["-v", "web"]).output().expect("it runs");
    let text = stdout(&verbose);
    assert!(text.starts_with("sending packets to 127.0.0.1\nsigned with SHA256:"), "{text}");
    assert!(text.ends_with(&format!("\nsent a packet to {port}/udp\n")), "{text}");
    for output in [rehearsal, document, verbose] {
        assert!(!format!("{}{}", stdout(&output), stderr(&output)).contains("BwcH"));
    }
}

#[test]
fn an_option_for_packets_is_refused_beside_knocks() {
    for (option, name) in [
        (&["-i", "f"][..], "-i"),
        (&["--close"], "--close"),
        (&["--lifetime", "1m"], "--lifetime"),
        (&["--address", "source"], "--address"),
        (&["--widen"], "--widen"),
    ] {
        let output = run(&[option, &["127.0.0.1", "7"]].concat());
        let expected =
            format!("error: {name} is for signed packets, and this is a sequence; name a rule that has `spa`");
        assert!(stderr(&output).starts_with(&expected), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(2));
    }
    for (arguments, expected) in [
        (&["--close", "--lifetime", "1m", "web"][..], "cannot be used with"),
        (&["--close", "--wait", "22", "web"], "cannot be used with"),
        (&["--lifetime", "soon", "web"], "\"soon\" is not a duration"),
        (&["--address", "web", "web"], "write an address, or `source`"),
    ] {
        let output = run(arguments);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(2));
    }
}
