//! The real service killed, out of room, on a damaged log, and where it must not start.

use arbiterq::audit::verify::Report;
use arbiterq_client::{Client, Outcome};
use arbiterq_tests::PATIENCE;
use arbiterq_tests::binary::{Running, Served, arbiter_says, command};
use arbiterq_tests::verifiers::both_are_clean;
use arbiterq_tests::{copy_data, log_lines};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Kills, unless `ARBITER_ROUNDS` says how many; and kills of a service on one folder: its log is read after each.
const KILLS: usize = 20;
/// Records that the load has to add before a kill: so many that it was at work.
const RECORDS_BETWEEN: usize = 200;

/// An address of loopback of this process alone: where a service starts again its port must be free.
fn own_url(port: u16) -> String {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host =
        if cfg!(target_os = "linux") { Ipv4Addr::new(127, high | 1, low, 77) } else { Ipv4Addr::LOCALHOST };
    format!("tcp://{host}:{port}")
}

/// A bench, and what it found. However often the service is killed meanwhile, it goes on.
async fn bench(url: String) -> Value {
    let arguments =
        ["bench", "--clients", "6", "--resources", "2", "--connections", "3", "--for", "200ms", "--json"];
    let ended = arbiter_says(&url, &arguments).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    serde_json::from_str(ended.out.trim()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twenty_times_under_load_it_goes_on_and_its_log_is_clean() {
    let all = std::env::var("ARBITER_ROUNDS").map_or(KILLS, |text| text.parse().unwrap());
    let (mut kills, mut records, mut grants) = (0, 0, 0);
    while kills < all {
        let some = KILLS.min(all - kills);
        let report = killed_under_load(some).await;
        kills += some;
        records += report.records;
        grants += report.grants;
        println!("{kills} kills of {all}");
    }
    println!("counts: {kills} kills of the service under load, {records} records, {grants} grants");
}

/// A round is a bench, a kill in its midst, and a look at what the killed one left. While that goes on it serves again:
/// a bench whose time is up while nobody serves cannot give back, and its grants stay for a lease.
async fn killed_under_load(kills: usize) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("0");
    let mut served = Served::start_at(folder.path(), &own_url(0)).await;
    let url = served.url.clone();
    let client = Client::builder(&url).label("beside the bench").connect().await.unwrap();
    let (mut token, mut figures) = (0, Vec::new());
    for kill in 0..kills {
        let grant = client.acquire("beside").await.unwrap();
        assert!(grant.token() > token, "tokens rise");
        token = grant.token();
        if kill % 2 == 0 {
            assert_eq!(grant.release().await.unwrap(), Outcome::Released);
        }
        let before = log_lines(&log).len();
        let mut load = tokio::spawn(bench(url.clone()));
        let under_load = async {
            while log_lines(&log).len() < before + RECORDS_BETWEEN {
                if load.is_finished() {
                    // On a slow machine it did less.
                    figures.push((&mut load).await.unwrap());
                    load = tokio::spawn(bench(url.clone()));
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, under_load)
            .await
            .unwrap_or_else(|_| panic!("kill {kill}: the bench does not go on"));
        served.process.kill_9().await;
        let left = tempfile::tempdir().unwrap();
        copy_data(folder.path(), left.path());
        served = Served::start_at(folder.path(), &url).await;
        figures.push(timeout(PATIENCE, load).await.expect("the bench ends").unwrap());
        let verify = move || both_are_clean(left.path());
        let reports = tokio::task::spawn_blocking(verify).await.unwrap();
        let found = usize::try_from(reports[0].records).unwrap();
        assert!(
            found >= before + RECORDS_BETWEEN && reports[0].last_index >= token,
            "nothing that was told is gone"
        );
        if kill % 2 == 1 {
            grant.check().expect("a restart costs no grant");
            assert_eq!(grant.release().await.unwrap(), Outcome::Released);
        }
    }
    let sum = |name: &str| figures.iter().map(|bench| bench[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("overlaps"), sum("lost"), sum("errors")), (0, 0, 0), "{figures:?}");
    client.close().await;
    served.stop().await;
    let report = both_are_clean(folder.path()).remove(0);
    assert_eq!(report.epochs, kills as u64 + 1);
    assert!(sum("cycles") > 0 && report.grants >= sum("cycles"));
    assert_eq!(report.live.held, 0);
    report
}

/// Says to a run of a test in a namespace of its own that it is that run.
const IN_NAMESPACE: &str = "FULL_DISK_IN_NAMESPACE";

/// Runs one test of this file again where any user may mount: in a user and mount namespace of its own.
///
/// # Panics
/// If it fails there, or there is no such place: a test that cannot be run has not passed.
fn run_in_namespace(test: &str) {
    assert!(
        std::env::var_os(IN_NAMESPACE).is_none(),
        "no small disk can be mounted, neither by this user nor in a user namespace: run as root, or allow \
         user namespaces"
    );
    let run = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(IN_NAMESPACE, "1")
        .output();
    let run =
        run.unwrap_or_else(|error| panic!("no small disk: this user may not mount, and unshare: {error}"));
    let said = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(run.status.success() && said.contains("1 passed"), "in a namespace: {said}");
}

/// A small file system in memory, while it lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let option = format!("size={size}");
        let run = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &option, "tmpfs"])
            .arg(at)
            .output();
        run.is_ok_and(|run| run.status.success()).then(|| Self(at.to_owned()))
    }

    fn grow(&self, size: &str) {
        let option = format!("remount,size={size}");
        let run = std::process::Command::new("mount").args(["-o", &option]).arg(&self.0).status();
        assert!(run.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_it_with_74_and_nothing_that_was_answered_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), "2m") else {
        return run_in_namespace("a_full_disk_ends_it_with_74_and_nothing_that_was_answered_is_lost");
    };
    let data = disk.0.join("data");
    let served = Served::start_at(&data, &own_url(0)).await;
    let url = served.url.clone();
    let client = Client::connect(&url).await.unwrap();
    let held = client.acquire("held").await.unwrap();
    let waiter = Client::connect(&url).await.unwrap();
    let mut waiting = waiter.acquire("held").enqueue().await.unwrap();
    waiting.next_position().await.unwrap();
    // What it answers until it cannot any more.
    let (told, mut tokens) = tokio::sync::mpsc::unbounded_channel();
    let load = tokio::spawn(async move {
        while let Ok(grant) = client.acquire("r").await {
            let receipt = grant.receipt().clone();
            let released = grant.release().await;
            let _ = told.send((receipt, released));
        }
    });
    let url_again = url.clone();
    let ended = served.process.ended().await;
    assert_eq!(ended.code, Some(74), "{}", ended.said);
    assert!(ended.said.contains("make room"), "{}", ended.said);
    let mut answered = Vec::new();
    while let Ok((receipt, _)) = tokens.try_recv() {
        answered.push(receipt);
    }
    assert!(answered.len() > 100, "{}", answered.len());
    both_are_clean(&data);

    // Without room it says so again, and loses nothing.
    disk.grow("16m");
    let served = Served::start_at(&data, &url_again).await;
    held.check().expect("still held");
    assert_eq!(held.release().await.unwrap(), Outcome::Released);
    waiting.granted().await.unwrap().release().await.unwrap();
    // The load goes on as well.
    let (_, released) = tokens.recv().await.expect("it goes on");
    released.expect("given back");
    load.abort();
    served.stop().await;
    both_are_clean(&data);
    let lines = log_lines(&data.join("0"));
    for receipt in answered {
        let next: Value =
            serde_json::from_slice(&lines[usize::try_from(receipt.index).unwrap() + 1]).unwrap();
        assert_eq!(next["prev"], receipt.hash.to_string(), "record {} is as it was told", receipt.index);
    }
}

