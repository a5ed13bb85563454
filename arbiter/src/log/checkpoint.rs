//! Checkpoints of the file log: the live state as of an earlier record, so that a restart reads the tail only.
//!
//! A body is never trusted by itself: its hash must be in the chain. Order of writing: the `checkpoint` record is
//! proven, the body and the mark are synced, then the manifest appears under its name. What this module never does
//! is to know what a body means.

use super::chain::{Sealed, hash_of};
use super::file::folder::{names, numbered, sync_dir};
use super::file::writer::Shared;
use super::file::{Cursor, IoFailure, Position, ReadRecord, WriteError};
use super::record::Event;
use arbiterq_client::wire::Hash;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Checkpoints that are kept.
pub const CHECKPOINTS_KEPT: usize = 2;
/// A body; a larger one is not written and not read.
pub const CHECKPOINT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// A manifest; a larger file is none.
const MANIFEST_BYTES_MAX: u64 = 4096;

/// Where a checkpoint belongs in its log; one line of JSON in `checkpoint-<of>.manifest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The index of the last record that is in the body.
    pub of: u64,
    /// That record's hash.
    pub of_hash: Hash,
    /// Where the record after it begins; the end of a segment stands for the beginning of the next.
    pub after: Position,
    /// The index of the record with the body's hash.
    pub index: u64,
    /// That record's hash.
    pub hash: Hash,
    /// Where it begins.
    pub position: Position,
    /// SHA-256 of the body.
    pub body_hash: Hash,
}

impl Manifest {
    /// Whether this is the record that the manifest speaks of.
    pub(super) fn is_recorded_by(&self, sealed: &Sealed) -> bool {
        sealed.record.index == self.index
            && sealed.hash == self.hash
            && names_body(sealed, self.of, self.body_hash)
    }
}

/// Whether a record puts this hash into the chain as that of the state after `of`.
pub(super) fn names_body(sealed: &Sealed, of: u64, body_hash: Hash) -> bool {
    sealed.record.events.iter().any(|event| {
        matches!(event, Event::Checkpoint { of: of_there, hash } if *of_there == of && *hash == body_hash)
    })
}

/// A body whose record is not in the chain yet.
#[derive(Debug)]
pub struct Draft {
    of: Cursor,
    body: Vec<u8>,
    body_hash: Hash,
}

impl Draft {
    /// A body of the state just before `of`: where the reader that folded it stands.
    ///
    /// # Panics
    /// If that is before the first record.
    pub fn new(of: Cursor, body: Vec<u8>) -> Self {
        assert!(of.tip.next_index > 0, "a checkpoint is of a record");
        let body_hash = hash_of(&body);
        Self { of, body, body_hash }
    }

    /// For the `checkpoint` event: the index of the last record that is in the body, and the body's hash.
    pub fn event(&self) -> (u64, Hash) {
        (self.of.tip.next_index - 1, self.body_hash)
    }

    /// Whether this is the record with this draft's event. The checkpointer reads on until it is.
    pub fn is_recorded_by(&self, record: &ReadRecord) -> bool {
        let (of, body_hash) = self.event();
        record.sealed.record.index > of && names_body(&record.sealed, of, body_hash)
    }
}

/// A checkpoint that was not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Larger than [`CHECKPOINT_BYTES_MAX`].
    #[error("the checkpoint has {bytes} bytes, the limit is {CHECKPOINT_BYTES_MAX}; it was not written")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The system said no. The log goes on.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// The log itself failed.
    #[error(transparent)]
    Log(#[from] WriteError),
}

/// Keeps the checkpoints of one log. Made by [`FileLog::checkpoints`](super::file::FileLog::checkpoints).
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    dir: PathBuf,
    log: Arc<Shared>,
    /// Those that a start could not use: they do not count among those that are kept.
    unusable: Vec<u64>,
    /// Whoever can still write to the folder keeps it locked.
    _lock: Arc<File>,
}

impl CheckpointStore {
    pub(super) fn new(dir: &Path, log: Arc<Shared>, unusable: Vec<u64>, lock: Arc<File>) -> Self {
        Self { dir: dir.to_path_buf(), log, unusable, _lock: lock }
    }

    /// Writes a checkpoint whose record was read back, which makes it proven, and removes all but the newest two.
    /// Blocks; not for the loop.
    ///
    /// # Errors
    /// Too large, the system's, or the log has failed. What was there before still is.
    ///
    /// # Panics
    /// If the record is not that of the draft.
    pub fn store(&self, draft: &Draft, record: &ReadRecord) -> Result<Manifest, StoreError> {
        assert!(draft.is_recorded_by(record), "the record is that of the draft");
        let bytes = draft.body.len() as u64;
        if bytes > CHECKPOINT_BYTES_MAX {
            return Err(StoreError::TooLarge { bytes });
        }
        let (of, body_hash) = draft.event();
        let manifest = Manifest {
            of,
            of_hash: draft.of.tip.hash,
            after: draft.of.position,
            index: record.sealed.record.index,
            hash: record.sealed.hash,
            position: record.position,
            body_hash,
        };
        if let Err(error) = self.put_both(draft, &manifest) {
            // A part of a checkpoint is of no use, and the log may need its room. A start removes what is left.
            let _ = remove(&manifest_path(&self.dir, of)).and_then(|()| remove(&body_path(&self.dir, of)));
            return Err(error);
        }
        self.prune()?;
        Ok(manifest)
    }

