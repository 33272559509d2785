//! Scans of every port against every configuration that the repository shows.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knock_config::{Allow, Config, Trigger};
use knock_proto::{Engine, Identity, Knock, Packet, Rule, Settings, Time};

/// The sample and the examples.
fn configurations() -> Vec<(PathBuf, Config)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let examples = std::fs::read_dir(root.join("examples")).expect("there are examples");
    let examples = examples.map(|entry| entry.expect("examples can be listed").path());
    let mut paths: Vec<PathBuf> = examples.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    paths.sort();
    paths.push(root.join("config.json"));
    // The example for the client has no rules of a daemon.
    let loaded =
        paths.into_iter().filter_map(|path| knock_config::load(&path).ok().map(|loaded| (path, loaded.config)));
    loaded.collect()
}

/// An engine with the rules of `config` but without one-time sequences: their files are not in the repository.
fn engine(config: &Config) -> Engine {
    let rule = |rule: &knock_config::Rule| Rule {
        id: rule.name.clone(),
        sequence: match &rule.trigger {
            Some(Trigger::Sequence(sequence)) => sequence.clone(),
            Some(Trigger::OneTime(_)) | None => Vec::new(),
        },
        timeout: rule.timeout,
        tcp_flags: rule.tcp_flags,
        targets: rule.targets.clone(),
    };
    let guarded = |rule: &knock_config::Rule| match &rule.allow {
        Some(Allow::Ports { ports, .. }) => ports.clone(),
        Some(Allow::Sets { .. }) | None => Vec::new(),
    };
    let settings = Settings {
        sources: config.limits.sources,
        tripwires: config.tripwires,
        guarded: config.rules.iter().flat_map(guarded).collect(),
    };
    Engine::new(config.rules.iter().map(rule).collect(), &settings)
}

/// Scans each configuration with packets to `ports`, a microsecond apart: too fast for a timeout to stop it.
fn assert_opens_nothing(ports: &[Knock], what: &str) {
    let configurations = configurations();
    assert!(configurations.len() > 5, "the examples were not found");
    for (path, config) in configurations {
        let mut engine = engine(&config);
        let targets = config.rules.iter().flat_map(|rule| rule.targets.clone());
        for destination in targets.chain([IpAddr::from([198, 51, 100, 1])]) {
            let mut now = Time::from_millis(1);
            let mut completions = Vec::new();
            for (&knock, number) in ports.iter().zip(0..) {
                now = now.after(Duration::from_micros(1));
                let identity = Identity { source_port: 40_000, number };
                let source = IpAddr::from([192, 0, 2, 7]);
                let packet = Packet { source, destination, knock, tcp_flags: 2, identity };
                engine.handle(now, &packet, true, &mut completions);
                assert_eq!(completions, [], "{what} scan, {}", path.display());
            }
        }
    }
}

fn all(knock: fn(u16) -> Knock) -> Vec<Knock> {
    (1..=u16::MAX).map(knock).collect()
}

/// In an order that is the same for the same `seed`: Fisher and Yates with SplitMix64.
fn shuffled(mut ports: Vec<Knock>, seed: u64) -> Vec<Knock> {
    let mut state = seed;
    for last in (1..ports.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let other = usize::try_from((z ^ (z >> 31)) % (last as u64 + 1)).expect("below the length");
        ports.swap(last, other);
    }
    ports
}

#[test]
fn no_scan_in_order_opens_anything_twice_in_a_row() {
    let (tcp, udp) = (all(Knock::tcp), all(Knock::udp));
    let ascending = [tcp, udp].concat();
    let descending: Vec<Knock> = ascending.iter().rev().copied().collect();
    assert_opens_nothing(&[ascending.clone(), ascending].concat(), "ascending");
    assert_opens_nothing(&[descending.clone(), descending].concat(), "descending");
}

#[test]
fn no_random_scan_of_these_opens_anything() {
    for seed in 1..=5 {
        assert_opens_nothing(&shuffled(all(Knock::tcp), seed), "TCP");
        assert_opens_nothing(&shuffled([all(Knock::tcp), all(Knock::udp)].concat(), seed), "TCP and UDP");
    }
}
