//! `knockctl spa init`: the files that signed packets need on the server, what to write into the configuration, and the URL
//! for the users.

use std::path::{Path, PathBuf};

use knock_config::{COVER_FILES_MAX, Cause, ConfigError, Spa};
use knock_spa::{Host, KnockUrl, Realm};
use serde_json::{Value, json};

use super::files::{self, KEYS_HEADER};
use super::qr;
use crate::ctl::args::SpaInit;
use crate::ctl::{EXIT_CONFIGURATION, EXIT_NOT_PERMITTED, EXIT_OTHER, Failure, print};

/// The port of the configuration where it names none.
const PORT: u16 = 62_201;

/// What there is afterwards.
struct Done {
    url: KnockUrl,
    spa: Spa,
    /// Whether the configuration had `spa` before.
    configured: bool,
    /// The files that were made.
    made: Vec<PathBuf>,
}

/// Makes what is missing, and prints what to do with it.
pub(in crate::ctl) fn init(args: &SpaInit, as_json: bool) -> Result<(), Failure> {
    let done = set_up(args)?;
    if as_json {
        let url = done.url.to_secret_text();
        let document =
            json!({ "url": *url, "spa": shown(&done.spa), "configured": done.configured, "made": done.made });
        return print(&crate::ctl::json(&document));
    }
    print(&text(&done, args))?;
    if args.qr { print(&qr::text(&done.url.to_secret_text()).map_err(other)?) } else { Ok(()) }
}

fn set_up(args: &SpaInit) -> Result<Done, Failure> {
    let configured = configured(&args.config)?;
    let host = host(args.host.as_deref())?;
    let (mut spa, configured) = match configured {
        Some(spa) => (spa, true),
        None => (new(args, &host)?, false),
    };
    if configured && (args.directory.is_some() || args.realm.as_ref().is_some_and(|realm| realm != spa.realm.as_str()))
    {
        let file = args.config.display();
        let realm = &spa.realm;
        return Err(other(format!(
            "{file} has `spa` already, with the realm {realm}, and it names the files; leave out --realm and --directory, or \
             change `spa` there"
        )));
    }
    let first = spa.ports.first().copied().unwrap_or(PORT);
    let port = args.port.map_or(first, Into::into);
    let Some(port) = spa.ports.iter().find(|known| **known == port).and_then(|port| (*port).try_into().ok()) else {
        let ports = spa.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let file = args.config.display();
        return Err(other(format!("port {port} is not one of `spa.ports` in {file}: {ports}; add it there first")));
    };
    if args.new_cover && configured {
        if spa.cover_files.len() >= COVER_FILES_MAX {
            let file = args.config.display();
            return Err(other(format!(
                "{file} has {COVER_FILES_MAX} covers, and no more are possible; delete the last of `spa.cover_files` first"
            )));
        }
        spa.cover_files.insert(0, files::unused(&spa.cover_files[0]));
    }
    let mut made = Vec::new();
    let cover = files::cover(&spa.cover_files[0], &mut made).map_err(unusable)?;
    files::make_missing(&spa.authorized_keys, KEYS_HEADER, &mut made).map_err(unusable)?;
    Ok(Done { url: KnockUrl { host, port, realm: spa.realm.clone(), cover }, spa, configured, made })
}

/// `spa` of the configuration, where there is one. One that lacks nothing but `spa` counts as one without.
fn configured(file: &Path) -> Result<Option<Spa>, Failure> {
    match knock_config::load(file) {
        Ok(loaded) => Ok(loaded.config.spa),
        Err(ConfigError::Read { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(ConfigError::Invalid { problems, omitted: 0 })
            if problems.iter().all(|problem| problem.cause == Cause::SpaMissing) =>
        {
            Ok(None)
        }
        Err(ConfigError::Read { path, error }) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Failure::new(EXIT_NOT_PERMITTED, ConfigError::Read { path, error }))
        }
        Err(error) => Err(Failure::new(EXIT_CONFIGURATION, error)),
    }
}

