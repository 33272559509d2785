//! A connection to a Valkey or Redis server: TCP, TLS, and the user. Each answer has a time by which it is there.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use knock_fleet::link::{Settings, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::problem::{Problem, StoreError};
use crate::resp::{self, Answer, Command, RespError};

/// How long the store has to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);
/// The most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// The longest file of a password.
const PASSWORD_MAX: u64 = 1024;
/// The longest file of certificates.
const CERTIFICATES_MAX: u64 = 1 << 20;

/// A connection whose reads and writes end at a time.
struct Timed {
    tcp: TcpStream,
    due: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.due.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(self.left()?))?;
        self.tcp.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(self.left()?))?;
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

enum Stream {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Stream {
    fn timed(&mut self) -> &mut Timed {
        match self {
            Stream::Plain(timed) => timed,
            Stream::Tls(stream) => &mut stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(timed) => timed.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(timed) => timed.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(timed) => timed.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// A connection to a server.
pub(crate) struct Connection {
    stream: BufReader<Stream>,
    server: String,
}

impl Connection {
    /// Connects to `host:port`, over TLS where the settings say so. Nothing has been said yet.
    pub(crate) fn open(settings: &Settings, server: &str) -> Result<Connection, StoreError> {
        let at = |problem| StoreError { server: server.to_owned(), problem };
        let (host, addresses) = addresses(server).map_err(at)?;
        let tcp = dial(&addresses).map_err(|error| at(Problem::Connect(error)))?;
        tcp.set_nodelay(true).map_err(|error| at(Problem::Broken(error)))?;
        let timed = Timed { tcp, due: Instant::now() + TIMEOUT };
        let stream = match &settings.tls {
            None => Stream::Plain(timed),
            Some(tls) => Stream::Tls(Box::new(encrypt(tls, host, timed).map_err(at)?)),
        };
        Ok(Connection { stream: BufReader::new(stream), server: server.to_owned() })
    }

    /// Says who this is, if the settings have a user or a password.
    pub(crate) fn log_in(&mut self, settings: &Settings) -> Result<(), StoreError> {
        if settings.user.is_none() && settings.password_file.is_none() {
            return Ok(());
        }
        let password = password(settings).map_err(|problem| self.error(problem))?;
        // Without a password: a user that needs none.
        let user = settings.user.as_deref().unwrap_or("default");
        let command = Command::new("AUTH").arg(user).arg(password.as_bytes());
        match self.ask_all(&[&command], TIMEOUT)?.pop() {
            Some(Answer::Text(_)) => Ok(()),
            Some(Answer::Error(text)) if is_before_login(&text) => {
                Err(self.error(Problem::Refused { command: command.name, text }))
            }
            // Not what the server says: it may be the password.
            Some(Answer::Error(text)) => Err(self.error(Problem::Login(code(&text)))),
            _ => Err(self.error(Problem::Answer("AUTH"))),
        }
    }

    /// Sends commands and reads as many answers.
    pub(crate) fn ask_all(&mut self, commands: &[&Command], within: Duration) -> Result<Vec<Answer>, StoreError> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| command.encode_into(&mut bytes));
        self.stream.get_mut().timed().due = Instant::now() + within;
        let asked = self.stream.get_mut().write_all(&bytes).and_then(|()| self.stream.get_mut().flush());
        let answers = asked
            .map_err(RespError::from)
            .and_then(|()| commands.iter().map(|_| resp::read(&mut self.stream)).collect::<Result<Vec<_>, _>>());
        answers.map_err(|error| {
            self.error(match error {
                RespError::Io(error) if is_timeout(&error) => Problem::Silent(within),
                RespError::Io(error) => Problem::Broken(error),
                other => Problem::Foreign(other),
            })
        })
    }

    /// Sends a command that is not refused.
    pub(crate) fn ask(&mut self, command: &Command, within: Duration) -> Result<Answer, StoreError> {
        match self.ask_all(&[command], within)?.pop() {
            Some(Answer::Error(text)) => Err(self.error(Problem::Refused { command: command.name, text })),
            Some(answer) => Ok(answer),
            None => Err(self.error(Problem::Answer(command.name))),
        }
    }

    pub(crate) fn error(&self, problem: Problem) -> StoreError {
        StoreError { server: self.server.clone(), problem }
    }
}

/// The host of `host:port`, and its addresses.
fn addresses(server: &str) -> Result<(&str, Vec<SocketAddr>), Problem> {
    let (host, port) = server.rsplit_once(':').ok_or(Problem::NoServer)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port: u16 = port.parse().map_err(|_| Problem::NoServer)?;
    let addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(Problem::Name)?.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        return Err(Problem::Name(io::ErrorKind::NotFound.into()));
    }
    Ok((host, addresses))
}

/// The first address that accepts.
fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect_timeout(address, TIMEOUT) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes sure that it is the server of that name, and encrypts.
fn encrypt(tls: &Tls, host: &str, timed: Timed) -> Result<StreamOwned<ClientConnection, Timed>, Problem> {
    let config = ClientConfig::builder().with_root_certificates(authorities(tls)?).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Problem::NoServer)?;
    let connection =
        ClientConnection::new(Arc::new(config), name).map_err(|error| Problem::Tls(io::Error::other(error)))?;
    let mut stream = StreamOwned::new(connection, timed);
    // Before anything is said.
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|error| match is_timeout(&error) {
            true => Problem::Silent(TIMEOUT),
            false => Problem::Tls(error),
        })?;
    }
    Ok(stream)
}

fn authorities(tls: &Tls) -> Result<RootCertStore, Problem> {
    const WHAT: &str = "certificates of the authority";
    let mut authorities = RootCertStore::empty();
    let Some(path) = &tls.ca else {
        // A broken one among those of the system is none of ours.
        authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if authorities.is_empty() { Err(Problem::NoAuthority) } else { Ok(authorities) };
    };
    let file = |error| Problem::File { path: path.clone(), what: WHAT, error };
    let bytes = read(path, CERTIFICATES_MAX).map_err(file)?;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| file(io::Error::other(error)))?;
        authorities.add(certificate).map_err(|error| file(io::Error::other(error)))?;
    }
    if authorities.is_empty() { Err(Problem::Empty { path: path.clone(), what: WHAT }) } else { Ok(authorities) }
}

/// The password of the user: the first line of its file; empty without a file.
pub(crate) fn password(settings: &Settings) -> Result<String, Problem> {
    const WHAT: &str = "password";
    let Some(path) = &settings.password_file else { return Ok(String::new()) };
    let file = |error| Problem::File { path: path.clone(), what: WHAT, error };
    let bytes = read(path, PASSWORD_MAX).map_err(file)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| file(io::ErrorKind::InvalidData.into()))?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        return Err(Problem::Empty { path: path.clone(), what: WHAT });
    }
    Ok(password.to_owned())
}

/// The content of a file that is no longer than that.
fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Whether a server says that to everybody, whatever the password.
fn is_before_login(text: &str) -> bool {
    ["ERR max number of clients", "DENIED ", "LOADING "].iter().any(|start| text.starts_with(start))
}

/// The first word of an error of the server, which names its kind.
pub(crate) fn code(text: &str) -> String {
    text.chars().take_while(char::is_ascii_uppercase).take(16).collect()
}
