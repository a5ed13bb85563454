//! Waiting in line, and telling about it: for `run` and `lock`.

use super::super::output::{Failure, Output, exit, for_people, ms_for_people, ordinal};
use arbiterq_client::wire::{Reason, ResourceName, StatusWhat, Timestamp, partition_of};
use arbiterq_client::{Client, Error, ErrorKind, Grant, Position, Ticket};
use serde_json::json;
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, interval_at, timeout};

/// How often to look whether the arbiter still answers: a wait can be long, and must not hang silently.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(3);

/// What is waited for, to tell about it.
pub(crate) struct Wanted<'a> {
    /// All of them.
    pub(crate) resources: &'a [ResourceName],
    /// The wait limit; zero is try.
    pub(crate) wait: Option<Duration>,
    /// Where to tell.
    pub(crate) output: Output,
}

/// How waiting ended.
pub(crate) enum Waited {
    /// With a grant.
    Granted(Box<Grant>),
    /// By a signal; the request has been withdrawn.
    Signalled(i32),
}

impl Wanted<'_> {
    fn names(&self) -> String {
        self.resources.iter().map(ResourceName::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Waits for the grant, saying the place in line as it changes.
    pub(crate) async fn wait(
        &self,
        client: &Client,
        partition: u32,
        ticket: Ticket,
        signalled: impl Future<Output = i32>,
    ) -> Result<Waited, Failure> {
        let began = Instant::now();
        let mut ticket = ticket;
        let mut waited = false;
        let told = async {
            let mut said = None;
            while let Some(position) = ticket.next_position().await {
                waited = true;
                if said != Some(position.position) {
                    self.say_position(&position, said.is_none());
                    said = Some(position.position);
                }
            }
        };
        let signal = tokio::select! {
            () = told => None,
            number = signalled => Some(number),
            () = self.watch(client, partition) => None,
        };
        if let Some(number) = signal {
            // Withdrawn also if nobody answers; the guard closes the session then.
            let _ = timeout(Duration::from_secs(1), ticket.cancel()).await;
            return Ok(Waited::Signalled(number));
        }
        let last = ticket.position();
        match ticket.granted().await {
            Ok(grant) => {
                if waited {
                    let (after, token) = (began.elapsed(), grant.token());
                    let object = json!({"granted": {"after_ms": after.as_millis(), "token": token}});
                    self.output.note(&format!("granted after {}, token {token}", for_people(after)), &object);
                }
                Ok(Waited::Granted(Box::new(grant)))
            }
            Err(error) => Err(self.failure(client, partition, error, last).await),
        }
    }

    fn say_position(&self, position: &Position, first: bool) {
        let place = format!("you are {} of {}", ordinal(position.position), position.waiting);
        let held = position.held_by.as_ref().filter(|_| first).map(|held| {
            let (age, left) = (ms_for_people(held.held_ms), ms_for_people(held.lease_left_ms));
            format!("{} is held by {} for {age} (lease ends in {left}); ", self.names(), held.label)
        });
        let text = match held {
            Some(held) => format!("{held}{place}"),
            None => format!("waiting for {}; {place}", self.names()),
        };
        let object = json!({"waiting": {
            "resources": self.resources, "position": position.position, "waiting": position.waiting,
            "held_by": position.held_by,
        }});
        self.output.note(&text, &object);
    }

    /// Says when the arbiter does not answer any more, and when it does again. Never ends.
    async fn watch(&self, client: &Client, partition: u32) {
        let mut ticks = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        let mut silent = false;
        loop {
            ticks.tick().await;
            let answers =
                matches!(timeout(LOOK, client.status(partition, StatusWhat::Summary)).await, Ok(Ok(_)));
            if answers == silent {
                silent = !answers;
                let text = match answers {
                    true => "the arbiter answers again",
                    false => "the arbiter does not answer; the request keeps its place, still trying",
                };
                self.output.note(text, &json!({"arbiter_answers": answers}));
            }
        }
    }

    /// Why there is no grant, and who holds it as of now.
    async fn failure(
        &self,
        client: &Client,
        partition: u32,
        error: Error,
        last: Option<Position>,
    ) -> Failure {
        let what = match error.kind() {
            ErrorKind::NotGranted => {
                let limit = self.wait.map_or_else(|| "its wait limit".to_owned(), for_people);
                format!("{} was not free within {limit}", self.names())
            }
            ErrorKind::Busy => format!("{} is not free", self.names()),
            ErrorKind::Refused(Reason::Held) => {
                let what = format!("{} is held already by what this runs under", self.names());
                return Failure::new("held", exit::REFUSED, what)
                    .part("why", "waiting for it would be waiting for oneself")
                    .help("leave out the inner one: the command is covered by the outer one");
            }
            ErrorKind::Refused(reason) => {
                let why = match reason {
                    Reason::OverCapacity => "more permits than the resource has",
                    Reason::NotAllowed => "the rules do not let you take it",
                    Reason::WaitersMax => "as many wait for it as may",
                    _ => return error.into(),
                };
                return Failure::new("refused", exit::REFUSED, format!("{}: {reason}", self.names()))
                    .part("why", why)
                    .help("the rules are in the arbiter's settings: whoever operates it can say more");
            }
            _ => return error.into(),
        };
        let mut failure = Failure::new(error.kind().code(), exit::NOT_GRANTED, what);
        if let Some((label, state)) = self.in_the_way(client, partition).await {
            failure = failure.part(label, state);
        }
        if let Some(last) = error.position().or(last.as_ref()) {
            let place = ordinal(last.position);
            let text = format!("you were {place} of {}; the request has been withdrawn", last.waiting);
            failure = failure.part("queue", text);
        }
        let first = self.resources.first().map_or("RESOURCE", ResourceName::as_str);
        failure.help(match error.kind() {
            ErrorKind::Busy => format!("leave out --try to wait in line, or look at `arbiter queue {first}`"),
            _ => format!("wait longer with --wait, or look at `arbiter queue {first}`"),
        })
    }

    /// A holder, or that granting is paused.
    async fn in_the_way(&self, client: &Client, partition: u32) -> Option<(&'static str, String)> {
        for resource in self.resources {
            let status = client.status(partition, StatusWhat::Queue(resource.clone()));
            let status = timeout(LOOK / 3, status).await.ok()?.ok()?;
            if let Some(why) = status.paused {
                return Some(("paused", format!("an operator has stopped granting: {why}")));
            }
            if let Some(holder) = status.holders.first() {
                let now = arbiterq::clock::Clock::system().wall();
                let since = Timestamp::from_micros(now.as_micros().saturating_sub(holder.held_ms * 1000));
                let since = since.to_string();
                // The time of day to the second: `2026-11-22T14:02:11.532481Z`.
                let since = since.get(11..19).unwrap_or_default();
                let (label, token) = (&holder.session.label, holder.token);
                let renewed = ms_for_people(holder.session.renewed_ms);
                let text = format!("{label} since {since}Z (lease renewed {renewed} ago, token {token})");
                return Some(("holder", text));
            }
        }
        None
    }
}

/// The partition that all of them lie in, as far as the first one tells; that the others do too is checked with
/// the request.
pub(crate) async fn partition_for(client: &Client, resources: &[ResourceName]) -> Result<u32, Error> {
    let partitions = client.partitions().await?;
    Ok(resources.first().map_or(0, |resource| partition_of(resource, partitions.max(1))))
}

/// `user@machine`, so that people know whom to ask.
pub(crate) fn label() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| {
        let id = rustix::process::getuid();
        format!("uid-{}", id.as_raw())
    });
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let pid = std::process::id();
    let label: String = format!("{user}@{machine}:{pid}").chars().filter(|c| !c.is_control()).collect();
    // A label has at most 128 bytes.
    label.chars().take(arbiterq_client::wire::LABEL_BYTES_MAX / 4).collect()
}
