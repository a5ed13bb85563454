//! What has been read of a log and counts; and a thread that reads on beside an active arbiter's loop, and makes
//! checkpoints.

use crate::log::chain::{ChainTip, Sealed, hash_of};
use crate::log::record::Event;
use crate::log::stream::Void;
use crate::log::stream::checkpoint::{Draft, Manifest, store};
use crate::state::{State, snapshot};
use arbiterq_client::broker::BrokerUrl;
use arbiterq_client::wire::Hash;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Records that the thread may be behind, before the loop takes nothing more: a checkpoint is being written down.
const BEHIND_MAX: usize = 65_536;

/// What has been read of a log and counts.
pub(super) struct Follower {
    pub(super) state: State,
    /// Where the entry is whose last record is the tip.
    pub(super) tip_at: Option<u64>,
    pub(super) void: Void,
    /// Checkpoints whose records are to be in the log, and were not read yet.
    pub(super) unproven: Vec<Manifest>,
    /// The index of the newest record of a checkpoint.
    checkpoint: u64,
}

impl Follower {
    /// Before the first record.
    pub(super) fn new() -> Self {
        let state = State::new(ChainTip::before(0));
        Self { state, tip_at: None, void: Void::default(), unproven: Vec::new(), checkpoint: 0 }
    }

    /// At a checkpoint; else why it is none. The records of `recorded` that come after it are still to be read. Takes as
    /// long as the body is large.
    pub(super) fn at(manifest: &Manifest, body: &[u8], recorded: &[Manifest]) -> Result<Self, String> {
        if hash_of(body) != manifest.body_hash {
            return Err("the body is not the one that the manifest names".into());
        }
        let state = snapshot::read(body).map_err(|error| error.to_string())?;
        if state.tip() != manifest.tip() {
            return Err("its body is of another record".into());
        }
        let unproven = recorded.iter().filter(|other| other.index > manifest.of).cloned().collect();
        Ok(Self { state, tip_at: Some(manifest.of_at), unproven, ..Self::new() })
    }

    /// An entry, as the log says it next. Whether it counts.
    pub(super) fn take(&mut self, offset: u64, records: &[Sealed]) -> bool {
        if !self.void.take(&mut self.state.tip(), records) {
            return false;
        }
        for sealed in records {
            self.state.fold(sealed);
            if sealed.record.events.iter().any(|event| matches!(event, Event::Checkpoint { .. })) {
                self.checkpoint = sealed.record.index;
                self.unproven.retain(|manifest| !manifest.is_recorded_by(sealed));
            }
        }
        self.tip_at = Some(offset);
        true
    }
}

/// Where checkpoints go, and how often.
#[derive(Clone)]
pub(super) struct Checkpoints {
    pub(super) url: BrokerUrl,
    pub(super) number: u32,
    /// Records between two; 0 for none.
    pub(super) records: u64,
}

/// A follower on a thread of its own: it is told what the log says, and drafts checkpoints.
pub(super) struct Beside {
    said: Sender<(u64, Vec<Sealed>)>,
    behind: Arc<AtomicUsize>,
    drafted: mpsc::Receiver<(u64, Hash)>,
    thread: JoinHandle<Follower>,
}

impl Beside {
    pub(super) fn start(follower: Follower, checkpoints: Checkpoints) -> io::Result<Self> {
        let (said, heard) = channel();
        let (drafts, drafted) = mpsc::channel(1);
        let behind = Arc::new(AtomicUsize::new(0));
        let due = follower.checkpoint.saturating_add(checkpoints.records);
        let following = Following {
            follower,
            due,
            drafts,
            draft: None,
            storing: None,
            behind: behind.clone(),
            runtime: Handle::current(),
            checkpoints,
        };
        let name = format!("follow-{}", following.checkpoints.number);
        let thread = std::thread::Builder::new().name(name).spawn(move || following.run(&heard))?;
        Ok(Self { said, behind, drafted, thread })
    }

    /// What the log says next.
    pub(super) fn take(&self, offset: u64, records: Vec<Sealed>) {
        self.behind.fetch_add(records.len(), Ordering::Relaxed);
        // If the thread has ended, whoever joins it learns why.
        let _ = self.said.send((offset, records));
    }

    /// It has much to read; nothing new is to be taken.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed) > BEHIND_MAX
    }

    /// The next draft: its hash is to be put into the chain. None if the thread has ended, which it does not by itself.
    ///
    /// Cancel safe.
    pub(super) async fn drafted(&mut self) -> Option<(u64, Hash)> {
        self.drafted.recv().await
    }

    /// All that was said is read: the follower again. None if the thread panicked. Blocks, for as long as a checkpoint is
    /// being written down at most.
    pub(super) fn end(self) -> Option<Follower> {
        let Self { said, thread, .. } = self;
        drop(said);
        thread.join().ok()
    }
}

/// What the thread has.
struct Following {
    follower: Follower,
    /// The index from which on a checkpoint is due.
    due: u64,
    drafts: mpsc::Sender<(u64, Hash)>,
    /// One whose record has not been read yet.
    draft: Option<Draft>,
    /// The one before, which is being written.
    storing: Option<tokio::task::JoinHandle<()>>,
    behind: Arc<AtomicUsize>,
    runtime: Handle,
    checkpoints: Checkpoints,
}

impl Following {
    fn run(mut self, heard: &Receiver<(u64, Vec<Sealed>)>) -> Follower {
        while let Ok((offset, records)) = heard.recv() {
            if self.follower.take(offset, &records) {
                self.store_if_recorded(&records);
                self.draft_if_due(offset);
            }
            self.behind.fetch_sub(records.len(), Ordering::Relaxed);
        }
        self.follower
    }

    fn draft_if_due(&mut self, offset: u64) {
        let tip = self.follower.state.tip();
        if self.checkpoints.records == 0 || tip.next_index < self.due {
            return;
        }
        // One at a time, from draft to broker. Then the next is of a later entry.
        if self.draft.is_some() || self.storing.as_ref().is_some_and(|storing| !storing.is_finished()) {
            return;
        }
        self.due = tip.next_index + self.checkpoints.records;
        let Some(draft) = Draft::new(tip, offset, snapshot::write(&self.follower.state)) else { return };
        // There is room for the only one.
        if self.drafts.try_send(draft.event()).is_ok() {
            self.draft = Some(draft);
        }
    }

    fn store_if_recorded(&mut self, records: &[Sealed]) {
        let Some(draft) = &self.draft else { return };
        let Some(record) = records.iter().find(|sealed| draft.is_recorded_by(sealed)).cloned() else {
            return;
        };
        let Some(draft) = self.draft.take() else { return };
        let Checkpoints { url, number, .. } = self.checkpoints.clone();
        self.storing = Some(self.runtime.spawn(async move {
            match store(&url, number, &draft, &record).await {
                Ok(manifest) => tracing::info!(partition = number, of = manifest.of, "checkpoint written"),
                Err(error) => tracing::warn!(partition = number, %error, "checkpoint not written"),
            }
        }));
    }
}
