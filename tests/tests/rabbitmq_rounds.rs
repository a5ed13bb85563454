//! Arbiters at a real RabbitMQ broker, killed and stopped under load, and the broker killed under them. `ARBITER_ROUNDS`
//! says how many rounds, where a few are not enough.
//!
//! After each test: nothing that was held was lost, no two held at once, every request was answered, and both verifiers
//! find the log clean.

use arbiterq_client::{Client, Outcome};
use arbiterq_tests::PATIENCE;
use arbiterq_tests::binary::{Served, arbiter_says, command};
use arbiterq_tests::rabbitmq::Broker;
use arbiterq_tests::verifiers::both_are_clean;
use rustix::process::Signal;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

fn rounds(few: usize) -> usize {
    std::env::var("ARBITER_ROUNDS").map_or(few, |text| text.parse().expect("ARBITER_ROUNDS is a number"))
}

/// A broker, two arbiters, and clients at work.
struct Scene {
    broker: Broker,
    url: String,
    folder: tempfile::TempDir,
    /// The one that is active.
    active: Served,
    standby: Served,
    load: Load,
}

/// Clients that take one resource and give it back, again and again.
struct Load {
    over: Arc<AtomicBool>,
    cycles: Arc<AtomicU64>,
    /// How long the longest acquire took since it was last looked at, in microseconds.
    longest: Arc<AtomicU64>,
    workers: Vec<JoinHandle<()>>,
}

/// Clients that are at work.
const WORKERS: usize = 4;
/// Cycles of theirs between two failures.
const CYCLES_BETWEEN: u64 = 20;

impl Load {
    async fn start(url: &str) -> Self {
        let (over, cycles) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let longest = Arc::new(AtomicU64::new(0));
        let holder = Arc::new(AtomicU64::new(0));
        let mut workers = Vec::new();
        for worker in 1..=WORKERS as u64 {
            let client = Client::builder(url).label(format!("worker {worker}")).connect().await.unwrap();
            let (over, cycles) = (over.clone(), cycles.clone());
            let (longest, holder) = (longest.clone(), holder.clone());
            workers.push(tokio::spawn(async move {
                let mut token = 0;
                while !over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let grant = client.acquire("contended").await.expect("it is granted at last");
                    let took = u64::try_from(asked.elapsed().as_micros()).unwrap();
                    longest.fetch_max(took, Ordering::Relaxed);
                    assert!(grant.token() > token, "tokens rise");
                    token = grant.token();
                    assert_eq!(holder.swap(worker, Ordering::SeqCst), 0, "nobody else holds");
                    tokio::task::yield_now().await;
                    grant.check().expect("it is held");
                    assert_eq!(holder.swap(0, Ordering::SeqCst), worker, "nobody else has held");
                    assert_eq!(grant.release().await.expect("it is given back"), Outcome::Released);
                    cycles.fetch_add(1, Ordering::Relaxed);
                }
                client.close().await;
            }));
        }
        Self { over, cycles, longest, workers }
    }

    /// Waits until so much more was done. How long the longest acquire took meanwhile.
    async fn goes_on(&self) -> Duration {
        let until = self.cycles.load(Ordering::Relaxed) + CYCLES_BETWEEN;
        let goes_on = async {
            while self.cycles.load(Ordering::Relaxed) < until {
                assert!(self.workers.iter().all(|worker| !worker.is_finished()), "nobody has given up");
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE * 3, goes_on).await.expect("it goes on");
        Duration::from_micros(self.longest.swap(0, Ordering::Relaxed))
    }

    async fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        for worker in self.workers {
            timeout(PATIENCE * 3, worker).await.expect("it ends").unwrap();
        }
        self.cycles.load(Ordering::Relaxed)
    }
}

async fn serve(folder: &tempfile::TempDir, url: &str) -> Served {
    Served::start_with(command(), folder.path(), url).await
}

