//! The program knock-cli, over loopback: knocks, and wrong command lines.

mod support;

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use support::*;

#[test]
fn a_rule_of_the_configuration_is_knocked_once_at_each_port() {
    let (tcp, tcp_port) = listener();
    let (udp, udp_port) = udp();
    let closed = closed_port();
    let text = format!(
        r#"{{"rules": [{{"name": "enable_ssh", "sequence": [{closed}, {tcp_port}, "{udp_port}/udp", "{udp_port}:udp"]}}]}}"#
    );
    let directory = with_config(&text);
    let output = run_in(directory.path(), &["-c", "config.json", "-r", "enable_ssh", "-h", "127.0.0.1"]);
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("knocked at 4 ports of 127.0.0.1\n", ""));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(connections(&tcp), 1);
    let mut buffer = [0; 9];
    let (length, first) = udp.recv_from(&mut buffer).expect("the first datagram");
    assert_eq!(length, 1, "one byte");
    let (_, second) = udp.recv_from(&mut buffer).expect("the second datagram");
    assert_ne!(first.port(), second.port(), "each knock has a socket of its own");
    udp.set_nonblocking(true).expect("a socket can be non-blocking");
    assert_eq!(udp.recv_from(&mut buffer).expect_err("no third datagram").kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_configuration_is_read_from_the_current_directory() {
    let port = closed_port();
    let directory = with_config(&format!(r#"{{"rules": [{{"name": "a", "sequence": [{port}]}}]}}"#));
    let output = run_in(directory.path(), &["-r", "a", "-h", "127.0.0.1"]);
    assert_eq!(stdout(&output), "knocked at 1 port of 127.0.0.1\n");
}

#[test]
fn the_configuration_is_read_from_the_directory_of_the_program() {
    let port = closed_port();
    let directory = with_config(&format!(r#"{{"rules": [{{"name": "a", "sequence": [{port}]}}]}}"#));
    let program = directory.path().join("knock-cli");
    std::fs::copy(support::program(), &program).expect("the program can be copied");
    let output = client(&program, Path::new("/")).args(["-r", "a", "-h", "127.0.0.1"]).output().expect("it runs");
    assert_eq!(stdout(&output), "knocked at 1 port of 127.0.0.1\n", "{}", stderr(&output));

    std::fs::remove_file(directory.path().join("config.json")).expect("the file is there");
    let output = client(&program, Path::new("/")).args(["-r", "a", "-h", "127.0.0.1"]).output().expect("it runs");
    let expected = format!(
        "knock-cli: there is no file with rules; looked for:\n  /nonexistent/knock/config.json\n  config.json\n  {}\n  Write \
         one of them, name another with -c, or ask the administrator of the server for: knockctl client RULE --host NAME\n",
        directory.path().join("config.json").display()
    );
    assert_eq!((stderr(&output), output.status.code()), (expected, Some(78)));
}

#[test]
fn ports_on_the_command_line_need_no_configuration() {
    let (tcp, tcp_port) = listener();
    let (udp, udp_port) = udp();
    let (tcp_text, udp_text) = (tcp_port.to_string(), format!("{udp_port}/udp"));
    let list = format!("{tcp_text},{udp_text}");
    for arguments in [
        &["127.0.0.1", &tcp_text, &udp_text][..],
        &["-h", "127.0.0.1", &tcp_text, &udp_text],
        &["-s", &list, "-h", "127.0.0.1"],
        &["-s", &list, "127.0.0.1"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        assert_eq!(connections(&tcp), 1, "{arguments:?}");
        udp.recv_from(&mut [0; 9]).expect("a datagram");
    }
}

#[test]
fn the_option_udp_sends_every_knock_by_udp() {
    let (udp, port) = udp();
    let output = run(&["-u", "127.0.0.1", &port.to_string()]);
    assert_eq!(output.status.code(), Some(0));
    udp.recv_from(&mut [0; 9]).expect("a datagram");
}

#[test]
fn verbose_prints_each_knock_and_quiet_prints_nothing() {
    let port = closed_port();
    let (tcp, other) = (port.to_string(), format!("{port}/udp"));
    let output = run(&["-v", "127.0.0.1", &tcp, &other]);
    let expected = format!("knocking at 127.0.0.1\nknocked at {port}/tcp\nknocked at {port}/udp\n");
    assert_eq!(stdout(&output), expected);
    assert_eq!(stdout(&run(&["-q", "127.0.0.1", &tcp])), "");
}

#[test]
fn the_delay_is_between_knocks_only() {
    let port = closed_port().to_string();
    let start = Instant::now();
    run(&["-d", "150", "127.0.0.1", &port, &port, &port]);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let start = Instant::now();
    run(&["-d", "60000", "127.0.0.1", &port]);
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn the_error_for_an_unknown_rule_lists_the_existing_ones() {
    let directory = with_config(
        r#"{"rules": [{"name": "enable_ssh", "sequence": [3, 1]}, {"name": "once", "one_time_sequences": "/etc/once"}]}"#,
    );
    for (rule, expected) in [
        ("enable_shh", "config.json has no rule `enable_shh`; did you mean `enable_ssh`? its rules: enable_ssh, once"),
        ("x", "config.json has no rule `x`; its rules: enable_ssh, once"),
        ("once", "rule `once` has one-time sequences, in /etc/once; write the next sequence of that file with -s"),
    ] {
        let output = run_in(directory.path(), &["-r", rule, "-h", "127.0.0.1"]);
        assert_eq!((stderr(&output), output.status.code()), (format!("knock-cli: {expected}\n"), Some(78)));
    }
}

#[test]
fn an_invalid_or_missing_configuration_is_status_78() {
    let directory = with_config(r#"{"rules": [{"name": "a", "sequence": [70000]}]}"#);
    let output = run_in(directory.path(), &["-r", "a", "-h", "127.0.0.1"]);
    let expected = "knock-cli: the configuration cannot be used\n\
                    config.json:1:39: rules[0].sequence[0]: port 70000 is not between 1 and 65535; write a number in \
                    this range, or \"7000/udp\" for UDP\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(78)));

    let output = run(&["-c", "/nonexistent.json", "-r", "a", "-h", "127.0.0.1"]);
    assert!(stderr(&output).contains("/nonexistent.json: cannot read the configuration: No such file"));
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn a_host_without_an_address_of_the_ip_version_is_status_68() {
    let output = run(&["-6", "127.0.0.1", "7"]);
    let expected = "knock-cli: `127.0.0.1` has no IPv6 address; it has: 127.0.0.1. To use it, delete -4, -6, --source, or `family` and \
         `source` of the rule\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(68)));
    let output = run(&["-4", "::1", "7"]);
    assert!(stderr(&output).starts_with("knock-cli: `::1` has no IPv4 address; it has: ::1. "), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(68));
    let output = run(&["no such host", "7"]);
    assert!(
        stderr(&output).starts_with("knock-cli: cannot find the address of `no such host`: "),
        "{}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(68));
}

#[test]
fn a_knock_that_cannot_be_sent_is_reported_without_its_port_and_the_others_go_on() {
    // connect(2) never reaches the broadcast address, whether there is a network or not.
    let expected = "knock-cli: knock 1 of 2 to 255.255.255.255 was not sent: Network is unreachable (os error 101); there is \
                    no IPv4 route to that address: check the network\n";
    assert_eq!(failure(Path::new("/"), &["255.255.255.255", "7", "9"]), (expected.to_owned(), Some(1)));
    let (udp, port) = udp();
    let output = run(&["--source", "192.0.2.77", "127.0.0.1", "7", &format!("{port}/udp")]);
    let expected = "knock-cli: knock 1 of 2 to 127.0.0.1 was not sent: Cannot assign requested address (os error 99); the \
                    source address is not one of this machine, or no local port is free\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(1)));
    drop(udp);
}

#[test]
fn an_invalid_command_line_is_status_2() {
    for (arguments, expected) in [
        (&[][..], "the host is missing; name a rule that has one, or the host with -h HOST"),
        (&["-s", "7"], "the host is missing; name it with -h HOST"),
        (
            &["7000", "8000", "9000"],
            "the host is missing: the first word is a port; write HOST before the ports, or -h HOST",
        ),
        (&["user@", "7"], "the name of the host is empty"),
        (
            &["--wait", "-s", "7", "localhost"],
            "the port to wait for is missing; name a TCP port that the rule opens: --wait PORT",
        ),
        (&["--wait", "53/udp", "-s", "7", "localhost"], "--wait 53/udp: a UDP port sends no answer to wait for"),
        (
            &["-s", "7", "localhost", "--", "true"],
            "a command runs when the port is open; name the port with --wait PORT",
        ),
        (&["--within", "0", "localhost", "7"], "write a number of seconds from 0.1 to 3600"),
        (&["--proxy", "localhost"], "write --proxy HOST PORT"),
        (&["--proxy", "localhost", "ssh"], "`ssh` is not a port; write --proxy HOST PORT, as --proxy %h %p"),
        (&["--proxy", "--json", "localhost", "22"], "cannot be used with"),
        (&["-h", "localhost"], "the knocks are missing; name a rule with -r, or write the ports"),
        (&["localhost", "70000"], "`70000`: port 70000 is not between 1 and 65535"),
        (&["localhost", "0"], "`0`: port 0 is not between 1 and 65535"),
        (&["localhost", "7/sctp"], "`7/sctp`: `sctp` is not a protocol; write tcp or udp"),
        (&["localhost", "7000-7010"], "`7000-7010`: `7000-7010` is not a port"),
        (&["-s", "7,,9", "localhost"], "`` is not a port"),
        (&["-r", "a", "-h", "localhost", "7"], "write only one of them"),
        (&["-r", "a", "-s", "7", "localhost"], "write only one of them"),
        (&["-c", "f", "localhost", "7"], "-c names the file of a rule"),
        (&["-4", "-6", "localhost", "7"], "cannot be used with"),
        (&["-d", "60001", "localhost", "7"], "60001"),
        (&["--unknown"], "--unknown"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
    let many = vec!["7"; 33].join(",");
    let output = run(&["-s", &many, "localhost"]);
    assert!(stderr(&output).contains("33 knocks are more than the limit of 32"), "{}", stderr(&output));
}

#[test]
fn the_help_documents_every_exit_status() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for status in ["\n  0 ", "\n  1 ", "\n  2 ", "\n  68 ", "\n  69 ", "\n  75 ", "\n  77 ", "\n  78 "] {
        assert!(stdout(&output).contains(status), "{status:?} in {}", stdout(&output));
    }
    assert_eq!(stdout(&run(&["-V"])), concat!("knock-cli ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn the_knocks_are_sent_with_standard_output_closed() {
    let (udp, port) = udp();
    let (_, unread) = std::io::pipe().map(|(reader, writer)| (drop(reader), writer)).expect("a pipe");
    let status = client(program(), Path::new("/"))
        .args(["-v", "127.0.0.1", &format!("{port}/udp")])
        .stdout(unread)
        .status()
        .expect("it runs");
    assert_eq!(status.code(), Some(0));
    udp.recv_from(&mut [0; 9]).expect("a datagram");
}
