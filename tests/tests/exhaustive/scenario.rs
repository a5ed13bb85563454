//! Where a model begins, and how often each thing may happen in it.

use super::world::{Action, Left, Plant, World};
use stateright::{Model, Property};

/// What there is at the beginning, after the first arbiter has become active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Nobody has asked for anything.
    Idle,
    /// The first client holds; the second, if there is one, has nothing.
    Held,
    /// The first client holds and the second waits.
    Line,
}

/// A model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) clients: usize,
    pub(super) start: Start,
    pub(super) left: Left,
    /// What must be reached somewhere.
    pub(super) reaches: &'static [Reach],
    /// How deep to go in the time that CI has; to its end if absent.
    pub(super) steps: Option<usize>,
}

/// What a model is to reach, so that it says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    TakeOver,
    Void,
    Superseded,
    PassedOn,
    Expired,
    Revoking,
    Suspended,
    FencedOff,
}

/// No faults, no user, no time.
pub(super) const NOTHING: Left = Left {
    turns: 0,
    crashes: 0,
    appends_lost: 0,
    appends_doubled: 0,
    requests_lost: 0,
    requests_doubled: 0,
    replies_lost: 0,
    replies_doubled: 0,
    returns: 0,
    cuts: 0,
    quarters: 0,
    leases: 0,
    asks: 0,
    releases: 0,
    writes: 0,
    forced: 0,
};

/// All of them, those first that are explored to their end.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "one client asks, two turns",
        clients: 1,
        start: Start::Idle,
        left: Left { turns: 2, asks: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded],
        steps: None,
    },
    Scenario {
        name: "one client asks, a crash and a lost append",
        clients: 1,
        start: Start::Idle,
        left: Left { turns: 1, crashes: 1, appends_lost: 1, asks: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded],
        steps: None,
    },
    Scenario {
        name: "one client releases, everything twice",
        clients: 1,
        start: Start::Held,
        left: Left { turns: 1, requests_doubled: 1, appends_doubled: 1, releases: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded],
        steps: None,
    },
    Scenario {
        name: "one client keeps alive, everything twice",
        clients: 1,
        start: Start::Held,
        left: Left { turns: 1, requests_doubled: 1, appends_doubled: 1, quarters: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded],
        steps: None,
    },
    Scenario {
        name: "one client on a new connection",
        clients: 1,
        start: Start::Held,
        left: Left { turns: 1, cuts: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded],
        steps: None,
    },
    Scenario {
        name: "one client lapses",
        clients: 1,
        start: Start::Held,
        left: Left { turns: 1, leases: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded, Reach::Expired],
        steps: None,
    },
    Scenario {
        name: "a release, and late writes",
        clients: 2,
        start: Start::Line,
        left: Left { turns: 1, releases: 1, writes: 2, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded, Reach::PassedOn, Reach::FencedOff],
        steps: None,
    },
    Scenario {
        name: "a release, two turns and a crash",
        clients: 2,
        start: Start::Line,
        left: Left { turns: 2, crashes: 1, releases: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded, Reach::PassedOn],
        steps: None,
    },
    Scenario {
        name: "a grant comes back",
        clients: 2,
        start: Start::Line,
        left: Left { turns: 1, returns: 1, releases: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded, Reach::PassedOn, Reach::Suspended],
        steps: None,
    },
    Scenario {
        name: "an operator takes it",
        clients: 2,
        start: Start::Line,
        left: Left { turns: 1, forced: 1, writes: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded, Reach::PassedOn, Reach::Revoking],
        steps: None,
    },
    Scenario {
        name: "two clients ask at once",
        clients: 2,
        start: Start::Idle,
        left: Left { turns: 1, asks: 2, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded],
        steps: Some(18),
    },
    Scenario {
        name: "a holder is late, and a crash",
        clients: 2,
        start: Start::Line,
        left: Left { turns: 1, crashes: 1, leases: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded, Reach::PassedOn, Reach::Expired],
        steps: Some(12),
    },
    Scenario {
        name: "one client asks, messages lost and doubled",
        clients: 1,
        start: Start::Idle,
        left: Left {
            turns: 1,
            requests_lost: 1,
            replies_lost: 1,
            replies_doubled: 1,
            leases: 1,
            asks: 1,
            ..NOTHING
        },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded],
        steps: Some(12),
    },
    Scenario {
        name: "a grant comes back from an old connection",
        clients: 2,
        start: Start::Line,
        left: Left { turns: 2, returns: 1, cuts: 1, releases: 1, ..NOTHING },
        reaches: &[Reach::TakeOver, Reach::Void, Reach::Superseded, Reach::PassedOn, Reach::Suspended],
        steps: Some(10),
    },
];

/// A scenario with the rules as they are, or a wrong one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exploration {
    pub(super) scenario: Scenario,
    pub(super) plant: Option<Plant>,
}

impl Exploration {
    fn begin(&self) -> World {
        let Scenario { clients, start, left, .. } = self.scenario;
        let mut world = World::new(clients, self.plant);
        world.act(Action::Turn(0));
        world.settle();
        let asked = match start {
            Start::Idle => 0,
            Start::Held => 1,
            Start::Line => 2,
        };
        for client in 0..asked {
            world.act(Action::Ask(client));
            world.settle();
        }
        world.with(left)
    }
}

/// The promises, by the names of their invariants.
macro_rules! promises {
    ($($name:literal),*) => {
        vec![$(Property::always($name, |_: &Exploration, world: &World| !world.breaks($name))),*]
    };
}

impl Model for Exploration {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.begin()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.act(action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = promises![
            "exclusion",
            "fencing",
            "on_the_record_first",
            "once",
            "order",
            "no_early_expiry",
            "no_loss",
            "belief",
            "epochs",
            "agreement"
        ];
        if self.plant.is_none() {
            properties.extend(self.scenario.reaches.iter().map(|reach| match reach {
                Reach::TakeOver => Property::sometimes("a takeover", |_, w: &World| w.log.facts.took_over),
                Reach::Void => Property::sometimes("a void entry", |_, w: &World| w.log.facts.void),
                Reach::Superseded => {
                    Property::sometimes("an arbiter superseded", |_, w: &World| w.superseded())
                }
                Reach::PassedOn => {
                    Property::sometimes("a grant to another after a takeover", |_, w: &World| {
                        w.log.facts.passed_on
                    })
                }
                Reach::Expired => {
                    Property::sometimes("a session expired", |_, w: &World| w.log.facts.expired)
                }
                Reach::Revoking => Property::sometimes("a revocation", |_, w: &World| w.log.facts.revoking),
                Reach::Suspended => {
                    Property::sometimes("a grant undone", |_, w: &World| w.log.facts.suspended)
                }
                Reach::FencedOff => Property::sometimes("a stale write refused", |_, w: &World| w.fenced_off),
            }));
        }
        properties
    }
}
