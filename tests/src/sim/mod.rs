//! The simulator: production partitions, the production client core, a broker's queue, a log store and a fenced
//! resource in one thread, under virtual time, from one seed.
//!
//! [`run`] makes one history. While faults go on, every promise of [`crate::invariants`] is checked on every record,
//! reply, write and belief; then everybody is well, and what was asked must be decided; then all clients die, and what
//! they left must go. A history in which too little happened fails as vacuous. The same [`Setup`] gives the same
//! history, to the byte.
//!
//! - `world`: the clock, the heap of events, what moves.
//! - `arbiter`: the loop around a partition, as the service's. `reading`: what it hears of its log.
//! - `store`: where records land, and what proves them.
//! - `queue`: the request queue. `wires`: what is under way to it and from it.
//! - `client`: the driver around a client core, and the user behind it.
//! - `faults`: what goes wrong, and the end of it.
//! - `mix`: which runs there are. `plant`: the wrong rules that can be planted.

mod arbiter;
mod client;
pub mod command;
mod dice;
mod faults;
pub mod mix;
pub mod plant;
mod queue;
mod reading;
mod store;
mod trail;
mod wires;
mod world;

use crate::invariants::Violation;
use mix::{MIXES, Mix};
use plant::Plant;
use world::World;

/// What makes a run.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Everything follows from it.
    pub seed: u64,
    /// Of which kind.
    pub mix: Mix,
    /// A wrong rule, if one is planted.
    pub plant: Option<Plant>,
}

impl Setup {
    /// The run of a seed, in its own mix.
    pub fn of_seed(seed: u64) -> Self {
        Self { seed, mix: MIXES[(seed % MIXES.len() as u64) as usize], plant: None }
    }
}

/// What happened, in numbers.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Messages that an active arbiter decided or answered.
    pub decided: u64,
    /// Records that count.
    pub records: u64,
    /// Entries that do not.
    pub void: u64,
    /// Grants in the log.
    pub grants: u64,
    /// Grants that a client believed in.
    pub believed: u64,
    /// Writes that a resource took, and that it refused.
    pub writes: (u64, u64),
    /// Epochs.
    pub epochs: u64,
    /// Sessions that expired.
    pub expired: u64,
    /// Grants that came back and were undone.
    pub suspended: u64,
    /// Faults, by kind.
    pub faults: std::collections::BTreeMap<mix::Fault, u64>,
    /// What came by itself, by kind: how often it was to be expected, in millionths, and how often it came.
    pub noise: std::collections::BTreeMap<mix::Came, (u64, u64)>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// What made it.
    pub setup: Setup,
    /// Simulated time.
    pub micros: u64,
    /// What happened.
    pub stats: Stats,
    /// The first broken promise, if any.
    pub violation: Option<Violation>,
    /// What was promised to happen and did not.
    pub vacuous: Option<String>,
    /// What happened last, if it was kept.
    pub trail: Vec<String>,
}

/// Makes one history.
pub fn run(setup: Setup) -> Run {
    World::new(setup, false, setup.plant.is_none()).run()
}

/// The same, and keeps the trail.
pub fn run_with_trail(setup: Setup) -> Run {
    World::new(setup, true, setup.plant.is_none()).run()
}

/// One history with a wrong rule, and its log decided again by the right ones instead of verified.
pub fn run_replayed(setup: Setup) -> Run {
    World::new(setup, false, true).run()
}
