//! What people and programs read: results on standard output, everything else on standard error.
//!
//! With `--json` a result is one JSON object a line, and so is everything else. Colour only where the stream is a
//! terminal and `NO_COLOR` is not set.

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Exit codes, `sysexits.h` where it has one.
pub(crate) mod exit {
    /// The honest no: verification failed, not ready.
    pub(crate) const NO: u8 = 1;
    /// Usage.
    pub(crate) const USAGE: u8 = 2;
    /// A log that cannot be read.
    pub(crate) const LOG: u8 = 65;
    /// No arbiter.
    pub(crate) const UNAVAILABLE: u8 = 69;
    /// A defect.
    pub(crate) const SOFTWARE: u8 = 70;
    /// Input or output failed.
    pub(crate) const IO: u8 = 74;
    /// The arbiter refused.
    pub(crate) const REFUSED: u8 = 77;
    /// Configuration.
    pub(crate) const CONFIGURATION: u8 = 78;
    /// Lost while the command ran.
    pub(crate) const LOST: u8 = 123;
    /// Not granted in time, or busy.
    pub(crate) const NOT_GRANTED: u8 = 124;
    /// Any other failure of `run` before the command started.
    pub(crate) const RUN: u8 = 125;
    /// The command is not executable.
    pub(crate) const NOT_EXECUTABLE: u8 = 126;
    /// The command was not found.
    pub(crate) const NOT_FOUND: u8 = 127;
}

