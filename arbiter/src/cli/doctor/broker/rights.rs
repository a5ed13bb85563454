//! What a user may do at a broker, and for which role that is enough.
//!
//! The broker tells nobody, so each thing is tried, in a way that it refuses after it has looked at the user's rights, or
//! that leaves nothing behind.

use super::super::Finding;
use super::refusal;
use arbiterq::log::stream::{From, StreamReader};
use arbiterq_client::broker::{BrokerError, BrokerUrl, Mailbox, MailboxError, Message, Publisher, close};
use arbiterq_client::wire::rabbitmq::{
    DEAD_LETTERS, REQUESTS_EXCHANGE, checkpoints_stream, grants_stream, reply_queue, requests_queue,
};
use lapin::options::BasicGetOptions;
use lapin::protocol::AMQPSoftError;
use lapin::{BasicProperties, Connection};
use std::fmt;

/// Whom `deploy/rabbitmq/` has users for. An administrator may all of it, and declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli::doctor) enum Role {
    /// Runs `arbiter serve`
    Arbiter,
    /// Asks for grants
    Client,
    /// Reads the log
    Auditor,
}

/// Something that a role needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    ReadRequests,
    ReadGrants,
    ReadCheckpoints,
    /// A reply queue of one's own.
    HaveReplies,
    /// Replies, records and checkpoints take the default exchange.
    WriteDefault,
    WriteDeadLetters,
    WriteRequests,
}

/// What is published last: a broker that is short of memory or disk answers nothing more on that connection.
const ALL: [Right; 7] = [
    Right::ReadRequests,
    Right::ReadGrants,
    Right::ReadCheckpoints,
    Right::HaveReplies,
    Right::WriteDefault,
    Right::WriteDeadLetters,
    Right::WriteRequests,
];

impl Role {
    const ALL: [Self; 3] = [Self::Arbiter, Self::Client, Self::Auditor];

    fn needs(self) -> &'static [Right] {
        use Right::*;
        match self {
            Self::Arbiter => &[ReadRequests, ReadGrants, ReadCheckpoints, WriteDefault, WriteDeadLetters],
            Self::Client => &[HaveReplies, WriteRequests],
            Self::Auditor => &[ReadGrants],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arbiter => "an arbiter",
            Self::Client => "a client",
            Self::Auditor => "an auditor",
        })
    }
}

impl Right {
    /// As it is called in the broker's permissions of a user.
    fn name(self, user: &str) -> String {
        match self {
            Self::ReadRequests => "read arbiter.requests.*".to_owned(),
            Self::ReadGrants => "read arbiter.grants.*".to_owned(),
            Self::ReadCheckpoints => "read arbiter.checkpoints.*".to_owned(),
            Self::HaveReplies => format!("configure and read {}", reply_queue(user, "*")),
            Self::WriteDefault => "write amq.default".to_owned(),
            Self::WriteDeadLetters => format!("write {DEAD_LETTERS}"),
            Self::WriteRequests => format!("write {REQUESTS_EXCHANGE}"),
        }
    }
}

/// What a user may not.
#[derive(Debug)]
pub(super) struct Rights {
    user: String,
    may_declare: bool,
    missing: Vec<Right>,
}

impl Rights {
    /// Tries everything that a role needs, over connections of its own.
    ///
    /// # Errors
    /// What could not be tried, and why: the broker is gone, or takes nothing.
    pub(super) async fn find_out(
        url: &BrokerUrl,
        partitions: u32,
        may_declare: bool,
    ) -> Result<Self, String> {
        let user = url.user();
        let connection = url.connect("arbiter doctor").await.map_err(|error| error.to_string())?;
        let mut missing = Vec::new();
        let mut failed = None;
        for right in ALL {
            match is_given(right, &connection, url, partitions).await {
                Ok(true) => {}
                Ok(false) => missing.push(right),
                Err(error) => {
                    failed = Some(format!("{}: {error}", right.name(user)));
                    break;
                }
            }
        }
        let is_blocked = connection.status().blocked();
        close(&connection).await;
        match failed {
            None => Ok(Self { user: user.to_owned(), may_declare, missing }),
            Some(why) if is_blocked => {
                Err(format!("{why}; it takes nothing now: an alarm of memory or disk, `rabbitmqctl status`"))
            }
            Some(why) => Err(why),
        }
    }

    /// Whether it has all that a role needs.
    pub(super) fn suffice_for(&self, role: Role) -> bool {
        self.lacking(role).is_empty()
    }

    fn lacking(&self, role: Role) -> Vec<String> {
        let needed = self.missing.iter().filter(|right| role.needs().contains(right));
        needed.map(|right| right.name(&self.user)).collect()
    }

