//! Runs the client, and listens for it.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

pub(crate) mod ssh;

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

pub(crate) fn run(arguments: &[&str]) -> Output {
    run_in(Path::new("/"), arguments)
}

pub(crate) fn run_in(directory: &Path, arguments: &[&str]) -> Output {
    client(Path::new(env!("CARGO_BIN_EXE_knock-cli")), directory)
        .args(arguments)
        .output()
        .expect("the client can be run")
}

/// The client, without a file of the user who runs this test.
pub(crate) fn client(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(directory)
        .env_remove("KNOCK_CONFIG")
        .env_remove("SSH_AUTH_SOCK")
        .env("XDG_CONFIG_HOME", "/nonexistent");
    command
}

/// The standard error and the status of a run that fails.
pub(crate) fn failure(directory: &Path, arguments: &[&str]) -> (String, Option<i32>) {
    let output = run_in(directory, arguments);
    assert_eq!(stdout(&output), "", "{arguments:?}");
    (stderr(&output), output.status.code())
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory with that `config.json`.
pub(crate) fn with_config(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write(&directory.path().join("config.json"), text);
    directory
}

/// Writes a file that only its owner can read.
pub(crate) fn write(path: &Path, text: &str) {
    let mut file = std::fs::File::options();
    let file = file.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the file is written");
}

pub(crate) fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.set_nonblocking(true).expect("a listener can be non-blocking");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

pub(crate) fn udp() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout above zero");
    let port = socket.local_addr().expect("it is bound").port();
    (socket, port)
}

/// A closed TCP port of loopback.
pub(crate) fn closed_port() -> u16 {
    listener().1
}

/// The number of accepted connections. The handshake over loopback is complete before the client ends.
pub(crate) fn connections(listener: &TcpListener) -> usize {
    let mut count = 0;
    loop {
        match listener.accept() {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs a command to its end with that standard input.
pub(crate) fn with_input(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the client can be run");
    let mut stdin = child.stdin.take().expect("the pipe asked for");
    // A client that refuses its arguments does not read.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// The program as Cargo built it.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_knock-cli"))
}
