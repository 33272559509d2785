use std::os::unix::fs::PermissionsExt;

use super::*;

struct Sequences {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Sequences {
    fn new(text: impl AsRef<[u8]>) -> Sequences {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("sequences");
        let sequences = Sequences { _directory: directory, path };
        sequences.write(text);
        sequences
    }

    fn write(&self, text: impl AsRef<[u8]>) {
        fs::write(&self.path, text).expect("a file");
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o600)).expect("permissions");
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).expect("the file")
    }

    fn load(&self) -> OneTime {
        let (one_time, warnings) = load(&self.path).expect("a valid file");
        assert!(warnings.iter().all(|warning| matches!(warning, Warning::Exhausted { .. })), "{warnings:?}");
        one_time
    }

    fn refused(&self) -> (usize, LineError) {
        match load(&self.path) {
            Err(OneTimeError::Line { line, reason, .. }) => (line, reason),
            other => panic!("{other:?}"),
        }
    }
}

fn load(path: &Path) -> Result<(OneTime, Vec<Warning>), OneTimeError> {
    OneTime::load(path, Owners::of_daemon())
}

fn tcp<const N: usize>(ports: [u16; N]) -> Vec<Knock> {
    ports.map(Knock::tcp).to_vec()
}

fn current(one_time: &OneTime) -> Vec<Knock> {
    one_time.current().expect("a sequence").to_vec()
}

#[test]
fn each_sequence_opens_once_in_the_order_of_the_file() {
    let file = Sequences::new("# mine\n\n 1000,2000,3000\n4000:udp, 5000 6000/tcp\n");
    let mut one_time = file.load();
    assert_eq!(current(&one_time), tcp([1000, 2000, 3000]));
    assert_eq!(one_time.consume().expect("marked"), []);
    assert_eq!(file.text(), "# mine\n\n#1000,2000,3000\n4000:udp, 5000 6000/tcp\n");
    let second = vec![Knock::udp(4000), Knock::tcp(5000), Knock::tcp(6000)];
    assert_eq!(current(&one_time), second);
    assert_eq!(current(&file.load()), second, "after a restart too");
    assert_eq!(one_time.consume().expect("marked"), [Warning::Exhausted { path: file.path.clone() }]);
    assert_eq!(file.text(), "# mine\n\n#1000,2000,3000\n#000:udp, 5000 6000/tcp\n");
}

#[test]
fn exhaustion_disables_the_rule_and_nothing_else() {
    let file = Sequences::new("1000,2000");
    let mut one_time = file.load();
    one_time.consume().expect("marked");
    assert_eq!(one_time.current(), None);
    assert!(matches!(one_time.consume(), Err(ConsumeError::Gone { .. })));
    assert_eq!(file.load().current(), None);
    file.write(format!("{}\n7000,8000\n", file.text()));
    assert_eq!(current(&file.load()), tcp([7000, 8000]), "new lines count at a reload");
}

#[test]
fn an_empty_file_is_exhausted() {
    for text in ["", "\n\n", "# nothing yet\r\n", "   \n"] {
        let file = Sequences::new(text);
        let (one_time, warnings) = load(&file.path).expect("valid");
        assert_eq!(one_time.current(), None);
        assert!(matches!(warnings[..], [Warning::Exhausted { .. }]));
    }
}

#[test]
fn a_longer_next_line_is_the_next_sequence_and_no_more() {
    let file = Sequences::new("1000,2000\n1000,2000,3000\n");
    let mut one_time = file.load();
    one_time.consume().expect("marked");
    assert_eq!(current(&one_time), tcp([1000, 2000, 3000]));
}

#[test]
fn line_ends_of_other_systems_and_a_missing_last_one_are_kept() {
    let file = Sequences::new(" 1000,2000\r\n 3000,4000\t\r\n 5000,6000");
    let mut one_time = file.load();
    for _ in 0..3 {
        one_time.consume().expect("marked");
    }
    assert_eq!(file.text(), "#1000,2000\r\n#3000,4000\t\r\n#5000,6000");
    assert_eq!(one_time.current(), None);
}