/// What failed, in at most four parts: what, and up to three lines about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// A word to look up.
    pub(crate) code: &'static str,
    /// What the process exits with.
    pub(crate) exit: u8,
    what: String,
    parts: Vec<(&'static str, String)>,
    /// What programs get beside the parts.
    data: Option<(&'static str, Value)>,
}

/// A failure has this many lines after the first.
const PARTS_MAX: usize = 3;

impl Failure {
    pub(crate) fn new(code: &'static str, exit: u8, what: impl Into<String>) -> Self {
        Self { code, exit, what: what.into(), parts: Vec::new(), data: None }
    }

    /// One more line. At most three are kept.
    pub(crate) fn part(mut self, label: &'static str, text: impl Into<String>) -> Self {
        if self.parts.len() < PARTS_MAX {
            self.parts.push((label, text.into()));
        }
        self
    }

    /// With `--json`, also this.
    pub(crate) fn data(mut self, name: &'static str, value: Value) -> Self {
        self.data = Some((name, value));
        self
    }

    /// Everything in one line, for a log.
    pub(crate) fn on_a_line(&self) -> String {
        let parts = self.parts.iter().map(|(label, part)| format!("; {label}: {}", part.replace('\n', ", ")));
        format!("{}{}", self.what, parts.collect::<String>())
    }

    /// Everything but the help, in one line, and the help.
    pub(crate) fn and_help(mut self) -> (String, Option<String>) {
        let help = self.parts.iter().position(|(label, _)| *label == "help");
        let help = help.map(|at| self.parts.remove(at).1);
        (self.on_a_line(), help)
    }

    pub(crate) fn help(self, text: impl Into<String>) -> Self {
        self.part("help", text)
    }

    /// Exits with another code.
    pub(crate) fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    fn text(&self, colour: bool) -> String {
        let (red, bold, plain) = if colour { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error[{}]{plain}{bold}: {}{plain}", self.code, self.what);
        let width = self.parts.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        for (label, part) in &self.parts {
            // A part of several lines stays under its own beginning.
            let part = part.replace('\n', &format!("\n{:1$}", "", width + 4));
            let _ = write!(text, "\n  {label}:{:1$} {part}", "", width - label.len());
        }
        text
    }

    fn json(&self) -> Value {
        let mut object = json!({"code": self.code, "exit": self.exit, "what": self.what});
        for (label, part) in &self.parts {
            object[*label] = json!(part);
        }
        if let Some((name, value)) = &self.data {
            object[*name] = value.clone();
        }
        json!({ "error": object })
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new("io", exit::IO, error.to_string())
    }
}

impl From<arbiterq_client::Error> for Failure {
    fn from(error: arbiterq_client::Error) -> Self {
        use arbiterq_client::ErrorKind as K;
        let exit = match error.kind() {
            K::NoArbiter | K::Unknown | K::Timeout | K::Closed | K::Lost(_) | K::SessionEnded => {
                exit::UNAVAILABLE
            }
            K::Url => exit::USAGE,
            K::Configuration => exit::CONFIGURATION,
            K::NotGranted | K::Busy => exit::NOT_GRANTED,
            K::Refused(_) => exit::REFUSED,
            K::Protocol => exit::SOFTWARE,
            _ => exit::IO,
        };
        // The code says it already.
        let what = error.what().strip_prefix("refused: ").unwrap_or(error.what());
        let mut failure = Self::new(error.kind().code(), exit, what);
        for (label, part) in [("met", error.met_state()), ("done", error.action()), ("help", error.remedy())]
        {
            if let Some(part) = part {
                failure = failure.part(label, part);
            }
        }
        failure
    }
}

/// Where things go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// One JSON object a line.
    pub(crate) json: bool,
}

impl Output {
    /// A line of the result. A reader that has gone away has had enough, and is no failure.
    pub(crate) fn line(self, text: &str) -> io::Result<()> {
        match write_line(text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            written => written,
        }
    }

    /// The result, from what goes on also where nobody reads it.
    pub(crate) fn write_result(self, text: &str, value: &Value) -> io::Result<()> {
        if self.json { write_line(&value.to_string()) } else { write_line(text) }
    }

    /// The result: `value` with `--json`, else `text`.
    pub(crate) fn result(self, text: &str, value: &Value) -> io::Result<()> {
        if self.json { self.line(&value.to_string()) } else { self.line(text) }
    }

    /// A word on the way, on standard error: `arbiter: …`.
    pub(crate) fn note(self, text: &str, value: &Value) {
        let text = if self.json { value.to_string() } else { format!("arbiter: {text}") };
        // Nobody to tell that nobody can be told.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Says what failed, and the code to exit with.
    pub(crate) fn failure(self, failure: &Failure) -> ExitCode {
        let text = if self.json { failure.json().to_string() } else { failure.text(colour_err()) };
        let _ = writeln!(io::stderr().lock(), "{text}");
        ExitCode::from(failure.exit)
    }
}

/// Rows under headings, columns as wide as their widest cell; numbers to the right.
pub(crate) struct Table {
    headings: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A heading that begins with `>` makes a column of numbers.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.iter().map(|heading| heading.trim_start_matches('>')).collect(),
            right: headings.iter().map(|heading| heading.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// The lines, without a line feed at the end.
    pub(crate) fn text(&self, colour: bool) -> String {
        let wide = |text: &str| text.chars().count();
        let widths: Vec<usize> = self
            .headings
            .iter()
            .enumerate()
            .map(|(i, heading)| {
                self.rows.iter().map(|row| wide(&row[i])).max().unwrap_or(0).max(wide(heading))
            })
            .collect();
        let line = |cells: Vec<&str>| {
            let mut line = String::new();
            for (i, cell) in cells.iter().enumerate() {
                let pad = " ".repeat(widths[i] - wide(cell));
                let (before, after) = if self.right[i] { (pad.as_str(), "") } else { ("", pad.as_str()) };
                let _ = write!(line, "{}{before}{cell}{after}", if i == 0 { "" } else { "  " });
            }
            line.trim_end().to_owned()
        };
        let head = line(self.headings.clone());
        let head = if colour { format!("\x1b[1m{head}\x1b[0m") } else { head };
        let rows = self.rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
        std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
    }
}

fn write_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Whether standard output takes colour.
pub(crate) fn colour_out() -> bool {
    takes_colour(&io::stdout())
}

/// Whether standard error takes colour.
pub(crate) fn colour_err() -> bool {
    takes_colour(&io::stderr())
}

fn takes_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// A duration as people say it: `350ms`, `23.4s`, `41s`, `1h 30m`; two units at most.
pub(crate) fn for_people(duration: Duration) -> String {
    let ms = duration.as_millis();
    let tenths = (ms + 50) / 100;
    if ms < 1000 {
        return format!("{ms}ms");
    }
    if tenths < 600 {
        return if tenths.is_multiple_of(10) {
            format!("{}s", tenths / 10)
        } else {
            format!("{}.{}s", tenths / 10, tenths % 10)
        };
    }
    let seconds = (ms + 500) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let units = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds % 60, "s")];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = units.iter().skip(first).take(2).filter(|(count, _)| *count > 0);
    shown.map(|(count, unit)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

/// As [`for_people`], in whole seconds from one second on.
pub(crate) fn ms_for_people(ms: u64) -> String {
    for_people(Duration::from_millis(if ms < 1000 { ms } else { (ms + 500) / 1000 * 1000 }))
}

/// `1st`, `2nd`, `3rd`, `4th`, …
pub(crate) fn ordinal(n: u64) -> String {
    let suffix = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

/// Reads `90s`, `1h 30m`, for an option.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 90s or \"1h 30m\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_say_them() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (23_400, "23.4s"),
            (41_000, "41s"),
            (59_960, "1m"),
            (90_000, "1m 30s"),
            (5_400_000, "1h 30m"),
            (86_400_000, "1d"),
            (90_061_000, "1d 1h"),
        ] {
            assert_eq!(for_people(Duration::from_millis(ms)), text);
        }
        assert_eq!(ms_for_people(41_399), "41s");
        assert_eq!(duration("1h 30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert!(duration("90").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn ordinals() {
        let all: Vec<_> = [1, 2, 3, 4, 11, 12, 13, 21, 111, 122].map(ordinal).into();
        assert_eq!(all, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "111th", "122nd"]);
    }

    #[test]
    fn a_failure_has_at_most_four_parts() {
        let failure = Failure::new("not-granted", exit::NOT_GRANTED, "db/migrate was not free within 30s")
            .part("holder", "ci-12@runner-3 since 14:02:11Z (lease renewed 2s ago, token 4812)")
            .part("queue", "you were 3rd of 5; the request has been withdrawn")
            .help("wait longer with --wait, or look at `arbiter queue db/migrate`")
            .part("more", "than anybody reads");
        let expected = "error[not-granted]: db/migrate was not free within 30s
  holder: ci-12@runner-3 since 14:02:11Z (lease renewed 2s ago, token 4812)
  queue:  you were 3rd of 5; the request has been withdrawn
  help:   wait longer with --wait, or look at `arbiter queue db/migrate`";
        assert_eq!(failure.text(false), expected);
        assert_eq!(failure.json()["error"]["exit"], 124);
        assert!(failure.text(true).contains("\x1b["));
    }

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(&["RESOURCE", ">TOKEN", "HOLDER"]);
        table.row(vec!["db".into(), "7".into(), "ci".into()]);
        table.row(vec!["größer".into(), "4812".into(), "x".into()]);
        assert_eq!(table.text(false), "RESOURCE  TOKEN  HOLDER\ndb            7  ci\ngrößer     4812  x");
    }
}