/// What to write into a configuration without `spa`.
fn new(args: &SpaInit, host: &Host) -> Result<Spa, Failure> {
    let realm = match &args.realm {
        Some(realm) => realm.clone(),
        None => match host {
            Host::Name(name) => name.to_lowercase(),
            Host::Address(_) => own_name().to_lowercase(),
        },
    };
    let realm: Realm = realm.parse().map_err(|error| other(format!("{error}; name it with --realm")))?;
    let config = std::path::absolute(&args.config).map_err(other)?;
    let directory = match &args.directory {
        Some(directory) => std::path::absolute(directory).map_err(other)?,
        None => config.parent().unwrap_or(Path::new("/")).to_owned(),
    };
    Ok(Spa {
        ports: vec![args.port.map_or(PORT, Into::into)],
        realm,
        authorized_keys: directory.join("authorized_keys"),
        cover_files: vec![directory.join("cover")],
        window: std::time::Duration::from_secs(60),
    })
}

/// The host for the URL: that name or address, or the name of this host.
fn host(name: Option<&str>) -> Result<Host, Failure> {
    let text = name.map_or_else(own_name, str::to_owned);
    if let Ok(address) = text.parse() {
        return Ok(Host::Address(address));
    }
    let is_useless = name.is_none() && (text == "localhost" || text.starts_with("localhost."));
    let host = Host::parse(&text).ok().filter(|_| !is_useless);
    host.ok_or_else(|| {
        let whose = if name.is_none() { ", the name of this host," } else { "" };
        other(format!("`{text:.64}`{whose} is no name or address that a client can use; write: --host NAME"))
    })
}

fn own_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The object for the configuration. The window has its default.
fn shown(spa: &Spa) -> Value {
    Value::Object(fields(spa).into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// The fields of that object, in the order in which people read them.
fn fields(spa: &Spa) -> [(&'static str, Value); 4] {
    [
        ("ports", json!(spa.ports)),
        ("realm", json!(spa.realm.as_str())),
        ("authorized_keys", json!(spa.authorized_keys)),
        ("cover_files", json!(spa.cover_files)),
    ]
}

/// What to do now.
fn text(done: &Done, args: &SpaInit) -> String {
    let Done { url, spa, configured, made } = done;
    let file = args.config.display();
    let mut text: String = made.iter().map(|file| format!("made {}\n", file.display())).collect();
    match (configured, args.new_cover) {
        (false, _) => {
            let fields = fields(spa).map(|(key, value)| format!("    \"{key}\": {value}")).join(",\n");
            text.push_str(&format!(
                "\nWrite this into {file}, beside `rules`:\n\n  \"spa\": {{\n{fields}\n  }}\n\n\
                 and \"spa\": true into each rule that signed packets may ask for.\n\n"
            ));
        }
        (true, true) => {
            let covers = json!(spa.cover_files);
            text.push_str(&format!(
                "\nWrite this into `spa` of {file}, then: knockctl reload\n\n  \"cover_files\": {covers}\n\n\
                 When all users have the new URL, delete the old cover from the list.\n\n"
            ));
        }
        (true, false) => {
            text.push_str(&format!("{file} has `spa`; this is the URL of its newest cover.\n\n"));
        }
    }
    let name = match &url.host {
        Host::Name(name) => name.split('.').next().unwrap_or_default(),
        Host::Address(_) => "server",
    };
    let (url, keys) = (url.to_secret_text(), spa.authorized_keys.display());
    text.push_str(&format!(
        "Send this SECRET to the users by a way that others cannot read. It hides their\npackets, and opens nothing:\n\n\
         {}\n\n\
         A user runs `knock-cli add {name}`, pastes the URL, and gets a line for you to write\n\
         into {keys}; then: knockctl reload\nFrom then on `knock-cli {name}` opens.\n",
        url.as_str()
    ));
    text
}

fn other(error: impl std::fmt::Display) -> Failure {
    Failure::new(EXIT_OTHER, error)
}

fn unusable(error: files::FileError) -> Failure {
    let status = if error.is_permission() { EXIT_NOT_PERMITTED } else { EXIT_OTHER };
    Failure::new(status, error)
}
