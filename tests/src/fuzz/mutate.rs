//! Changes of bytes, text and JSON, drawn from a generator that a seed begins.

use arbiterq::log::chain::hash_of;
use serde_json::{Value, json};

/// An input is never longer.
pub const INPUT_BYTES_MAX: usize = 256 * 1024;

/// Numbers at which something ends.
const NUMBERS: [&str; 18] = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "64",
    "65",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "9007199254740991",
    "9007199254740992",
    "18446744073709551615",
    "18446744073709551616",
    "0.5",
    "1e3",
    "-0",
];
/// Texts at which something ends, as they stand in JSON.
const TEXTS: [&str; 16] = [
    "",
    "*",
    "r",
    "db/migrate",
    "{a}/b",
    "\\u0000",
    "\\ud800",
    "\\u0085",
    "exclusive",
    "shared",
    "released",
    "9999-12-31T23:59:59.999999Z",
    "1970-01-01T00:00:00.000000Z",
    "2026-02-29T00:00:00.000000Z",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "00000000000000000000000000000000",
];
const BYTES: [u8; 12] = [0, b'\n', b'\r', b' ', b'"', b'\\', b'{', b'}', b'[', b']', 0x80, 0xff];

/// Most changed logs have fewer lines behind the first that was changed.
const BEHIND_MAX: usize = 12;

