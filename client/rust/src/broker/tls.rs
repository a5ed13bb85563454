//! TLS to a broker: from files to a handshake, and from its failure to what can be done about it.

use crate::access::Tls;
use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, RootCertStore};
use std::io;
use std::path::{Path, PathBuf};

/// A file, or what is missing beside it, that keeps us from connecting. Named by the setting that it is for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct AccessError {
    /// `credentials`, `tls.ca`, `tls.certificate`, `tls.key`, or `url`.
    pub key: &'static str,
    /// What is wrong, with the file, and what was wanted.
    pub problem: String,
}

impl AccessError {
    pub(super) fn new(key: &'static str, problem: impl Into<String>) -> Self {
        Self { key, problem: problem.into() }
    }

    /// Of a file.
    pub(super) fn of(key: &'static str, file: &Path, problem: impl std::fmt::Display) -> Self {
        Self::new(key, format!("{}: {problem}", file.display()))
    }
}

/// What a handshake needs, from the files as they are now.
pub(super) fn connector(tls: &Tls) -> Result<RustlsConnector, AccessError> {
    let config = match &tls.ca {
        None => RustlsConnectorConfig::new_with_native_certs().map_err(|error| {
            let what = format!("this system trusts nobody: {error}; name the broker's authority with tls.ca");
            AccessError::new("tls.ca", what)
        })?,
        Some(file) => {
            let trusted = certificates("tls.ca", file)?;
            let mut store = RootCertStore::empty();
            for certificate in &trusted {
                store
                    .add(certificate.clone())
                    .map_err(|error| AccessError::of("tls.ca", file, format!("no authority: {error}")))?;
            }
            RustlsConnectorConfig::default().with_parsable_certificates(trusted)
        }
    };
    let connector = match identity(tls)? {
        None => config.connector_with_no_client_auth(),
        Some((certificates, key)) => config.connector_with_single_cert(certificates, key),
    };
    connector.map_err(|error| match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let what = format!("and {} do not go together: {error}", key.display());
            AccessError::of("tls.certificate", certificate, what)
        }
        _ => AccessError::new("tls.ca", error.to_string()),
    })
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(tls: &Tls) -> Result<Option<Identity>, AccessError> {
    match (&tls.certificate, &tls.key) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(AccessError::new("tls.key", "is missing: a certificate needs its key")),
        (None, Some(_)) => Err(AccessError::new(
            "tls.certificate",
            "is missing: a key proves nothing without its certificate",
        )),
        (Some(certificate), Some(key)) => {
            Ok(Some((certificates("tls.certificate", certificate)?, private_key(key)?)))
        }
    }
}

fn certificates(key: &'static str, file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let bytes = read(key, file)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let read = read.map_err(|_| AccessError::of(key, file, "broken PEM, or cut off"))?;
    match read.is_empty() {
        true => {
            Err(AccessError::of(key, file, "no certificate in it; wanted PEM: -----BEGIN CERTIFICATE-----"))
        }
        false => Ok(read),
    }
}

fn private_key(file: &PathBuf) -> Result<PrivateKeyDer<'static>, AccessError> {
    let bytes = read("tls.key", file)?;
    // What the parser says may not show anything of the key.
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let what = "no private key in it; wanted PEM without a passphrase: -----BEGIN PRIVATE KEY-----";
        AccessError::of("tls.key", file, what)
    })
}

fn read(key: &'static str, file: &PathBuf) -> Result<Vec<u8>, AccessError> {
    std::fs::read(file).map_err(|error| AccessError::of(key, file, error))
}

const SHOW_ONE: &str = "name one and its key: --tls-certificate FILE --tls-key FILE, ARBITER_TLS_CERTIFICATE and ARBITER_TLS_KEY, \
                        or tls.certificate and tls.key in the settings";
const SEE_ITS_LOG: &str =
    "its log says more; it must trust the authority of the certificate that we show, if we show one";
const OTHER_PORT: &str = "write the port of the broker's TLS listener, as a rule 5671";

/// What a failed connection means and what to do; none if it was not TLS that failed. `shaken`: our half of the handshake
/// was over, and then the broker looks at our certificate.
pub(super) fn failure(error: &lapin::Error, tls: &Tls, shaken: bool) -> Option<(String, &'static str)> {
    let lapin::ErrorKind::IOError(error) = error.kind() else { return None };
    let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
        // What the broker says as it ends a connection is lost where we were sending.
        let ended =
            [io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionAborted, io::ErrorKind::BrokenPipe];
        let ended = ended.contains(&error.kind()) || error.kind() == io::ErrorKind::UnexpectedEof;
        let (what, help) = match (shaken, &tls.certificate) {
            (false, _) => ("what answers there does not speak TLS, as it seems", OTHER_PORT),
            (true, None) => ("the broker wants a certificate from us, as it seems", SHOW_ONE),
            (true, Some(_)) => ("the broker does not accept our certificate, as it seems", SEE_ITS_LOG),
        };
        return ended.then(|| (format!("{what}: {error}"), help));
    };
    use AlertDescription as Alert;
    use CertificateError as Bad;
    use rustls::Error as E;
    let (what, help) = match error {
        E::InvalidCertificate(Bad::UnknownIssuer) => (
            "the broker's certificate is of an authority that is not trusted here",
            "name the authority's certificate: --tls-ca FILE, ARBITER_TLS_CA, or tls.ca in the settings",
        ),
        E::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => (
            "the broker's certificate is for another name",
            "write the URL with a name that is in the certificate",
        ),
        E::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            ("the broker's certificate has expired", "renew it there; this machine's clock counts, too")
        }
        E::InvalidCertificate(_) => ("the broker's certificate is not accepted", "replace it there"),
        E::AlertReceived(Alert::CertificateRequired | Alert::HandshakeFailure) => {
            ("the broker wants a certificate from us", SHOW_ONE)
        }
        E::AlertReceived(_) => ("the broker does not accept TLS as we offer it", SEE_ITS_LOG),
        E::InvalidMessage(_) => ("what answers there does not speak TLS", OTHER_PORT),
        _ => ("no TLS connection", "the broker's log says more"),
    };
    Some((format!("{what}: {error}"), help))
}
