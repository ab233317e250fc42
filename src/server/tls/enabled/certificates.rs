//! Certificates and keys, from PEM files to the configuration of a server.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use records::render::go;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};
use webpki::{EndEntityCert, KeyUsage};

use super::callers::{Callers, Verifier};
use crate::metrics::{Description, Page};
use crate::reload::unmarked;

/// Far beyond the end of any certificate, in seconds since 1970.
const NEVER: Duration = Duration::from_secs(1 << 40);

/// The content of the files.
#[derive(Debug)]
pub(super) struct Certificates {
    /// The configuration of new connections.
    pub(super) server: Arc<ServerConfig>,
    /// When the first certificate of the server's chain expires, in seconds since 1970.
    expires: u64,
    /// When the last CA of clients expires.
    client_ca_expires: Option<u64>,
}

impl Certificates {
    /// Parses the files of the certificate, its key and, if given, the CAs of clients.
    pub(super) fn parse(files: &[Vec<u8>], callers: &Callers) -> Result<Self, String> {
        let [chain, key, client_cas @ ..] = files else { return Err("a file is missing".into()) };
        let chain = certificates(chain, "--tls-cert")?;
        let key = private_key(key)?;
        let expires = expiries(&chain, "--tls-cert")?.min().unwrap_or_default();
        if SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| now.as_secs() > expires) {
            log::warn!("the server's certificate has expired, renew it expires={}", Date(expires));
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let (builder, client_ca_expires) = match client_cas.first() {
            None => (builder.with_no_client_auth(), None),
            Some(cas) => {
                let cas = certificates(cas, "--tls-client-ca")?;
                let expires = expiries(&cas, "--tls-client-ca")?.max();
                let mut roots = RootCertStore::empty();
                for ca in cas {
                    roots.add(ca).map_err(|error| format!("--tls-client-ca: {error}"))?;
                }
                let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                let chain = chain.map_err(|error| format!("--tls-client-ca: {error}"))?;
                let verifier = Verifier::new(chain, callers.clone());
                (builder.with_client_cert_verifier(Arc::new(verifier)), expires)
            }
        };
        let mut server = builder.with_single_cert(chain, key).map_err(|error| key_error(&error))?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        if client_ca_expires.is_none() {
            server.ticketer = ring::Ticketer::new().map_err(|error| error.to_string())?;
            server.send_tls13_tickets = 1;
        } else {
            // A resumed session would skip the check of the client's certificate, which
            // may have expired.
            server.send_tls13_tickets = 0;
        }
        Ok(Self { server: Arc::new(server), expires, client_ca_expires })
    }

    pub(super) fn export(&self, page: &mut Page) {
        let about = Description {
            name: "mygrpcadapter_tls_certificate_expiry_timestamp_seconds",
            kind: "gauge",
            help: "When the first certificate of the server's chain expires, and the last CA of clients.",
        };
        page.describe(about);
        page.sample(about.name, &[("certificate", "server")], self.expires as f64);
        if let Some(expires) = self.client_ca_expires {
            page.sample(about.name, &[("certificate", "client_ca")], expires as f64);
        }
    }
}

/// The expiries, for the log.
impl fmt::Display for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expires={}", Date(self.expires))?;
        match self.client_ca_expires {
            Some(expires) => write!(f, " client_ca_expires={}", Date(expires)),
            None => write!(f, " client_ca=none"),
        }
    }
}

/// Seconds since 1970.
struct Date(u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        go::second(&mut text, self.0 as i64);
        write!(f, "{}Z", String::from_utf8_lossy(&text))
    }
}

fn certificates(pem: &[u8], flag: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(unmarked(pem)).collect();
    let found = found.map_err(|error| format!("{flag}: not PEM: {error}"))?;
    if found.is_empty() { Err(format!("{flag}: no certificate in the file, as PEM")) } else { Ok(found) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    if pem.windows(9).any(|part| part == b"ENCRYPTED") {
        return Err("--tls-key: the key is encrypted; store it without a passphrase".into());
    }
    PrivateKeyDer::from_pem_slice(unmarked(pem))
        .map_err(|_| "--tls-key: no private key in the file, as PEM in PKCS#8, SEC1 or PKCS#1".into())
}

fn key_error(error: &Error) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "--tls-key is not the key of the first certificate in --tls-cert".into()
        }
        Error::InvalidCertificate(_) => format!("--tls-cert: {error}"),
        _ => format!("--tls-key: {error}; take an RSA key of 2048 bits or more, P-256, P-384 or Ed25519"),
    }
}

/// The ends of the certificates, in seconds since 1970.
fn expiries<'a>(
    certificates: &'a [CertificateDer<'a>],
    flag: &str,
) -> Result<impl Iterator<Item = u64>, String> {
    let ends: Option<Vec<u64>> = certificates.iter().map(expiry).collect();
    Ok(ends.ok_or_else(|| format!("{flag}: an invalid certificate, or one of X.509 version 1"))?.into_iter())
}

/// When a certificate expires. webpki has no method for it, but says when one had
/// expired that is verified for a later time; it checks the time first.
fn expiry(certificate: &CertificateDer<'_>) -> Option<u64> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let then = UnixTime::since_unix_epoch(NEVER);
    match certificate.verify_for_usage(&[], &[], &[], then, KeyUsage::client_auth(), None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    }
}
