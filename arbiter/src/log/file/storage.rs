//! What the writer does to a folder: the only code that changes segments and the mark.

use super::error::IoFailure;
use super::folder::{Segment, sync_dir};
use super::mark::{self, Mark};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The effects of the writer, in the order in which it asks for them. A folder, or in tests one that fails on demand.
pub(super) trait Storage: Send + 'static {
    /// The length of the current segment; none before the first.
    fn segment_bytes(&self) -> Option<u64>;
    /// Finishes the current segment, if there is one, and begins the one whose first record has this index.
    fn begin_segment(&mut self, first: u64) -> Result<(), IoFailure>;
    /// Writes lines behind those that are there.
    fn write(&mut self, lines: &[u8]) -> Result<(), IoFailure>;
    /// Makes durable what was written.
    fn sync(&mut self) -> Result<(), IoFailure>;
    /// Moves the mark.
    fn write_mark(&mut self, mark: Mark) -> Result<(), IoFailure>;
    /// Makes the mark durable.
    fn sync_mark(&mut self) -> Result<(), IoFailure>;
    /// Takes back what was written ahead of the records.
    fn finish(&mut self) -> Result<(), IoFailure>;
}

/// A log folder on disk.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    current: Option<Current>,
    mark: File,
    zero_ahead_bytes: u64,
    segment_bytes_max: u64,
}

/// The segment that is being written.
#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    /// Where the records end.
    len: u64,
    /// Where the file ends, as far as is known; zero bytes from `len` on.
    allocated: u64,
}

impl Folder {
    /// Goes on in a segment, whose records end at `len`, or has none yet.
    pub(super) fn open(
        dir: &Path,
        last: Option<(&Segment, u64)>,
        zero_ahead_bytes: u64,
        segment_bytes_max: u64,
    ) -> Result<Self, IoFailure> {
        let path = mark::path(dir);
        let mark = OpenOptions::new().write(true).open(&path).map_err(IoFailure::of("open", &path))?;
        let current = match last {
            None => None,
            Some((segment, len)) => {
                let path = segment.path.to_path_buf();
                let file = OpenOptions::new().read(true).write(true).open(&path);
                let file = file.map_err(IoFailure::of("open", &path))?;
                let allocated = file.metadata().map_err(IoFailure::of("read", &path))?.len();
                Some(Current { file, path, len, allocated })
            }
        };
        Ok(Self { dir: dir.to_path_buf(), current, mark, zero_ahead_bytes, segment_bytes_max })
    }

    /// Writes what stands from `from` to the end of the current segment once more, the same bytes in the same place.
    ///
    /// It was read, but perhaps only from memory: after a failed sync the system takes pages for clean that never
    /// reached the disk, and a sync alone would say that all is well.
    pub(super) fn write_again(&mut self, from: u64) -> Result<(), IoFailure> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let mut chunk = vec![0; 256 * 1024];
        let mut offset = from;
        while offset < current.len {
            let part = usize::try_from(current.len - offset).unwrap_or(usize::MAX).min(chunk.len());
            let part = &mut chunk[..part];
            current.file.read_exact_at(part, offset).map_err(IoFailure::of("read", &current.path))?;
            current.file.write_all_at(part, offset).map_err(IoFailure::of("write", &current.path))?;
            offset += part.len() as u64;
        }
        Ok(())
    }
}

impl Storage for Folder {
    fn segment_bytes(&self) -> Option<u64> {
        self.current.as_ref().map(|c| c.len)
    }

    fn begin_segment(&mut self, first: u64) -> Result<(), IoFailure> {
        self.finish()?;
        let path = Segment::named(&self.dir, first).path.to_path_buf();
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(IoFailure::of("create", &path))?;
        sync_dir(&self.dir)?;
        self.current = Some(Current { file, path, len: 0, allocated: 0 });
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), IoFailure> {
        let current = self.current.as_mut().expect("a segment was begun");
        current.file.write_all_at(lines, current.len).map_err(IoFailure::of("write", &current.path))?;
        current.len += lines.len() as u64;
        if current.len > current.allocated {
            current.allocated = current.len;
            let ahead = self.zero_ahead_bytes.min(self.segment_bytes_max.saturating_sub(current.len));
            // No room ahead is no failure: the records are there, and the next ones say if theirs is not.
            let zeros = vec![0; usize::try_from(ahead).unwrap_or(0)];
            if current.file.write_all_at(&zeros, current.len).is_ok() {
                current.allocated += zeros.len() as u64;
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), IoFailure> {
        let Some(current) = &self.current else { return Ok(()) };
        current.file.sync_data().map_err(IoFailure::of("sync", &current.path))
    }

    fn write_mark(&mut self, mark: Mark) -> Result<(), IoFailure> {
        let path = mark::path(&self.dir);
        self.mark.write_all_at(&Mark::encode(Some(mark)), 0).map_err(IoFailure::of("write", &path))
    }

    fn sync_mark(&mut self) -> Result<(), IoFailure> {
        self.mark.sync_data().map_err(IoFailure::of("sync", &mark::path(&self.dir)))
    }

    fn finish(&mut self) -> Result<(), IoFailure> {
        let Some(current) = &mut self.current else { return Ok(()) };
        // Also what a failed writing ahead may have left, which `allocated` does not know.
        current.file.set_len(current.len).map_err(IoFailure::of("cut", &current.path))?;
        current.allocated = current.len;
        current.file.sync_all().map_err(IoFailure::of("sync", &current.path))
    }
}
