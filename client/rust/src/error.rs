//! What can go wrong, for programs ([`ErrorKind`]) and for people (at most four parts).

use crate::ticket::Position;
use crate::wire::Reason;
use std::fmt;

/// What went wrong, as far as a program may want to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing listens at the URL, or nobody answers there.
    NoArbiter,
    /// The URL cannot be used.
    Url,
    /// A file that says who we are, or whom to trust, cannot be used.
    Configuration,
    /// Not granted within the wait limit; the request has been withdrawn.
    NotGranted,
    /// Not free, and the request did not want to wait.
    Busy,
    /// The arbiter, or this library before it, did not take the request.
    Refused(Reason),
    /// It was held, and is not any more.
    Lost(Reason),
    /// The session ended, and the request with it.
    SessionEnded,
    /// The client has been closed.
    Closed,
    /// The arbiter said something that makes no sense.
    Protocol,
    /// It was sent twice because the connection broke, and the second answer does not tell what the first did.
    Unknown,
    /// No answer in time. What was asked may have been done or not.
    Timeout,
    /// The connection failed. What was asked may have been done or not.
    Io,
}

impl ErrorKind {
    /// A word for people to look up: `no-arbiter`, `not-granted`, …
    pub fn code(self) -> &'static str {
        match self {
            Self::NoArbiter => "no-arbiter",
            Self::Url => "url",
            Self::Configuration => "configuration",
            Self::NotGranted => "not-granted",
            Self::Busy => "busy",
            Self::Refused(_) => "refused",
            Self::Lost(_) => "lost",
            Self::SessionEnded => "session-ended",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Unknown => "unknown",
            Self::Timeout => "timeout",
            Self::Io => "io",
        }
    }
}

/// An error of this library: what failed, the state it met, what was done, and what to do next.
///
/// `Display` gives what there is of the four on one line. No part contains a secret.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    parts: Box<Parts>,
}

#[derive(Clone, Debug, Default)]
struct Parts {
    what: String,
    met: Option<String>,
    done: Option<String>,
    help: Option<String>,
    position: Option<Position>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, parts: Box::new(Parts { what: what.into(), ..Parts::default() }) }
    }

    pub(crate) fn met(mut self, met: impl Into<String>) -> Self {
        self.parts.met = Some(met.into());
        self
    }

    pub(crate) fn done(mut self, done: impl Into<String>) -> Self {
        self.parts.done = Some(done.into());
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.parts.help = Some(help.into());
        self
    }

    pub(crate) fn at(mut self, position: Option<Position>) -> Self {
        self.parts.position = position;
        self
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the client has been closed")
    }

    pub(crate) fn no_arbiter(url: &str, met: impl Into<String>) -> Self {
        Self::new(ErrorKind::NoArbiter, format!("no arbiter answers at {url}"))
            .met(met)
            .help("start one with `arbiter serve`, or point elsewhere with ARBITER_URL or --url")
    }

    /// What went wrong, for a program.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What failed.
    pub fn what(&self) -> &str {
        &self.parts.what
    }

    /// The state that it met.
    pub fn met_state(&self) -> Option<&str> {
        self.parts.met.as_deref()
    }

    /// What was done about it.
    pub fn action(&self) -> Option<&str> {
        self.parts.done.as_deref()
    }

    /// What to do next.
    pub fn remedy(&self) -> Option<&str> {
        self.parts.help.as_deref()
    }

    /// The last place in line that was heard of, where the request waited.
    pub fn position(&self) -> Option<&Position> {
        self.parts.position.as_ref()
    }
}

#[cfg(feature = "rabbitmq")]
impl From<crate::broker::AccessError> for Error {
    fn from(error: crate::broker::AccessError) -> Self {
        Self::new(ErrorKind::Configuration, format!("{} {}", error.key, error.problem))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.what)?;
        for part in [&self.parts.met, &self.parts.done].into_iter().flatten() {
            write!(f, "; {part}")?;
        }
        self.parts.help.as_ref().map_or(Ok(()), |help| write!(f, " (help: {help})"))
    }
}

impl std::error::Error for Error {}
