//! The flags for TLS, as given.

use std::path::PathBuf;

/// The flags.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// File of the server's certificate, and those between it and its CA.
    pub cert: Option<PathBuf>,
    /// File of the certificate's key.
    pub key: Option<PathBuf>,
    /// File of the CAs of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Permitted names of clients.
    pub client_names: Vec<String>,
}

impl Flags {
    /// The first flag that is given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            ("--tls-cert", self.cert.is_some()),
            ("--tls-key", self.key.is_some()),
            ("--tls-client-ca", self.client_ca.is_some()),
            ("--tls-client-name", !self.client_names.is_empty()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
    }
}
