//! The public key in private key files that the real `ssh-keygen` made.

use std::process::Command;

use knock_spa::{AuthorizedKeys, PublicKey};

#[test]
fn the_public_key_of_a_private_key_file_is_read_although_it_is_encrypted() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, arguments, usable) in [
        ("plain", &["-t", "ed25519", "-N", ""][..], true),
        ("encrypted", &["-t", "ed25519", "-N", "passphrase"], true),
        ("ecdsa", &["-t", "ecdsa", "-N", "passphrase"], true),
        ("rsa", &["-t", "rsa", "-b", "2048", "-N", "passphrase"], false),
    ] {
        let path = folder.path().join(name);
        let made = Command::new("ssh-keygen").args(arguments).args(["-q", "-f"]).arg(&path).status();
        assert!(made.expect("ssh-keygen; install openssh-client").success());
        let private = std::fs::read(&path).expect("it is there");
        let public = std::fs::read(path.with_extension("pub")).expect("it is there");
        let expected = AuthorizedKeys::parse(&public).keys.pop().map(|line| line.key);
        assert_eq!(expected.is_some(), usable, "{name}");
        assert_eq!(PublicKey::of_private_key_file(&private), expected, "{name}");
        assert_eq!(PublicKey::of_private_key_file(&public), None, "{name}.pub");
        // No part of a file is a whole one.
        for length in (0..private.len() - 2).step_by(7) {
            assert_eq!(PublicKey::of_private_key_file(&private[..length]), None, "{name}, {length} bytes");
        }
    }
}