#[test]
fn an_invalid_line_is_refused_with_its_number_and_reason() {
    for (line, message) in [
        ("abc", "`abc` is not a port"),
        ("7000-7010", "`7000-7010` is not a port"),
        ("70000,1", "port 70000 is not between 1 and 65535"),
        ("-5", "`-5` is not a port"),
        ("7000,,8000", "a comma has no knock on one side"),
        ("7000,", "a comma has no knock on one side"),
        ("7000/sctp", "`sctp` is not a protocol"),
        (&["1"; 33].join(","), "33 knocks are more than 32"),
        ("1000 2000", "line 1 has the same sequence"),
    ] {
        let file = Sequences::new(format!(" 1000,2000\n\n{line}\n 3000\n"));
        let error = load(&file.path).expect_err(line).to_string();
        assert!(error.starts_with(&format!("{}:3: ", file.path.display())), "{error}");
        assert!(error.contains(message), "{error}");
    }
    assert_eq!(Sequences::new(b"1000\n\xff\xfe\n").refused(), (2, LineError::NotText));
    assert_eq!(Sequences::new("1".repeat(1000)).refused(), (1, LineError::NotText), "no message of a kilobyte");
    assert_eq!(Sequences::new("\x1b[2J").refused(), (1, LineError::NotText));
    assert_eq!(Sequences::new("\u{feff}1000\n").refused(), (1, LineError::ByteOrderMark));
}

#[test]
fn a_used_sequence_is_refused_however_it_was_marked() {
    assert_eq!(Sequences::new("#1000,2000\n1000/tcp 2000\n").refused(), (2, LineError::Duplicate(1)));
    assert_eq!(Sequences::new("1000,2000\n#1000,2000\n").refused(), (1, LineError::Duplicate(2)));
    assert_eq!(Sequences::new("#000,2000\n1000,2000\n").refused(), (2, LineError::Ambiguous(1)));
    assert_eq!(Sequences::new("#,2000\n7,2000\n").refused(), (2, LineError::Ambiguous(1)));
}

#[test]
fn lines_that_would_look_alike_when_used_are_refused_from_the_start() {
    assert_eq!(Sequences::new("1000,2000\n3000,2000\n").refused(), (2, LineError::Ambiguous(1)));
    assert_eq!(Sequences::new(" 1000,2000\n 11000,2000\n").refused(), (2, LineError::Ambiguous(1)));
    assert_eq!(Sequences::new(" 11000,2000\n 1000,2000\n").refused(), (2, LineError::Ambiguous(1)));
    Sequences::new(" 1000,2000\n 3000,2000\n").load();
}

#[test]
fn a_valid_file_stays_valid_however_many_of_its_lines_are_used() {
    let file = Sequences::new(" 7000\n 8000\n 7000,8000\n9,10\n7000 9\n 7001 9\n12/udp,3\n12/tcp,4\n");
    let mut one_time = file.load();
    let mut opened = Vec::new();
    while let Some(sequence) = one_time.current().map(<[Knock]>::to_vec) {
        assert!(!opened.contains(&sequence));
        opened.push(sequence);
        one_time.consume().expect("marked");
        assert_eq!(file.load().current(), one_time.current());
    }
    assert_eq!(opened.len(), 8);
}

#[test]
fn a_line_that_becomes_invalid_is_skipped_and_replays_nothing() {
    let file = Sequences::new(" 1000,2000\n 3000,4000\n 5000,6000\n");
    let mut one_time = file.load();
    file.write(" 1000,2000\n oops\n 5000,6000\n");
    let warnings = one_time.consume().expect("marked");
    assert!(matches!(&warnings[..], [Warning::Skipped { line: 2, .. }]), "{warnings:?}");
    assert_eq!(current(&one_time), tcp([5000, 6000]));
    assert_eq!(file.text(), "#1000,2000\n oops\n 5000,6000\n");
}

