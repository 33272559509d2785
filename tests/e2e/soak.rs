//! A soak: random knocks, revocations, reloads, crashes, flushes and interfaces that come and go, from a seed. After each
//! step a model of what should be open, the kernel, the daemon's own record and the wire agree; and all the while a
//! stranger floods a port that is always guarded.

mod model;
mod tally;
mod world;

use std::time::{Duration, Instant};

use model::{Expected, Model, OWN_PORT, PORTS};
use tally::Tally;
use world::World;

/// How much more memory a daemon may take than the first one did when it began, in KiB.
const GROWTH: u64 = 16 * 1024;
/// After so many disagreements there is nothing more to learn.
const ENOUGH: usize = 5;

#[test]
fn a_short_soak_finds_model_kernel_record_and_wire_in_agreement() {
    soak(20_260_101, |tally, _| tally.steps.values().sum::<u64>() >= 80);
}

/// `scripts/soak` runs this one and says how.
#[test]
#[ignore = "it takes minutes: scripts/soak runs it"]
fn a_long_soak_finds_model_kernel_record_and_wire_in_agreement() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("SOAK_SECONDS").unwrap_or(120);
    let seed = number("SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    soak(seed, |_, elapsed| elapsed >= Duration::from_secs(seconds));
}

fn soak(seed: u64, done: impl Fn(&Tally, Duration) -> bool) {
    println!("soak: seed {seed}");
    let start = Instant::now();
    let network = crate::support::network(1);
    let mut world = World::new(&network, seed);
    let mut said = start;
    while !done(&world.tally, start.elapsed()) && world.tally.disagreements.len() < ENOUGH {
        world.step();
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            let steps: u64 = world.tally.steps.values().sum();
            println!("soak: {:.0} s, {steps} steps, {} grants", start.elapsed().as_secs_f64(), world.model.len());
        }
    }
    let tally = world.end();
    println!("{}", tally.report(start.elapsed(), seed));
    assert!(tally.disagreements.is_empty(), "{}", tally.disagreements.join("\n"));
    assert!(tally.is_steady(GROWTH), "descriptors or memory grew: {tally:?}");
}
