//! Which ssh key signs a packet, and what is said where none does.

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use serde_json::json;
use support::ssh::{Agent, Home, accepted, askpass, received, rule, succeeds};
use support::*;

/// A client that sends a packet, with an agent or without.
fn send(home: &Home, agent: Option<&Path>, arguments: &[&str]) -> Output {
    let mut command = home.client(arguments);
    if let Some(socket) = agent {
        command.env("SSH_AUTH_SOCK", socket);
    }
    command.output().expect("it runs")
}

/// What is said about a packet that no key signs.
fn refusal(home: &Home, agent: Option<&Path>, arguments: &[&str]) -> String {
    let output = send(home, agent, arguments);
    assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(77)), "{}", stderr(&output));
    let said = stderr(&output);
    said.strip_prefix("knock-cli: ").and_then(|said| said.strip_suffix('\n')).expect("one message").to_owned()
}

#[test]
fn the_first_key_that_ssh_would_offer_signs() {
    let home = Home::new();
    let (udp, port) = udp();
    home.rules(json!([rule("web", port)]));
    let script = askpass(&home, "echo secret");
    let agent = Agent::start(None);
    let path = |name: &str| home.path(".ssh").join(name).display().to_string();
    let signed_by = |arguments: &[&str], agent: Option<&Path>, public: &str| {
        let output = send(&home, agent, arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        accepted(&received(&udp)[0], public);
    };
    let socket = agent.socket();
    let ecdsa = home.key("id_ecdsa", "ecdsa", "");
    signed_by(&["web"], Some(&socket), &ecdsa);
    let default = home.key("id_ed25519", "ed25519", "");
    // An agent without keys, and without an agent.
    signed_by(&["web"], Some(&socket), &default);
    signed_by(&["web"], None, &default);
    // What the agent holds comes first, but not what can't sign.
    let (other, third) = (home.key("other", "ed25519", ""), home.key("third", "ed25519", "secret"));
    home.key("rsa", "rsa", "");
    for name in ["rsa", "other", "third"] {
        agent.add(&[&path(name)], &script);
    }
    signed_by(&["web"], Some(&socket), &other);
    // As with ssh, the key of a default file is the first of those that the agent holds.
    agent.add(&[&path("id_ed25519")], &script);
    signed_by(&["web"], Some(&socket), &default);
    // A public key, an encrypted one and a missing one mean what the agent holds.
    signed_by(&["-i", &path("third.pub"), "web"], Some(&socket), &third);
    signed_by(&["-i", &path("third"), "web"], Some(&socket), &third);
    std::fs::remove_file(path("third.pub")).expect("removed");
    signed_by(&["-i", &path("third"), "web"], Some(&socket), &third);
    std::fs::remove_file(path("other")).expect("removed");
    signed_by(&["-i", &path("other"), "web"], Some(&socket), &other);
    // A file that is named is used whatever the agent holds; -i comes before the rule.
    let fourth = home.key("fourth", "ed25519", "");
    signed_by(&["-i", &path("fourth"), "web"], Some(&socket), &fourth);
    let mut own = rule("web", port);
    own["identity"] = "~/.ssh/fourth".into();
    home.rules(json!([own]));
    signed_by(&["web"], Some(&socket), &fourth);
    signed_by(&["-i", &path("third"), "web"], Some(&socket), &third);
}

#[test]
fn a_key_of_ecdsa_signs_from_its_file_and_from_the_agent() {
    let home = Home::new();
    let (udp, port) = udp();
    home.rules(json!([rule("web", port)]));
    let signed_by = |agent: Option<&Path>, public: &str| {
        // Half of all signatures have to be changed to their accepted form.
        for _ in 0..6 {
            let output = send(&home, agent, &["web"]);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            accepted(&received(&udp)[0], public);
        }
    };
    signed_by(None, &home.key("id_ecdsa", "ecdsa", ""));
    let in_agent = home.key("other", "ecdsa", "secret");
    let agent = Agent::start(None);
    agent.add(&[&home.path(".ssh/other").display().to_string()], &askpass(&home, "echo secret"));
    signed_by(Some(&agent.socket()), &in_agent);
}

#[test]
fn a_file_whose_key_cannot_sign_is_named_with_what_to_do() {
    let home = Home::new();
    home.rules(json!([rule("web", 9)]));
    let path = |name: &str| home.path(".ssh").join(name).display().to_string();
    let none = "no ssh agent is there ($SSH_AUTH_SOCK is not set)";
    assert_eq!(
        refusal(&home, None, &["web"]),
        format!(
            "there is no ssh key: {none}, and ~/.ssh has none; make one with `ssh-keygen -t ed25519`, or name its file with -i"
        )
    );
    home.key("id_rsa", "rsa", "");
    let rsa = "a signature of an RSA key does not fit into a packet; make a key with `ssh-keygen -t ed25519`";
    let says = |file: &str, what: &str| assert_eq!(refusal(&home, None, &["-i", file, "web"]), what, "{file}");
    assert_eq!(refusal(&home, None, &["web"]), format!("the key {} cannot sign packets: {rsa}", path("id_rsa")));
    says(&path("id_rsa"), &format!("the key {} cannot sign packets: {rsa}", path("id_rsa")));
    says(&path("id_rsa.pub"), &format!("the key {} cannot sign packets: {rsa}", path("id_rsa.pub")));
    home.key("locked", "ed25519", "secret");
    let locked = path("locked");
    says(&locked, &format!("the key {locked} is encrypted with a passphrase, and {none}; run: ssh-add {locked}"));
    let public = path("locked.pub");
    says(
        &public,
        &format!(
            "{public} is a public key, and {none}; name the file of its private key, {locked}, or run: ssh-add {locked}"
        ),
    );
    home.key("open", "ed25519", "");
    std::fs::set_permissions(path("open"), std::fs::Permissions::from_mode(0o644)).expect("changed");
    let open = path("open");
    says(
        &open,
        &format!(
            "other users can read the private key {open} (mode 0644), so ssh does not use it either; run: chmod 600 {open}"
        ),
    );
    let absent = path("absent");
    says(
        &absent,
        &format!(
            "cannot read the key {absent}: No such file or directory (os error 2); name another file with -i, or make a key \
             with `ssh-keygen -t ed25519`"
        ),
    );
    let big = path("big");
    std::fs::write(&big, vec![b'-'; (1 << 20) + 1]).expect("written");
    says(&big, &format!("{big} is bigger than any key file; name the file of a private key with -i"));
    let text = path("text");
    std::fs::write(&text, "x").expect("written");
    says(
        &text,
        &format!(
            "the key {text} cannot sign packets: this is not a private key of ssh: the first line is not `-----BEGIN OPENSSH \
             PRIVATE KEY-----`"
        ),
    );
}

#[test]
fn an_agent_that_does_not_sign_is_named_with_what_to_do() {
    let home = Home::new();
    home.rules(json!([rule("web", 9)]));
    let script = askpass(&home, "echo secret");
    let agent = Agent::start(None);
    let socket = agent.socket();
    let path = |name: &str| home.path(".ssh").join(name).display().to_string();
    let refusal = |arguments: &[&str]| refusal(&home, Some(&socket), arguments);
    let empty = "the ssh agent holds no key (a locked one shows none: `ssh-add -X` unlocks it)";
    assert!(refusal(&["web"]).starts_with(&format!("there is no ssh key: {empty}, and ")), "{}", refusal(&["web"]));
    home.key("rsa", "rsa", "");
    agent.add(&[&path("rsa")], &script);
    assert!(
        refusal(&["web"]).starts_with(
            "there is no ssh key: no key that the ssh agent holds can sign packets (a signature of an RSA key does not fit"
        ),
        "{}",
        refusal(&["web"])
    );
    home.key("key", "ed25519", "secret");
    let key = path("key");
    assert_eq!(
        refusal(&["-i", &key, "web"]),
        format!("the key {key} is encrypted with a passphrase, and the ssh agent does not hold it; run: ssh-add {key}")
    );
    // Limited to a host: the agent lists it and signs nothing with it but logins there.
    std::fs::create_dir_all(home.path(".ssh")).expect("there");
    let known = path("known_hosts");
    std::fs::write(&known, format!("host.example.com {}", home.key("host", "ed25519", ""))).expect("written");
    agent.add(&["-h", "host.example.com", "-H", &known, &key], &script);
    let said = refusal(&["-i", &key, "web"]);
    assert!(said.contains("(alice-key), in the ssh agent: the ssh agent refuses to sign: "), "{said}");
    assert!(
        said.contains("is limited to hosts (`ssh-add -h`)") && said.contains("add the key again with `ssh-add`"),
        "{said}"
    );
    // Locked, after the client has seen the key or before.
    agent.add(&["-D"], &script);
    agent.add(&[&key], &script);
    agent.add(&["-x"], &script);
    assert!(refusal(&["-i", &key, "web"]).contains(empty));
}

#[test]
fn an_agent_that_is_none_or_answers_nonsense_is_named() {
    let home = Home::new();
    home.rules(json!([rule("web", 9)]));
    let socket = home.path("agent");
    let said = refusal(&home, Some(&socket), &["web"]);
    let expected = format!("the ssh agent of $SSH_AUTH_SOCK, {}, cannot be reached (No such file", socket.display());
    assert!(said.contains(&expected), "{said}");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let answers: [&[u8]; 4] = [b"", &[0, 0, 0, 0], &[0xff; 9], &[0, 0, 0, 1, 99]];
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.read_exact(&mut [0; 5]).expect("a request");
            stream.write_all(answer).expect("sent");
        }
    });
    for expected in [
        "the ssh agent ended the connection (",
        "the answer of the ssh agent is not valid: its length is wrong",
        "the answer of the ssh agent is not valid: its length is wrong",
        "the answer of the ssh agent is not valid: it is of another kind",
    ] {
        let said = refusal(&home, Some(&socket), &["web"]);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_servers_file_has_not_what_a_packet_needs() {
    let home = Home::new();
    home.rules(
        json!([{ "name": "web", "host": "127.0.0.1", "spa": true, "allow": { "ports": [22], "timeout": "1h" } }]),
    );
    let output = send(&home, None, &["web"]);
    let expected = format!(
        "knock-cli: rule `web` takes signed packets, but {} is a server's file, which a client cannot send them with; ask the \
         administrator for the URL that `knockctl spa init` prints, and run: knock-cli add web\n",
        home.path(".config/knock/config.json").display()
    );
    assert_eq!((stderr(&output), output.status.code()), (expected, Some(78)));
}

#[test]
fn a_key_from_a_pipe_signs_as_with_ssh() {
    let home = Home::new();
    let public = home.key("key", "ed25519", "");
    let (udp, port) = udp();
    home.rules(json!([rule("web", port)]));
    let fifo = home.path("fifo");
    succeeds(Command::new("mkfifo").args(["-m", "600"]).arg(&fifo));
    let key = std::fs::read(home.path(".ssh/key")).expect("the key");
    let writer = thread::spawn({
        let fifo = fifo.clone();
        move || std::fs::write(fifo, key)
    });
    let output = send(&home, None, &["-i", &fifo.display().to_string(), "web"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    accepted(&received(&udp)[0], &public);
    writer.join().expect("it ends").expect("written");
}