/// A data folder with a log of some records, whose service has ended.
async fn with_a_log(folder: &Path) {
    let served = Served::start(folder).await;
    let client = Client::connect(&served.url).await.unwrap();
    for _ in 0..20 {
        client.acquire("r").await.unwrap().release().await.unwrap();
    }
    client.close().await;
    served.stop().await;
}

async fn does_not_start(arguments: &[&str]) -> arbiterq_tests::binary::Ended {
    let ended = Running::start(command().arg("serve").args(arguments)).ended().await;
    assert_eq!(ended.out, "", "it never was ready");
    ended
}

#[tokio::test]
async fn a_flipped_bit_is_65_with_file_line_and_index() {
    for line in [1, 7, 20] {
        let folder = tempfile::tempdir().unwrap();
        with_a_log(folder.path()).await;
        let segment = folder.path().join("0").join(format!("{:020}.log", 0));
        let mut bytes = std::fs::read(&segment).unwrap();
        let begins: usize =
            log_lines(&folder.path().join("0")).iter().take(line - 1).map(|line| line.len() + 1).sum();
        bytes[begins + 40] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        let before = std::fs::read(&segment).unwrap();
        let ended =
            does_not_start(&["--url", "tcp://127.0.0.1:0", "--data", folder.path().to_str().unwrap()]).await;
        assert_eq!(ended.code, Some(65), "{}", ended.said);
        let said = &ended.said;
        // What is wrong with a line is seen at it, or at the next one, which is chained to it.
        let names =
            |line: usize| said.contains(&format!("line {line}")) && said.contains(&format!("{}", line - 1));
        assert!(names(line) || names(line + 1), "line {line}: {said}");
        assert!(said.contains(segment.to_str().unwrap()) && said.contains("index"), "{said}");
        assert_eq!(std::fs::read(&segment).unwrap(), before, "nothing was changed");
    }
}

#[tokio::test]
async fn where_it_must_not_start_it_says_why_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let other = folder.path().join("other");
    let (data_text, other_text) = (data.to_str().unwrap(), other.to_str().unwrap());
    let served = Served::start(&data).await;

    let locked = does_not_start(&["--url", "tcp://127.0.0.1:0", "--data", data_text]).await;
    assert!(matches!(locked.code, Some(78 | 74)), "{locked:?}");
    assert!(locked.said.contains("lock") && locked.said.contains(data_text), "{}", locked.said);

    let in_use = does_not_start(&["--url", &served.url, "--data", other_text]).await;
    assert!(matches!(in_use.code, Some(78 | 74)), "{in_use:?}");
    assert!(in_use.said.contains("--url"), "the remedy: {}", in_use.said);

    for url in ["tcp://0.0.0.0:0", "tcp://[::]:0"] {
        let beyond = does_not_start(&["--url", url, "--data", other_text]).await;
        assert_eq!(beyond.code, Some(78), "{beyond:?}");
        assert!(beyond.said.contains("beyond") && beyond.said.contains("127.0.0.1"), "{}", beyond.said);
    }

    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let no_folder = file.join("data");
    let unwritable =
        does_not_start(&["--url", "tcp://127.0.0.1:0", "--data", no_folder.to_str().unwrap()]).await;
    assert!(matches!(unwritable.code, Some(78 | 74)), "{unwritable:?}");
    assert!(unwritable.said.contains("--data"), "the remedy: {}", unwritable.said);

    // The first was not disturbed by any of them.
    Client::connect(&served.url).await.unwrap().acquire("r").await.unwrap();
    served.stop().await;
    both_are_clean(&data);
}
