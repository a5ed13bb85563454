//! Arbiters at a broker, clients at work, and how it is judged in the end: nothing that was held was lost, no two held at
//! once, every request was answered, and both verifiers find the log clean.

use crate::binary::{Served, arbiter_says, command};
use crate::rabbitmq::Broker;
use crate::verifiers::both_are_clean;
use crate::{PATIENCE, number};
use arbiterq::audit::verify::Report;
use arbiterq_client::{Client, ErrorKind, LEASE_DEFAULT, Outcome};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How many rounds: `ARBITER_ROUNDS` says it, where a few are not enough.
pub fn rounds(few: usize) -> usize {
    usize::try_from(number("ARBITER_ROUNDS", few as u64)).unwrap_or(few)
}

/// Declares what the broker needs.
///
/// # Panics
/// If it cannot.
pub async fn init(url: &str) {
    let ended = arbiter_says(url, &["broker", "init"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}

/// The log at the broker, copied into `folder` as `copy`, when all is over.
///
/// # Panics
/// If either verifier finds anything, or somebody still holds or waits.
pub async fn all_is_clean(url: &str, folder: &Path) -> Report {
    let copy = folder.join("copy");
    let arguments = ["audit", "export", url, "--json", "--to", copy.to_str().expect("text")];
    let exported = arbiter_says(url, &arguments).await;
    assert_eq!(exported.code, Some(0), "{}", exported.said);
    println!("{}", exported.out.trim());
    let report = tokio::task::spawn_blocking(move || both_are_clean(&copy).remove(0));
    let report = report.await.expect("it is clean");
    assert_eq!((report.live.held, report.live.waiting), (0, 0), "everything was answered and given back");
    report
}

/// Waits until an arbiter has begun so many epochs in all.
///
/// # Panics
/// If it does not.
pub async fn begins(served: &Served, epochs: usize) {
    let begins = async {
        while epochs_of(served) < epochs {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let begins = timeout(PATIENCE * 3, begins).await;
    assert!(begins.is_ok(), "it does not take over: {}", served.process.said());
}

/// How many epochs an arbiter has begun.
pub fn epochs_of(served: &Served) -> usize {
    served.process.said().matches("an epoch begins").count()
}

/// Of two arbiters the one whose epoch is the later: its record has the higher index.
///
/// # Panics
/// If an arbiter has said what is no log.
pub fn active(arbiters: &[Served; 2]) -> usize {
    let index = |served: &Served| {
        let said = served.process.said();
        let line = said.lines().rfind(|line| line.contains("an epoch begins"))?;
        let line: Value = serde_json::from_str(line).expect("JSON");
        Some(line["fields"]["index"].as_u64().unwrap_or_else(|| panic!("{line}")))
    };
    usize::from(index(&arbiters[1]) > index(&arbiters[0]))
}

/// Clients that take one resource and give it back, again and again.
pub struct Load {
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    cycles: AtomicU64,
    /// What was lost, held or asked for.
    lost: AtomicU64,
    /// How long the longest acquire took since it was last looked at, in microseconds.
    longest: AtomicU64,
    /// Who holds; 0 if nobody does.
    holder: AtomicU64,
}

/// Clients that are at work.
const WORKERS: u64 = 4;
/// Cycles of theirs between two failures.
const CYCLES_BETWEEN: u64 = 20;

impl Load {
    /// Clients that lose nothing.
    pub async fn start(url: &str) -> Self {
        Self::of(&[url], LEASE_DEFAULT, false).await
    }

    /// Clients at several places, each of which may be away for longer than their lease: they lose what they have then.
    pub async fn that_may_lose(urls: &[&str], lease: Duration) -> Self {
        Self::of(urls, lease, true).await
    }

    async fn of(urls: &[&str], lease: Duration, may_lose: bool) -> Self {
        let (over, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let mut workers = Vec::new();
        for (worker, url) in (1..=WORKERS).zip(urls.iter().cycle()) {
            let client = Client::builder(url).label(format!("worker {worker}")).lease(lease);
            let client = client.connect().await.expect("it connects");
            let (over, counts) = (over.clone(), counts.clone());
            workers.push(tokio::spawn(async move {
                let mut token = 0;
                while !over.load(Ordering::Relaxed) {
                    if let Err(lost) = counts.cycle(&client, worker, &mut token).await {
                        assert!(may_lose, "{lost}");
                        counts.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
                client.close().await;
            }));
        }
        Self { over, counts, workers }
    }

    /// How many cycles there were.
    pub fn cycles(&self) -> u64 {
        self.counts.cycles.load(Ordering::Relaxed)
    }

    /// Waits until so much more was done. How long the longest acquire took meanwhile.
    ///
    /// # Panics
    /// If it is not done.
    pub async fn goes_on(&self) -> Duration {
        let until = self.cycles() + CYCLES_BETWEEN;
        let goes_on = async {
            while self.cycles() < until {
                assert!(self.workers.iter().all(|worker| !worker.is_finished()), "nobody has given up");
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE * 3, goes_on).await.expect("it goes on");
        Duration::from_micros(self.counts.longest.swap(0, Ordering::Relaxed))
    }

    /// Ends it. How many cycles there were, and how often something was lost.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn end(self) -> (u64, u64) {
        self.over.store(true, Ordering::Relaxed);
        for worker in self.workers {
            timeout(PATIENCE * 3, worker).await.expect("it ends").expect("it does not panic");
        }
        (self.counts.cycles.load(Ordering::Relaxed), self.counts.lost.load(Ordering::Relaxed))
    }
}

impl Counts {
    /// Takes it and gives it back. What was lost, if anything was.
    async fn cycle(&self, client: &Client, worker: u64, token: &mut u64) -> Result<(), String> {
        let asked = Instant::now();
        let grant = match client.acquire("contended").await {
            Err(error) if error.kind() == ErrorKind::SessionEnded => return Err(error.to_string()),
            granted => granted.expect("it is granted at last"),
        };
        let took = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.longest.fetch_max(took, Ordering::Relaxed);
        assert!(grant.token() > *token, "tokens rise");
        *token = grant.token();
        assert_eq!(self.holder.swap(worker, Ordering::SeqCst), 0, "nobody else holds");
        tokio::task::yield_now().await;
        let held = grant.check();
        assert_eq!(self.holder.swap(0, Ordering::SeqCst), worker, "nobody else has held");
        held.map_err(|lost| lost.to_string())?;
        match grant.release().await.expect("it is given back") {
            Outcome::Released => self.cycles.fetch_add(1, Ordering::Relaxed),
            Outcome::AlreadyLost(reason) => return Err(format!("lost: {reason:?}")),
        };
        Ok(())
    }
}

/// A broker, two arbiters, and clients at work.
pub struct Scene {
    /// Its broker.
    pub broker: Broker,
    /// Where that is.
    pub url: String,
    /// Of whatever files are needed.
    pub folder: tempfile::TempDir,
    /// The one that is active.
    pub active: Served,
    /// The one that is not.
    pub standby: Served,
    /// Who works.
    pub load: Load,
}

impl Scene {
    /// All of it.
    pub async fn start() -> Self {
        let broker = Broker::start().await;
        // So that a stopped arbiter is soon replaced.
        let url = format!("{}?heartbeat=1", broker.url());
        init(&url).await;
        let folder = tempfile::tempdir().expect("a folder");
        let active = serve(&folder, &url).await;
        active.process.says("an epoch begins").await;
        let standby = serve(&folder, &url).await;
        let load = Load::start(&url).await;
        Self { broker, url, folder, active, standby, load }
    }

    /// Ends everything; the log, judged, and how many cycles there were.
    ///
    /// # Panics
    /// If anything is wrong.
    pub async fn end(self) -> (Report, u64) {
        let Self { broker: _broker, url, folder, active, standby, load } = self;
        let (cycles, _) = load.end().await;
        standby.stop().await;
        active.stop().await;
        let report = all_is_clean(&url, folder.path()).await;
        assert!(report.grants >= cycles);
        (report, cycles)
    }
}

/// An arbiter at a broker.
pub async fn serve(folder: &tempfile::TempDir, url: &str) -> Served {
    Served::start_with(command(), folder.path(), url).await
}

/// How long waits were: at most, and in the middle.
///
/// # Panics
/// If there are none.
pub fn most_and_middle(mut waits: Vec<Duration>) -> (Duration, Duration) {
    waits.sort();
    (waits[waits.len() - 1], waits[waits.len() / 2])
}
