//! `scripts/bench --client`: knock-cli beside the clients of knock and fwknop, ssh through it, and its way over bad paths.

mod ground;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use knock_testkit::{Conditions, RELAYED_V4, Relay, SERVER_V4};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Attempt, Error, Result};
use crate::report::{Goal, fixed, goal_table, table};
use ground::{GREETING, GREETING_PORT, Ground, SEQUENCE};

/// The limit for a connection from closed to its greeting: a SYN that is lost to the race takes a second.
const RACE: Duration = Duration::from_millis(500);

/// The client programs.
pub(crate) struct Programs<'a> {
    pub(crate) knock_cli: &'a Path,
    /// Those of others, left out where they are not there.
    pub(crate) knock: Option<&'a Path>,
    pub(crate) fwknop: Option<&'a Path>,
}

/// Something that was run many times.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Timed {
    pub(crate) what: String,
    pub(crate) runs: usize,
    pub(crate) median_ms: f64,
    pub(crate) longest_ms: f64,
    /// How many took longer than half a second.
    pub(crate) slow: usize,
}

/// A path that delays, reorders or loses packets.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Passage {
    pub(crate) what: String,
    pub(crate) runs: u32,
    pub(crate) opened: u32,
    /// Those that the first round of knocks opened.
    pub(crate) at_once: u32,
    pub(crate) longest_ms: f64,
}

/// All figures of the client.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) timed: Vec<Timed>,
    pub(crate) paths: Vec<Passage>,
    pub(crate) goals: Vec<Goal>,
}

