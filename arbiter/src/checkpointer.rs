//! Builds checkpoints beside the loop, by folding the log as any reader would.
//!
//! It shares nothing with the partition that decides: what it writes down is what the log says, so a checkpoint
//! that disagrees with memory is found by whoever replays. The order is: draft as of a record; the loop puts the
//! draft's hash into the chain and says where; once that record is read back, the body is stored.

use crate::log::checkpoint::{CheckpointStore, Draft};
use crate::log::file::{Cursor, FileLog, FileLogReader, ReadError, ReadRecord};
use crate::state::{State, snapshot};
use arbiterq_client::wire::Hash;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often it looks whether the record that it waits for is proven, a sync away as a rule, and whether it is to end.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A draft whose hash is to be put into the chain. Dropped unanswered, it is given up.
#[derive(Debug)]
pub(crate) struct Drafted {
    pub(crate) of: u64,
    pub(crate) hash: Hash,
    recorded: SyncSender<u64>,
}

impl Drafted {
    /// The hash is in the record of this index.
    pub(crate) fn recorded(self, index: u64) {
        // It has room for the one answer; if the thread has ended, nobody needs it.
        let _ = self.recorded.try_send(index);
    }
}

/// The loop's end of the checkpointer.
pub(crate) struct Handle {
    asks: Option<SyncSender<()>>,
    drafted: mpsc::Receiver<Drafted>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Asks for a checkpoint, perhaps while one is being made; false if that was done already.
    pub(crate) fn ask(&self) -> bool {
        match &self.asks {
            Some(asks) => !matches!(asks.try_send(()), Err(TrySendError::Full(()))),
            None => false,
        }
    }

    /// The next draft; none if the thread has ended, which it does by itself only where the log is damaged.
    ///
    /// Cancel safe.
    pub(crate) async fn drafted(&mut self) -> Option<Drafted> {
        self.drafted.recv().await
    }

    /// Whether the thread is at work, or waits to be asked.
    pub(crate) fn is_running(&self) -> bool {
        self.asks.is_some()
    }

    /// The thread has ended: learns whether by a panic. Does not block for long, as it is about to be gone.
    pub(crate) fn has_ended(&mut self) -> Result<(), Panicked> {
        self.asks = None;
        self.join()
    }

    fn join(&mut self) -> Result<(), Panicked> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| Panicked))
    }

    /// Waits for the thread's end; a checkpoint that is half made is given up. Blocks, for as long as one file is
    /// being written at most.
    pub(crate) fn stop(mut self) -> Result<(), Panicked> {
        self.let_end();
        self.join()
    }

    fn let_end(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.asks = None;
        self.drafted.close();
        // One that waits for its answer waits no longer.
        while self.drafted.try_recv().is_ok() {}
    }
}

impl Drop for Handle {
    /// Never waits: the folder stays locked until the thread has ended.
    fn drop(&mut self) {
        self.let_end();
    }
}

/// The checkpointer's thread panicked.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Starts the checkpointer's thread at the state that the log had when it was opened.
pub(crate) fn start(log: &FileLog, state: State, at: Option<Cursor>, partition: u32) -> io::Result<Handle> {
    let (asks, asked) = sync_channel(1);
    let (drafts, drafted) = mpsc::channel(1);
    // A log that was begun just now is read from its genesis, which `state` has folded already.
    let state = if at.is_some() { state } else { State::new(crate::log::chain::ChainTip::before(0)) };
    let stopping = Arc::new(AtomicBool::new(false));
    let checkpointer = Checkpointer {
        state,
        reader: log.reader(at),
        store: log.checkpoints(),
        partition,
        drafts,
        stopping: stopping.clone(),
    };
    let thread = std::thread::Builder::new()
        .name(format!("checkpoint-{partition}"))
        .spawn(move || checkpointer.run(&asked))?;
    Ok(Handle { asks: Some(asks), drafted, stopping, thread: Some(thread) })
}

struct Checkpointer {
    state: State,
    reader: FileLogReader,
    store: CheckpointStore,
    partition: u32,
    drafts: mpsc::Sender<Drafted>,
    stopping: Arc<AtomicBool>,
}

impl Checkpointer {
    /// Makes a checkpoint whenever it is asked, until nobody can ask any more.
    fn run(mut self, asked: &Receiver<()>) {
        let partition = self.partition;
        while asked.recv().is_ok() {
            match self.make() {
                Ok(Some((draft, record))) => match self.store.store(&draft, &record) {
                    Ok(manifest) => tracing::info!(partition, of = manifest.of, "checkpoint written"),
                    Err(error) => tracing::warn!(partition, %error, "checkpoint not written"),
                },
                Ok(None) => tracing::debug!(partition, "a checkpoint was given up"),
                Err(ReadError::Io(error)) => {
                    tracing::warn!(partition, %error, "checkpoint not written: the log could not be read back");
                }
                Err(error @ ReadError::Damaged(_)) => {
                    tracing::error!(partition, %error, "the log is damaged; no more checkpoints are made");
                    return;
                }
            }
        }
    }

