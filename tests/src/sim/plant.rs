//! Wrong rules that were tempting, by the rows of the counterexamples, and where each is planted.

use arbiterq::planted::Planted as Inside;
use arbiterq_client::core::Planted as AtClient;

/// A wrong rule of what is around the partition: its transports, its log, its resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Around {
    /// 1: a record is proven when its publish is acknowledged.
    ProvenByConfirm,
    /// 2: everything that lands counts.
    NoChainRule,
    /// 3: a request is acknowledged when it is taken.
    AckAtOnce,
    /// 4: an offset that is the last plus one proves, whatever became of what was sent before.
    LastPlusOne,
    /// 5: void entries are remembered by their hash.
    VoidRemembered,
    /// 7: an epoch is a number.
    NoIncarnation,
    /// 17: arbiter time is the wall clock.
    WallClock,
    /// 30: stepping down cancels the consumer and keeps the channel.
    CancelConsumer,
    /// 34: the newest checkpoint is taken as it is.
    CheckpointUnproven,
    /// 37: the timer's tick does not wait for the sockets.
    TickJumpsQueue,
    /// 38: any closed connection is a death.
    AnyCloseIsDeath,
    /// 40: the resource compares with the highest token.
    HighestToken,
    /// 44: a line that does not parse is the end of a torn write.
    TornWhateverMark,
    /// 47: what was folded is trusted on a new connection.
    FoldedTrusted,
    /// 51: nobody knocks on an idle queue.
    NoNudge,
    /// 59: a tick may be as late as it likes.
    LateTick,
}

/// Where it is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// In the partition or the state.
    Arbiter(Inside),
    /// In the client library's core.
    Client(AtClient),
    /// In what is around them.
    Around(Around),
}

/// A row of the counterexamples with the mixes that are likely to show it, the likeliest first.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number.
    pub number: u32,
    /// The tempting rule, in a few words.
    pub rule: &'static str,
    /// How it is planted.
    pub plant: Plant,
    /// Mixes in which to look for it.
    pub mixes: &'static [&'static str],
}