impl Scene {
    async fn start() -> Self {
        let broker = Broker::start().await;
        // So that a stopped arbiter is soon replaced.
        let url = format!("{}?heartbeat=1", broker.url());
        let ended = arbiter_says(&url, &["broker", "init"]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let folder = tempfile::tempdir().unwrap();
        let active = serve(&folder, &url).await;
        active.process.says("an epoch begins").await;
        let standby = serve(&folder, &url).await;
        let load = Load::start(&url).await;
        Self { broker, url, folder, active, standby, load }
    }

    /// Ends everything, has both verifiers read the log, and says what was done and how long the longest acquires took.
    async fn verified(self, done: &str, mut waits: Vec<Duration>) {
        let Self { broker: _broker, url, folder, active, standby, load } = self;
        let cycles = load.end().await;
        standby.stop().await;
        active.stop().await;
        let copy = folder.path().join("copy");
        let arguments = ["audit", "export", &url, "--json", "--to", copy.to_str().unwrap()];
        let exported = arbiter_says(&url, &arguments).await;
        assert_eq!(exported.code, Some(0), "{}", exported.said);
        let exported: Value = serde_json::from_str(exported.out.trim()).unwrap();
        println!("{exported}");
        let report = tokio::task::spawn_blocking(move || both_are_clean(&copy).remove(0)).await.unwrap();
        assert_eq!((report.live.held, report.live.waiting), (0, 0), "everything was answered and given back");
        assert!(report.grants >= cycles);
        waits.sort();
        let (most, middle) = (waits[waits.len() - 1], waits[waits.len() / 2]);
        println!(
            "counts: {} {done}, {} records, {cycles} cycles; the longest acquire across one at most {most:?}, in the middle \
             {middle:?}",
            waits.len(),
            report.records
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_arbiter_is_replaced_and_nobody_loses_anything() {
    let mut scene = Scene::start().await;
    let (rounds, mut waits) = (rounds(5), Vec::new());
    let holder = Client::builder(&scene.url).label("holds throughout").connect().await.unwrap();
    let held = holder.acquire("held").await.unwrap();
    for _ in 0..rounds {
        scene.load.goes_on().await;
        let next = serve(&scene.folder, &scene.url).await;
        let killed = std::mem::replace(&mut scene.active, std::mem::replace(&mut scene.standby, next));
        killed.process.kill_9().await;
        waits.push(scene.load.goes_on().await);
        held.check().expect("a takeover costs no grant");
        // Either of the two may be the active one now.
        let either = async {
            loop {
                for at in [false, true] {
                    let served = if at { &scene.standby } else { &scene.active };
                    if served.process.said().contains("an epoch begins") {
                        return at;
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, either).await.expect("one is active") {
            std::mem::swap(&mut scene.active, &mut scene.standby);
        }
    }
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    holder.close().await;
    scene.verified("kills of the active arbiter", waits).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_arbiter_is_replaced_and_what_it_says_when_it_wakes_counts_nothing() {
    let mut scene = Scene::start().await;
    let (rounds, mut waits) = (rounds(2), Vec::new());
    for _ in 0..rounds {
        scene.load.goes_on().await;
        let epochs = scene.standby.process.said().matches("an epoch begins").count();
        scene.active.process.signal(Signal::STOP);
        let replaced = async {
            while scene.standby.process.said().matches("an epoch begins").count() == epochs {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE * 3, replaced).await.expect("the standby takes over");
        scene.active.process.signal(Signal::CONT);
        waits.push(scene.load.goes_on().await);
        let given_up = scene.active.process.said().matches("given up").count();
        assert!(given_up > 0 || epochs > 0, "{}", scene.active.process.said());
        std::mem::swap(&mut scene.active, &mut scene.standby);
        // It is a standby again before it is needed.
        sleep(Duration::from_secs(1)).await;
    }
    scene.verified("stops of the active arbiter", waits).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_and_starts_again_costs_nobody_anything() {
    let mut scene = Scene::start().await;
    let (rounds, mut waits) = (rounds(2), Vec::new());
    let holder = Client::builder(&scene.url).label("holds throughout").connect().await.unwrap();
    let held = holder.acquire("held").await.unwrap();
    for _ in 0..rounds {
        scene.load.goes_on().await;
        scene.broker.kill_9();
        scene.broker.start_again().await;
        waits.push(scene.load.goes_on().await);
        held.check().expect("a restart of the broker costs no grant");
    }
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    holder.close().await;
    scene.verified("kills of the broker", waits).await;
}
