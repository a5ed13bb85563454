//! The real service killed at every call that changes its log folder, with a sync that fails at every sync, and with
//! no room at every write: whatever was answered is there afterwards, and nothing is answered after a failure.
//!
//! Every fifth point is tried, all with `ARBITER_ALL_POINTS=1`. A point that is not met fails.

use arbiterq::audit::verify::verify_folder;
use arbiterq_tests::binary::{Served, command, is_alive};
use arbiterq_tests::strace::{self, Call, Class, Fault, Point};
use arbiterq_tests::verifiers::both_are_clean;
use arbiterq_tests::{PATIENCE, Raw, copy_data, log_lines, write_mark};
use rustix::process::Signal;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// One point in so many is tried, unless all are.
const ONE_IN: usize = 5;
/// Records in a log before the run that takes it over its first checkpoint.
const GROWN: u64 = 92;
/// The record with which a checkpoint is due.
const CHECKPOINT_DUE: u64 = 100;
/// How often a point is tried that a run did not get to: how records are grouped depends on who comes first, and on
/// how long a sync takes.
const TRIES: usize = 12;

/// What a run begins with, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// No folder yet; then records so large that there is a new segment every two.
    New,
    /// Folders that somebody made, and was stopped then.
    Made,
    /// A log that was ended well; then so many records that there is a checkpoint.
    Grown,
    /// A log whose mark is three records late, and whose end is torn.
    Torn,
}

const SCENARIOS: [Scenario; 4] = [Scenario::New, Scenario::Made, Scenario::Grown, Scenario::Torn];

/// What a client was told.
#[derive(Debug, Default)]
struct Told {
    /// Tokens, and the hashes that came with them.
    granted: Vec<(u64, String)>,
    /// Token, and the index of the record that it was said to be in.
    released: Vec<(u64, u64)>,
    opened: Vec<u64>,
    queued: Vec<u64>,
    /// The highest index in any answer.
    highest: Option<u64>,
}

impl Told {
    fn hear(&mut self, reply: &Value) {
        let index = reply["index"].as_u64().unwrap_or_else(|| panic!("{reply}"));
        self.highest = self.highest.max(Some(index));
        if let Some(granted) = reply.get("granted") {
            let token = granted["token"].as_u64().unwrap();
            self.granted.push((token, granted["hash"].as_str().unwrap().to_owned()));
        } else if let Some(released) = reply.get("released") {
            self.released.push((released["token"].as_u64().unwrap(), index));
        } else if let Some(opened) = reply.get("opened") {
            self.opened.push(opened["session"].as_u64().unwrap());
        } else if reply.get("queued").is_some() {
            self.queued.push(index);
        } else {
            panic!("nobody asked for this: {reply}");
        }
    }

    /// All of it is in the log.
    fn is_in(&self, lines: &[Vec<u8>]) {
        let record = |index: u64| -> Value {
            let line = lines.get(usize::try_from(index).unwrap());
            serde_json::from_slice(line.unwrap_or_else(|| panic!("record {index} was told of, and is gone")))
                .unwrap()
        };
        let has = |index: u64, name: &str| {
            let events = record(index)["events"].clone();
            events.as_array().into_iter().flatten().find_map(|event| event.get(name).cloned())
        };
        for (token, hash) in &self.granted {
            let line = &lines[usize::try_from(*token).unwrap()];
            assert_eq!(*hash, arbiterq::log::chain::hash_of(line).to_string(), "record {token}");
            assert!(has(*token, "granted").is_some(), "record {token} grants");
        }
        for (token, index) in &self.released {
            let released = has(*index, "released").unwrap_or_else(|| panic!("record {index} releases"));
            assert_eq!(released["token"], *token);
        }
        self.opened.iter().for_each(|session| assert!(has(*session, "opened").is_some(), "{session}"));
        self.queued.iter().for_each(|index| assert!(has(*index, "queued").is_some(), "{index}"));
    }
}

/// A connection with a session, whose answers are remembered; nothing more comes once the service is gone.
struct Client {
    raw: Raw,
    key: String,
    session: u64,
    seq: u64,
}

impl Client {
    async fn open(url: &str, digit: char, told: &mut Told) -> Option<Self> {
        let key = digit.to_string().repeat(32);
        let mut client = Self { raw: Raw::connect(url).await, key, session: 0, seq: 0 };
        let open = format!(
            r#"{{"v":1,"partition":0,"open":{{"id":"o","key":"{}","lease_ms":600000,"label":"c"}}}}"#,
            client.key
        );
        client.raw.try_say(&(open + "\n")).await;
        client.session = client.hear(told).await?["opened"]["session"].as_u64().unwrap();
        Some(client)
    }

    async fn hear(&mut self, told: &mut Told) -> Option<Value> {
        let reply = self.raw.hear().await?;
        told.hear(&reply);
        Some(reply)
    }

