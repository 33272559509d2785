//! Trials of a configuration: `knockctl try` and `knockctl confirm`.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::table::{count, duration};
use crate::control::protocol::{Confirmed, Tried};

/// What to do after a configuration was put in force for some time.
pub(super) fn tried(tried: &Tried) -> String {
    format!(
        "{} is in force for {}: {}\nKnock now, from another terminal. Where that works: knockctl confirm\nWithout it, knockd goes \
         back to the configuration before, also after a crash or a restart.\n",
        tried.file,
        duration(tried.timeout_seconds),
        count(tried.rules, "rule")
    )
}

/// Writes the confirmed configuration to the configuration file, where that has another text, and says so. The file before
/// it is kept with a `~` behind its name.
///
/// # Errors
///
/// Where the file cannot be written.
pub(super) fn install(confirmed: &Confirmed) -> Result<String, String> {
    let path = Path::new(&confirmed.configuration);
    let installed = replace(path, &confirmed.text).map_err(|error| {
        format!(
            "{} is confirmed and in force, but {} cannot be written: {error}; the next start of knockd reads that file: copy \
             the configuration there",
            confirmed.file, confirmed.configuration
        )
    })?;
    let mut text = format!("confirmed: {} stays in force", confirmed.file);
    if let Some(kept) = installed {
        let kept = kept.display();
        text.push_str(&format!(", and is {} now; the file before it is {kept}", confirmed.configuration));
    }
    text.push('\n');
    if confirmed.spare_privileges {
        text.push_str(
            "knockd has privileges that this configuration does not need. A restart gives them up, and keeps the gate and the \
             grants: systemctl restart knockd\n",
        );
    }
    Ok(text)
}

/// Replaces a file by one of that text, with its owner and mode. Returns where the old one is; `None` where the text is the
/// same.
fn replace(path: &Path, text: &str) -> io::Result<Option<PathBuf>> {
    // A symbolic link stays one.
    let path = &fs::canonicalize(path)?;
    let old = fs::read(path)?;
    if old == text.as_bytes() {
        return Ok(None);
    }
    let [new, kept] = [".new", "~"].map(|ending| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    });
    let metadata = fs::metadata(path)?;
    let written = write(&new, text, &metadata).and_then(|()| {
        let _ = fs::remove_file(&kept);
        fs::hard_link(path, &kept).or_else(|_| fs::copy(path, &kept).map(drop))?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map(|()| Some(kept))
}

fn write(path: &Path, text: &str, like: &fs::Metadata) -> io::Result<()> {
    // One that was left by a crash.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    fchown(&file, Some(like.uid()), Some(like.gid()))?;
    file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_confirmed_text_replaces_the_file_and_the_file_before_it_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, link) = (directory.path().join("real.json"), directory.path().join("config.json"));
        fs::write(&file, "old").expect("written");
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("our file");
        symlink(&file, &link).expect("a link");
        let confirmed = |text: &str| Confirmed {
            file: "/new.json".to_owned(),
            configuration: link.display().to_string(),
            text: text.to_owned(),
            spare_privileges: text.len() == 3,
        };
        for _ in 0..2 {
            let said = install(&confirmed("new")).expect("installed");
            assert!(said.starts_with("confirmed: /new.json stays in force"), "{said}");
        }
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read_to_string(&file).expect("readable"), "new");
        assert_eq!(fs::metadata(&file).expect("there").mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(directory.path().join("real.json~")).expect("readable"), "old");
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 3, "nothing else is left");
        fs::remove_file(&file).expect("removed");
        assert!(install(&confirmed("new")).expect_err("no file").contains("copy the configuration there"));
    }
}
