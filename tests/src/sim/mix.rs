//! What a run is made of: a transport with its log store, a workload, and which faults come how often.

/// Milliseconds, in the microseconds that everything here counts in.
pub const MS: u64 = 1_000;
/// Seconds.
pub const SECOND: u64 = 1_000_000;

/// How requests travel and where records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// A queue with acknowledgements and returned replies; a log that is proven by reading it back.
    Stream,
    /// A queue with positions that are in the log; a log that is proven by contiguous offsets.
    Topic,
    /// Sockets of one arbiter, whose ends are seen; a file that is proven by its sync.
    File,
}

/// What clients ask for. Each weight is against the others'.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Client programs.
    pub clients: u64,
    /// Resources of the plain kind.
    pub resources: u64,
    /// Between two requests of a client.
    pub think: u64,
    /// How long a grant is used.
    pub hold: u64,
    /// Requests that a client has at once.
    pub at_once: usize,
    /// The most claims in a request.
    pub claims: u64,
    /// Of a hundred claims, so many are shared.
    pub shared: u64,
    /// Of a hundred requests, so many are for permits.
    pub permits: u64,
    /// Of a hundred requests, so many are withdrawn soon.
    pub cancel: u64,
    /// Of a hundred requests, so many have a limit on their hold.
    pub hold_max: u64,
    /// Of a hundred requests, so many have a priority.
    pub priority: u64,
    /// Of a hundred requests, so many have a limit on their wait.
    pub wait: u64,
    /// Of a hundred requests, so many only try.
    pub tries: u64,
    /// Of a hundred grants, so many are taken away by an operator.
    pub forced: u64,
    /// Of a hundred clients, so many ask to fail fast.
    pub fail_fast: u64,
    /// The lease that clients ask for.
    pub lease: u64,
}

/// A kind of fault that is decided on from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// An arbiter's process ends and is started again.
    ArbiterCrash,
    /// An arbiter's process stands still for a while.
    ArbiterPause,
    /// A client's process ends, and another is started.
    ClientCrash,
    /// A client's process stands still; its clock goes on.
    ClientPause,
    /// A client's connection ends, and with it what was under way.
    Cut,
    /// A client makes another connection beside one that has become slow, and hears both for a while.
    Roam,
    /// A reply queue is gone and its client has not noticed.
    Vanish,
    /// The queue goes to another consumer, and the one before does not know yet.
    Steal,
    /// All connections and reply queues end at once.
    BrokerRestart,
    /// An arbiter's wall clock is set.
    ClockJump,
    /// Nothing gets into the request queue for a while.
    Block,
    /// An arbiter's next appends are lost.
    LoseAppends,
    /// The file says an error; the process ends.
    IoError,
    /// The process ends, and the last line that was synced is damaged.
    Rot,
    /// A client hears late, and then stands still, perhaps without its reply queue.
    Stop,
    /// The broker loses what it had confirmed.
    Truncate,
}

/// What comes by itself, one in so many; 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noise {
    /// A request is lost.
    pub lose: u64,
    /// A request arrives twice.
    pub double: u64,
    /// A request is late, and with it what its connection sends after it.
    pub late: u64,
    /// A reply is late, and with it what comes after it.
    pub reply_late: u64,
    /// A reply arrives twice.
    pub reply_double: u64,
    /// A reply comes back although somebody is there.
    pub false_return: u64,
    /// An entry lands twice.
    pub append_double: u64,
    /// An entry is lost.
    pub append_lose: u64,
    /// An entry is late, or its report.
    pub append_late: u64,
    /// A letter of the arbiter to itself is lost.
    pub letter_lose: u64,
    /// A letter of the arbiter to itself is late.
    pub letter_late: u64,
    /// An arbiter stands still just when it has sent a tick.
    pub stall: u64,
    /// A letter that nobody sent arrives with a request.
    pub forge: u64,
}

/// Which of them came; see [`Noise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Came {
    Lose,
    Double,
    Late,
    ReplyLate,
    ReplyDouble,
    FalseReturn,
    AppendDouble,
    AppendLose,
    AppendLate,
    LetterLose,
    LetterLate,
    Stall,
    Forge,
}

/// A named kind of run.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Its name.
    pub name: &'static str,
    /// Queue and log.
    pub store: Store,
    /// Arbiters that run.
    pub arbiters: u64,
    /// What clients do.
    pub work: Work,
    /// Faults, each with its weight.
    pub faults: &'static [(Fault, u64)],
    /// Between two faults.
    pub every: u64,
    /// What comes by itself.
    pub noise: Noise,
    /// How long faults go on.
    pub length: u64,
    /// Grants below which a run says nothing.
    pub grants_min: u64,
}