impl Figures {
    /// As aligned tables.
    pub(crate) fn tables(&self) -> String {
        let timed = self.timed.iter().map(|row| {
            let (runs, slow) = (row.runs.to_string(), row.slow.to_string());
            vec![row.what.clone(), runs, fixed(Some(row.median_ms), 1), fixed(Some(row.longest_ms), 1), slow]
        });
        let paths = self.paths.iter().map(|row| {
            let [runs, opened, at_once] = [row.runs, row.opened, row.at_once].map(|count| count.to_string());
            vec![row.what.clone(), runs, at_once, opened, fixed(Some(row.longest_ms), 0)]
        });
        table(&["client", "runs", "median ms", "longest ms", "over 500 ms"], timed)
            + &table(&["path, knock-cli --wait", "runs", "opened at once", "opened", "longest ms"], paths)
            + &goal_table(&self.goals)
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

fn timed(what: impl Into<String>, mut times: Vec<Duration>) -> Timed {
    times.sort_unstable();
    Timed {
        what: what.into(),
        runs: times.len(),
        median_ms: times.get(times.len() / 2).copied().map_or(0.0, milliseconds),
        longest_ms: times.last().copied().map_or(0.0, milliseconds),
        slow: times.iter().filter(|time| **time > RACE).count(),
    }
}

/// Measures all of it.
pub(crate) fn measure(programs: &Programs<'_>, knockd: &Path, scratch: &Path, quick: bool) -> Result<Figures> {
    let many = |full: u32| if quick { full.div_ceil(50).max(5) } else { full };
    let mut ground = Ground::new(knockd, scratch)?;
    eprintln!("bench: clients");
    let mut rows = clients(programs, &ground, many(200))?;
    eprintln!("bench: from closed to the greeting");
    rows.push(timed("closed, knock-cli --proxy, greeting", greetings(programs, &ground, many(1000))?));
    eprintln!("bench: ssh");
    if ground.start_sshd()? {
        rows.extend(logins(programs, &ground, many(50))?);
    } else {
        eprintln!("bench: ssh is left out: sshd and ssh-keygen have to be installed, and sshd needs root");
    }
    let relay = Relay::between(&ground.network.server, ground.network.client(), 7)?;
    let mut paths = Vec::new();
    let ms = Duration::from_millis;
    for gap in [20, 30, 35, 40, 45] {
        eprintln!("bench: a path with jitter, {gap} ms between knocks");
        relay.set(Conditions { delay: ms(100), jitter: ms(20), loss: 0.0 });
        paths.push(path(programs, &ground, format!("100 ± 20 ms, gap {gap} ms"), &gap.to_string(), many(100))?);
    }
    eprintln!("bench: a path with loss");
    relay.set(Conditions { delay: ms(10), jitter: Duration::ZERO, loss: 0.05 });
    paths.push(path(programs, &ground, "10 ms, 5 % lost, gap 40 ms".to_owned(), "40", many(1000))?);
    let goals = goals(&rows, &paths);
    Ok(Figures { timed: rows, paths, goals })
}

/// How long each client takes to start, and to knock five times.
fn clients(programs: &Programs<'_>, ground: &Ground, runs: u32) -> Result<Vec<Timed>> {
    let host = SERVER_V4.to_string();
    let ports = SEQUENCE.map(|port| port.to_string());
    let with = |options: &[&str]| -> Vec<String> {
        options.iter().map(|option| (*option).to_owned()).chain([host.clone()]).chain(ports.clone()).collect()
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut plans = vec![
        ("knock-cli, start", programs.knock_cli, words(&["--version"])),
        ("knock-cli, five knocks, gaps of 40 ms", programs.knock_cli, with(&["-q"])),
        ("knock-cli, five knocks, no gaps", programs.knock_cli, with(&["-q", "-d", "0"])),
    ];
    if let Some(knock) = programs.knock {
        plans.push(("knock, start", knock, words(&["-V"])));
        plans.push(("knock, five knocks, gaps of 40 ms", knock, with(&["-d", "40"])));
        plans.push(("knock, five knocks, no gaps", knock, with(&[])));
    }
    if let Some(fwknop) = programs.fwknop {
        // Keys that guard nothing.
        let key = ["--key-base64-rijndael", "YmVuY2gga2V5", "--key-base64-hmac", "YmVuY2ggaG1hYw==", "--use-hmac"];
        let saved = ground.directory.join("fwknop").display().to_string();
        let packet = ["-A", "tcp/22", "-s", "-D", &host, "--no-home-dir", "--no-rc-file", "-E", &saved];
        plans.push(("fwknop, start", fwknop, words(&["-V"])));
        plans.push(("fwknop, one packet", fwknop, [words(&packet), words(&key)].concat()));
    }
    let mut rows = Vec::new();
    for (what, program, arguments) in plans {
        let times = ground.client(|| (0..runs).map(|_| run(Command::new(program).args(&arguments))).collect())?;
        rows.push(timed(what, times));
    }
    Ok(rows)
}

/// The time of a program from start to end; it must succeed.
fn run(command: &mut Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status().attempt(|| format!("run {command:?}"))?;
    let time = start.elapsed();
    if status.success() {
        return Ok(time);
    }
    Err(Error::Unexpected { origin: format!("{command:?}"), text: status.to_string(), expected: "success" })
}

/// From closed to the first bytes of the server through `--proxy`.
fn greetings(programs: &Programs<'_>, ground: &Ground, runs: u32) -> Result<Vec<Duration>> {
    let file = ground.directory.join("client.json");
    let (host, port) = (SERVER_V4.to_string(), GREETING_PORT.to_string());
    ground.client(|| {
        let once = |_| {
            ground.close()?;
            let mut command = Command::new(programs.knock_cli);
            command.arg("-c").arg(&file).args(["--proxy", &host, &port]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let start = Instant::now();
            let mut child = command.spawn().attempt(|| format!("run {command:?}"))?;
            let mut greeting = vec![0; GREETING.len()];
            let output = child.stdout.as_mut();
            let read = output.map(|output| output.read_exact(&mut greeting));
            let time = start.elapsed();
            drop(child.stdin.take());
            let _ = child.wait();
            match read {
                Some(Ok(())) if greeting == GREETING => Ok(time),
                _ => Err(Error::Unexpected {
                    origin: format!("{command:?}"),
                    text: String::from_utf8_lossy(&greeting).into_owned(),
                    expected: "the greeting",
                }),
            }
        };
        (0..runs).map(once).collect()
    })
}

/// `ssh HOST true`: without a gate's closing, through `--proxy`, and by a shell with sleep and nc.
fn logins(programs: &Programs<'_>, ground: &Ground, runs: u32) -> Result<Vec<Timed>> {
    let path = |name: &str| ground.directory.join(name).display().to_string();
    let (cli, file) = (programs.knock_cli.display(), path("client.json"));
    let proxy = format!("ProxyCommand={cli} -c {file} --proxy %h %p");
    let recipe = format!("ProxyCommand=sh -c '{cli} -q -d 20 -c {file} -r ssh -h %h && sleep 0.2 && exec nc %h %p'");
    let mut rows = Vec::new();
    for (what, option, close) in [
        ("ssh, open already", "Compression=no", false),
        ("ssh, closed, knock-cli --proxy", proxy.as_str(), true),
        ("ssh, closed, sh with gaps of 20 ms, sleep 0.2 and nc", recipe.as_str(), true),
    ] {
        let times = ground.client(|| {
            let login = || {
                let mut command = Command::new("ssh");
                command.args([
                    "-F",
                    "none",
                    "-i",
                    &path("key"),
                    "-o",
                    "StrictHostKeyChecking=no",
                    "-o",
                    "LogLevel=ERROR",
                ]);
                command.args(["-o", &format!("UserKnownHostsFile={}", path("known_hosts")), "-o", option]);
                run(command.args([&format!("root@{SERVER_V4}"), "true"]))
            };
            if !close {
                run(Command::new(programs.knock_cli).args([
                    "-q",
                    "-c",
                    &file,
                    "-r",
                    "ssh",
                    "-h",
                    &SERVER_V4.to_string(),
                ]))?;
                login()?;
            }
            let once = |_| {
                if close {
                    ground.close()?;
                }
                login()
            };
            (0..runs).map(once).collect()
        })?;
        rows.push(timed(what, times));
    }
    Ok(rows)
}

/// `--wait` over the relay, from closed each time.
fn path(programs: &Programs<'_>, ground: &Ground, what: String, gap: &str, runs: u32) -> Result<Passage> {
    let (host, port) = (RELAYED_V4.to_string(), GREETING_PORT.to_string());
    let file = ground.directory.join("client.json");
    let mut row = Passage { what, runs, opened: 0, at_once: 0, longest_ms: 0.0 };
    ground.client(|| {
        for _ in 0..runs {
            ground.close()?;
            let mut command = Command::new(programs.knock_cli);
            command.arg("-c").arg(&file).args(["--json", "-d", gap, "--wait", &port, "-r", "ssh", "-h", &host]);
            let output = command.output().attempt(|| format!("run {command:?}"))?;
            let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if document["result"] == "open" {
                row.opened += 1;
                row.at_once += u32::from(document["knocked"] == 1);
                row.longest_ms = row.longest_ms.max(document["milliseconds"].as_f64().unwrap_or_default());
            }
        }
        Ok(row)
    })
}

fn goals(rows: &[Timed], paths: &[Passage]) -> Vec<Goal> {
    let median = |what: &str| rows.iter().find(|row| row.what == what).map(|row| row.median_ms);
    let gaps = 160.0;
    let mut goals = vec![
        Goal::new("ms to start knock-cli", median("knock-cli, start"), 2.0),
        Goal::new(
            "ms of five knocks beside the gaps",
            median("knock-cli, five knocks, gaps of 40 ms").map(|ms| ms - gaps),
            5.0,
        ),
    ];
    let ssh = median("ssh, closed, knock-cli --proxy").zip(median("ssh, open already"));
    if ssh.is_some() {
        goals.push(Goal::new(
            "ms of ssh by --proxy beside ssh and the gaps",
            ssh.map(|(by, plain)| by - plain - gaps),
            15.0,
        ));
    }
    let greeting = rows.iter().find(|row| row.what.contains("greeting"));
    #[expect(clippy::cast_precision_loss, reason = "some thousands at most")]
    let slow = greeting.map(|row| row.slow as f64);
    goals.push(Goal::new("greetings that took over 500 ms", slow, 0.0));
    let share = |row: &Passage, good: u32| (1.0 - f64::from(good) / f64::from(row.runs)) * 100.0;
    for row in paths.iter().filter(|row| row.what.contains("gap 40 ms")) {
        let lossy = row.what.contains("lost");
        let (what, good, most) = if lossy { ("never", row.opened, 0.1) } else { ("not at once", row.at_once, 1.0) };
        goals.push(Goal::new(format!("% that opened {what}: {}", row.what), Some(share(row, good)), most));
    }
    goals
}