const fn arbiter(number: u32, rule: &'static str, plant: Inside, mixes: &'static [&'static str]) -> Row {
    Row { number, rule, plant: Plant::Arbiter(plant), mixes }
}

const fn client(number: u32, rule: &'static str, plant: AtClient, mixes: &'static [&'static str]) -> Row {
    Row { number, rule, plant: Plant::Client(plant), mixes }
}

const fn around(number: u32, rule: &'static str, plant: Around, mixes: &'static [&'static str]) -> Row {
    Row { number, rule, plant: Plant::Around(plant), mixes }
}

/// Every row that is planted.
pub const ROWS: &[Row] = &[
    around(1, "reply when the publish is acknowledged", Around::ProvenByConfirm, &["zombies"]),
    around(2, "no chain rule, epochs only in memory", Around::NoChainRule, &["zombies"]),
    around(3, "acknowledge the request before proof", Around::AckAtOnce, &["zombies"]),
    around(4, "offset is the last plus one", Around::LastPlusOne, &["topic-zombies"]),
    around(5, "remember void entries by hash", Around::VoidRemembered, &["zombies"]),
    arbiter(6, "any foreign record ends an activation", Inside::ForeignEndsActivation, &["zombies"]),
    around(7, "epoch number without incarnation", Around::NoIncarnation, &["zombies"]),
    arbiter(8, "answer a repeat from speculation", Inside::RepeatFromSpeculation, &["hot"]),
    client(9, "lease from the arrival of what confirms it", AtClient::LeaseFromArrival, &["presence", "hot"]),
    client(
        10,
        "alive confirms the latest keep-alive",
        AtClient::AliveConfirmsTheLatest,
        &["presence", "hot"],
    ),
    client(11, "believe any granted", AtClient::AnyGrantedBelieved, &["hot", "presence"]),
    client(12, "a lapsed lease revived by any alive", AtClient::AnyAliveRevives, &["presence", "hot"]),
    arbiter(13, "sessions named by the client", Inside::DeadRaised, &["hot", "many"]),
    arbiter(14, "judge a tick by the clock at processing", Inside::TickAtProcessing, &["file-busy", "file"]),
    arbiter(15, "act on a deadline without the queue", Inside::DeadlineWithoutQueue, &["many"]),
    arbiter(16, "act on another activation's tick", Inside::AnyTick, &["zombies"]),
    around(17, "at from the wall clock", Around::WallClock, &["zombies"]),
    arbiter(18, "a hold limit passes the resource on at once", Inside::RevokedAtOnce, &["revocations"]),
    client(19, "revocation of an unseen grant ignored", AtClient::UnseenRevocationIgnored, &["roaming"]),
    arbiter(20, "a returned grant ends the waiter", Inside::ReturnEnds, &["presence"]),
    arbiter(21, "a returned re-sent grant is undone", Inside::ReturnUndoesAnything, &["presence"]),
    arbiter(22, "a zombie's gone acted on", Inside::AnyGone, &["presence", "zombies"]),
    arbiter(23, "an old attach after a newer one", Inside::OldAttach, &["presence", "many"]),
    client(24, "fail fast not counted by the client", AtClient::FailFastNotCounted, &["presence"]),
    arbiter(25, "keep-alives leave no trace in the log", Inside::RenewalsUnlogged, &["hot"]),
    arbiter(26, "one record grants several requests", Inside::AdvanceGrantsAll, &["many", "shared"]),
    arbiter(27, "seen numbers without outcomes", Inside::OutcomesForgotten, &["priorities", "cancels"]),
    client(28, "nothing tells a client what it holds", AtClient::HeldTellsNothing, &["hot"]),
    arbiter(29, "wait for the one tick that was sent", Inside::TickOnce, &["alone"]),
    around(30, "step down by cancelling the consumer", Around::CancelConsumer, &["zombies"]),
    arbiter(31, "a reply queue declared again by its name", Inside::GoneByName, &["presence"]),
    arbiter(32, "the client's word for the partition", Inside::AnyPartition, &["many"]),
    arbiter(33, "act on any tick or gone in the queue", Inside::AnyLetter, &["hot"]),
    around(34, "start from the newest checkpoint", Around::CheckpointUnproven, &["zombies"]),
    arbiter(35, "the release's own arbiter advances", Inside::AdvanceOnlyAfter, &["zombies", "hot"]),
    client(36, "lease from the latest open", AtClient::LatestOpenCounts, &["many"]),
    around(37, "direct: a tick does not wait for sockets", Around::TickJumpsQueue, &["file"]),
    around(38, "direct: any closed connection is a death", Around::AnyCloseIsDeath, &["file"]),
    around(40, "the resource compares with the highest token", Around::HighestToken, &["shared"]),
    arbiter(42, "a tick ends whatever is due", Inside::TickUnbounded, &["crowd"]),
    arbiter(43, "not above the highest seen is a repeat", Inside::HighestSeen, &["many"]),
    around(44, "what does not parse is a torn write", Around::TornWhateverMark, &["file"]),
    client(
        45,
        "alive without held means nothing is held",
        AtClient::AliveJudgesBeyondItsIndex,
        &["hot", "presence"],
    ),
    arbiter(46, "a repeated keep-alive renews", Inside::AnyRenewal, &["hot"]),
    around(47, "trust what was folded", Around::FoldedTrusted, &["truncated"]),
    arbiter(48, "fail fast for everybody", Inside::EverybodyFailsFast, &["presence"]),
    arbiter(49, "forget an outcome early", Inside::OutcomesDropped, &["hot"]),
    client(
        50,
        "absence of a waiter from alive says nothing",
        AtClient::AbsenceTellsNothing,
        &["topic-revocations"],
    ),
    around(51, "the first delivery tells who is active", Around::NoNudge, &["hot"]),
    arbiter(52, "grant waiters inside release", Inside::ReleaseGrants, &["hot"]),
    arbiter(53, "renewals logged without their numbers", Inside::RenewalsUnnumbered, &["zombies"]),
    arbiter(54, "a grant is undone unless named before", Inside::NamedBefore, &["presence"]),
    arbiter(55, "the address is looked up at sending", Inside::AddressAtSending, &["presence", "hot"]),
    arbiter(56, "renewals judged by this activation's last n", Inside::RenewalsOfActivation, &["zombies"]),
    arbiter(57, "a superseded activation goes on", Inside::ActivatesOnRival, &["zombies"]),
    arbiter(58, "alive released at once", Inside::AliveAtOnce, &["hot"]),
    around(59, "a late tick keeps its at", Around::LateTick, &["blocked"]),
];