const WORK: Work = Work {
    clients: 8,
    resources: 4,
    think: 60 * MS,
    hold: 20 * MS,
    at_once: 3,
    claims: 1,
    shared: 0,
    permits: 0,
    cancel: 3,
    hold_max: 0,
    priority: 0,
    wait: 5,
    tries: 5,
    forced: 0,
    fail_fast: 0,
    lease: 4 * SECOND,
};

const NOISE: Noise = Noise {
    lose: 300,
    double: 150,
    late: 400,
    reply_late: 400,
    reply_double: 150,
    false_return: 400,
    append_double: 100,
    append_lose: 3000,
    append_late: 300,
    letter_lose: 20,
    letter_late: 30,
    stall: 0,
    forge: 300,
};

const CALM: Noise = Noise {
    lose: 0,
    double: 0,
    late: 0,
    reply_late: 0,
    reply_double: 0,
    false_return: 0,
    append_double: 0,
    append_lose: 0,
    append_late: 0,
    letter_lose: 0,
    letter_late: 0,
    stall: 0,
    forge: 0,
};

const BROKER: &[(Fault, u64)] = &[
    (Fault::ArbiterCrash, 3),
    (Fault::ArbiterPause, 4),
    (Fault::ClientCrash, 3),
    (Fault::ClientPause, 5),
    (Fault::Cut, 5),
    (Fault::Vanish, 3),
    (Fault::Roam, 2),
    (Fault::Steal, 4),
    (Fault::BrokerRestart, 1),
    (Fault::ClockJump, 2),
    (Fault::LoseAppends, 1),
    (Fault::Stop, 4),
];

const PARTITIONED: &[(Fault, u64)] = &[
    (Fault::ArbiterCrash, 3),
    (Fault::ArbiterPause, 4),
    (Fault::ClientCrash, 3),
    (Fault::ClientPause, 5),
    (Fault::Cut, 5),
    (Fault::Steal, 4),
    (Fault::ClockJump, 2),
    (Fault::LoseAppends, 2),
    (Fault::Stop, 4),
];

const ALONE: &[(Fault, u64)] = &[
    (Fault::ArbiterCrash, 3),
    (Fault::ArbiterPause, 4),
    (Fault::ClientCrash, 4),
    (Fault::ClientPause, 5),
    (Fault::Cut, 5),
    (Fault::Roam, 2),
    (Fault::ClockJump, 2),
    (Fault::IoError, 1),
    (Fault::Rot, 1),
    (Fault::Stop, 2),
];

const BASE: Mix = Mix {
    name: "",
    store: Store::Stream,
    arbiters: 2,
    work: WORK,
    faults: BROKER,
    every: 2 * SECOND,
    noise: NOISE,
    length: 90 * SECOND,
    grants_min: 150,
};

