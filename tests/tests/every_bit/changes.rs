//! A small log folder in memory, and all its small changes.

use std::collections::BTreeMap;
use std::path::Path;

/// A log folder in memory.
#[derive(Clone)]
pub(crate) struct Files(pub(crate) BTreeMap<String, Vec<u8>>);

impl Files {
    pub(crate) fn read(folder: &Path) -> Self {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let files = entries
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()));
        Self(files.filter(|(name, _)| name != "lock").collect())
    }

    pub(crate) fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        self.0.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    }

    pub(crate) fn segments(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).filter(|name| name.ends_with(".log")).collect()
    }

    /// The index of the record that an offset of a segment lies in.
    pub(crate) fn index_at(&self, segment: &str, offset: usize) -> u64 {
        let first: u64 = segment[..20].parse().unwrap();
        first + self.0[segment][..offset].iter().filter(|byte| **byte == b'\n').count() as u64
    }
}

/// A change of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// This bit is another.
    Flip(usize),
    /// Only so many bytes are left.
    Cut(usize),
    /// This line is there twice.
    Doubled(usize),
    Dropped(usize),
    /// With the one after it.
    Swapped(usize),
    /// The line of another log with the same beginnings.
    Foreign(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub(crate) file: String,
    pub(crate) change: Change,
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

impl Mutation {
    pub(crate) fn bytes(&self, files: &Files, other: &[Vec<u8>]) -> Vec<u8> {
        let before = &files.0[&self.file];
        let mut lines = lines(before);
        match self.change {
            Change::Flip(bit) => {
                let mut bytes = before.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                return bytes;
            }
            Change::Cut(length) => return before[..length].to_vec(),
            Change::Doubled(line) => lines.insert(line, lines[line].clone()),
            Change::Dropped(line) => drop(lines.remove(line)),
            Change::Swapped(line) => lines.swap(line, line + 1),
            Change::Foreign(line) => {
                let first = usize::try_from(files.index_at(&self.file, 0)).unwrap();
                lines[line] = [&other[first + line][..], b"\n"].concat();
            }
        }
        lines.concat()
    }

    /// The records of which one has to be named: what is wrong with a line is seen at it or, where the line is still
    /// a record, at the next one, which names its hash.
    pub(crate) fn first_bad(&self, files: &Files) -> Vec<u64> {
        let index = match self.change {
            Change::Flip(bit) => files.index_at(&self.file, bit / 8),
            Change::Cut(length) => return vec![files.index_at(&self.file, length)],
            // The copy is in the place of the next one.
            Change::Doubled(line) => return vec![files.index_at(&self.file, 0) + line as u64 + 1],
            Change::Dropped(line) | Change::Swapped(line) => {
                return vec![files.index_at(&self.file, 0) + line as u64];
            }
            Change::Foreign(line) => files.index_at(&self.file, 0) + line as u64,
        };
        vec![index, index + 1]
    }
}

pub(crate) fn flips(files: &Files, file: &str) -> Vec<Mutation> {
    (0..files.0[file].len() * 8)
        .map(|bit| Mutation { file: file.to_owned(), change: Change::Flip(bit) })
        .collect()
}

pub(crate) fn cuts(files: &Files, file: &str) -> Vec<Mutation> {
    (0..files.0[file].len()).map(|cut| Mutation { file: file.to_owned(), change: Change::Cut(cut) }).collect()
}

pub(crate) fn line_changes(files: &Files, file: &str) -> Vec<Mutation> {
    let count = lines(&files.0[file]).len();
    let mut changes = Vec::new();
    for line in 0..count {
        changes.extend([Change::Doubled(line), Change::Dropped(line), Change::Foreign(line)]);
        if line + 1 < count {
            changes.push(Change::Swapped(line));
        }
    }
    changes.into_iter().map(|change| Mutation { file: file.to_owned(), change }).collect()
}
