//! A small exhaustive model of what the design promises, over the production partition, its state, and the client
//! library's own core: within a bound, every order of everything that may happen, and not a sample of them.
//!
//! Two arbiters share one log and one request queue; one or two clients want one fenced resource. What may happen next
//! is in [`world::Action`]: any message arrives, gets lost or comes twice; any entry lands, gets lost or lands twice,
//! void or not; an arbiter is told that it is its turn while the other one still believes, and both go on taking
//! messages; a process dies; time passes. An arbiter or a client that stands still is one to which nothing happens for
//! a while, so every pause is in there. How often each fault happens is bounded, which makes a model finite: the
//! small ones are explored to their end, the others so many steps deep ([`scenario`]).
//!
//! A state is told apart from others by 64 bits of a hash over all of it: everything in both partitions and both cores,
//! the log, the queue, what is on its way. Nothing is projected away. After every step the invariants of the simulator
//! look at the records that count and at every reply and acknowledgement as it leaves, a partition is compared with the
//! log folded by itself, and beliefs with who holds.
//!
//! Two orders are taken for one only here: an arbiter reads all that has landed at once, a standby when its turn comes,
//! and takes no message before its epoch is proven; its letters to itself are in the queue at once. Messages between
//! two ends keep their order, but for second copies.
//!
//! What the model does not have: clocks whose rates differ, checkpoints, several resources or modes, policies, presence
//! on the direct transport, and promises that something happens at last. Those are the simulator's.
//!
//! `ARBITER_MODEL_DEPTH=16 cargo test -p arbiterq-tests --test exhaustive` goes so deep at least where CI does not go to
//! the end. A state that waits to be explored takes some 8 kB.

mod arbiter;
mod client;
mod kept;
mod log;
mod planted;
mod scenario;
mod world;

use scenario::{Exploration, SCENARIOS};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};
use std::io::Write;
use std::time::{Duration, Instant};
use world::{Action, World};

/// A model that has been explored.
struct Explored {
    /// Different states. Those one step beyond the depth are counted, and not looked at.
    unique: usize,
    steps: usize,
    /// How many steps from the beginning the last state is that was looked at.
    depth: usize,
    is_whole: bool,
    took: Duration,
    found: Vec<(&'static str, Path<World, Action>)>,
}

impl Explored {
    /// Promises that are broken, by their names, each with a way there.
    fn violations(&self) -> impl Iterator<Item = &(&'static str, Path<World, Action>)> {
        self.found.iter().filter(|(_, path)| path.last_state().broken.is_some())
    }
}

/// In one thread: breadth first to the step, and the same each time.
#[expect(clippy::disallowed_methods, reason = "how long it takes is printed")]
fn explore(model: Exploration, steps: Option<usize>) -> Explored {
    let began = Instant::now();
    let mut checker = model.checker().threads(1).finish_when(HasDiscoveries::AnyFailures);
    // The checker counts states, not steps, and does not look at those of its last depth.
    let limit = steps.map(|steps| steps + 2);
    if let Some(limit) = limit {
        checker = checker.target_max_depth(limit);
    }
    let checker = checker.spawn_bfs().join();
    let deepest = checker.max_depth();
    let mut found: Vec<_> = checker.discoveries().into_iter().collect();
    found.sort_unstable_by_key(|(name, _)| *name);
    let is_whole = limit.is_none_or(|limit| deepest < limit);
    Explored {
        unique: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: if is_whole { deepest - 1 } else { deepest - 2 },
        is_whole,
        took: began.elapsed(),
        found,
    }
}

fn trace(path: &Path<World, Action>) -> String {
    let actions = path.clone().into_actions();
    let lines = actions.iter().enumerate().map(|(i, action)| format!("  {}. {action:?}\n", i + 1));
    let last = path.last_state();
    format!("{}{:?}\n{last:#?}", lines.collect::<String>(), last.broken)
}

/// Not by a macro of the test harness, which would keep it to itself.
fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").unwrap();
}

#[test]
fn every_order_keeps_the_promises() {
    let asked = std::env::var("ARBITER_MODEL_DEPTH").map_or(0, |depth| depth.parse().expect("steps"));
    let (mut unique, mut took) = (0, Duration::ZERO);
    for scenario in SCENARIOS {
        let explored = explore(
            Exploration { scenario: *scenario, plant: None },
            scenario.steps.map(|steps| steps.max(asked)),
        );
        let Explored { steps, depth, is_whole, .. } = explored;
        let end = if is_whole { "to its end" } else { "so far" };
        say(&format!(
            "model: {}: {} states, {steps} steps, {depth} deep, {end}, {:.1} s",
            scenario.name,
            explored.unique,
            explored.took.as_secs_f64()
        ));
        (unique, took) = (unique + explored.unique, took + explored.took);
        if let Some((promise, path)) = explored.violations().next() {
            panic!("{}: {promise} is broken:\n{}", scenario.name, trace(path));
        }
        assert!(is_whole || scenario.steps.is_some(), "it was to be explored to its end");
        let reached = |name| explored.found.iter().any(|(found, _)| *found == name);
        let wanted = Exploration { scenario: *scenario, plant: None }.properties().into_iter();
        let missed: Vec<_> = wanted
            .filter(|property| property.expectation == Expectation::Sometimes && !reached(property.name))
            .map(|property| property.name)
            .collect();
        assert!(missed.is_empty(), "{} never reaches {missed:?}", scenario.name);
    }
    say(&format!("model: {unique} states in {:.1} s", took.as_secs_f64()));
}

/// The same model with a wrong rule finds what is wrong with it.
#[test]
fn every_planted_rule_is_caught() {
    for row in planted::ROWS {
        let explored = explore(Exploration { scenario: row.scenario, plant: Some(row.plant) }, None);
        let caught = explored.violations().find(|(promise, _)| *promise == row.breaks);
        let length = caught.map_or(0, |(_, path)| path.clone().into_actions().len());
        say(&format!(
            "model: row {} ({:?}): {} after {} states, by {length} steps, {:.1} s",
            row.number,
            row.plant,
            caught.map_or("not caught", |(promise, _)| promise),
            explored.unique,
            explored.took.as_secs_f64()
        ));
        assert!(caught.is_some(), "row {} breaks {}", row.number, row.breaks);
    }
}