/// Every mix. A run without a named one takes the one of its seed.
pub const MIXES: &[Mix] = &[
    Mix { name: "calm", arbiters: 1, faults: &[], noise: CALM, work: Work { clients: 2, ..WORK }, ..BASE },
    Mix { name: "hot", work: Work { resources: 1, hold: 6 * MS, clients: 10, ..WORK }, ..BASE },
    Mix { name: "many", work: Work { resources: 60, clients: 20, think: 40 * MS, ..WORK }, ..BASE },
    Mix {
        name: "claims",
        store: Store::Topic,
        work: Work { resources: 6, claims: 4, ..WORK },
        faults: PARTITIONED,
        ..BASE
    },
    Mix { name: "shared", work: Work { shared: 60, resources: 2, hold: 40 * MS, ..WORK }, ..BASE },
    Mix {
        name: "permits",
        store: Store::Topic,
        work: Work { permits: 60, shared: 10, claims: 2, ..WORK },
        faults: PARTITIONED,
        ..BASE
    },
    Mix {
        name: "cancels",
        work: Work { cancel: 60, resources: 2, at_once: 8, think: 30 * MS, ..WORK },
        ..BASE
    },
    Mix {
        name: "revocations",
        work: Work { hold_max: 40, forced: 15, hold: 250 * MS, think: 200 * MS, ..WORK },
        ..BASE
    },
    Mix {
        name: "roaming",
        work: Work { resources: 24, hold_max: 90, forced: 15, hold: 400 * MS, think: 80 * MS, ..WORK },
        faults: &[(Fault::Roam, 8), (Fault::Cut, 2), (Fault::ClientPause, 2), (Fault::ArbiterPause, 1)],
        every: SECOND / 4,
        ..BASE
    },
    Mix {
        name: "priorities",
        store: Store::Topic,
        work: Work { priority: 50, wait: 30, tries: 20, claims: 2, resources: 3, ..WORK },
        faults: PARTITIONED,
        ..BASE
    },
    Mix {
        name: "zombies",
        arbiters: 3,
        faults: &[
            (Fault::ArbiterPause, 5),
            (Fault::Steal, 6),
            (Fault::ClientPause, 2),
            (Fault::ArbiterCrash, 2),
            (Fault::ClockJump, 2),
            (Fault::Cut, 2),
        ],
        every: SECOND,
        ..BASE
    },
    Mix {
        name: "presence",
        work: Work { fail_fast: 40, resources: 2, hold: 60 * MS, ..WORK },
        faults: &[
            (Fault::Vanish, 6),
            (Fault::Stop, 6),
            (Fault::Cut, 6),
            (Fault::ClientCrash, 4),
            (Fault::ClientPause, 3),
            (Fault::BrokerRestart, 1),
            (Fault::ArbiterCrash, 1),
        ],
        noise: Noise { false_return: 40, reply_late: 100, letter_late: 6, ..NOISE },
        every: SECOND / 2,
        ..BASE
    },
    Mix { name: "file", store: Store::File, arbiters: 1, faults: ALONE, every: SECOND, ..BASE },
    Mix {
        name: "file-busy",
        noise: Noise { stall: 15, ..NOISE },
        store: Store::File,
        arbiters: 1,
        faults: ALONE,
        every: SECOND,
        work: Work { shared: 20, permits: 20, claims: 3, cancel: 15, hold_max: 10, priority: 20, ..WORK },
        ..BASE
    },
    Mix {
        name: "topic-zombies",
        store: Store::Topic,
        arbiters: 3,
        faults: &[
            (Fault::ArbiterPause, 5),
            (Fault::Steal, 6),
            (Fault::LoseAppends, 4),
            (Fault::ArbiterCrash, 2),
            (Fault::ClientPause, 2),
            (Fault::ClientCrash, 1),
        ],
        every: SECOND,
        ..BASE
    },
    Mix {
        name: "crowd",
        work: Work {
            clients: 16,
            at_once: 40,
            resources: 2,
            think: 20 * MS,
            hold: 30 * MS,
            wait: 95,
            cancel: 2,
            lease: 6 * SECOND,
            ..WORK
        },
        faults: &[
            (Fault::ArbiterPause, 3),
            (Fault::ArbiterCrash, 2),
            (Fault::ClientPause, 2),
            (Fault::ClientCrash, 2),
        ],
        length: 40 * SECOND,
        ..BASE
    },
    Mix {
        name: "topic-revocations",
        store: Store::Topic,
        work: Work { hold_max: 60, forced: 20, hold: 250 * MS, think: 150 * MS, wait: 0, tries: 0, ..WORK },
        faults: &[(Fault::Cut, 10), (Fault::ClientPause, 2), (Fault::Stop, 4), (Fault::ArbiterCrash, 1)],
        every: SECOND / 3,
        ..BASE
    },
    Mix {
        name: "alone",
        arbiters: 1,
        faults: &[(Fault::ClientCrash, 3), (Fault::Stop, 3), (Fault::Cut, 3), (Fault::Vanish, 2)],
        noise: Noise { letter_lose: 6, append_lose: 0, append_late: 0, ..NOISE },
        every: SECOND,
        ..BASE
    },
    Mix { name: "truncated", faults: &[(Fault::Truncate, 1)], every: 30 * SECOND, grants_min: 20, ..BASE },
    Mix {
        name: "blocked",
        work: Work { lease: 40 * SECOND, hold: 2 * SECOND, think: 3 * SECOND, ..WORK },
        faults: &[(Fault::Block, 1)],
        noise: CALM,
        every: 60 * SECOND,
        length: 400 * SECOND,
        grants_min: 50,
        ..BASE
    },
];

/// The mix of that name.
pub fn named(name: &str) -> Option<Mix> {
    MIXES.iter().find(|mix| mix.name == name).copied()
}
