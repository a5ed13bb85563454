//! What several test suites need: a service on a folder, and a client that says any bytes at all.

pub mod at_end;
pub mod binary;
pub mod contract;
pub mod fuzz;
pub mod hostile;
pub mod invariants;
pub mod island;
pub mod rabbitmq;
pub mod scene;
pub mod shipped;
pub mod sim;
pub mod strace;
pub mod verifiers;

use arbiterq::log::chain::hash_of;
use arbiterq::log::file;
use arbiterq::partition::PartitionConfig;
use arbiterq::serve::{Listen, ServeConfig, ServeError, serve};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything here takes; a test that waits so long fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A service within the test's process, on a free port of loopback and a real folder.
pub struct Service {
    /// Where clients connect.
    pub url: String,
    /// What was met in each partition's folder.
    pub opened: Vec<file::Opened>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), ServeError>>,
}

/// The settings of such a service.
pub fn serve_config(data: &Path) -> ServeConfig {
    ServeConfig {
        listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
        data: data.to_owned(),
        partitions: 1,
        log: file::Options::default(),
        checkpoint_records: 0,
        partition: PartitionConfig::default(),
        connections_max: 1000,
        shutdown_timeout: Duration::from_secs(10),
    }
}

impl Service {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It did not start.
    ///
    /// # Panics
    /// If it neither starts nor fails.
    pub async fn start(config: ServeConfig) -> Result<Self, ServeError> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let ended = tokio::spawn(serve(
            config,
            async {
                let _ = stopped.await;
            },
            |is| drop(ready.send(is)),
        ));
        match is_ready.await {
            Ok(is) => Ok(Self { url: is.url, opened: is.partitions, stop, ended }),
            Err(_) => Err(ended.await.expect("it does not panic").expect_err("it ended before it was ready")),
        }
    }

    /// Finishes and stops it.
    ///
    /// # Errors
    /// It had failed, or could not finish.
    ///
    /// # Panics
    /// If it panicked.
    pub async fn stop(self) -> Result<(), ServeError> {
        let _ = self.stop.send(());
        self.ended.await.expect("it does not panic")
    }

    /// A connection that says anything.
    pub async fn raw(&self) -> Raw {
        Raw::connect(&self.url).await
    }
}

/// A connection without any rules.
pub struct Raw {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl Raw {
    /// Connects to `tcp://…`.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect(url: &str) -> Self {
        let address = url.strip_prefix("tcp://").expect("a TCP URL");
        let (read, write) = TcpStream::connect(address).await.expect("somebody listens").into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    /// Says a line.
    ///
    /// # Panics
    /// If the connection is gone.
    pub async fn say(&mut self, line: impl AsRef<[u8]>) {
        self.write.write_all(line.as_ref()).await.expect("connected");
        self.write.write_all(b"\n").await.expect("connected");
    }

    /// Says bytes as they are.
    ///
    /// # Panics
    /// If the connection is gone.
    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.expect("connected");
        self.write.flush().await.expect("connected");
    }

    /// Says bytes as they are; whether the connection is still there.
    pub async fn try_say(&mut self, text: &str) -> bool {
        self.write.write_all(text.as_bytes()).await.is_ok()
    }

    /// Ends its half of the connection, and hears on.
    ///
    /// # Panics
    /// If the connection is gone.
    pub async fn says_nothing_more(&mut self) {
        self.write.shutdown().await.expect("connected");
    }

    /// The next line, as JSON; none if the connection has ended.
    ///
    /// # Panics
    /// If nothing comes, or no JSON.
    pub async fn hear(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("an answer");
        line.ok().flatten().map(|line| serde_json::from_str(&line).expect("JSON"))
    }

    /// Says a line and hears the answer.
    ///
    /// # Panics
    /// If there is none.
    pub async fn ask(&mut self, line: impl AsRef<[u8]>) -> Value {
        self.say(line).await;
        self.hear().await.expect("an answer")
    }

    /// Opens a session; its number.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn open(&mut self, key: &str) -> u64 {
        let open = format!(
            r#"{{"v":1,"partition":0,"open":{{"id":"o","key":"{key}","lease_ms":60000,"label":"raw"}}}}"#
        );
        let opened = self.ask(open).await;
        opened["opened"]["session"].as_u64().unwrap_or_else(|| panic!("{opened}"))
    }
}

/// Writes a log folder as `client/protocol/log.md` describes it: one segment, and a mark at its last record.
///
/// # Panics
/// If it cannot be written, or a line is no record.
pub fn write_folder(folder: &Path, lines: &[Vec<u8>]) {
    std::fs::create_dir_all(folder).expect("a folder");
    let index = |line: &Vec<u8>| serde_json::from_slice::<Value>(line).expect("a record")["index"].as_u64();
    let first = lines.first().and_then(index).unwrap_or(0);
    let segment = lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect::<Vec<u8>>();
    std::fs::write(folder.join(format!("{first:020}.log")), segment).expect("a segment");
    write_mark(folder, lines.last().map(Vec::as_slice));
}

/// Copies a data folder with one log, that of partition 0.
///
/// # Panics
/// If it cannot.
pub fn copy_data(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("0")).expect("a folder");
    for entry in std::fs::read_dir(from.join("0")).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join("0").join(entry.file_name())).expect("a copy");
    }
}

/// What a variable of the environment says; `few` if it is not there.
///
/// # Panics
/// If it is no number.
pub fn number(variable: &str, few: u64) -> u64 {
    std::env::var(variable).map_or(few, |text| text.parse().expect("a number"))
}

/// The bytes of a process that are in memory.
///
/// # Panics
/// If the system does not say.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// A folder for what is written and read very often: in memory, where there is a place for that.
///
/// # Panics
/// If there is none at all.
pub fn quick_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// Writes the durable mark at the last line.
///
/// # Panics
/// If it cannot be written, or the line is no record.
pub fn write_mark(folder: &Path, last: Option<&[u8]>) {
    let mark = match last {
        Some(line) => {
            let index = serde_json::from_slice::<Value>(line).expect("JSON")["index"].clone();
            format!(r#"{{"index":{index},"hash":"{}"}}"#, hash_of(line))
        }
        None => r#"{"index":null,"hash":null}"#.to_owned(),
    };
    std::fs::write(folder.join("durable"), format!("{mark:<127}\n")).expect("a mark");
}

/// The whole lines of a log folder, from all its segments.
///
/// # Panics
/// If it cannot be read.
pub fn log_lines(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut segments: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    segments.sort();
    let mut lines = Vec::new();
    for segment in segments {
        let bytes = std::fs::read(segment).expect("a segment");
        let mut rest = bytes.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            lines.push(rest[..end].to_vec());
            rest = &rest[end + 1..];
        }
    }
    lines
}
