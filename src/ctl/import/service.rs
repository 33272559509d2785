//! What the system's service adds to /etc/knockd.conf: the command line of knock's daemon.
//!
//! Debian keeps it in `KNOCKD_OPTS` of /etc/default/knockd, Fedora in `OPTIONS` of /etc/sysconfig/knockd, and an
//! administrator in a drop-in of the unit (systemd.unit(5), systemd.exec(5)).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use knock_config::{FILE_MAX, excerpt};

use super::shell;

const CONFIGURATION: &str = "etc/knockd.conf";
const UNIT: &str = "knockd.service";
/// The first one that has the unit, or a drop-in of a name, wins.
const UNIT_FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// Files with the variables below, which the init scripts and units of the distributions read.
const VARIABLES: [&str; 3] = ["etc/default/knockd", "etc/sysconfig/knockd", "etc/conf.d/knockd"];
/// The command line without a unit, as the init scripts have it.
const COMMAND_LINE: &str = "knockd $KNOCKD_OPTS $OPTIONS";

/// A text and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Placed {
    file: String,
    line: usize,
    text: String,
}

/// An option of knock's daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Its letter.
    pub(super) option: char,
    pub(super) value: String,
    pub(super) file: String,
    pub(super) line: usize,
}

/// What the system's service adds to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub(super) settings: Vec<Setting>,
    /// Files of the administrator that change the unit `knockd.service`, also the unit of this knockd.
    pub(super) overrides: Vec<String>,
}

/// The service of the system below `root`, if `file` is its configuration.
pub(crate) fn service_of(root: &Path, file: &Path) -> Option<Service> {
    let unit = Unit::read(root);
    let mut variables: HashMap<String, Placed> = HashMap::new();
    let files = VARIABLES.iter().map(|file| root.join(file));
    for file in files.chain(unit.variables.iter().map(|file| inside(root, file))) {
        for assignment in lines(root, &file, '#') {
            set(&assignment, assignment.text.strip_prefix("export ").unwrap_or(&assignment.text), &mut variables);
        }
    }
    for assignment in &unit.environment {
        for word in shell::words(&assignment.text).unwrap_or_default() {
            set(assignment, &word, &mut variables);
        }
    }
    let default = Placed { file: String::new(), line: 1, text: COMMAND_LINE.to_owned() };
    // The command line of the unit, if it is knock's; this knockd has a unit of the same name.
    let candidates = unit.command.iter().chain([&default]);
    let same = |path: &Path| fs::canonicalize(path).ok().is_some_and(|path| fs::canonicalize(file).ok() == Some(path));
    let settings = candidates.map(|command| settings(command, &variables)).find(|settings| {
        let configuration = settings.iter().rev().find(|setting| setting.option == 'c');
        same(&configuration.map_or_else(|| root.join(CONFIGURATION), |setting| inside(root, &setting.value)))
    })?;
    Some(Service { settings, overrides: unit.overrides })
}

/// The path in the system below `root`.
fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// The parts of the unit that decide the command line.
#[derive(Debug, Default)]
struct Unit {
    command: Option<Placed>,
    variables: Vec<String>,
    environment: Vec<Placed>,
    overrides: Vec<String>,
}

impl Unit {
    fn read(root: &Path) -> Unit {
        let main = UNIT_FOLDERS.iter().map(|folder| root.join(folder).join(UNIT)).find(|path| path.is_file());
        let mut drop_ins: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for folder in UNIT_FOLDERS.iter().rev().map(|folder| root.join(folder).join(format!("{UNIT}.d"))) {
            let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "conf")) {
                drop_ins.insert(path.file_name().unwrap_or_default().to_owned(), path);
            }
        }
        let mut unit = Unit::default();
        for path in main.into_iter().chain(drop_ins.into_values()) {
            if path.starts_with(root.join(UNIT_FOLDERS[0])) {
                unit.overrides.push(shown(root, &path));
            }
            for line in lines(root, &path, ';') {
                unit.add(line);
            }
        }
        unit
    }

    fn add(&mut self, mut line: Placed) {
        let Some((key, value)) = line.text.split_once('=') else { return };
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        line.text = value;
        match (key.as_str(), line.text.as_str()) {
            ("ExecStart", "") => self.command = None,
            ("ExecStart", _) => self.command = Some(line),
            ("EnvironmentFile", "") => self.variables.clear(),
            ("EnvironmentFile", file) => self.variables.push(file.trim_start_matches('-').to_owned()),
            ("Environment", "") => self.environment.clear(),
            ("Environment", _) => self.environment.push(line),
            _ => {}
        }
    }
}

