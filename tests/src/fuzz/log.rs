//! Reads the lines of a log as the verifier and the replay do, each up to the first that it refuses.
//!
//! Most inputs begin as the golden log does. What both leave behind after each of its lines is kept, so that only what
//! is new is read: the same is said of an input as if it were read from its beginning, and a test sees to it.

use super::mutate::lines_of;
use arbiterq::audit::replay::{Replay, checkpoints_of};
use arbiterq::audit::verify::Verifier;
use arbiterq::log::chain::Sealed;
use arbiterq_client::wire::Hash;

/// Both readers.
#[derive(Clone)]
struct Readers {
    verifier: Verifier,
    replay: Replay,
}

/// The golden log, read.
pub(super) struct Reader {
    lines: Vec<Vec<u8>>,
    /// The checkpoints that its first lines name, by how many lines that is.
    named: Vec<Vec<(u64, Hash)>>,
    /// Before the first line, after it, and so on: of a log that names no checkpoint, up to the first that does, and of
    /// one that names all of them.
    after: [Vec<Readers>; 2],
}

impl Reader {
    /// Reads a sound log.
    ///
    /// # Panics
    /// If it is none.
    pub(super) fn new(log: &[u8]) -> Self {
        let lines = lines_of(log);
        let named =
            (0..=lines.len()).map(|n| named(lines[..n].iter().map(Vec::as_slice))).collect::<Vec<_>>();
        let of = |all: &[(u64, Hash)]| {
            let mut after = vec![Readers::new(0, all)];
            for (line, named) in lines.iter().zip(&named[1..]) {
                let mut readers = after[after.len() - 1].clone();
                if named.len() > all.len() {
                    break;
                }
                readers.verifier.line(line).expect("sound");
                readers.replay.record(&Sealed::read(line).expect("a record")).expect("sound");
                after.push(readers);
            }
            after
        };
        let after = [of(&[]), of(&named[lines.len()])];
        Self { lines, named, after }
    }

    /// What both say of an input.
    pub(super) fn read(&self, input: &[u8]) -> String {
        let lines = || input.split(|byte| *byte == b'\n');
        let known = self.lines.iter().zip(lines()).take_while(|(known, line)| known == line).count();
        let mut all = self.named[known].clone();
        all.extend(named(lines().skip(known)));
        let of = [&[], &self.named[self.lines.len()][..]].into_iter().position(|named| all == named);
        if let Some(after) = of.and_then(|of| self.after[of].get(known)).filter(|_| known > 0) {
            return outcome(after.clone(), lines().skip(known));
        }
        let first = lines().next().and_then(|line| Sealed::read(line).ok());
        outcome(Readers::new(first.map_or(0, |first| first.record.index), &all), lines())
    }
}

impl Readers {
    fn new(first_index: u64, named: &[(u64, Hash)]) -> Self {
        Self { verifier: Verifier::new(), replay: Replay::new(first_index, named.iter().copied()) }
    }
}

/// The checkpoints that lines name.
fn named<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<(u64, Hash)> {
    let names = |line: &&[u8]| line.windows(12).any(|bytes| bytes == b"\"checkpoint\"");
    let records = lines.filter(names).filter_map(|line| Sealed::read(line).ok());
    records.flat_map(|sealed| checkpoints_of(&sealed.record).collect::<Vec<_>>()).collect()
}

fn outcome<'a>(mut readers: Readers, lines: impl Iterator<Item = &'a [u8]> + Clone) -> String {
    let refused = lines.clone().find_map(|line| readers.verifier.line(line).err());
    let records = lines.map_while(|line| Sealed::read(line).ok());
    let mut differs = None;
    for sealed in records {
        if !readers.replay.is_next(&sealed) {
            break;
        }
        if let Err(error) = readers.replay.record(&sealed) {
            differs = Some(error.to_string());
            break;
        }
    }
    let refused = refused.map_or_else(|| "clean".to_owned(), |violation| violation.what);
    format!("{refused}; {}", differs.unwrap_or_else(|| "decided".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{Fuzzer, Target};

    #[test]
    fn an_input_is_the_same_whether_or_not_its_beginning_is_known() {
        let fuzzer = Fuzzer::new(Target::Log);
        let none = Reader::new(b"");
        let mut known = 0;
        for run in 0..400 {
            let input = fuzzer.input(7, run);
            known += usize::from(input.starts_with(&fuzzer.log.lines[0]));
            assert_eq!(fuzzer.log.read(&input), none.read(&input), "run {run}");
        }
        assert!(known > 200, "{known}");
    }
}
