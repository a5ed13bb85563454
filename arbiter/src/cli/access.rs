//! Options of every command for the files by which a broker is reached.

use super::Global;
use super::output::{Failure, exit};
use arbiterq_client::broker::{Access, AccessError, BrokerUrl};
use arbiterq_client::{Client, Tls};
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::path::PathBuf;

const HEADING: &str = "Options at a broker";

/// `--credentials`, `--tls-…`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Files {
    /// A file with user:password, for a URL that names no user
    #[arg(long, global = true, env = "ARBITER_CREDENTIALS", hide_env_values = true, value_name = "FILE", value_parser = file(), help_heading = HEADING)]
    credentials: Option<PathBuf>,
    /// Trust the authorities in this file at amqps://, and not the system's; PEM, as the next two
    #[arg(long, global = true, env = "ARBITER_TLS_CA", hide_env_values = true, value_name = "FILE", value_parser = file(), help_heading = HEADING)]
    tls_ca: Option<PathBuf>,
    /// Show this certificate at amqps://
    #[arg(long, global = true, env = "ARBITER_TLS_CERTIFICATE", hide_env_values = true, value_name = "FILE", value_parser = file(), help_heading = HEADING)]
    tls_certificate: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, global = true, env = "ARBITER_TLS_KEY", hide_env_values = true, value_name = "FILE", value_parser = file(), help_heading = HEADING)]
    tls_key: Option<PathBuf>,
}

/// The variables of these options, and none of them for what `run` starts.
pub(crate) const VARIABLES: [&str; 4] =
    ["ARBITER_CREDENTIALS", "ARBITER_TLS_CA", "ARBITER_TLS_CERTIFICATE", "ARBITER_TLS_KEY"];

/// A path; one that is empty says nothing, as an empty variable does.
fn file() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl Files {
    /// What was said: the setting that it is for, the option, the variable, the file.
    pub(crate) fn said(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, &PathBuf)> {
        let Self { credentials, tls_ca, tls_certificate, tls_key } = self;
        let [of_credentials, of_ca, of_certificate, of_key] = VARIABLES;
        let all = [
            ("credentials", "--credentials", of_credentials, credentials.as_ref()),
            ("tls.ca", "--tls-ca", of_ca, tls_ca.as_ref()),
            ("tls.certificate", "--tls-certificate", of_certificate, tls_certificate.as_ref()),
            ("tls.key", "--tls-key", of_key, tls_key.as_ref()),
        ];
        let given = |file: &&PathBuf| !file.as_os_str().is_empty();
        let said = all.into_iter().map(move |(key, option, variable, file)| {
            file.filter(given).map(|file| (key, option, variable, file))
        });
        said.flatten()
    }

    /// The same, for the client library.
    pub(crate) fn access(&self) -> Access {
        let of = |key| self.said().find(|said| said.0 == key).map(|said| said.3.clone());
        Access {
            credentials: of("credentials"),
            tls: Tls::of_files(of("tls.ca"), of("tls.certificate"), of("tls.key")),
        }
    }
}

impl Global {
    /// A client of where the arbiter is said to be.
    pub(crate) fn client(&self) -> arbiterq_client::Builder {
        Client::builder(self.url()).access(self.files.access())
    }

    /// A broker's URL, with the files that were named; `help` says what to write instead of what is none.
    pub(crate) fn broker(&self, url: &str, help: &str) -> Result<BrokerUrl, Failure> {
        let url: BrokerUrl =
            url.parse().map_err(|error| Failure::new("usage", exit::USAGE, format!("{error}")).help(help))?;
        Ok(url.with(&self.files.access())?)
    }
}

impl From<AccessError> for Failure {
    fn from(AccessError { key, problem }: AccessError) -> Self {
        Self::new("configuration", exit::CONFIGURATION, format!("{key} {problem}"))
    }
}