    async fn ask(&mut self, what: &str, told: &mut Told) -> Option<Value> {
        let (session, key) = (self.session, &self.key);
        let line = format!(r#"{{"v":1,"partition":0,"session":{session},"key":"{key}",{what}}}"#);
        self.raw.try_say(&(line + "\n")).await;
        self.hear(told).await
    }

    /// Asks for all of these; what comes first.
    async fn acquire(&mut self, names: &[String], told: &mut Told) -> Option<Value> {
        self.seq += 1;
        let claims: Vec<_> =
            names.iter().map(|name| format!(r#"{{"resource":"{name}","mode":"exclusive"}}"#)).collect();
        let (seq, claims) = (self.seq, claims.join(","));
        self.ask(&format!(r#""acquire":{{"seq":{seq},"claims":[{claims}]}}"#), told).await
    }

    async fn release(&mut self, granted: &Value, told: &mut Told) -> Option<Value> {
        self.ask(&format!(r#""release":{{"token":{}}}"#, granted["granted"]["token"]), told).await
    }
}

/// What clients do, and the clients, who stay connected; none as soon as the service is gone.
async fn play(
    scenario: Scenario,
    url: &str,
    told: &mut Told,
    goes_on: &dyn Fn() -> bool,
) -> Option<Vec<Client>> {
    let mut a = Client::open(url, 'a', told).await?;
    match scenario {
        Scenario::New => {
            let mut b = Client::open(url, 'b', told).await?;
            for round in 0..2 {
                let large: Vec<_> = (0..64).map(|i| format!("{round}-{i}-{}", "x".repeat(240))).collect();
                let granted = a.acquire(&large, told).await?;
                b.acquire(&large, told).await?;
                a.release(&granted, told).await?;
                let granted = b.hear(told).await?;
                b.release(&granted, told).await?;
            }
            return Some(vec![a, b]);
        }
        Scenario::Grown => {
            for _ in 0..5 {
                let granted = a.acquire(&["r".to_owned()], told).await?;
                checkpoint(told, goes_on).await;
                a.release(&granted, told).await?;
                checkpoint(told, goes_on).await;
            }
        }
        Scenario::Made | Scenario::Torn => drop(a.acquire(&["r".to_owned()], told).await?),
    }
    Some(vec![a])
}

/// Waits for the checkpoint once it is due, so that its record is in nobody's group.
async fn checkpoint(told: &Told, goes_on: &dyn Fn() -> bool) {
    let wait = async {
        while told.highest >= Some(CHECKPOINT_DUE) && !goes_on() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("a checkpoint");
}

/// Logs to begin with.
struct Bases {
    folder: tempfile::TempDir,
}

impl Bases {
    async fn new() -> Self {
        let bases = Self { folder: tempfile::tempdir().unwrap() };
        let grown = bases.of(Scenario::Grown);
        let served = Served::start(&grown).await;
        let mut told = Told::default();
        let mut client = Client::open(&served.url, 'e', &mut told).await.unwrap();
        while told.highest < Some(GROWN) {
            let granted = client.acquire(&["r".to_owned()], &mut told).await.unwrap();
            client.release(&granted, &mut told).await.unwrap();
        }
        served.stop().await;
        let torn = bases.of(Scenario::Torn);
        copy_data(&grown, &torn);
        let lines = log_lines(&torn.join("0"));
        write_mark(&torn.join("0"), Some(&lines[lines.len() - 4]));
        let segment = torn.join("0").join(format!("{:020}.log", 0));
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes.extend_from_slice(br#"{"index":9"#);
        std::fs::write(&segment, bytes).unwrap();
        bases
    }

    fn of(&self, scenario: Scenario) -> PathBuf {
        self.folder.path().join(format!("{scenario:?}"))
    }
}

/// How a run went.
struct Run {
    folder: tempfile::TempDir,
    data: PathBuf,
    told: Told,
    calls: Vec<Call>,
    /// The code with which it ended, and what it said.
    code: Option<i32>,
    said: String,
    /// Whether the clients did all that they do.
    finished: bool,
}

async fn run(bases: &Bases, scenario: Scenario, at: Option<(&Point, Fault)>) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let (data, trace) = (folder.path().join("data"), folder.path().join("trace"));
    if scenario == Scenario::Made {
        std::fs::create_dir_all(data.join("0")).unwrap();
    } else if scenario != Scenario::New {
        copy_data(&bases.of(scenario), &data);
    }
    let mut process = strace::start(&data, &trace, at);
    let mut told = Told::default();
    let mut clients = None;
    if let Some(line) = process.line_or_end().await {
        let ready: Value = serde_json::from_str(&line).unwrap();
        let pid = process.pid();
        let goes_on = || {
            let names = std::fs::read_dir(data.join("0")).unwrap();
            let is_there = names.flatten().any(|name| name.path().extension() == Some("manifest".as_ref()));
            is_there || !is_alive(pid) || strace::calls(&trace, &data).iter().any(|call| call.injected)
        };
        let url = ready["ready"]["url"].as_str().unwrap();
        clients = play(scenario, url, &mut told, &goes_on).await;
        if clients.is_some() {
            process.signal(Signal::TERM);
        }
    }
    let ended = process.ended().await;
    let calls = strace::calls(&trace, &data);
    Run { folder, data, told, calls, code: ended.code, said: ended.said, finished: clients.is_some() }
}

/// Starts it again where it was killed or failed: all that was told is there, and tokens rise.
async fn goes_on_from(run: &Run) {
    if run.data.join("0/durable").exists() {
        verify_folder(&run.data.join("0"), &[], &mut |_| {})
            .unwrap_or_else(|error| panic!("as it was left: {error}"));
    }
    let mut again = command();
    again.env("ARBITER__GRANT_LOG__CHECKPOINT_RECORDS", "100");
    let served = Served::start_with(again, &run.data, "tcp://127.0.0.1:0").await;
    let mut told = Told::default();
    let mut client = Client::open(&served.url, 'f', &mut told).await.unwrap();
    let granted = client.acquire(&["after".to_owned()], &mut told).await.unwrap();
    assert!(granted["granted"]["token"].as_u64() > run.told.highest, "tokens rise");
    served.stop().await;
    let data = run.data.clone();
    tokio::task::spawn_blocking(move || both_are_clean(&data)).await.unwrap();
    let lines = log_lines(&run.data.join("0"));
    run.told.is_in(&lines);
    told.is_in(&lines);
}

/// Whether a point was met; panics where what must not happen did.
async fn survives(bases: &Bases, scenario: Scenario, point: &Point, fault: Fault) -> bool {
    let run = run(bases, scenario, Some((point, fault))).await;
    let injected = run.calls.iter().find(|call| call.injected);
    let met = match fault {
        Fault::Kill => run.code.is_none() && strace::reached(&run.calls, point),
        Fault::Eio | Fault::Enospc => injected.is_some(),
    };
    if fault == Fault::Kill {
        assert!(met || (run.code == Some(0) && run.finished), "{:?}: {}", run.code, run.said);
    } else if let Some(call) = injected {
        // A checkpoint that cannot be written costs nobody anything. In a grown log the folder is synced at the
        // start, by the first thread that calls, and else for checkpoints.
        let is_checkpoints = scenario == Scenario::Grown && point.class == Class::Folder && call.thread > 0;
        if point.class == Class::Checkpoint || is_checkpoints {
            assert!(run.code == Some(0) && run.finished, "{:?}: {}", run.code, run.said);
        } else {
            assert_eq!(run.code, Some(74), "{}", run.said);
            if let Some(record) = strace::in_doubt(&run.calls) {
                assert!(run.told.highest < Some(record), "record {record} was in doubt, and {:?}", run.told);
            }
        }
    }
    goes_on_from(&run).await;
    drop(run.folder);
    met
}

/// Tries the points of one fault.
async fn attack(fault: Fault) {
    let bases = Bases::new().await;
    let all = std::env::var_os("ARBITER_ALL_POINTS").is_some_and(|all| all != "0");
    let (mut points, mut shared) = (Vec::new(), 0);
    for scenario in SCENARIOS {
        let run = run(&bases, scenario, None).await;
        assert!(run.code == Some(0) && run.finished, "{scenario:?}: {:?}: {}", run.code, run.said);
        goes_on_from(&run).await;
        let concerned: Vec<_> = run.calls.iter().filter(|call| fault.concerns(&call.name)).cloned().collect();
        let (found, same) = strace::points(&concerned);
        shared += same;
        points.extend(found.into_iter().map(|point| (scenario, point)));
    }
    let count = points.len();
    assert!(count > 20, "only {count} points");
    let (mut tried, mut missed) = (0, Vec::new());
    for (scenario, point) in points.into_iter().step_by(if all { 1 } else { ONE_IN }) {
        println!("{fault:?} {scenario:?} {point:?}");
        tried += 1;
        let mut met = false;
        for _ in 0..TRIES {
            met = met || survives(&bases, scenario, &point, fault).await;
        }
        if !met {
            missed.push((scenario, point));
        }
    }
    println!(
        "counts: {fault:?}: {} of {tried} points met, {count} there are; {shared} calls share a point with another's",
        tried - missed.len()
    );
    assert!(missed.is_empty(), "not met: {missed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_call_it_loses_nothing_that_was_answered() {
    attack(Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_sync_that_fails_nothing_is_answered_and_nothing_lost() {
    attack(Fault::Eio).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_for_any_write_nothing_is_answered_and_nothing_lost() {
    attack(Fault::Enospc).await;
}
