//! Builds checkpoints beside the loop, by folding the log as any reader would.
//!
//! It shares nothing with the partition that decides: what it writes down is what the log says, so a checkpoint
//! that disagrees with memory is found by whoever replays. The order is: draft as of a record; the loop puts the
//! draft's hash into the chain; once that record is read back, the body is stored.

use crate::log::checkpoint::Draft;
use crate::log::file::{Cursor, FileLog, FileLogReader, ReadRecord};
use crate::state::{State, snapshot};
use arbiterq_client::wire::Hash;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::mpsc;

/// A draft whose hash is to be put into the chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drafted {
    pub(crate) of: u64,
    pub(crate) hash: Hash,
}

/// The loop's end of the checkpointer.
pub(crate) struct Handle {
    asks: Option<SyncSender<()>>,
    pub(crate) drafted: mpsc::Receiver<Drafted>,
}

impl Handle {
    /// Asks for a checkpoint; false if one is being made.
    pub(crate) fn ask(&self) -> bool {
        match &self.asks {
            Some(asks) => !matches!(asks.try_send(()), Err(TrySendError::Full(()))),
            None => false,
        }
    }

    /// Lets the thread end by itself; a checkpoint that is half made is given up.
    pub(crate) fn stop(&mut self) {
        self.asks = None;
        self.drafted.close();
    }
}

/// Starts the checkpointer's thread at the state that the log had when it was opened.
pub(crate) fn start(log: &FileLog, state: State, at: Option<Cursor>, partition: u32) -> io::Result<Handle> {
    let (asks, asked) = sync_channel(1);
    let (drafts, drafted) = mpsc::channel(1);
    // A log that was begun just now is read from its genesis, which `state` has folded already.
    let state = if at.is_some() { state } else { State::new(crate::log::chain::ChainTip::before(0)) };
    let reader = log.reader(at);
    let store = log.checkpoints();
    std::thread::Builder::new().name(format!("checkpoint-{partition}")).spawn(move || {
        let mut checkpointer = Checkpointer { state, reader, asked, drafts };
        while let Some((draft, record)) = checkpointer.next() {
            match store.store(&draft, &record) {
                Ok(manifest) => tracing::info!(partition, of = manifest.of, "checkpoint written"),
                Err(error) => tracing::warn!(partition, %error, "checkpoint not written"),
            }
        }
    })?;
    Ok(Handle { asks: Some(asks), drafted })
}

struct Checkpointer {
    state: State,
    reader: FileLogReader,
    asked: Receiver<()>,
    drafts: mpsc::Sender<Drafted>,
}

impl Checkpointer {
    /// Waits to be asked, folds up to what is proven, drafts, and reads on until the draft's record is there.
    fn next(&mut self) -> Option<(Draft, ReadRecord)> {
        self.asked.recv().ok()?;
        while self.fold()?.is_some() {}
        let draft = Draft::new(self.reader.cursor()?, snapshot::write(&self.state));
        let (of, hash) = draft.event();
        self.drafts.blocking_send(Drafted { of, hash }).ok()?;
        loop {
            match self.fold()? {
                Some(record) if draft.is_recorded_by(&record) => return Some((draft, record)),
                Some(_) => {}
                // Woken by the next ask at the latest; nothing is lost by waiting for it.
                None if self.drafts.is_closed() => return None,
                None => std::thread::park_timeout(std::time::Duration::from_millis(10)),
            }
        }
    }

    /// The next proven record, folded; `None` within if there is none yet, `None` without if the log is unreadable.
    #[allow(clippy::option_option, reason = "the end of the thread and the end of what is proven differ")]
    fn fold(&mut self) -> Option<Option<ReadRecord>> {
        match self.reader.next() {
            Ok(record) => {
                if let Some(record) = &record {
                    self.state.fold(&record.sealed);
                }
                Some(record)
            }
            Err(error) => {
                tracing::error!(%error, "the log could not be read back; no more checkpoints are made");
                None
            }
        }
    }
}