#[test]
fn a_used_sequence_that_is_written_again_while_running_is_skipped() {
    let file = Sequences::new(" 1000,2000\n 3000,4000\n");
    let mut one_time = file.load();
    one_time.consume().expect("marked");
    file.write("#1000,2000\n 3000,4000\n 1000,2000\n");
    let warnings = one_time.consume().expect("marked");
    assert!(matches!(&warnings[..], [Warning::Skipped { line: 3, .. }, Warning::Exhausted { .. }]), "{warnings:?}");
    assert_eq!(one_time.current(), None);
}

#[test]
fn a_line_is_found_where_an_editor_moved_it() {
    let file = Sequences::new(" 1000,2000\n 3000,4000\n");
    let mut one_time = file.load();
    let new = file.path.with_extension("new");
    fs::write(&new, "# a heading\n 5000,6000\n 1000,2000\n").expect("a file");
    fs::rename(new, &file.path).expect("as editors do");
    one_time.consume().expect("marked");
    assert_eq!(file.text(), "# a heading\n 5000,6000\n#1000,2000\n");
    assert_eq!(current(&one_time), tcp([5000, 6000]));
}

#[test]
fn a_sequence_that_was_removed_or_marked_by_hand_opens_nothing() {
    for text in ["#1000,2000\n 3000,4000\n", " 3000,4000\n", "#1000,2000\n 1000,2000\n 3000,4000\n"] {
        let file = Sequences::new(" 1000,2000\n 3000,4000\n");
        let mut one_time = file.load();
        file.write(text);
        assert!(matches!(one_time.consume(), Err(ConsumeError::Gone { .. })), "{text}");
        assert_eq!(current(&one_time), tcp([3000, 4000]), "the rule still works");
    }
}

#[test]
fn without_its_file_a_sequence_opens_nothing_and_stays_current() {
    let file = Sequences::new(" 1000,2000\n");
    let mut one_time = file.load();
    fs::remove_file(&file.path).expect("removed");
    assert!(matches!(one_time.consume(), Err(ConsumeError::File(OneTimeError::Open { .. }))));
    assert_eq!(current(&one_time), tcp([1000, 2000]));
    file.write(" 1000,2000\n");
    one_time.consume().expect("marked");
}

#[test]
fn a_path_that_is_not_a_writable_file_is_refused() {
    let file = Sequences::new("1000");
    let directory = file.path.parent().expect("a directory").to_owned();
    assert!(matches!(load(&directory), Err(OneTimeError::Untrusted(Untrusted::NotAFile { .. }))));
    assert!(matches!(load(Path::new("/dev/null")), Err(OneTimeError::Untrusted(Untrusted::NotAFile { .. }))));
    // Root may write a read-only file, but no user a file that is being executed (ETXTBSY).
    let running = std::env::current_exe().expect("this test");
    let error = load(&running).expect_err("not to be written").to_string();
    assert!(error.contains("cannot open the one-time sequences for reading and marking"), "{error}");
    file.write("# too long\n".repeat(60_000));
    assert!(matches!(load(&file.path), Err(OneTimeError::TooLarge { .. })));
}

#[test]
fn a_file_that_others_can_read_is_warned_of_and_one_that_they_can_change_is_refused() {
    let file = Sequences::new("1000");
    let mut one_time = file.load();
    let mode = |mode| fs::set_permissions(&file.path, fs::Permissions::from_mode(mode)).expect("permissions");
    mode(0o640);
    let (_, warnings) = load(&file.path).expect("valid");
    assert_eq!(warnings, [Warning::Readable { path: file.path.clone(), mode: 0o640 }]);
    for others in [0o602, 0o620] {
        mode(others);
        let error = load(&file.path).expect_err("not trusted").to_string();
        assert!(error.ends_with(&format!("chmod go-w {}", file.path.display())), "{error}");
    }
    // Also where that came about while the daemon ran: nothing opens, and nothing is used up.
    assert!(matches!(one_time.consume(), Err(ConsumeError::File(OneTimeError::Untrusted(_)))));
    mode(0o600);
    assert_eq!(current(&one_time), tcp([1000]));
    one_time.consume().expect("marked");
}
