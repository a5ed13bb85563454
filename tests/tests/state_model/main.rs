//! The state machine against a model that is too simple to be wrong in the same way.
//!
//! Random commands are decided by both; their events must be equal, and so must everything that is told. Beside the
//! model, each run checks what no rule may break (exclusion, one effect a number, rising tokens), a standby that only
//! folds, and checkpoints: now and then the state is replaced by what its checkpoint reads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;
mod play;

use play::{Op, Play, op, wild};
use proptest::prelude::*;

fn cases(default: u32) -> ProptestConfig {
    // PROPTEST_CASES asks for more; failures print what to replay.
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(default), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn decides_as_the_model(ops in prop::collection::vec(op(), 1..120)) {
        let mut play = Play::new(true);
        ops.into_iter().for_each(|op| play.run(op));
    }

    // An arbiter that takes other commands while waiters could be granted breaks a rule of the log, but the state
    // must say the truth about every log that events can make.
    #[test]
    fn decides_as_the_model_without_advancing(ops in prop::collection::vec(op(), 1..120)) {
        let mut play = Play::new(false);
        ops.into_iter().for_each(|op| play.run(op));
    }

    // Any command at any moment, any events in any order: nothing panics.
    #[test]
    fn is_total(ops in prop::collection::vec(wild(), 1..80)) {
        play::endure(ops);
    }
}

#[test]
fn the_model_can_disagree() {
    // Two exclusive claims on one resource, one of them taken for shared.
    let mut play = Play::new(true);
    play.run(Op::Open { key: 1, lease_ms: 500, fail_fast_ms: None, alice: false });
    let difference = play.decide_with_a_bug();
    assert!(difference, "a planted bug was not seen");
}
