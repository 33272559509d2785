//! Network namespaces without names: nothing is left behind, however the test ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Attempt, Error, Result};

/// A network namespace that lives as long as this value.
///
/// A process that waits for the end of its standard input holds it. The input is a pipe from this process, so that
/// the namespace goes with this process even where that is killed: no name in /run/netns can be left over.
#[derive(Debug)]
pub struct Namespace {
    /// `None`: the namespace that this process was started in.
    holder: Option<Child>,
    link: File,
}

impl Namespace {
    /// A new namespace, with nothing in it but a loopback interface that is up.
    pub fn new() -> Result<Namespace> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo made; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .attempt(|| "run `unshare` (package util-linux)".to_owned())?;
        let mut made = [0; 5];
        let answered = holder.stdout.take().is_some_and(|mut out| out.read_exact(&mut made).is_ok());
        if !answered {
            let mut reason = String::new();
            if let Some(mut stderr) = holder.stderr.take() {
                let _ = stderr.read_to_string(&mut reason);
            }
            let _ = holder.wait();
            return Err(Error::NotPermitted { reason: reason.trim().to_owned() });
        }
        let link = Namespace::link(holder.id())?;
        let namespace = Namespace { holder: Some(holder), link };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The namespace that this process runs in.
    pub fn current() -> Result<Namespace> {
        Ok(Namespace { holder: None, link: Namespace::link(std::process::id())? })
    }

    fn link(pid: u32) -> Result<File> {
        let path = format!("/proc/{pid}/ns/net");
        File::open(&path).attempt(|| format!("open {path}"))
    }

    /// A process in the namespace, for `ip link … netns PID` and `nsenter --target PID --net`.
    pub fn pid(&self) -> u32 {
        self.holder.as_ref().map_or_else(std::process::id, Child::id)
    }

    /// Runs `work` inside. Sockets that it opens and processes that it starts stay there.
    ///
    /// A namespace belongs to a thread, so this is a thread of its own; a panic in `work` is passed on to the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.link.as_fd(), Some(LinkNameSpaceType::Network))
                    .attempt(|| format!("enter the network namespace of process {}", self.pid()))?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` with these arguments, a line of them for each command.
    pub fn ip(&self, lines: &str) -> Result<String> {
        self.output(Command::new("ip").args(["-batch", "-"]), lines)
    }

    /// Runs `nft -f -` on that script.
    pub fn nft(&self, script: &str) -> Result<String> {
        self.output(Command::new("nft").args(["-f", "-"]), script)
    }

    /// Runs a program to its end with `input` as its standard input; its standard output is returned.
    pub fn output(&self, command: &mut Command, input: &str) -> Result<String> {
        let shown = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.run(|| command.spawn())?.attempt(|| format!("run {shown}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that fails early closes its input; its own message says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().attempt(|| format!("wait for {shown}"))?;
        if !output.status.success() {
            return Err(Error::Command {
                command: format!("{shown} <<< {input}"),
                status: output.status,
                stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Sets a value below /proc/sys/net, for this namespace alone.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| fs::write(&path, value))?.attempt(|| format!("write {value} to {path}"))
    }
}

/// Runs a test in a namespace of its own, on a thread of its own; a panic in `test` is passed on to the caller.
///
/// # Panics
///
/// Where no namespace can be made, with what to do about it.
pub fn in_namespace(test: impl FnOnce() + Send) {
    let ran = Namespace::new().and_then(|namespace| namespace.run(test));
    ran.unwrap_or_else(|error| panic!("{error}"));
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Closing the pipe would end the holder too; killing it spares the wait for a busy machine.
        if let Some(holder) = &mut self.holder {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}
