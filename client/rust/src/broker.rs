//! What both halves of the RabbitMQ transport need: a broker's URL, a connection, publishing.
//!
//! Not for programs: they name a broker by its URL ([`Client::connect`](crate::Client::connect)). Every call that a broker
//! answers has a time limit here: one that blocks, or dies, would let it hang.

mod mailbox;
mod publisher;
mod server;
mod tls;

pub use crate::access::Access;
pub use mailbox::{Mailbox, MailboxError, Requests};
pub use publisher::{Message, Published, Publisher};
pub use server::Server;
pub use tls::AccessError;

use crate::access::Tls;
use lapin::tcp::AMQPUriTcpExt;
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use lapin::{Connection, ConnectionProperties};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A call that the broker answers takes no longer.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);
/// A connection that is given up is not waited for any longer.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How often a connection shows that it lives, in seconds, unless its URL says: a stopped arbiter is replaced after two.
const HEARTBEAT_S: u16 = 5;

/// Where a broker is, with the credentials for it and the files for TLS. Shown without them.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(Arc<Broker>);

#[derive(Clone, PartialEq, Eq)]
struct Broker {
    uri: AMQPUri,
    /// The URL itself says who we are.
    names_user: bool,
    tls: Tls,
}

/// A text that is no URL of a broker. It is not repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the URL of a RabbitMQ broker: {0}")]
pub struct InvalidBrokerUrl(String);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It cannot be reached, or does not let us in.
    #[error("{url}: {source}")]
    Failed {
        /// Where.
        url: BrokerUrl,
        /// What the library says.
        source: Box<lapin::Error>,
    },
    /// The two sides do not come to a TLS connection.
    #[error("{url}: {what}")]
    Tls {
        /// Where.
        url: BrokerUrl,
        /// What it is.
        what: String,
        /// What to do about it.
        help: &'static str,
    },
    /// A file that is needed for it cannot be used.
    #[error("{} {}", .0.key, .0.problem)]
    Access(AccessError),
    /// It did not answer.
    #[error("{url}: no answer within {}s", CALL_LIMIT.as_secs())]
    NoAnswer {
        /// Where.
        url: BrokerUrl,
    },
}

/// Why what a broker was used for is over.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The connection or the channel is gone, or something is not there or not allowed: the library says it.
    #[error("{0}")]
    Failed(Box<lapin::Error>),
    /// It did not answer.
    #[error("the broker did not answer within {}s", CALL_LIMIT.as_secs())]
    NoAnswer,
    /// It does not take what was published.
    #[error("{queue} does not take what is published to it")]
    Refused {
        /// The queue or stream.
        queue: String,
    },
    /// It has ended the consumer.
    #[error("{queue} is not consumed any more: the broker has ended it")]
    Cancelled {
        /// The queue or stream.
        queue: String,
    },
    /// What should be a stream is none.
    #[error("{queue} is no stream: its messages have no offsets; `arbiter broker init` says what is there")]
    NoStream {
        /// The queue.
        queue: String,
    },
}

/// Closes a connection in order, if the broker still answers: it would end at last by itself.
pub async fn close(connection: &Connection) {
    drop(tokio::time::timeout(CLOSE_LIMIT, connection.close(200, "".into())).await);
}

