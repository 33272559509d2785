//! The lines of an authorized_keys file, and what is said of those that can't be used.

mod support;

use knock_spa::{
    AddressPolicy, AuthorizedKey, AuthorizedKeys, KeyOptions, LineError, OptionError, Presence, PrivateKey, PublicKey,
    PublicKeyError,
};
use support::{Device, Signer, alice, authorized, hex, p256, string, unhex};

fn fido() -> String {
    Device::ed25519([3; 32]).public_key().to_string()
}

fn key() -> String {
    alice().public_key().to_string()
}

/// The key of a file of one line.
fn line(line: &str) -> AuthorizedKey {
    let mut keys = authorized(line);
    assert_eq!(keys.len(), 1, "{line}");
    keys.remove(0)
}

/// Why a file of one line has no key.
fn refused(line: &str) -> LineError {
    let mut read = AuthorizedKeys::parse(line.as_bytes());
    assert_eq!((read.keys.len(), read.warnings.len()), (0, 1), "{line}: {read:?}");
    let warning = read.warnings.remove(0);
    let message = warning.to_string();
    assert!(message.starts_with("line 1: ") && message.chars().count() < 300, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
    warning.error
}

#[test]
fn a_line_is_options_type_key_and_comment() {
    let plain = line(&format!("{} alice", key()));
    assert_eq!((plain.user.as_deref(), &plain.options), (Some("alice"), &KeyOptions::default()));
    assert_eq!(&plain.key, alice().public_key());
    assert_eq!(line(&key()).user, None, "as github.com/alice.keys has them");
    assert_eq!(line(&format!("  {}\t Alice A. <a@b>  \r", key())).user.as_deref(), Some("Alice A. <a@b>"));
    assert_eq!(line(&key().replace(' ', " \t ")).key, plain.key);

    let options = format!("wide,RULES=\"ssh,web\",from=\"192.0.2.0/24,!192.0.2.1\" {} alice", key());
    let options = line(&options).options;
    let rules: Vec<&str> = options.rules.as_ref().expect("rules").iter().map(|rule| rule.as_str()).collect();
    assert_eq!((options.wide, rules), (true, vec!["ssh", "web"]));
    let from = options.from.expect("a list");
    assert!(from.permits([192, 0, 2, 9].into()) && !from.permits([192, 0, 2, 1].into()));

    let until = line(&format!("expiry-time=\"20270101Z\" {}", key())).options.expires.expect("a time");
    assert_eq!(until.as_millis(), 1_798_761_600_000);
    for (value, policy) in
        [("source", AddressPolicy::Source), ("strict", AddressPolicy::Strict), ("any", AddressPolicy::Any)]
    {
        assert_eq!(line(&format!("address=\"{value}\" {}", key())).options.address, policy);
    }
    for (options, presence) in [
        ("wide", Presence::Touch),
        ("no-touch-required", Presence::Nothing),
        ("verify-required", Presence::Verification { touch: true }),
        ("verify-required,no-touch-required", Presence::Verification { touch: false }),
    ] {
        assert_eq!(line(&format!("{options} {}", fido())).options.presence, presence);
        assert_eq!(line(&format!("{options} {}", Device::p256([4; 32]).public_key())).options.presence, presence);
    }
}

#[test]
fn a_key_of_each_type_is_read_as_it_is_written() {
    for signer in Signer::of_each_type() {
        let key = signer.public_key();
        let read = line(&format!("{key} alice"));
        assert_eq!(read.key, key);
        assert_eq!(key.to_string().split(' ').next(), Some(key.key_type().name()));
        assert_eq!(key.key_type().is_fido(), matches!(signer, Signer::Device(_)));
    }
}

#[test]
fn a_key_of_ecdsa_is_a_point_of_the_curve_in_one_encoding() {
    let key = p256().public_key().clone();
    let point = &key.blob()[key.blob().len() - 65..];
    let blob = |curve: &[u8], point: &[u8]| {
        PublicKey::from_blob(&[&b"ecdsa-sha2-nistp256"[..], curve, point].map(string).concat())
    };
    assert_eq!(blob(b"nistp256", point), Ok(key.clone()));
    let compressed = [&[2 + (point[64] & 1)], &point[1..33]].concat();
    let hybrid = [&[6 + (point[64] & 1)], &point[1..]].concat();
    let other_y = [&point[..33], &[1; 32]].concat();
    // The prime of the curve: as a coordinate it would be another zero. 5.. is y of the point whose x is zero.
    let prime = unhex("ffffffff00000001000000000000000000000000ffffffffffffffffffffffff");
    let y = unhex("66485c780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4");
    let zero = [&[4][..], &[0; 32], &y].concat();
    assert!(blob(b"nistp256", &zero).is_ok());
    let not_reduced = [&[4][..], &prime, &y].concat();
    let mut cut = point.to_vec();
    cut.pop();
    for point in [&compressed, &hybrid, &other_y, &not_reduced, &cut, &vec![0], &vec![0; 65], &Vec::new()] {
        assert_eq!(blob(b"nistp256", point), Err(PublicKeyError::Malformed), "{}", hex(point));
    }
    for curve in [&b"nistp384"[..], b"nistp25", b"nistp256\0", b""] {
        assert_eq!(blob(curve, point), Err(PublicKeyError::Malformed));
    }
    assert_eq!(PublicKey::from_blob(&[key.blob(), &[0]].concat()), Err(PublicKeyError::Malformed));
    for length in 0..key.blob().len() {
        assert!(PublicKey::from_blob(&key.blob()[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn an_address_policy_compares_with_the_source_of_the_packet() {
    let (source, mapped) = ([192, 0, 2, 7].into(), "::ffff:192.0.2.7".parse().expect("an address"));
    let (same, other) = (Some(source), Some([192, 0, 2, 8].into()));
    for (policy, none, equal, different) in [
        (AddressPolicy::Source, true, true, false),
        (AddressPolicy::Strict, false, true, false),
        (AddressPolicy::Any, true, true, true),
    ] {
        for source in [source, mapped] {
            let permitted = [None, same, other].map(|requested| policy.permits(requested, source));
            assert_eq!(permitted, [none, equal, different], "{policy:?}");
        }
    }
}

#[test]
fn the_other_lines_of_a_file_are_used() {
    let bob = PrivateKey::from_seed([2; 32], "bob");
    let file = format!(
        "# keys of the office\n\n{} alice\nssh-rsa AAAAB3NzaC1yc2E= carol\n{} bob\n   # end\n{} alice again\n\u{feff}x y\n",
        key(),
        bob.public_key(),
        key()
    );
    let mut bytes = file.into_bytes();
    bytes.extend_from_slice(b"ssh-ed25519 \xff\n");
    let read = AuthorizedKeys::parse(&bytes);
    let users: Vec<_> = read.keys.iter().map(|key| (key.line, key.user.as_deref().unwrap_or_default())).collect();
    assert_eq!(users, [(3, "alice"), (5, "bob")]);
    let warned: Vec<_> = read.warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(warned, [4, 7, 8, 9]);
    assert_eq!(read.warnings[0].error, LineError::Key(PublicKeyError::Rsa));
    let fingerprint = alice().public_key().fingerprint();
    assert_eq!(read.warnings[1].error, LineError::Duplicate { fingerprint, first: 3 });
    assert_eq!(read.warnings[3].error, LineError::NotText);
    assert_eq!(AuthorizedKeys::parse(b""), AuthorizedKeys::default());

    let many = AuthorizedKeys::parse("ssh-rsa A\n".repeat(250).as_bytes());
    assert_eq!((many.warnings.len(), many.omitted), (100, 150));
}

#[test]
fn a_pasted_private_key_is_named_once_and_not_quoted() {
    let body = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\nQyNTUxOQAAACDrY2FuIGJlIHNlZW4=";
    let file = |label: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n{} alice\n", key());
    for label in ["OPENSSH PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PRIVATE KEY"] {
        let read = AuthorizedKeys::parse(file(label).as_bytes());
        assert_eq!(read.keys.len(), 1, "the lines after it are used");
        let [warning] = &read.warnings[..] else { panic!("{:?}", read.warnings) };
        assert_eq!((warning.line, &warning.error), (1, &LineError::PrivateKey));
        assert!(warning.to_string().starts_with("line 1: a private key begins here"), "{warning}");
    }
    // The first line is missing.
    let read = AuthorizedKeys::parse(format!("{body}\n").as_bytes());
    assert_eq!(read.warnings.len(), 2);
    for warning in &read.warnings {
        assert_eq!(warning.error, LineError::OneWord);
        assert!(!format!("{warning} {warning:?}").contains("b3Blb"), "{warning}");
    }
    let putty =
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: a\nPublic-Lines: 1\nAAAA\nPrivate-MAC: 00ff\n";
    let read = AuthorizedKeys::parse(format!("{putty}{} alice\n", key()).as_bytes());
    assert_eq!((read.keys.len(), read.warnings.len()), (1, 1), "{read:?}");
    assert_eq!(read.warnings[0].error, LineError::PrivateKey);
    for begin in ["---- BEGIN SSH2 PUBLIC KEY ----", "-----BEGIN PUBLIC KEY-----"] {
        assert_eq!(refused(&format!("{begin}\nComment: \"a\"\nAAAA\n")), LineError::OtherFormat);
    }
}

#[test]
fn a_key_that_cannot_be_used_is_named_with_what_to_do() {
    let says = |line: &str, wanted: &str| {
        let message = refused(line).to_string();
        assert!(message.contains(wanted), "{line}: {message}");
    };
    says("ssh-rsa AAAA alice", "make a key with `ssh-keygen -t ed25519`");
    says("wide ssh-rsa AAAA alice", "make a key with `ssh-keygen -t ed25519`");
    says("ecdsa-sha2-nistp384 AAAA alice", "do not support `ecdsa-sha2-nistp384` keys");
    says("ecdsa-sha2-nistp521 AAAA alice", "`ssh-keygen -t ed25519`");
    says("ssh-dss AAAA alice", "do not support `ssh-dss` keys");
    says("ssh-ed25519-cert-v01@openssh.com AAAA alice", "this is a certificate");
    says("sh-ed25519 AAAA alice", "`sh-ed25519` is not a type of ssh keys");
    says("from=\"192.0.2.1\" sh-ed25519 AAAA alice", "`sh-ed25519` is not a type of ssh keys");
    says("ssh-ed25519", "there is no key behind `ssh-ed25519`");
    says("ssh-ed25519 AAA! alice", "not base64");
    says(&key().replace("AAAA", "AAA"), "not base64");
    says(&key()[..40], "cut off");
    says(&p256().public_key().to_string()[..100], "cut off");
    says(&fido().replace("sk-ssh-ed25519@openssh.com ", "ssh-ed25519 "), "the key inside is of another type");
    says(&format!("{} {}", key(), "a".repeat(129)), "more than 128 characters");
    says(&format!("{} a\u{1b}[31m", key()), "can't be shown");
    says(&format!("{} a\u{202e}b", key()), "can't be shown");
}

#[test]
fn an_option_that_cannot_be_kept_makes_the_line_unusable() {
    let error = |options: &str| match refused(&format!("{options} {} alice", key())) {
        LineError::Option(error) => error,
        other => panic!("{options}: {other}"),
    };
    for (options, expected) in [
        ("from=\"192.0.2.1", OptionError::Quote),
        ("wide,", OptionError::Empty),
        (",wide", OptionError::Empty),
        ("wide,,wide", OptionError::Empty),
        ("restrict", OptionError::Unknown { name: "restrict".to_owned() }),
        ("command=\"/bin/true, \\\" x\"", OptionError::Unknown { name: "command".to_owned() }),
        ("wide,cert-authority", OptionError::Unknown { name: "cert-authority".to_owned() }),
        ("wide,wide", OptionError::Twice { name: "wide" }),
        ("from=\"::1\",from=\"::2\"", OptionError::Twice { name: "from" }),
        ("wide=\"yes\"", OptionError::NoValue { name: "wide" }),
        ("no-touch-required", OptionError::NotFido { name: "no-touch-required" }),
        ("verify-required", OptionError::NotFido { name: "verify-required" }),
        ("address=\"mine\"", OptionError::Address { text: "mine".to_owned() }),
        ("expiry-time=\"20270101\"", OptionError::Expiry { text: "20270101".to_owned() }),
    ] {
        assert_eq!(error(options), expected, "{options}");
    }
    for option in
        ["from", "from=", "from=192.0.2.1", "rules=ssh", "address=any", "expiry-time=20270101Z", "rules=\"a\"b"]
    {
        assert!(matches!(error(option), OptionError::Value { .. }), "{option}");
    }
    for (options, wanted) in [
        ("from=\"host.example\"", "option `from`: `host.example` is not an address or network"),
        ("from=\"192.0.2.1/24\"", "write `192.0.2.0/24`"),
        ("rules=\"ssh,\"", "option `rules`: `` is not a rule name"),
        ("rules=\"ssh web\"", "option `rules`: `ssh web` is not a rule name"),
        ("rules=\"\"", "option `rules`: `` is not a rule name"),
        ("expiry-time=\"soon\"", "write it as in `20271231Z`"),
        ("rules=ssh", "write it as in `rules=\"ssh,web\"`"),
    ] {
        let message = error(options).to_string();
        assert!(message.contains(wanted), "{options}: {message}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "(wide|from=|\"|,| |ssh-ed25519|AAAA|#|-----BEGIN |\n|\\PC){0,20}") {
        let read = AuthorizedKeys::parse(text.as_bytes());
        for warning in &read.warnings {
            proptest::prop_assert!(!warning.to_string().contains(char::is_control));
        }
    }
}