/// Notes the assignment `NAME=value` that is at `place`; the last one counts.
fn set(place: &Placed, assignment: &str, variables: &mut HashMap<String, Placed>) {
    if let Some((name, value)) = assignment.split_once('=') {
        let text = value.trim().trim_matches(['"', '\'']).to_owned();
        variables.insert(name.trim().to_owned(), Placed { text, ..place.clone() });
    }
}

/// The options on the command line (getopt_long(3)), with the variables in it.
fn settings(command: &Placed, variables: &HashMap<String, Placed>) -> Vec<Setting> {
    let mut words: Vec<Placed> = Vec::new();
    // The first word is the program.
    for word in command.text.split_whitespace().skip(1) {
        match word.strip_prefix('$').map(|name| variables.get(name.trim_matches(['{', '}']))) {
            None => words.push(Placed { text: word.to_owned(), ..command.clone() }),
            Some(variable) => {
                for variable in variable.into_iter() {
                    let words_of = variable.text.split_whitespace();
                    words.extend(words_of.map(|word| Placed { text: word.to_owned(), ..variable.clone() }));
                }
            }
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut add = |option, value: String| {
            settings.push(Setting { option, value, file: word.file.clone(), line: word.line });
        };
        if let Some(long) = word.text.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value.to_owned())));
            let option = match name {
                "interface" => 'i',
                "config" => 'c',
                "pidfile" => 'p',
                "logfile" => 'g',
                "lookup" => 'l',
                "only-ip-v4" => '4',
                "debug" => 'D',
                _ => continue,
            };
            let value =
                if "icpg".contains(option) { value.or_else(|| words.next().map(|word| word.text)) } else { None };
            add(option, value.unwrap_or_default());
        } else if let Some(letters) = word.text.strip_prefix('-') {
            for (index, option) in letters.char_indices() {
                if "icpg".contains(option) {
                    let attached = letters[index + option.len_utf8()..].to_owned();
                    let value = if attached.is_empty() { words.next().map(|word| word.text) } else { Some(attached) };
                    add(option, value.unwrap_or_default());
                    break;
                }
                add(option, String::new());
            }
        }
    }
    settings
}

/// The lines of a file without empty ones and comments; one that ends with a backslash goes on in the next. A file that
/// cannot be read has none: each is optional.
fn lines(root: &Path, path: &Path, comment: char) -> Vec<Placed> {
    let is_small = fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() < FILE_MAX as u64);
    let text = if is_small { fs::read(path).unwrap_or_default() } else { Vec::new() };
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<Placed> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let (part, next) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| goes_on) {
            Some(before) => before.text.push_str(&format!(" {part}")),
            None if part.is_empty() || part.starts_with(['#', comment]) => continue,
            None => lines.push(Placed { file: shown(root, path), line: index + 1, text: part.to_owned() }),
        }
        goes_on = next;
    }
    lines
}