impl BrokerError {
    /// What the broker answers, in time.
    ///
    /// # Errors
    /// What the library says, or that there was no answer.
    pub async fn limited<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, Self> {
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => Err(Self::NoAnswer),
        }
    }
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl BrokerUrl {
    /// The user, for whom the broker vouches.
    pub fn user(&self) -> &str {
        &self.0.uri.authority.userinfo.username
    }

    /// The virtual host.
    pub fn vhost(&self) -> &str {
        &self.0.uri.vhost
    }

    /// With the credentials in a file, if the URL names no user, and with files for TLS. Reads them all, so that what is
    /// wrong with them is found here.
    ///
    /// # Errors
    /// A file cannot be used, or is of no use with this URL.
    pub fn with(&self, access: &Access) -> Result<Self, AccessError> {
        let Broker { mut uri, names_user, .. } = Broker::clone(&self.0);
        if let (false, Some(file)) = (names_user, &access.credentials) {
            let (user, password) = read_credentials(file)?;
            (uri.authority.userinfo.username, uri.authority.userinfo.password) = (user, password);
        }
        let tls = access.tls.clone();
        match uri.scheme {
            AMQPScheme::AMQPS => drop(tls::connector(&tls)?),
            AMQPScheme::AMQP if tls.is_some() => {
                return Err(AccessError::new("url", "amqp:// uses no certificates: write amqps://"));
            }
            AMQPScheme::AMQP => {}
        }
        Ok(Self(Arc::new(Broker { uri, names_user, tls })))
    }

    /// A connection, which the broker shows under `name`.
    ///
    /// # Errors
    /// The broker cannot be reached, does not let us in, or does not answer.
    ///
    /// # Cancel safety
    /// Safe: nothing is left behind.
    pub async fn connect(&self, name: &str) -> Result<Connection, ConnectError> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connector = match self.0.uri.scheme {
            AMQPScheme::AMQPS => Some(tls::connector(&self.0.tls).map_err(ConnectError::Access)?),
            AMQPScheme::AMQP => None,
        };
        let uses_tls = connector.is_some();
        let shaken = Arc::new(AtomicBool::new(false));
        let is_shaken = Arc::clone(&shaken);
        let connecting = async {
            let runtime = lapin::runtime::default_runtime()?;
            let connect = async move |uri: AMQPUri, runtime| {
                let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
                let stream = plain.connect_async(&runtime).await?;
                match &connector {
                    Some(connector) => {
                        let stream = stream.into_rustls(connector, &uri.authority.host).await?;
                        is_shaken.store(true, Ordering::Relaxed);
                        Ok(stream)
                    }
                    None => Ok(stream),
                }
            };
            Connection::connector(self.0.uri.clone(), runtime, connect, properties).await
        };
        match tokio::time::timeout(CALL_LIMIT, connecting).await {
            Ok(connected) => connected.map_err(|source| {
                let url = self.clone();
                let shaken = shaken.load(Ordering::Relaxed);
                match tls::failure(&source, &self.0.tls, shaken).filter(|_| uses_tls) {
                    Some((what, help)) => ConnectError::Tls { url, what, help },
                    None => ConnectError::Failed { url, source: Box::new(source) },
                }
            }),
            Err(_) => Err(ConnectError::NoAnswer { url: self.clone() }),
        }
    }
}

/// `user:password`, alone in a file.
fn read_credentials(file: &Path) -> Result<(String, String), AccessError> {
    let wrong = |problem: &dyn std::fmt::Display| AccessError::of("credentials", file, problem);
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let mut lines = text.lines();
    match (lines.next().and_then(|line| line.split_once(':')), lines.next()) {
        (Some((user, password)), None) if !user.is_empty() => Ok((user.to_owned(), password.to_owned())),
        _ => Err(wrong(&"wanted one line, user:password")),
    }
}

impl FromStr for BrokerUrl {
    type Err = InvalidBrokerUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBrokerUrl> {
        if !text.starts_with("amqp://") && !text.starts_with("amqps://") {
            return Err(InvalidBrokerUrl("it begins with amqp:// or amqps://".into()));
        }
        let wrong = |_| InvalidBrokerUrl("write amqp://user:password@host:port/%2f".into());
        let mut uri = AMQPUri::from_str(text).map_err(wrong)?;
        // By the letter of the scheme's specification a path of nothing is the host named "", which nobody has.
        if uri.vhost.is_empty() {
            uri.vhost = "/".into();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let names_user = names_user(text);
        if uri.query.auth_mechanism == Some(SASLMechanism::External) && !names_user {
            let what = "with auth_mechanism=external it names the user that the broker takes from the certificate: \
                        amqps://user@host:port/%2f?auth_mechanism=external";
            return Err(InvalidBrokerUrl(what.into()));
        }
        Ok(Self(Arc::new(Broker { uri, names_user, tls: Tls::default() })))
    }
}

/// Whether a URL says who we are; else the library would take it for `guest`'s.
fn names_user(text: &str) -> bool {
    let authority = text.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    user.is_some_and(|user| !user.is_empty() && !user.starts_with(':'))
}

impl std::fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.0.uri;
        write!(f, "{scheme}://{}:{}/{}", authority.host, authority.port, vhost.replace('/', "%2f"))
    }
}