/// SplitMix64: the same numbers for the same seed, everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// For one run of one seed.
    pub fn new(seed: u64, run: u64) -> Self {
        let mut random = Self(seed);
        random.0 = random.next().wrapping_add(run.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random
    }

    /// Any number.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is none.
    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Changes an input one to four times; `other` is one to take parts from.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        match random.below(12) {
            0 => flip(input, random),
            1 => {
                let at = random.below(input.len() + 1);
                input.insert(at, *random.one_of(&BYTES));
            }
            2 => {
                let (from, to) = range(input.len(), random);
                input.drain(from..to);
            }
            3 => {
                let (from, to) = range(input.len(), random);
                let part = input[from..to].to_vec();
                input.splice(from..from, part);
            }
            4 => {
                let (from, to) = range(other.len(), random);
                let (start, end) = range(input.len(), random);
                input.splice(start..end, other[from..to].iter().copied());
            }
            5 => input.truncate(random.below(input.len() + 1)),
            6 => replace_number(input, random),
            7 => replace_text(input, random),
            8 => {
                let (at, times) = (random.below(input.len() + 1), 1 << random.below(14));
                let byte = *random.one_of(b"[{\"9ax \0");
                input.splice(at..at, std::iter::repeat_n(byte, times));
            }
            _ => edit_json_line(input, other, random),
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}

fn flip(input: &mut [u8], random: &mut Random) {
    let at = random.below(input.len());
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

/// Mostly short.
fn range(length: usize, random: &mut Random) -> (usize, usize) {
    let from = random.below(length + 1);
    let most = if random.below(4) == 0 { length } else { 16 };
    (from, (from + random.below(most + 1)).min(length))
}

fn replace_number(input: &mut Vec<u8>, random: &mut Random) {
    let start = random.below(input.len());
    let Some(from) = input[start..].iter().position(u8::is_ascii_digit).map(|at| start + at) else { return };
    let digits = input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    input.splice(from..from + digits, random.one_of(&NUMBERS).bytes());
}

fn replace_text(input: &mut Vec<u8>, random: &mut Random) {
    let start = random.below(input.len());
    let Some(from) = input[start..].iter().position(|byte| *byte == b'"').map(|at| start + at + 1) else {
        return;
    };
    let length = input[from..].iter().take_while(|byte| **byte != b'"').count();
    input.splice(from..from + length, random.one_of(&TEXTS).bytes());
}

/// Changes one value of one line that is JSON.
fn edit_json_line(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let mut lines: Vec<Vec<u8>> = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = random.below(lines.len());
    let Ok(mut value) = serde_json::from_slice::<Value>(&lines[at]) else { return flip(input, random) };
    let others: Vec<_> = other.split(|byte| *byte == b'\n').collect();
    let donor = serde_json::from_slice(random.one_of::<&[u8]>(&others)).ok();
    edit(&mut value, donor.as_ref(), random);
    lines[at] = serde_json::to_vec(&value).unwrap_or_default();
    *input = lines.join(&b'\n');
}

/// Changes one value somewhere in another: removed, replaced, doubled, or taken from `donor`.
pub fn edit(value: &mut Value, donor: Option<&Value>, random: &mut Random) {
    let count = count(value);
    let place = random.below(count);
    let from = donor.and_then(|donor| {
        let place = random.below(self::count(donor));
        nth(donor, &mut place.clone()).cloned()
    });
    let found = nth_mut(value, &mut place.clone());
    let Some(found) = found else { return };
    match (random.below(5), &mut *found) {
        (0, Value::Object(fields)) if !fields.is_empty() => {
            let name = fields.keys().nth(random.below(fields.len())).cloned().unwrap_or_default();
            fields.remove(&name);
        }
        (0 | 1, Value::Array(items)) if !items.is_empty() => {
            let item = items[random.below(items.len())].clone();
            let at = random.below(items.len() + 1);
            items.insert(at, item);
        }
        (1, Value::Object(fields)) => {
            let name =
                (*random.one_of(&["index", "session", "token", "until", "by", "news", "events"])).to_owned();
            fields.insert(name, number(random));
        }
        (0..=3, Value::Number(before)) => {
            let before = before.as_u64().unwrap_or(0);
            let near = [before.wrapping_add(1), before.saturating_sub(1)];
            *found = if random.below(2) == 0 { json!(near[random.below(2)]) } else { number(random) };
        }
        (0..=3, Value::String(text)) => {
            *text = match random.below(4) {
                0 => "x".repeat(1 << random.below(14)),
                1 => from.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
                _ => (*random.one_of(&TEXTS)).to_owned(),
            };
        }
        (2, Value::Array(items)) if !items.is_empty() => drop(items.remove(random.below(items.len()))),
        _ => *found = from.unwrap_or(Value::Null),
    }
}

/// Lines of a segment.
pub fn lines_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(<[u8]>::to_vec).collect()
}

/// A log with some records changed, and chained again from the first of them on, so that only rules can find it. Most
/// end soon after it: what is wrong is found there or never.
pub fn chained(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut lines = lines_of(input);
    if lines.is_empty() {
        return input.to_vec();
    }
    let mut first = lines.len();
    for _ in 0..=random.below(3) {
        let at = random.below(lines.len());
        let donor = lines[random.below(lines.len())].clone();
        first = first.min(at);
        match random.below(6) {
            0 => lines.insert(at, donor),
            1 if lines.len() > 1 => drop(lines.remove(at)),
            2 => {
                let other = random.below(lines.len());
                first = first.min(other);
                lines.swap(at, other);
            }
            _ => {
                let donor = serde_json::from_slice(&donor).ok();
                if let Ok(mut record) = serde_json::from_slice(&lines[at]) {
                    edit(&mut record, donor.as_ref(), random);
                    lines[at] = serde_json::to_vec(&record).unwrap_or_default();
                }
            }
        }
    }
    if random.below(8) > 0 {
        lines.truncate(first + 1 + random.below(BEHIND_MAX));
    }
    // What was chained before is not chained again.
    let mut prev = first.checked_sub(1).map_or("0".repeat(64), |last| hash_of(&lines[last]).to_string());
    for (index, line) in lines.iter_mut().enumerate().skip(first) {
        chain(line, index, &prev);
        prev = hash_of(line).to_string();
    }
    lines.join(&b'\n')
}

/// Gives a record another place: in its text where it begins as the arbiter writes it, for that is quick.
fn chain(line: &mut Vec<u8>, index: usize, prev: &str) {
    if let Some(rest) = behind_place(line) {
        let place = format!("{{\"index\":{index},\"prev\":\"{prev}\"");
        line.splice(..line.len() - rest, place.into_bytes());
    } else if let Ok(Value::Object(mut record)) = serde_json::from_slice(line) {
        record.insert("index".to_owned(), json!(index));
        record.insert("prev".to_owned(), json!(prev));
        *line = serde_json::to_vec(&record).unwrap_or_default();
    }
}

/// The length of what is behind `{"index":…,"prev":"…"`, if a line begins so.
fn behind_place(line: &[u8]) -> Option<usize> {
    let digits = line.strip_prefix(b"{\"index\":")?;
    let after = &digits[digits.iter().take_while(|byte| byte.is_ascii_digit()).count()..];
    let prev = after.strip_prefix(b",\"prev\":\"")?;
    (prev.get(64) == Some(&b'"')).then(|| prev.len() - 65)
}

fn number(random: &mut Random) -> Value {
    let text: &&str = random.one_of(&NUMBERS);
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Object(fields) => Box::new(fields.values()),
        Value::Array(items) => Box::new(items.iter()),
        _ => Box::new(std::iter::empty()),
    }
}

fn count(value: &Value) -> usize {
    1 + children(value).map(count).sum::<usize>()
}

fn nth<'a>(value: &'a Value, left: &mut usize) -> Option<&'a Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    children(value).find_map(|child| nth(child, left))
}

fn nth_mut<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Object(fields) => fields.values_mut().find_map(|child| nth_mut(child, left)),
        Value::Array(items) => items.iter_mut().find_map(|child| nth_mut(child, left)),
        _ => None,
    }
}
