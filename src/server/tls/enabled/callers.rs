//! Client certificates: issued by a given CA, with a permitted name.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::EndEntityCert;

use crate::once::Once;
use crate::policy::name::{Name, SPIFFE};
use crate::quoted::quoted;

/// Limit on the certificates between a client's and its CA: webpki verifies up to a
/// hundred signatures for a chain made for that.
const MAX_INTERMEDIATES: usize = 4;

/// The names of permitted callers. Clones share what was logged.
#[derive(Clone, Debug, Default)]
pub(super) struct Callers {
    uris: Arc<[Name]>,
    domains: Arc<[Name]>,
    /// Names that were refused, logged once each.
    told: Arc<Once>,
}

impl Callers {
    /// Parses SPIFFE ids and DNS names, each exact or up to a final `*`. Without any,
    /// every certificate of the CA is permitted.
    pub(super) fn new(names: &[String]) -> Result<Self, String> {
        let (uris, domains): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| name.as_bytes().starts_with(SPIFFE));
        let uris: Option<Vec<Name>> = uris.into_iter().map(|name| Name::spiffe(name.as_bytes())).collect();
        let domains: Option<Vec<Name>> = domains.into_iter().map(|name| domain(name)).collect();
        match (uris, domains) {
            (Some(uris), Some(domains)) => {
                Ok(Self { uris: uris.into(), domains: domains.into(), told: Arc::default() })
            }
            _ => Err("--tls-client-name: write spiffe://DOMAIN/PATH or a DNS name, with `*` only at its end"
                .into()),
        }
    }

    fn are_all_permitted(&self) -> bool {
        self.uris.is_empty() && self.domains.is_empty()
    }

    /// Whether a certificate has a permitted name. Logs the names of one that has none,
    /// once each.
    fn permit(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
        let is_permitted = certificate.valid_uri_names().any(|name| allow(&self.uris, name.as_bytes()))
            || certificate
                .valid_dns_names()
                .any(|name| allow(&self.domains, name.to_ascii_lowercase().as_bytes()));
        if !is_permitted {
            let names: Vec<&str> =
                certificate.valid_uri_names().chain(certificate.valid_dns_names()).collect();
            let names = names.join(" ");
            if self.told.is_due(names.as_bytes()) {
                log::warn!(
                    "no --tls-client-name permits a client's certificate; add one of its names, or give it \
                     another certificate names={}",
                    quoted(names.as_bytes())
                );
            }
        }
        is_permitted
    }
}

fn allow(permitted: &[Name], name: &[u8]) -> bool {
    permitted.iter().any(|permitted| permitted.allows(name))
}

fn domain(text: &str) -> Option<Name> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*');
    if text == "*" || !text.bytes().all(is_letter) {
        return None;
    }
    Name::parse(text.to_ascii_lowercase().as_bytes())
}

/// Verifies a chain, then the name.
#[derive(Debug)]
pub(super) struct Verifier {
    chain: Arc<dyn ClientCertVerifier>,
    callers: Callers,
}

impl Verifier {
    pub(super) fn new(chain: Arc<dyn ClientCertVerifier>, callers: Callers) -> Self {
        Self { chain, callers }
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(Error::General(format!("more than {MAX_INTERMEDIATES} intermediate certificates")));
        }
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        if self.callers.are_all_permitted() || self.callers.permit(end_entity) {
            return Ok(verified);
        }
        // The alert is access_denied.
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(names: &[&str]) -> Result<Callers, String> {
        Callers::new(&names.iter().map(|name| (*name).into()).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_spiffe_ids_or_dns_names() {
        let parsed = callers(&["spiffe://d/ns/a*", "spiffe://*", "Mixer.Example", "mixer.*"]).unwrap();
        assert_eq!((parsed.uris.len(), parsed.domains.len()), (2, 2));
        assert!(allow(&parsed.domains, b"mixer.example") && !allow(&parsed.domains, b"amixer.example"));
        assert!(callers(&[]).unwrap().are_all_permitted());
        for name in
            ["", "*", "**", "*.example", "a b", "spiffe://", "spiffe://d/*/a", "https://d/a", "CN=a", "é"]
        {
            assert!(callers(&["a", name]).is_err(), "{name}");
        }
    }
}
