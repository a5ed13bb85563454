//! Where the arbiter listens.

use arbiterq_client::{Access, Url};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where clients and the arbiter meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A port; 0 takes any that is free.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
    /// A RabbitMQ broker, which has the log, too.
    #[cfg(feature = "rabbitmq")]
    RabbitMq(crate::transport::rabbitmq::BrokerUrl),
}

impl Listen {
    /// Reads `tcp://host:port`, `unix:///path` or `amqp(s)://…`; the host of the first is an address or `localhost`.
    ///
    /// # Errors
    /// What is wrong, and what to write instead. Credentials are not repeated.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[cfg(feature = "rabbitmq")]
        if text.starts_with("amqp://") || text.starts_with("amqps://") {
            return text
                .parse()
                .map(Self::RabbitMq)
                .map_err(|error: crate::transport::rabbitmq::InvalidBrokerUrl| error.to_string());
        }
        // A client cannot connect to port 0, so its URL does not take it; a listener can.
        let (text, any_port) = match text.strip_suffix(":0") {
            Some(host) if host.starts_with("tcp://") && !host.ends_with(':') => (host, true),
            _ => (text, false),
        };
        let url: Url = text.parse().map_err(|error: arbiterq_client::Error| match error.remedy() {
            Some(help) => format!("{}; {help}", error.what()),
            None => error.what().to_owned(),
        })?;
        match url {
            Url::Tcp { host, port } => {
                let address = match host.as_str() {
                    "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    address => address
                        .parse()
                        .map_err(|_| format!("{address} is not an address; write tcp://127.0.0.1:port"))?,
                };
                Ok(Self::Tcp(SocketAddr::new(address, if any_port { 0 } else { port })))
            }
            Url::Unix(path) => Ok(Self::Unix(path)),
            other => Err(format!("{other} is not the direct transport; write tcp://127.0.0.1:port")),
        }
    }

    /// With the files by which a broker is reached; of no use elsewhere.
    ///
    /// # Errors
    /// The key of the file that cannot be used, and why.
    pub fn with(self, access: &Access) -> Result<Self, (&'static str, String)> {
        match self {
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(url) => {
                url.with(access).map(Self::RabbitMq).map_err(|error| (error.key, error.problem))
            }
            other => {
                let _ = access;
                Ok(other)
            }
        }
    }

    /// Whether only this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
            // It listens nowhere; who may do what, the broker says.
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_shown() {
        for (text, shown, local) in [
            ("tcp://127.0.0.1:7117", "tcp://127.0.0.1:7117", true),
            ("tcp://localhost", "tcp://127.0.0.1:7117", true),
            ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", true),
            ("tcp://[::1]:0", "tcp://[::1]:0", true),
            ("tcp://0.0.0.0:7117", "tcp://0.0.0.0:7117", false),
            ("unix:///run/arbiter.sock", "unix:///run/arbiter.sock", true),
            ("unix:///run/arbiter:0", "unix:///run/arbiter:0", true),
            #[cfg(feature = "rabbitmq")]
            ("amqp://me:hunter2@host", "amqp://host:5672/%2f", true),
        ] {
            let listen = Listen::parse(text).unwrap();
            assert_eq!((listen.to_string().as_str(), listen.is_local()), (shown, local), "{text}");
        }
    }

    #[test]
    fn refused_without_repeating_a_password() {
        for text in
            ["tcp://me:hunter2@127.0.0.1:1", "amqp://me:hunter2@host:x", "tcp://example.org:1", "7117"]
        {
            let problem = Listen::parse(text).unwrap_err();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }
}