    /// Wrong if it is enough for nobody, or not for whom it is meant.
    pub(super) fn judge(&self, wanted: Option<Role>, vhost: &str) -> Finding {
        let user = &self.user;
        let has: Vec<_> = Role::ALL.into_iter().filter(|role| self.suffice_for(*role)).collect();
        let names: Vec<_> = has.iter().map(Role::to_string).collect();
        let names = match names.split_last() {
            None => "no role".to_owned(),
            Some((last, [])) => last.clone(),
            Some((last, before)) => format!("{} and {last}", before.join(", ")),
        };
        let administrator =
            if has.len() == Role::ALL.len() && self.may_declare { "an administrator: " } else { "" };
        let mut found = format!("user {user} has the rights of {administrator}{names}");
        for role in Role::ALL {
            let lacking = self.lacking(role);
            if !lacking.is_empty() {
                found.push_str(&format!("; {role} also needs: {}", lacking.join(", ")));
            }
        }
        if wanted.map_or(!has.is_empty(), |wanted| has.contains(&wanted)) {
            return Finding::ok("permissions", found);
        }
        if let Some(wanted) = wanted {
            found.push_str(&format!("; wanted: {wanted}"));
        }
        let help = format!(
            "deploy/rabbitmq/ has the rights of each; `rabbitmqctl list_user_permissions {user}`, `rabbitmqctl -p {vhost} \
             set_permissions {user} …`"
        );
        Finding::wrong("permissions", found, help)
    }
}

/// Whether a user has a right, for every partition.
async fn is_given(
    right: Right,
    connection: &Connection,
    url: &BrokerUrl,
    partitions: u32,
) -> Result<bool, MailboxError> {
    for number in 0..partitions {
        let may = match right {
            Right::ReadRequests => may_consume(connection, &requests_queue(number)).await?,
            Right::ReadGrants => may_read(connection, grants_stream(number)).await?,
            Right::ReadCheckpoints => may_read(connection, checkpoints_stream(number)).await?,
            // The rest is not of a partition.
            Right::HaveReplies => return may_have_replies(url).await,
            Right::WriteDefault => return Ok(may_write(connection, "").await?),
            Right::WriteDeadLetters => return Ok(may_write(connection, DEAD_LETTERS).await?),
            Right::WriteRequests => return Ok(may_write(connection, REQUESTS_EXCHANGE).await?),
        };
        if !may {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Of whom it allows something the broker may refuse it for another reason.
fn is_allowed<T>(tried: Result<T, BrokerError>) -> Result<bool, BrokerError> {
    match tried {
        Ok(_) => Ok(true),
        Err(BrokerError::Failed(error)) => match refusal(&error) {
            Some(AMQPSoftError::ACCESSREFUSED) => Ok(false),
            Some(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::RESOURCELOCKED) => Ok(true),
            _ => Err(BrokerError::Failed(error)),
        },
        Err(error) => Err(error),
    }
}

/// Whoever consumes a request queue takes a place in the order of arbiters. To get from it takes the same right, and nobody
/// can, as it has a single active consumer. (From one that is none a message would go back at once.)
async fn may_consume(connection: &Connection, queue: &str) -> Result<bool, BrokerError> {
    let channel = BrokerError::limited(connection.create_channel()).await?;
    let got = channel.basic_get(queue.into(), BasicGetOptions::default());
    is_allowed(BrokerError::limited(got).await)
}

async fn may_read(connection: &Connection, stream: String) -> Result<bool, BrokerError> {
    is_allowed(StreamReader::of(connection, stream, From::Last).await)
}

/// No queue is given what is published: its expiration is no time, which the broker finds after it has looked at rights.
async fn may_write(connection: &Connection, exchange: &str) -> Result<bool, BrokerError> {
    let channel = BrokerError::limited(connection.create_channel()).await?;
    let mut publisher = Publisher::on(channel).await?;
    let (key, properties) =
        ("arbiter.doctor.nobody", BasicProperties::default().with_expiration("never".into()));
    publisher.publish(Message { exchange, key, mandatory: true, body: Vec::new(), properties });
    is_allowed(publisher.next().await)
}

/// A reply queue goes with its connection.
async fn may_have_replies(url: &BrokerUrl) -> Result<bool, MailboxError> {
    match Mailbox::open(url, "arbiter doctor").await {
        Ok(mailbox) => {
            close(&mailbox.connection).await;
            Ok(true)
        }
        Err(MailboxError::Broker(error)) => Ok(is_allowed::<()>(Err(error))?),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Judged;
    use super::*;

    #[test]
    fn a_user_is_judged_by_the_roles_that_its_rights_are_enough_for() {
        let judge = |missing: &[Right], may_declare, wanted| {
            Rights { user: "u".into(), may_declare, missing: missing.to_vec() }.judge(wanted, "/")
        };
        let client_only = [Right::ReadGrants, Right::WriteDefault];
        for (missing, may_declare, wanted, judged, words) in [
            (&[][..], true, None, Judged::Ok, "of an administrator: an arbiter, a client and an auditor"),
            (&[], false, Some(Role::Client), Judged::Ok, "of an arbiter, a client and an auditor"),
            (
                &[Right::HaveReplies],
                true,
                None,
                Judged::Ok,
                "of an arbiter and an auditor; a client also needs",
            ),
            (
                &client_only,
                false,
                None,
                Judged::Ok,
                "an arbiter also needs: read arbiter.grants.*, write amq.default; an auditor",
            ),
            (&client_only, false, Some(Role::Client), Judged::Ok, "of a client"),
            (&client_only, false, Some(Role::Auditor), Judged::Wrong, "wanted: an auditor"),
            (&ALL, false, None, Judged::Wrong, "of no role; an arbiter also needs: read arbiter.requests.*"),
        ] {
            let finding = judge(missing, may_declare, wanted);
            assert!(finding.judged == judged && finding.found.contains(words), "{finding:?}");
        }
    }
}
