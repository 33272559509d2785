//! `knockctl fleet check`: whether the store can be used, as knockd-fleet finds with the settings of the daemon.

use std::env;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::control::client::request;
use crate::control::protocol;
use crate::ctl::{EXIT_OTHER, Failure};

/// The program that checks the store.
const PROGRAM: &str = "knockd-fleet";

/// Runs `knockd-fleet check`; what it prints and its exit status are those of this program.
pub(super) fn check(socket: &Path) -> Result<(), Failure> {
    let settings: Value = request(socket, &protocol::Command::FleetSettings {})?;
    let own = env::current_exe().ok();
    let program = find(&env::var_os("PATH").unwrap_or_default(), own.as_deref().and_then(Path::parent));
    let program = program.ok_or_else(|| {
        let message = format!("{PROGRAM} is not in PATH, /usr/sbin or beside knockctl; install its package");
        Failure::new(EXIT_OTHER, message)
    })?;
    let status = run(&program, &settings).map_err(|error| {
        let message = format!("cannot run {}: {error}", program.display());
        Failure::new(EXIT_OTHER, message)
    })?;
    if status.success() {
        return Ok(());
    }
    // It has said why. A signal leaves no status.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_OTHER);
    Err(Failure::new(code, ""))
}

/// The program in the directories of `path`, in /usr/sbin, which is not in the PATH of every user, or in `beside`.
fn find(path: &OsStr, beside: Option<&Path>) -> Option<PathBuf> {
    let known = [Some(PathBuf::from("/usr/sbin")), beside.map(Path::to_owned)];
    let places = env::split_paths(path).chain(known.into_iter().flatten());
    places.map(|directory| directory.join(PROGRAM)).find(|program| program.is_absolute() && program.is_file())
}

fn run(program: &Path, settings: &Value) -> std::io::Result<ExitStatus> {
    let mut child = Command::new(program).arg("check").stdin(Stdio::piped()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that reads nothing says why itself.
        let _ = input.write_all(settings.to_string().as_bytes());
    }
    child.wait()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn script(directory: &Path, content: &str) -> PathBuf {
        let path = directory.join(PROGRAM);
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        path
    }

    #[test]
    fn the_program_gets_the_settings_and_its_status_is_returned() {
        let directory = tempfile::tempdir().expect("a directory");
        let got = directory.path().join("got");
        let program =
            script(directory.path(), &format!("#!/bin/sh\n[ \"$1\" = check ] && cat > {}\nexit 3\n", got.display()));
        let settings = json!({ "realm": "r" });
        assert_eq!(run(&program, &settings).expect("it runs").code(), Some(3));
        assert_eq!(fs::read_to_string(got).expect("it read them"), settings.to_string());
        // More than a pipe holds, which nobody reads.
        let program = script(directory.path(), "#!/bin/sh\nexit 0\n");
        assert!(run(&program, &json!("x".repeat(1 << 20))).expect("it runs").success());
    }

    #[test]
    fn the_program_is_found_in_the_path_first_and_never_in_a_relative_directory() {
        let [first, beside] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let (in_path, own) = (script(first.path(), ""), script(beside.path(), ""));
        let path = env::join_paths([Path::new("."), first.path()]).expect("a PATH");
        assert_eq!(find(&path, Some(beside.path())), Some(in_path));
        assert_eq!(find(OsStr::new(""), Some(beside.path())), Some(own));
    }
}
