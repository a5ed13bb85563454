//! The words of the format for commands and events, for messages.

use crate::log::record::{Command, Event};

/// A command's word in a record.
pub(super) fn of_command(command: &Command) -> &'static str {
    match command {
        Command::Create => "create",
        Command::Activate => "activate",
        Command::Policy => "policy",
        Command::Open(_) => "open",
        Command::Attach { .. } => "attach",
        Command::Acquire(_) => "acquire",
        Command::Release { .. } => "release",
        Command::Cancel { .. } => "cancel",
        Command::Close { .. } => "close",
        Command::Tick { .. } => "tick",
        Command::Gone { .. } => "gone",
        Command::Advance => "advance",
        Command::ForceRelease { .. } => "force_release",
        Command::Pause { .. } => "pause",
        Command::Resume { .. } => "resume",
        Command::Checkpoint => "checkpoint",
        Command::Barrier => "barrier",
        Command::Finish => "finish",
    }
}

/// An event's word in a record.
pub(super) fn of_event(event: &Event) -> &'static str {
    match event {
        Event::Genesis(_) => "genesis",
        Event::EpochStarted { .. } => "epoch_started",
        Event::Policy(_) => "policy",
        Event::Opened { .. } => "opened",
        Event::Attached { .. } => "attached",
        Event::Unreachable { .. } => "unreachable",
        Event::SessionEnded { .. } => "session_ended",
        Event::Queued { .. } => "queued",
        Event::Granted { .. } => "granted",
        Event::Refused { .. } => "refused",
        Event::Ended { .. } => "ended",
        Event::Released { .. } => "released",
        Event::Revoking { .. } => "revoking",
        Event::Suspended { .. } => "suspended",
        Event::Delayed { .. } => "delayed",
        Event::Paused { .. } => "paused",
        Event::Resumed { .. } => "resumed",
        Event::Checkpoint { .. } => "checkpoint",
        Event::Closed { .. } => "closed",
    }
}
