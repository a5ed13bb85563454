//! A grant log at a broker, copied into a folder that anyone can check without the broker.
//!
//! What counts is copied, by the chain rule; what is void is counted. The bytes of a record stay as they are, so hashes
//! and receipts hold. A folder that has a part of the log already is gone on with.

use crate::log::chain::{ChainTip, Sealed};
use crate::log::file::{AppendError, FileLog, Fsync, OpenError, Options, Step, WriteError};
use crate::log::record::Event;
use crate::log::stream::{From, StreamReader, Void, entry_of};
use arbiterq_client::broker::{BrokerError, BrokerUrl, ConnectError};
use lapin::Connection;
use std::fmt;
use std::path::{Path, PathBuf};

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// The folder.
    pub folder: PathBuf,
    /// Records that are in it now.
    pub records: u64,
    /// Of those, added by this.
    pub added: u64,
    /// Entries that do not count: of an arbiter that had been replaced, or a second copy.
    pub void: u64,
    /// Of those, entries that follow a record which is not there: it was changed or lost, or never confirmed.
    pub adrift: u64,
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, records, added, void, adrift } = self;
        let folder = folder.display();
        write!(f, "{folder}: {records} records, {added} of them new; {void} void entries left out")?;
        match adrift {
            0 => Ok(()),
            some => write!(f, ", {some} of them after a record that is not there"),
        }
    }
}

/// Why a log is not copied.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The broker cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The broker is gone, or does not let us read.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The folder cannot be written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The folder is of another log, or the log begins later than the folder ends.
    #[error(
        "{folder} does not continue with what the broker has: after record {index} another one follows there"
    )]
    NotContinued {
        /// The folder.
        folder: PathBuf,
        /// Its last record.
        index: u64,
    },
    /// A record was changed, or is missing.
    #[error(
        "the log breaks off before record {next}: the last {entries} entries at the broker follow a record that is not there"
    )]
    Broken {
        /// How many.
        entries: u64,
        /// The first record that there is no more.
        next: u64,
    },
    /// A thread of ours failed.
    #[error("a part of the export failed: {0}")]
    Panicked(String),
}

/// A log that is being copied. What was copied stays, however this ends; to export again goes on there.
pub struct Export {
    /// Closed, it would end what reads on it.
    _connection: Connection,
    reader: StreamReader,
    /// The offset of what was last when it began; none if the log is empty.
    end: Option<u64>,
    folder: PathBuf,
    log: FileLog,
    /// The end of what the folder had.
    known: Option<ChainTip>,
    /// The end of what was read.
    tip: ChainTip,
    added: u64,
    void: Void,
    partitions: u32,
}

impl Export {
    /// Begins to copy partition `number`'s log into `folder`.
    ///
    /// # Errors
    /// The broker cannot be reached or does not let us read, or the folder cannot be written.
    pub async fn start(url: &BrokerUrl, number: u32, folder: &Path) -> Result<Self, ExportError> {
        let connection = url.connect("arbiter audit export").await?;
        let end = StreamReader::last_offset(&connection, number).await?;
        let reader = StreamReader::attach(&connection, number, From::First).await?;
        let folder = folder.to_owned();
        let dir = folder.clone();
        let log = tokio::task::spawn_blocking(move || open(&dir)).await.map_err(panicked)??;
        let known = log.tip();
        let (tip, added, void, partitions) = (ChainTip::before(0), 0, Void::default(), 0);
        Ok(Self { _connection: connection, reader, end, folder, log, known, tip, added, void, partitions })
    }

    /// How many partitions there are, as the log says; 0 before its genesis was read.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Copies what there was when it began.
    ///
    /// # Errors
    /// Whatever keeps it from being copied.
    ///
    /// # Cancel safety
    /// Safe, but for what is being written: then it is over.
    pub async fn to_the_end(&mut self) -> Result<(), ExportError> {
        while let Some(end) = self.end {
            if self.next().await? >= end {
                self.end = None;
            }
        }
        match self.void.adrift() {
            0 => Ok(()),
            entries => Err(ExportError::Broken { entries, next: self.tip.next_index }),
        }
    }

    /// Copies the next entry; waits for it if need be. Its offset.
    ///
    /// # Errors
    /// As [`to_the_end`](Self::to_the_end).
    ///
    /// # Cancel safety
    /// As [`to_the_end`](Self::to_the_end).
    pub async fn next(&mut self) -> Result<u64, ExportError> {
        let (offset, bytes) = self.reader.next().await?;
        self.take(&bytes).await?;
        Ok(offset)
    }

    /// Writes down what was copied, and gives the folder back.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn finish(self) -> Result<Exported, ExportError> {
        let Self { log, added, void, folder, .. } = self;
        let records = log.tip().map_or(0, |tip| tip.next_index);
        tokio::task::spawn_blocking(move || log.close()).await.map_err(panicked)??;
        Ok(Exported { folder, records, added, void: void.entries(), adrift: void.ever_adrift() })
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let records = match entry_of(bytes) {
            Ok(None) => return Ok(()),
            Ok(Some(records)) => records,
            Err(_) => {
                self.void.take_unreadable();
                return Ok(());
            }
        };
        if !self.void.take(&mut self.tip, &records) {
            return Ok(());
        }
        if let Some(Event::Genesis(genesis)) = records.first().and_then(|sealed| sealed.record.events.first())
        {
            self.partitions = genesis.partitions;
        }
        // Records that the folder has are compared by its end: each hash has all before it in it.
        let known = self.known.map_or(0, |known| known.next_index);
        let new: Vec<Sealed> = records.into_iter().filter(|sealed| sealed.record.index >= known).collect();
        if let (Some(first), Some(known)) = (new.first(), self.known.take_if(|_| !new.is_empty()))
            && first.record.prev != known.hash
        {
            return Err(ExportError::NotContinued {
                folder: self.folder.clone(),
                index: known.next_index - 1,
            });
        }
        if new.is_empty() {
            return Ok(());
        }
        self.added += new.len() as u64;
        loop {
            match self.log.append(&new) {
                Ok(()) => return Ok(()),
                Err(AppendError::Full) => self.log.room().await,
                Err(AppendError::Failed(error)) => return Err(error.into()),
            }
        }
    }
}

fn open(folder: &Path) -> Result<FileLog, OpenError> {
    let options = Options { fsync: Fsync::Never, ..Options::default() };
    FileLog::open(folder, options, &mut |_: Step<'_>| Ok(())).map(|(log, _)| log)
}

fn panicked(error: tokio::task::JoinError) -> ExportError {
    ExportError::Panicked(error.to_string())
}
