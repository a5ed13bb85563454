//! `demo`: an arbiter, a few workers that want the same things, what happens, and the proof from the log.

use super::audit::verify;
use super::folders::log_folders;
use super::output::{Failure, Output, duration, exit, for_people, ordinal};
use super::serve::{failure, stop_signal};
use super::{Global, Outcome, together};
use arbiterq::serve::{Ready, ServeConfig, serve};
use arbiterq::settings::{Listen, Settings};
use arbiterq_client::{Client, Grant};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// For how long
    #[arg(long = "for", value_name = "DUR", value_parser = duration, default_value = "20s")]
    time: Duration,
    /// Who does what and when is made from this
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,
    /// Keep the log, to look at it afterwards
    #[arg(long)]
    keep: bool,
}

const WORKERS: [&str; 4] = ["ann", "ben", "cleo", "dan"];
/// What they want. Two of them, so that there is something to wait for and something to do meanwhile.
const RESOURCES: [&str; 2] = ["db/migrate", "gpu/0"];
const REASONS: [&str; 4] = ["nightly", "release v42", "train", "backfill"];

impl Demo {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        let output = global.output();
        let folder = Folder::new(self.keep)?;
        let settings = Settings {
            listen: Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            data: folder.path.clone(),
            ..Settings::default()
        };
        together(self.play(output, &settings))?;
        let grants = prove(output, &folder.path)?;
        let mut lines = vec![
            "try next:".to_owned(),
            "  arbiter serve                                an arbiter of your own, in one terminal"
                .to_owned(),
            "  arbiter run db/migrate -- sleep 20           in two more: the second waits in line".to_owned(),
            "  arbiter bench --clients 64 --for 10s         how fast it is here".to_owned(),
        ];
        if self.keep {
            lines.push(format!("the log was kept: arbiter tail {}", folder.path.display()));
        }
        let kept = self.keep.then_some(&folder.path);
        output.result(&lines.join("\n"), &json!({"verified": true, "grants": grants, "kept": kept}))?;
        Ok(ExitCode::SUCCESS)
    }

    /// The arbiter and the workers, until the time is up or somebody presses Ctrl-C.
    async fn play(&self, output: Output, settings: &Settings) -> Outcome {
        let (stop, stopped) = watch::channel(false);
        let (ready, url) = oneshot::channel();
        let mut shutdown = stopped.clone();
        let config = ServeConfig::from(settings);
        let arbiter = tokio::spawn(serve(
            config,
            async move {
                let _ = shutdown.wait_for(|stop| *stop).await;
            },
            |Ready { url, .. }| drop(ready.send(url)),
        ));
        let Ok(url) = url.await else {
            arbiter.await.map_err(defect)?.map_err(failure)?;
            return Err(Failure::new("defect", exit::SOFTWARE, "the arbiter ended before it was ready"));
        };
        let stage = Arc::new(Stage { output, began: Instant::now(), until: Instant::now() + self.time });
        let what = format!("an arbiter at {url}, its log in {}", settings.data.display());
        stage.say("arbiter", &what, &json!({"url": url, "data": settings.data}))?;

        let mut workers = JoinSet::new();
        for (number, name) in WORKERS.into_iter().enumerate() {
            let client = Client::builder(&url).label(name).connect().await?;
            let random = Random::new(self.seed, number as u64);
            workers.spawn(work(name, client, random, Arc::clone(&stage)));
        }
        let operator = Client::builder(&url).label("operator").session(false).connect().await?;
        let operating = operate(&url, operator, Arc::clone(&stage), self.time);
        tokio::select! {
            interrupted = stop_signal()? => interrupted,
            operated = operating => {
                operated?;
                while let Some(worker) = workers.join_next().await {
                    worker.map_err(defect)??;
                }
            }
        }
        workers.shutdown().await;
        let _ = stop.send(true);
        arbiter.await.map_err(defect)?.map_err(failure)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn defect(error: tokio::task::JoinError) -> Failure {
    Failure::new("defect", exit::SOFTWARE, error.to_string())
}

/// Where things are said, and when they are over.
struct Stage {
    output: Output,
    began: Instant,
    until: Instant,
}

impl Stage {
    fn say(&self, who: &str, what: &str, value: &serde_json::Value) -> Result<(), Failure> {
        let at = self.began.elapsed();
        let text = format!("{:>6.2}s  {who:<9}  {what}", at.as_secs_f64());
        let mut object = json!({"at_ms": at.as_millis(), "who": who, "what": what});
        object["more"] = value.clone();
        Ok(self.output.result(&text, &object)?)
    }
}

/// A worker: wants something, waits for it, works under it, gives it back, rests.
async fn work(
    name: &'static str,
    client: Client,
    mut random: Random,
    stage: Arc<Stage>,
) -> Result<(), Failure> {
    while Instant::now() < stage.until {
        let resource = RESOURCES[random.below(RESOURCES.len() as u64) as usize];
        let reason = REASONS[random.below(REASONS.len() as u64) as usize];
        let asked = Instant::now();
        let mut ticket = client.acquire(resource).reason(reason).enqueue().await?;
        if let Some(position) = ticket.next_position().await {
            let holder = position.held_by.as_ref().map_or("nobody", |held| held.label.as_str());
            let place = ordinal(position.position);
            let what = format!("waits for {resource}, held by {holder}; {place} of {}", position.waiting);
            stage.say(name, &what, &json!({"waits": resource, "position": position.position}))?;
        }
        let granted = tokio::select! {
            granted = ticket.granted() => granted,
            // Dropping the ticket withdraws the request.
            () = sleep_until(stage.until) => break,
        };
        let grant = granted?;
        let waited = for_people(asked.elapsed());
        let what = format!("has {resource}, token {}, after {waited} ({reason})", grant.token());
        stage.say(name, &what, &json!({"has": resource, "token": grant.token()}))?;
        sleep(Duration::from_millis(150 + random.below(900))).await;
        give_back(name, resource, &grant, &stage).await?;
        sleep(Duration::from_millis(50 + random.below(600))).await;
    }
    client.close().await;
    Ok(())
}

async fn give_back(name: &str, resource: &str, grant: &Grant, stage: &Stage) -> Result<(), Failure> {
    // Said first: the next one has it before we hear that it was taken back.
    stage.say(
        name,
        &format!("gives {resource} back"),
        &json!({"gives_back": resource, "token": grant.token()}),
    )?;
    match grant.release().await? {
        arbiterq_client::Outcome::Released => Ok(()),
        arbiterq_client::Outcome::AlreadyLost(reason) => {
            stage.say(name, &format!("had lost {resource}: {reason}"), &json!({"lost": resource}))
        }
    }
}

/// Somebody who takes something and forgets it, and an operator who takes it away: the holder hears first.
async fn operate(url: &str, operator: Client, stage: Arc<Stage>, time: Duration) -> Result<(), Failure> {
    sleep(time.mul_f64(0.3)).await;
    let resource = RESOURCES[0];
    let forgetful = Client::builder(url).label("forgetful").connect().await?;
    let mut asking = forgetful.acquire(resource).reason("forgot to give it back").enqueue().await?;
    let _ = asking.next_position().await;
    let grant = tokio::select! {
        granted = asking.granted() => granted?,
        () = sleep_until(stage.until) => return Ok(()),
    };
    let token = grant.token();
    stage.say(
        "forgetful",
        &format!("has {resource}, token {token}, and forgets it"),
        &json!({"token": token}),
    )?;
    sleep(time.mul_f64(0.1)).await;
    stage.say(
        "operator",
        &format!("takes {resource} away: arbiter release --force"),
        &json!({"token": token}),
    )?;
    operator.force_release(grant.claims()[0].resource.clone(), token, "stuck", false).await?;
    let lost = grant.lost().await;
    stage.say(
        "forgetful",
        &format!("hears that it is lost ({}), and stops", lost.reason),
        &json!({"token": token}),
    )?;
    grant.release().await?;
    forgetful.close().await;
    Ok(())
}

/// Verifies the demo's own log.
fn prove(output: Output, data: &Path) -> Result<u64, Failure> {
    let mut grants = 0;
    for folder in log_folders(data)? {
        let report = verify(&folder, &[])?;
        grants += report.grants;
        output.result(&format!("\narbiter audit verify {}\n{report}", folder.display()), &json!(report))?;
    }
    let text = format!("\nproved from the log alone: no two of {grants} grants overlapped\n");
    if !output.json {
        output.line(&text)?;
    }
    Ok(grants)
}

/// A folder for the demo's log, removed with it unless it is kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(keep: bool) -> Result<Self, Failure> {
        let mut name = [0; 6];
        getrandom::fill(&mut name).map_err(|error| Failure::new("io", exit::IO, error.to_string()))?;
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = std::env::temp_dir().join(format!("arbiter-demo-{name}"));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // It is in the folder for temporary files; nobody misses what is left of it.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Numbers made from a seed: SplitMix64.
struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
