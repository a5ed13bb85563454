//! The real binary: where it is, how it is started, and what its processes do.

use crate::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The binary `arbiter` of the profile that this test was built with. Built if it is not, or is of older sources.
///
/// # Panics
/// If it cannot be built.
pub fn arbiter() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // target/<profile>/deps/<test>
        let test = std::env::current_exe().expect("the test's own path");
        let folder = test.ancestors().nth(2).expect("target/<profile>");
        let profile = match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = std::process::Command::new(cargo);
        // What cargo tells a test of its own package; a build script that looks at it would be run again, each time.
        let of_test = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        for (name, _) in std::env::vars_os() {
            if of_test.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                build.env_remove(name);
            }
        }
        // The whole workspace, so that dependencies have the features with which the tests were built.
        let built = build
            .args(["build", "--workspace", "--bin", "arbiter", "--locked", "--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo starts");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let binary = folder.join("arbiter");
        assert!(binary.exists(), "no {}", binary.display());
        binary
    })
}

/// The binary with an environment that says nothing to it. What is started is killed with its handle.
pub fn command() -> Command {
    command_by(&[])
}

/// As [`command`], by way of another program that becomes it.
pub fn command_by(way: &[&str]) -> Command {
    let mut words = way.iter().map(std::ffi::OsStr::new).chain([arbiter().as_os_str()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ARBITER")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A process whose output is read as it comes.
pub struct Running {
    child: Child,
    pid: Pid,
    /// What it reads, if that was piped.
    pub stdin: Option<ChildStdin>,
    out: Lines<BufReader<ChildStdout>>,
    said: Arc<Mutex<String>>,
    reads_said: JoinHandle<()>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// The code, if it was not a signal.
    pub code: Option<i32>,
    /// The rest of standard output.
    pub out: String,
    /// Standard error.
    pub said: String,
}

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it runs");
        let out = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut err = child.stderr.take().expect("piped");
        let said = Arc::new(Mutex::new(String::new()));
        let collected = said.clone();
        let reads_said = tokio::spawn(async move {
            let mut bytes = vec![0; 4096];
            while let Ok(read @ 1..) = err.read(&mut bytes).await {
                let text = String::from_utf8_lossy(&bytes[..read]);
                collected.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self { pid, stdin: child.stdin.take(), child, out, said, reads_said }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends it, and only it, a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("it runs");
    }

    /// The next line of its standard output.
    ///
    /// # Panics
    /// If there is none.
    pub async fn line(&mut self) -> String {
        let line = timeout(PATIENCE * 2, self.out.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("no line; it said: {}", self.said()));
        line.expect("it is text").unwrap_or_else(|| panic!("no more lines; it said: {}", self.said()))
    }

    /// The next line of its standard output; none if it ends before one.
    ///
    /// # Panics
    /// If it neither says one nor ends.
    pub async fn line_or_end(&mut self) -> Option<String> {
        let line = timeout(PATIENCE * 2, self.out.next_line()).await;
        line.unwrap_or_else(|_| panic!("no line and no end; it said: {}", self.said())).expect("it is text")
    }

    /// What it has said on standard error so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has said something on standard error.
    ///
    /// # Panics
    /// If it does not.
    pub async fn says(&self, text: &str) {
        let says = async {
            while !self.said().contains(text) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        timeout(PATIENCE, says).await.unwrap_or_else(|_| panic!("no {text:?} in: {}", self.said()));
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn ended(mut self) -> Ended {
        self.stdin = None;
        let ended = async {
            // What nobody reads would keep it from ending.
            let mut out = String::new();
            while let Ok(Some(line)) = self.out.next_line().await {
                out.push_str(&line);
                out.push('\n');
            }
            let status = self.child.wait().await.expect("its status");
            let _ = (&mut self.reads_said).await;
            (status, out)
        };
        let ended: Result<(ExitStatus, String), _> = timeout(PATIENCE * 3, ended).await;
        let (status, out) = ended.unwrap_or_else(|_| panic!("it does not end; it said: {}", self.said()));
        Ended { code: status.code(), out, said: self.said() }
    }

    /// Kills it, and only it.
    ///
    /// # Panics
    /// If it had ended by itself.
    pub async fn kill_9(mut self) -> String {
        self.signal(Signal::KILL);
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("its status");
        self.said()
    }
}

/// Starts the binary with these arguments and waits for its end.
pub async fn arbiter_says(url: &str, arguments: &[&str]) -> Ended {
    Running::start(command().arg("--url").arg(url).args(arguments)).ended().await
}

/// `arbiter serve` on a folder.
pub struct Served {
    /// Where clients connect.
    pub url: String,
    /// Its process.
    pub process: Running,
    /// The records that it read before it was ready.
    pub records_read: u64,
}

impl Served {
    /// On a free port of loopback.
    pub async fn start(data: &Path) -> Self {
        Self::start_at(data, "tcp://127.0.0.1:0").await
    }

    /// At a URL, when it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn start_at(data: &Path, url: &str) -> Self {
        Self::start_with(command(), data, url).await
    }

    /// As [`start_at`](Self::start_at), from [`command`] with an environment of its own.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn start_with(mut command: Command, data: &Path, url: &str) -> Self {
        command.args(["serve", "--json", "--url", url, "--data"]).arg(data);
        let mut process = Running::start(&mut command);
        let line = process.line().await;
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let url = ready["ready"]["url"].as_str().unwrap_or_else(|| panic!("not ready: {line}")).to_owned();
        let records_read = ready["ready"]["records"].as_u64().expect("a number");
        Self { url, process, records_read }
    }

    /// Stops it as an operator does.
    ///
    /// # Panics
    /// If it does not exit with 0.
    pub async fn stop(self) {
        self.process.signal(Signal::TERM);
        let ended = self.process.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
    }
}

/// `arbiter run` at a URL: the arguments before `--`, and a shell script.
pub fn run(url: &str, arguments: &[&str], script: &str) -> Running {
    Running::start(run_command(url, arguments, script).stdin(Stdio::piped()))
}

/// As [`run`], to be changed further.
pub fn run_command(url: &str, arguments: &[&str], script: &str) -> Command {
    let mut command = command();
    command.args(["run", "--url", url]).args(arguments).args(["--", "sh", "-c", script]);
    command
}

/// Whether a process runs: one that has ended and was not collected yet does not.
pub fn is_alive(pid: u32) -> bool {
    // The state follows the name, which may hold anything but ends with the last parenthesis.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Waits until a process is gone.
///
/// # Panics
/// If it stays.
pub async fn gone(pid: u32) {
    let gone = async {
        while is_alive(pid) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("process {pid} is still there"));
}

/// A script that says its process id and a grandchild's, and then runs until both are killed.
pub const FAMILY: &str = "sleep 100 & echo $$ $!; wait";

/// What [`FAMILY`] says.
///
/// # Panics
/// If it says anything else.
pub async fn family(running: &mut Running) -> Vec<u32> {
    let line = running.line().await;
    let pids: Vec<u32> = line.split(' ').filter_map(|pid| pid.parse().ok()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_alive(*pid)), "{line}");
    pids
}

/// A script that says, first of all, which of these processes are alive.
pub fn script_that_looks_for(pids: &[u32]) -> String {
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    let look = r#"for pid in PIDS; do
        state=$(sed 's/.*) //; s/ .*//' /proc/$pid/stat 2>/dev/null)
        case "$state" in ''|Z|X) ;; *) alive="$alive $pid" ;; esac
    done
    echo "alive:$alive""#;
    look.replace("PIDS", &pids.join(" "))
}
