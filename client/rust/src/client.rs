//! The handle that programs hold.

#[cfg(feature = "rabbitmq")]
use crate::access::{Access, Tls};
use crate::acquire::{Acquire, Want};
use crate::clock::Clock;
use crate::driver::{self, Handle};
use crate::error::{Error, ErrorKind};
use crate::transport::Connector;
use crate::url::Url;
use crate::wire::{
    ForceRelease, LABEL_BYTES_MAX, Pause, Reason, RequestBody, ResourceName, Resume, SessionId, SessionKey,
    Status, StatusWhat, Token, check_text,
};
use std::time::Duration;

/// How long a session lives without word from it, unless asked otherwise: long enough for a broker's restart.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(60);

/// Where the arbiter is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// There.
    At(Url),
    /// In this program.
    Here(Connector),
}

/// How a client is to behave.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) label: String,
    pub(crate) lease: Duration,
    pub(crate) fail_fast: Option<Duration>,
    pub(crate) clock: Clock,
    pub(crate) presence: bool,
    pub(crate) session: bool,
}

/// A client being put together.
#[derive(Clone, Debug)]
#[must_use = "nothing is connected until connect() is awaited"]
pub struct Builder {
    place: Result<Place, Error>,
    config: Config,
    #[cfg(feature = "rabbitmq")]
    access: Access,
}

impl Builder {
    fn new(place: Result<Place, Error>) -> Self {
        let config = Config {
            label: label_default(),
            lease: LEASE_DEFAULT,
            fail_fast: None,
            clock: Clock::Boot,
            presence: true,
            session: true,
        };
        Self {
            place,
            config,
            #[cfg(feature = "rabbitmq")]
            access: Access::default(),
        }
    }

    /// What people see as the holder's name. Default: the program's name and process id.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.config.label = label.into();
        self
    }

    /// How long a session lives without word from it: from 100 ms to 24 h. Default [`LEASE_DEFAULT`].
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// Ask to be ended so soon after replies could not be delivered, and count the own lease as no longer than
    /// that. Fast failover, at the price of losing grants when a broker restarts.
    pub fn fail_fast(mut self, after: Duration) -> Self {
        self.config.fail_fast = Some(after);
        self
    }

    /// Whom to trust at `amqps://`, and what to show there. Default: whom the system trusts, and nothing.
    #[cfg(feature = "rabbitmq")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.access.tls = tls;
        self
    }

    /// Take user and password from this file, one line `user:password`, if the URL of a broker names no user.
    #[cfg(feature = "rabbitmq")]
    pub fn credentials(mut self, file: impl Into<std::path::PathBuf>) -> Self {
        self.access.credentials = Some(file.into());
        self
    }

    /// All of it at once.
    #[cfg(feature = "rabbitmq")]
    #[doc(hidden)]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Which clock leases are counted on. Default [`Clock::Boot`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.config.clock = clock;
        self
    }

    /// Whether the arbiter may take the end of the connection for the end of this program. Default: yes.
    ///
    /// Switch it off where something else outlives this program that acts under its grants.
    pub fn presence(mut self, presence: bool) -> Self {
        self.config.presence = presence;
        self
    }

    /// Whether [`connect`](Self::connect) opens a session. Default: yes. Without one, to look and to operate
    /// leaves no trace in the log; a session is opened when something first needs one.
    pub fn session(mut self, session: bool) -> Self {
        self.config.session = session;
        self
    }

    /// Connects, and opens a session.
    ///
    /// # Errors
    /// `NoArbiter` if nobody answers within three seconds; `Url` if the URL cannot be used; `Configuration` if a file
    /// for it cannot; `Refused` if the arbiter does not take the session.
    ///
    /// # Cancel safety
    /// Dropped half-way, the connection is closed and with it the session.
    pub async fn connect(self) -> Result<Client, Error> {
        let place = self.place?;
        #[cfg(feature = "rabbitmq")]
        let place = match place {
            Place::At(Url::RabbitMq(url)) => Place::At(Url::RabbitMq(url.with(&self.access)?)),
            place => place,
        };
        check_text("label", &self.config.label, LABEL_BYTES_MAX)
            .map_err(|error| Error::new(ErrorKind::Refused(Reason::InvalidText), error.to_string()))?;
        let handle = driver::start(place, self.config).await?;
        Ok(Client { handle })
    }
}

