//! Wrong rules that were tempting, and the smallest world in which each is found.

use super::scenario::{NOTHING, Scenario, Start};
use super::world::{Left, Plant};
use arbiterq::planted::Planted as Inside;
use arbiterq_client::core::Planted as AtClient;

/// A wrong rule.
pub(super) struct Row {
    /// Its number in the list of counterexamples.
    pub(super) number: u32,
    pub(super) plant: Plant,
    /// The promise that it breaks.
    pub(super) breaks: &'static str,
    pub(super) scenario: Scenario,
}

const fn row(number: u32, plant: Plant, breaks: &'static str, world: (usize, Start, Left)) -> Row {
    let (clients, start, left) = world;
    let scenario = Scenario { name: "a wrong rule", clients, start, left, reaches: &[], steps: None };
    Row { number, plant, breaks, scenario }
}

const fn inside(planted: Inside) -> Plant {
    Plant::Arbiter(planted)
}

const fn at_client(planted: AtClient) -> Plant {
    Plant::Client(planted)
}

/// One arbiter takes over from the other once.
const TURN: Left = Left { turns: 1, ..NOTHING };

/// Those that this model can show. The simulator shows all.
pub(super) const ROWS: &[Row] = &[
    row(6, inside(Inside::ForeignEndsActivation), "epochs", (1, Start::Idle, Left { asks: 1, ..TURN })),
    row(
        8,
        inside(Inside::RepeatFromSpeculation),
        "on_the_record_first",
        (1, Start::Idle, Left { asks: 1, requests_doubled: 1, ..TURN }),
    ),
    row(
        11,
        at_client(AtClient::AnyGrantedBelieved),
        "belief",
        (2, Start::Line, Left { releases: 1, leases: 1, ..TURN }),
    ),
    row(
        12,
        at_client(AtClient::AnyAliveRevives),
        "belief",
        (1, Start::Held, Left { quarters: 1, leases: 1, ..TURN }),
    ),
    row(
        13,
        inside(Inside::DeadRaised),
        "once",
        (1, Start::Idle, Left { asks: 1, requests_doubled: 1, leases: 1, ..TURN }),
    ),
    row(
        14,
        inside(Inside::TickAtProcessing),
        "no_early_expiry",
        (1, Start::Held, Left { quarters: 2, leases: 1, ..TURN }),
    ),
    row(
        15,
        inside(Inside::DeadlineWithoutQueue),
        "no_early_expiry",
        (1, Start::Held, Left { quarters: 1, leases: 1, ..TURN }),
    ),
    row(
        16,
        inside(Inside::AnyTick),
        "no_early_expiry",
        (1, Start::Held, Left { quarters: 1, leases: 1, ..TURN }),
    ),
    row(18, inside(Inside::RevokedAtOnce), "belief", (2, Start::Line, Left { forced: 1, ..TURN })),
    row(
        20,
        inside(Inside::ReturnEnds),
        "no_loss",
        (2, Start::Line, Left { releases: 1, returns: 1, ..TURN }),
    ),
    row(
        23,
        inside(Inside::OldAttach),
        "once",
        (1, Start::Held, Left { cuts: 2, requests_doubled: 1, ..TURN }),
    ),
    row(25, inside(Inside::RenewalsUnlogged), "agreement", (1, Start::Held, Left { quarters: 2, ..TURN })),
    row(
        35,
        inside(Inside::AdvanceOnlyAfter),
        "order",
        (2, Start::Line, Left { releases: 1, quarters: 1, ..TURN }),
    ),
    row(
        46,
        inside(Inside::AnyRenewal),
        "once",
        (1, Start::Held, Left { quarters: 2, requests_doubled: 1, ..TURN }),
    ),
    row(
        49,
        inside(Inside::OutcomesDropped),
        "once",
        (1, Start::Idle, Left { asks: 1, releases: 1, requests_doubled: 1, ..TURN }),
    ),
    row(52, inside(Inside::ReleaseGrants), "fencing", (2, Start::Line, Left { releases: 1, ..TURN })),
    row(
        55,
        inside(Inside::AddressAtSending),
        "on_the_record_first",
        (1, Start::Held, Left { cuts: 1, quarters: 1, ..NOTHING }),
    ),
    row(
        57,
        inside(Inside::ActivatesOnRival),
        "epochs",
        (1, Start::Held, Left { turns: 2, crashes: 1, ..NOTHING }),
    ),
    row(
        58,
        inside(Inside::AliveAtOnce),
        "on_the_record_first",
        (1, Start::Held, Left { quarters: 1, ..TURN }),
    ),
];