impl std::fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn read_and_shown_without_its_password() {
        for (text, shown) in [
            ("amqp://me:hunter2@host", "amqp://host:5672/%2f"),
            ("amqp://me:hunter2@host:99/", "amqp://host:99/%2f"),
            ("amqp://me:hunter2@host:99/%2f", "amqp://host:99/%2f"),
            ("amqps://me:hunter2@host/jobs", "amqps://host:5671/jobs"),
        ] {
            let url: BrokerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
        for text in [
            "me:hunter2@host",
            "tcp://me:hunter2@host",
            "amqp://me:hunter2@:x",
            "amqp://me:hunter2@host:99999",
            "amqps://:hunter2@host/?auth_mechanism=external",
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, text).unwrap();
        (folder, file)
    }

    #[test]
    fn credentials_of_a_file_are_for_a_url_that_names_nobody() {
        let (_folder, file) = written("me:hunter:2\n");
        let access = Access { credentials: Some(file), tls: Tls::new() };
        let userinfo = |url: &str| {
            let url = url.parse::<BrokerUrl>().unwrap().with(&access).unwrap();
            assert!(!format!("{url:?}").contains("hunter"));
            let userinfo = &url.0.uri.authority.userinfo;
            (userinfo.username.clone(), userinfo.password.clone())
        };
        for url in ["amqp://host", "amqp://host:99/vhost?heartbeat=2", "amqp://host/a@b"] {
            assert_eq!(userinfo(url), ("me".to_owned(), "hunter:2".to_owned()), "{url}");
        }
        assert_eq!(userinfo("amqp://you:pass@host"), ("you".to_owned(), "pass".to_owned()));
        for text in ["", "hunter2", ":hunter2", "me:hunter2\nyou:hunter3\n"] {
            let (_folder, file) = written(text);
            let access = Access { credentials: Some(file.clone()), tls: Tls::new() };
            let error = "amqp://host".parse::<BrokerUrl>().unwrap().with(&access).unwrap_err();
            assert_eq!(error.key, "credentials");
            assert!(
                error.problem.contains(file.to_str().unwrap()) && !error.problem.contains("hunter"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_for_tls_is_said_with_its_name() {
        let (_folder, none) = written("no PEM\n");
        let nowhere = PathBuf::from("/nowhere/ca.pem");
        for (tls, key, part) in [
            (Tls::new().ca(&nowhere), "tls.ca", "/nowhere/ca.pem: No such file"),
            (Tls::new().ca(&none), "tls.ca", "no certificate in it"),
            (Tls::new().identity(&none, &none), "tls.certificate", "no certificate in it"),
            (Tls::of_files(None, Some(none.clone()), None), "tls.key", "is missing"),
            (Tls::of_files(None, None, Some(none)), "tls.certificate", "is missing"),
        ] {
            let access = Access { credentials: None, tls: tls.clone() };
            let error = "amqps://me@host".parse::<BrokerUrl>().unwrap().with(&access).unwrap_err();
            assert!(error.key == key && error.problem.contains(part), "{tls:?}: {error:?}");
            // Where nothing would be encrypted nobody is to think so.
            let error = "amqp://me@host".parse::<BrokerUrl>().unwrap().with(&access).unwrap_err();
            assert!(error.key == "url" && error.problem.contains("amqps://"), "{error:?}");
        }
    }
}