/// A connection to an arbiter and the sessions on it. Cheap to clone; all clones share them.
///
/// When the last clone, ticket and grant is dropped, the sessions are closed.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let arbiter = arbiterq::testing::in_process().await;
/// use arbiterq_client::Client;
/// use std::time::Duration;
///
/// // Elsewhere: Client::connect("tcp://127.0.0.1:7117").await?
/// let client = Client::over(arbiter.connector()).label("migrator").lease(Duration::from_secs(20)).connect().await?;
/// let grant = client.acquire("db/migrate").await?;
/// assert!(grant.check().is_ok());
/// client.close().await;
/// assert!(grant.is_lost());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    handle: Handle,
}

impl Client {
    /// Connects to the arbiter at `url`: `tcp://host:port`, `unix:///path`, or `amqp://user:password@host:port`, a broker.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    ///
    /// # Cancel safety
    /// As [`Builder::connect`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::builder(url).connect().await
    }

    /// A client of the arbiter at `url`, to be put together.
    pub fn builder(url: &str) -> Builder {
        Builder::new(url.parse().map(Place::At))
    }

    /// A client of the arbiter at a URL that was read before, to be put together.
    pub fn at(url: Url) -> Builder {
        Builder::new(Ok(Place::At(url)))
    }

    /// A client of an arbiter in this program, to be put together.
    pub fn over(connector: Connector) -> Builder {
        Builder::new(Ok(Place::Here(connector)))
    }

    /// Asks for a resource.
    pub fn acquire(&self, resource: impl Into<Want>) -> Acquire {
        Acquire::new(self.handle.clone(), resource.into())
    }

    /// How many partitions there are.
    ///
    /// # Errors
    /// The arbiter does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn partitions(&self) -> Result<u32, Error> {
        self.handle.partitions().await
    }

    /// Looks at a partition.
    ///
    /// # Errors
    /// The arbiter does not answer, or refuses.
    ///
    /// # Cancel safety
    /// Safe: looking changes nothing.
    pub async fn status(&self, partition: u32, what: StatusWhat) -> Result<Status, Error> {
        self.handle.status(partition, what).await
    }

    /// Takes a grant away from its holder, if it is still in force on `resource`: compare and release.
    ///
    /// The holder hears first and has one lease to stop; with `now` it has not, and only fencing protects.
    ///
    /// # Errors
    /// `Refused(HolderChanged)` if it is not in force any more; `Unknown` if the arbiter says so after the
    /// connection broke on the way, as then it may be this call that ended it; or no answer, and it may have been
    /// done or not.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been done or not.
    pub async fn force_release(
        &self,
        resource: ResourceName,
        token: Token,
        reason: impl Into<String>,
        now: bool,
    ) -> Result<(), Error> {
        let partition = self.handle.partition_of(&resource).await?;
        let reason = reason.into();
        let body = |id| RequestBody::ForceRelease(ForceRelease { id, resource, token, reason, now });
        self.handle.operate(partition, body).await
    }

    /// Stops granting in a partition; requests still queue.
    ///
    /// # Errors
    /// The arbiter does not answer, or refuses.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been done or not.
    pub async fn pause(&self, partition: u32, reason: impl Into<String>) -> Result<(), Error> {
        let reason = reason.into();
        self.handle.operate(partition, |id| RequestBody::Pause(Pause { id, reason })).await
    }

    /// Grants again.
    ///
    /// # Errors
    /// The arbiter does not answer, or refuses.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may have been done or not.
    pub async fn resume(&self, partition: u32, reason: impl Into<String>) -> Result<(), Error> {
        let reason = reason.into();
        self.handle.operate(partition, |id| RequestBody::Resume(Resume { id, reason })).await
    }

    /// The session of a partition, its secret, and the lease that the arbiter gave it, which may be shorter than
    /// what was asked for: for a guard that outlives this program. Opens one if needed.
    ///
    /// # Errors
    /// The arbiter does not answer, or refuses.
    ///
    /// # Cancel safety
    /// Safe.
    #[doc(hidden)]
    pub async fn session(&self, partition: u32) -> Result<(SessionId, SessionKey, Duration), Error> {
        self.handle.session(partition).await
    }

    /// Closes the sessions: every request is withdrawn and every grant given back. Returns when the arbiter has
    /// heard it, or after a second; whether it has. If not, the sessions end with their leases.
    ///
    /// # Cancel safety
    /// The sessions are closed by the call's first poll; dropping the future only stops waiting.
    pub async fn close(&self) -> bool {
        self.handle.close().await
    }
}

fn label_default() -> String {
    let program = std::env::current_exe().ok();
    let program = program.as_ref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    let name: String = program.unwrap_or("client").chars().filter(|c| !c.is_control()).take(64).collect();
    format!("{name}:{}", std::process::id())
}
