//! Users of the system, from /etc/passwd alone: a look-up by the C library may load further libraries (nsswitch.conf(5)).

use std::fs::File;
use std::io::Read;

/// More of the file is not read.
const PASSWD_MAX: u64 = 1 << 20;

/// A user and the group of that user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// The user with this name.
    pub(crate) fn named(name: &str) -> Option<User> {
        let mut text = String::new();
        File::open("/etc/passwd").ok()?.take(PASSWD_MAX).read_to_string(&mut text).ok()?;
        User::of(&text, name)
    }

    /// The user with this name, by the text of /etc/passwd (passwd(5)).
    fn of(passwd: &str, name: &str) -> Option<User> {
        passwd.lines().find_map(|line| match line.split(':').collect::<Vec<_>>()[..] {
            [found, _, uid, gid, ..] if found == name => Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nknockd2:x:5:5::/:\nknockd:x:991:988:Port-knocking daemon:/var/lib/knockd:\n";
        assert_eq!(User::of(passwd, "knockd"), Some(User { uid: 991, gid: 988 }));
        assert_eq!(User::of("root:x:0:0::/:\nknockd", "knockd"), None);
    }
}