    /// Folds up to what is proven, drafts, and reads on until the draft's record is there. None if it was given up.
    fn make(&mut self) -> Result<Option<(Draft, ReadRecord)>, ReadError> {
        // Not up to the end, which may move faster than this reads.
        let through = self.reader.proven();
        while self.reader.cursor().is_none_or(|cursor| Some(cursor.tip.next_index) <= through) {
            if self.fold()?.is_none() {
                break;
            }
        }
        let Some(cursor) = self.reader.cursor() else { return Ok(None) };
        if self.is_stopping() {
            return Ok(None);
        }
        let draft = Draft::new(cursor, snapshot::write(&self.state));
        let (of, hash) = draft.event();
        let (recorded, is_recorded) = sync_channel(1);
        if self.drafts.blocking_send(Drafted { of, hash, recorded }).is_err() {
            return Ok(None);
        }
        let Some(index) = self.answer(&is_recorded) else { return Ok(None) };
        while !self.is_stopping() {
            match self.fold()? {
                Some(record) if record.sealed.record.index == index => {
                    return Ok(draft.is_recorded_by(&record).then_some((draft, record)));
                }
                Some(record) if record.sealed.record.index > index => return Ok(None),
                Some(_) => {}
                None => std::thread::park_timeout(LOOK_AGAIN),
            }
        }
        Ok(None)
    }

    /// The index of the draft's record. None if it cannot be made, or if this is to end: a draft that was sent in the
    /// moment in which nobody takes any more is neither answered nor dropped.
    fn answer(&self, is_recorded: &Receiver<u64>) -> Option<u64> {
        loop {
            match is_recorded.recv_timeout(LOOK_AGAIN) {
                Ok(index) => return Some(index),
                Err(RecvTimeoutError::Timeout) if !self.is_stopping() => {}
                Err(_) => return None,
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The next proven record, folded; none if there is none yet, or if this is to end.
    fn fold(&mut self) -> Result<Option<ReadRecord>, ReadError> {
        if self.is_stopping() {
            return Ok(None);
        }
        let record = self.reader.next()?;
        if let Some(record) = &record {
            self.state.fold(&record.sealed);
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::chain::{ChainTip, Sealed};
    use crate::log::file::{OpenError, Options, Step};
    use crate::log::record::{Command, Event, Record};
    use crate::serve::genesis;
    use arbiterq_client::wire::{LogId, Timestamp};
    use std::path::Path;

    fn open(dir: &Path) -> Result<FileLog, OpenError> {
        FileLog::open(dir, Options::default(), &mut |_: Step<'_>| Ok(())).map(|(log, _)| log)
    }

    /// A log with a genesis, and a checkpointer at its beginning.
    async fn begun(dir: &Path) -> (FileLog, Handle, Sealed) {
        let mut log = open(dir).unwrap();
        let genesis = genesis(LogId([7; 16]), 0, 1, Timestamp::from_micros(1));
        log.append(std::slice::from_ref(&genesis)).unwrap();
        log.proofs().next().await.unwrap().unwrap();
        let handle = start(&log, State::new(ChainTip::before(0)), None, 0).unwrap();
        (log, handle, genesis)
    }

    #[tokio::test]
    async fn a_draft_whose_record_never_comes_is_given_up_and_the_next_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, mut handle, genesis) = begun(folder.path()).await;
        for _ in 0..3 {
            while !handle.ask() {
                tokio::task::yield_now().await;
            }
            drop(handle.drafted().await.unwrap());
        }
        while !handle.ask() {
            tokio::task::yield_now().await;
        }
        let drafted = handle.drafted().await.unwrap();
        let record = Sealed::new(Record {
            index: 1,
            prev: genesis.hash,
            epoch: 0,
            at: Timestamp::from_micros(2),
            renewed: Vec::new(),
            upto: None,
            command: Command::Checkpoint,
            events: vec![Event::Checkpoint { of: drafted.of, hash: drafted.hash }],
        });
        log.append(&[record]).unwrap();
        drafted.recorded(1);
        let manifest = folder.path().join(format!("checkpoint-{:020}.manifest", 0));
        while !manifest.exists() {
            tokio::task::yield_now().await;
        }
        handle.stop().unwrap();
        log.close().unwrap();
    }

    #[tokio::test]
    async fn it_ends_when_it_is_told_in_the_middle_of_a_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let (log, mut handle, _) = begun(folder.path()).await;
        assert!(handle.ask());
        let drafted = handle.drafted().await.unwrap();
        // A record that is not proven, and will not be.
        drafted.recorded(1);
        handle.stop().unwrap();
        log.close().unwrap();
        open(folder.path()).expect("the folder is given back");
    }

    #[tokio::test]
    async fn it_ends_though_nobody_has_taken_what_it_drafted() {
        let folder = tempfile::tempdir().unwrap();
        let (log, mut handle, _) = begun(folder.path()).await;
        assert!(handle.ask());
        // As one that was sent in the moment in which nobody takes any more.
        let untaken = handle.drafted().await.unwrap();
        let stopped = tokio::task::spawn_blocking(|| handle.stop());
        let stopped = tokio::time::timeout(Duration::from_secs(10), stopped).await;
        drop(untaken);
        stopped.expect("it is not waited for").unwrap().unwrap();
        log.close().unwrap();
    }

    #[tokio::test]
    async fn the_folder_is_locked_while_anybody_can_write_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let (log, handle, _) = begun(folder.path()).await;
        assert!(handle.ask());
        log.close().unwrap();
        assert!(matches!(open(folder.path()), Err(OpenError::Locked { .. })));
        handle.stop().unwrap();
        open(folder.path()).expect("the folder is given back");
    }
}
