use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;

/// A directory of the user that runs the tests, with a file in it.
fn files() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "text").expect("a file");
    mode(&file, 0o640);
    (directory, file)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

#[track_caller]
fn refused(path: &Path) -> String {
    Owners::of_daemon().open(path, false).expect_err("it is refused").to_string()
}

#[test]
fn a_file_of_ones_own_is_opened_also_below_a_sticky_directory_and_by_a_link() {
    let (directory, file) = files();
    let link = directory.path().join("link");
    symlink("../../nothing/../file", directory.path().join("broken")).expect("a link");
    fs::create_dir(directory.path().join("sub")).expect("a directory");
    symlink("sub/../file", &link).expect("a link");
    let mut text = String::new();
    Owners::of_daemon().open(&link, true).expect("trusted").read_to_string(&mut text).expect("read");
    assert_eq!(text, "text");
    Owners::of_daemon().open_own(&file).expect("trusted");
    Owners::of_daemon().open_directory(directory.path()).expect("trusted");
    assert!(matches!(Owners::of_daemon().open(&directory.path().join("broken"), false), Err(Untrusted::Io(_))));
    // Every user may create files there, and no user may remove the files of another.
    let sticky = directory.path().join("sticky");
    fs::create_dir(&sticky).expect("a directory");
    mode(&sticky, 0o1777);
    fs::rename(&file, sticky.join("file")).expect("moved");
    Owners::of_daemon().open(&sticky.join("file"), false).expect("trusted");
    assert!(matches!(Owners::of_daemon().open_directory(&sticky), Err(Untrusted::Writable { mode: 0o1777, .. })));
}

#[test]
fn files_that_others_can_write_are_refused_with_the_remedy() {
    let (directory, file) = files();
    let name = file.display();
    for (bits, who) in [(0o660, "its group"), (0o606, "everybody"), (0o666, "its group and everybody")] {
        mode(&file, bits);
        assert_eq!(
            refused(&file),
            format!(
                "{name}: not trusted, since {who} can write {name} (mode {bits:04o}); only its owner may: chmod go-w {name}"
            )
        );
    }
    mode(&file, 0o600);
    mode(directory.path(), 0o770);
    let parent = directory.path().display();
    let complaint = format!(
        "{name}: not trusted, since its group can write {parent} (mode 0770); only its owner may: chmod go-w {parent}"
    );
    assert_eq!(refused(&file), complaint);
    assert!(Owners::of_daemon().open_directory(directory.path()).is_err());
    // By whatever way: the directory of a link, and that of what it points to.
    let (elsewhere, _) = files();
    let link = elsewhere.path().join("link");
    symlink(&file, &link).expect("a link");
    assert!(refused(&link).ends_with(&format!("chmod go-w {parent}")), "{}", refused(&link));
    mode(directory.path(), 0o700);
    mode(elsewhere.path(), 0o707);
    assert!(refused(&link).ends_with(&format!("chmod go-w {}", elsewhere.path().display())), "{}", refused(&link));
}

#[test]
fn files_of_another_user_are_refused_with_the_remedy() {
    let (_directory, file) = files();
    let found = fs::metadata(&file).expect("it is there");
    let owners = Owners { own: 7, trusted: [7, 7, 7], outside: None };
    let name = file.display();
    let judged = Judged { owners: &owners, path: &file };
    let uid = found.uid();
    assert_eq!(
        judged.part(&file, &found).expect_err("another's").to_string(),
        format!(
            "{name}: not trusted, since {name} belongs to uid {uid}, who can change it; it has to belong to root or uid 7, \
             the user of knockd: chown root {name}"
        )
    );
    // A user outside the namespace may own directories on the way, not the file.
    let owners = Owners { outside: Some(uid), ..owners };
    let judged = Judged { owners: &owners, path: &file };
    judged.part(&file, &found).expect_err("another's");
    judged
        .part(Path::new("/"), &fs::metadata(file.parent().expect("a directory")).expect("it is there"))
        .expect("outside");
}

#[test]
fn a_path_that_is_not_a_file_is_refused_without_waiting() {
    let (directory, file) = files();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
    let link = directory.path().join("link");
    symlink(&file, &link).expect("a link");
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let (done, refusals) = mpsc::channel();
    let paths = [fifo, socket, "/dev/zero".into(), directory.path().to_owned()];
    thread::spawn(move || paths.map(|path| drop(done.send(refused(&path)))));
    for kind in ["a FIFO", "a socket", "a device", "a directory"] {
        let refusal = refusals.recv_timeout(Duration::from_secs(10)).expect("nothing is waited for");
        assert!(refusal.ends_with(&format!(": is {kind}; name a regular file")), "{refusal}");
    }
    assert!(matches!(Owners::of_daemon().open_own(&link), Err(Untrusted::NotAFile { kind: "a symbolic link", .. })));
    assert!(matches!(Owners::of_daemon().open_directory(&file), Err(Untrusted::NotAFile { kind: "no directory", .. })));
    assert!(matches!(Owners::of_daemon().open(&directory.path().join("none"), false), Err(Untrusted::Io(_))));
    let loops = directory.path().join("loop");
    symlink(&loops, &loops).expect("a link");
    assert!(matches!(Owners::of_daemon().open(&loops, false), Err(Untrusted::Io(_))));
}

#[test]
fn the_overflow_uid_is_outside_only_where_no_user_has_it() {
    assert!(is_mapped("         0          0 4294967295\n", 65_534), "no namespace");
    assert!(!is_mapped("         0       1000          1\n", 65_534), "unshare --user --map-root-user");
    assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65_534), "a container with a range of users");
    assert!(is_mapped("who knows\n", 65_534));
    assert!(!is_mapped("", 65_534));
}
