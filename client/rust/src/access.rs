//! The files that say who we are to a broker, and whom we trust there.

use std::path::PathBuf;

/// Certificates for `amqps://`: whom to trust, and what to show. Files in PEM, read again for each connection, so that
/// what was renewed is used.
///
/// # Examples
/// ```
/// use arbiterq_client::{Client, Tls};
///
/// let tls = Tls::new().ca("/etc/arbiter/ca.pem").identity("/etc/arbiter/me.pem", "/etc/arbiter/me.key");
/// let client = Client::builder("amqps://me@broker/?auth_mechanism=external").tls(tls);
/// # drop(client);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tls {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl Tls {
    /// Trusts whom the system trusts, and shows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trust the authorities in this file, and not the system's.
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// Show this certificate, which may be followed by those up to its authority, and prove with the key that it is ours.
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        (self.certificate, self.key) = (Some(certificate.into()), Some(key.into()));
        self
    }

    /// What was named, one by one; a certificate without its key is refused when it is used.
    #[doc(hidden)]
    pub fn of_files(ca: Option<PathBuf>, certificate: Option<PathBuf>, key: Option<PathBuf>) -> Self {
        Self { ca, certificate, key }
    }

    /// Whether anything was named.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn is_some(&self) -> bool {
        *self != Self::default()
    }
}

/// All files by which a broker is reached.
#[doc(hidden)]
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Access {
    /// `user:password`, for a URL that names no user.
    pub credentials: Option<PathBuf>,
    /// For `amqps://`.
    pub tls: Tls,
}
