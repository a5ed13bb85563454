//! Where an arbiter is: `tcp://host:port`, `unix:///path`, or the broker where it reads: `amqp(s)://…`.

#[cfg(feature = "rabbitmq")]
use crate::broker::{BrokerUrl, InvalidBrokerUrl};
use crate::error::{Error, ErrorKind};
use crate::wire::PORT_DEFAULT;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where an arbiter is when nothing else is said.
pub const URL_DEFAULT: &str = "tcp://127.0.0.1:7117";

/// A checked URL of a transport that this library speaks. Shown without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Url {
    /// The arbiter's own port.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// The arbiter's own socket in the file system.
    Unix(PathBuf),
    /// A RabbitMQ broker, where the arbiter takes requests.
    #[cfg(feature = "rabbitmq")]
    RabbitMq(BrokerUrl),
}

impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(unusable("a URL needs a scheme", "use for example tcp://127.0.0.1:7117"));
        };
        match scheme {
            "tcp" => tcp(rest),
            "unix" if rest.starts_with('/') => Ok(Self::Unix(PathBuf::from(rest))),
            "unix" => Err(unusable("the path of a unix:// URL is absolute", "write unix:///path/to/socket")),
            #[cfg(feature = "rabbitmq")]
            "amqp" | "amqps" => text.parse().map(Self::RabbitMq).map_err(|error: InvalidBrokerUrl| {
                unusable(&error.to_string(), "write amqp://user:password@host:port/%2f")
            }),
            #[cfg(not(feature = "rabbitmq"))]
            "amqp" | "amqps" => Err(not_spoken(scheme)),
            "tls" | "kafka" => Err(not_spoken(scheme)),
            _ => {
                let shown: String = scheme.chars().filter(|c| c.is_ascii_graphic()).take(16).collect();
                Err(unusable(
                    &format!("unknown scheme {shown}://"),
                    "use tcp://host:port, unix:///path or amqp://host:port",
                ))
            }
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(url) => url.fmt(f),
        }
    }
}

fn tcp(rest: &str) -> Result<Url, Error> {
    let wanted = "write tcp://host:port";
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        // The text is not repeated: it may hold a password.
        return Err(unusable("the direct transport takes no credentials in its URL", wanted));
    }
    if rest.contains(['/', '?', '#']) {
        return Err(unusable("a tcp:// URL has a host and a port, nothing more", wanted));
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, port) =
                v6.split_once(']').ok_or_else(|| unusable("a bracket is not closed", wanted))?;
            (host, port.strip_prefix(':'))
        }
        None if rest.matches(':').count() > 1 => (rest, None),
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(unusable("a tcp:// URL needs a host", wanted));
    }
    let port = port.map_or(Some(PORT_DEFAULT), |port| port.parse().ok().filter(|port| *port != 0));
    let port = port.ok_or_else(|| unusable("the port is not a number from 1 to 65535", wanted))?;
    Ok(Url::Tcp { host: host.to_owned(), port })
}

fn not_spoken(scheme: &str) -> Error {
    unusable(&format!("this build does not speak {scheme}://"), "use tcp://host:port or unix:///path")
}

fn unusable(what: &str, help: &str) -> Error {
    Error::new(ErrorKind::Url, what).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_shown_the_same() {
        for (text, shown) in [
            ("tcp://127.0.0.1:7117", "tcp://127.0.0.1:7117"),
            ("tcp://localhost", "tcp://localhost:7117"),
            ("tcp://[::1]:99/", "tcp://[::1]:99"),
            ("tcp://::1", "tcp://[::1]:7117"),
            ("unix:///run/arbiter.sock", "unix:///run/arbiter.sock"),
            #[cfg(feature = "rabbitmq")]
            ("amqp://me:hunter2@host", "amqp://host:5672/%2f"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), shown);
        }
        assert_eq!(URL_DEFAULT.parse::<Url>().unwrap().to_string(), URL_DEFAULT);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_no_password_is_repeated() {
        for text in [
            "127.0.0.1:7117",
            "tcp://",
            "tcp://host:0",
            "tcp://host:70000",
            "tcp://[::1",
            "tcp://me:hunter2@host:1",
            "tcp://host/path",
            "unix://relative",
            "amqp://me:hunter2@host:x",
            "kafka://host",
            "tls://host",
            "ftp://me:hunter2@host",
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Url, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
