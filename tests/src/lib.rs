//! What several test suites need: a service on a folder, and a client that says any bytes at all.

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