/// The path as the administrator knows it.
fn shown(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    excerpt(&Path::new("/").join(below).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system with these files.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in [("etc/knockd.conf", "")].iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        root
    }

    fn shown_settings(files: &[(&str, &str)], configuration: &str) -> Option<Vec<String>> {
        let root = system(files);
        let service = service_of(root.path(), &root.path().join(configuration))?;
        let show = |setting: &Setting| {
            format!("{}:{}: {} {}", setting.file, setting.line, setting.option, setting.value).trim_end().to_owned()
        };
        Some(service.settings.iter().map(show).collect())
    }

    const DEBIAN: (&str, &str) = (
        "lib/systemd/system/knockd.service",
        "[Service]\nEnvironmentFile=-/etc/default/knockd\nExecStart=/usr/sbin/knockd $KNOCKD_OPTS\n",
    );
    const OURS: (&str, &str) = (
        "usr/lib/systemd/system/knockd.service",
        "[Service]\nExecStart=/usr/sbin/knockd --config /etc/knockd/config.json\n",
    );

    #[test]
    fn the_files_of_the_distributions_have_the_command_line() {
        for (files, expected) in [
            (vec![], vec![]),
            (vec![("etc/default/knockd", "# x\nSTART_KNOCKD=1\n#KNOCKD_OPTS=\"-i eth1\"\n"), DEBIAN], vec![]),
            (
                vec![("etc/default/knockd", "START_KNOCKD=1\nKNOCKD_OPTS=\"-i ens18 -l\"\n"), DEBIAN],
                vec!["/etc/default/knockd:2: i ens18", "/etc/default/knockd:2: l"],
            ),
            // knock's package is removed, this one is installed.
            (
                vec![("etc/default/knockd", "export KNOCKD_OPTS='-i ens18'\n"), OURS],
                vec!["/etc/default/knockd:1: i ens18"],
            ),
            (vec![("etc/sysconfig/knockd", "OPTIONS=\"-ieth1\"\n")], vec!["/etc/sysconfig/knockd:1: i eth1"]),
            (
                vec![("etc/conf.d/knockd", "KNOCKD_OPTS=\"--interface=wlan0 -4D\"\n")],
                vec!["/etc/conf.d/knockd:1: i wlan0", "/etc/conf.d/knockd:1: 4", "/etc/conf.d/knockd:1: D"],
            ),
        ] {
            assert_eq!(shown_settings(&files, "etc/knockd.conf").expect("the system's"), expected, "{files:?}");
        }
    }

    #[test]
    fn drop_ins_of_the_unit_change_the_command_line() {
        let drop_in = "etc/systemd/system/knockd.service.d/override.conf";
        for (text, expected) in [
            (
                "[Service]\nExecStart=\nExecStart=/usr/sbin/knockd \\\n  -d --interface wan0 -p /run/k.pid\n",
                vec!["i wan0", "p /run/k.pid"],
            ),
            ("; x\n[Service]\nEnvironment=\"KNOCKD_OPTS=-i wan0 -g /var/log/k\"\n", vec!["i wan0", "g /var/log/k"]),
            ("[Service]\nEnvironmentFile=/etc/knock.env\n", vec!["i wan0"]),
        ] {
            let files = [
                ("etc/default/knockd", "KNOCKD_OPTS=-i eth5"),
                DEBIAN,
                (drop_in, text),
                ("etc/knock.env", "KNOCKD_OPTS=-i wan0"),
            ];
            let settings = shown_settings(&files, "etc/knockd.conf").expect("the system's");
            let settings: Vec<&str> =
                settings.iter().filter_map(|setting| setting.split_once(": ")).map(|(_, text)| text).collect();
            let settings: Vec<&str> = settings.into_iter().filter(|text| *text != "d").collect();
            assert_eq!(settings, expected, "{text}");
            let root = system(&files);
            let service = service_of(root.path(), &root.path().join("etc/knockd.conf")).expect("the system's");
            assert_eq!(service.overrides, [format!("/{drop_in}")]);
        }
    }

    #[test]
    fn only_the_file_that_the_service_reads_has_its_command_line() {
        let other = ("etc/default/knockd", "KNOCKD_OPTS=\"-c /etc/knock/k.conf -i ens3\"\n");
        let files = [other, ("etc/knock/k.conf", ""), ("home/knockd.conf", ""), DEBIAN];
        let expected = ["/etc/default/knockd:1: c /etc/knock/k.conf", "/etc/default/knockd:1: i ens3"];
        assert_eq!(shown_settings(&files, "etc/knock/k.conf").expect("the system's"), expected);
        assert_eq!(shown_settings(&files, "etc/knockd.conf"), None);
        assert_eq!(shown_settings(&files, "home/knockd.conf"), None);
        assert_eq!(shown_settings(&[DEBIAN], "nothing"), None);
    }
}