    fn put_both(&self, draft: &Draft, manifest: &Manifest) -> Result<(), StoreError> {
        self.put(&body_path(&self.dir, manifest.of), &draft.body)?;
        // A mark behind a checkpoint can then only be a changed one.
        self.log.sync_mark()?;
        self.put(&manifest_path(&self.dir, manifest.of), &manifest.encode())?;
        Ok(())
    }

    /// A file that is there as a whole or not at all.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), IoFailure> {
        let tmp = path.with_added_extension("tmp");
        let written = write_synced(&tmp, bytes)
            .and_then(|()| fs::rename(&tmp, path).map_err(IoFailure::of("rename", &tmp)));
        if let Err(error) = written {
            let _ = remove(&tmp);
            return Err(error);
        }
        sync_dir(&self.dir)
    }

    fn prune(&self) -> Result<(), IoFailure> {
        let kept = list(&self.dir)?;
        let kept: Vec<u64> = kept
            .into_iter()
            .map(|(of, _)| of)
            .filter(|of| !self.unusable.contains(of))
            .take(CHECKPOINTS_KEPT)
            .collect();
        for (of, path) in list(&self.dir)? {
            if !kept.contains(&of) {
                // The manifest first: without one a body is nothing.
                remove(&path)?;
                remove(&body_path(&self.dir, of))?;
            }
        }
        sync_dir(&self.dir)
    }
}

impl Manifest {
    /// The whole file.
    fn encode(&self) -> Vec<u8> {
        // A value of ours with a writer that cannot fail.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), IoFailure> {
    let mut file = File::create(path).map_err(IoFailure::of("create", path))?;
    file.write_all(bytes).map_err(IoFailure::of("write", path))?;
    file.sync_all().map_err(IoFailure::of("sync", path))
}

fn body_path(dir: &Path, of: u64) -> PathBuf {
    dir.join(format!("checkpoint-{of:020}.jsonl"))
}

fn manifest_path(dir: &Path, of: u64) -> PathBuf {
    dir.join(format!("checkpoint-{of:020}.manifest"))
}

/// The manifests of a folder, newest first.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, IoFailure> {
    let mut found = Vec::new();
    for name in names(dir)? {
        let stem = name.strip_prefix("checkpoint-").and_then(|n| n.strip_suffix(".manifest"));
        found.extend(stem.and_then(numbered).map(|of| (of, dir.join(&name))));
    }
    found.sort_by_key(|(of, _)| std::cmp::Reverse(*of));
    Ok(found)
}

/// A checkpoint whose two files fit each other, or what is wrong with it. The log is still to be asked.
pub(super) fn read(
    dir: &Path,
    of: u64,
    path: &Path,
) -> Result<Result<(Manifest, Vec<u8>), String>, IoFailure> {
    let bytes = match read_bounded(path, MANIFEST_BYTES_MAX)? {
        Ok(bytes) => bytes,
        Err(why) => return Ok(Err(why)),
    };
    let manifest = match serde_json::from_slice::<Manifest>(&bytes) {
        Ok(manifest) if manifest.of == of && manifest.index > of && manifest.encode() == bytes => manifest,
        Ok(_) => return Ok(Err("the manifest is not as it was written".into())),
        Err(e) => return Ok(Err(format!("the manifest cannot be read: {e}"))),
    };
    Ok(read_bounded(&body_path(dir, of), CHECKPOINT_BYTES_MAX)?.and_then(|body| {
        if hash_of(&body) == manifest.body_hash {
            return Ok((manifest, body));
        }
        Err("the body is not the one that the manifest names".into())
    }))
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Result<Vec<u8>, String>, IoFailure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Ok(Err(format!("{} is missing", path.display())));
        }
        Err(e) => return Err(IoFailure::of("open", path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(IoFailure::of("read", path))?;
    if bytes.len() as u64 > bytes_max {
        return Ok(Err(format!("{} has more than {bytes_max} bytes", path.display())));
    }
    Ok(Ok(bytes))
}

/// Removes what a crash left half-written: files that were not renamed, and bodies without a manifest.
pub(super) fn clean(dir: &Path) -> Result<(), IoFailure> {
    for name in names(dir)? {
        let Some(rest) = name.strip_prefix("checkpoint-") else { continue };
        let body_of = rest.strip_suffix(".jsonl").and_then(numbered);
        let orphan = body_of.is_some_and(|of| !manifest_path(dir, of).exists());
        if orphan || rest.ends_with(".tmp") {
            remove(&dir.join(&name))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), IoFailure> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(IoFailure::of("remove", path)(e)),
        _ => Ok(()),
    }
}
