//! The outcomes of handshakes: why one failed, and what to do about it.

use std::io;
use std::net::IpAddr;

use rustls::{CertificateError, Error, InvalidMessage};

use crate::metrics::{Family, Page};
use crate::once::Once;

/// The outcome of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The connection is encrypted.
    Ok,
    /// The peer speaks HTTP without TLS.
    Plaintext,
    /// No version, cipher suite or signature in common.
    Incompatible,
    /// The peer offers protocols, but not HTTP/2.
    Alpn,
    /// The peer presents no certificate.
    NoCertificate,
    /// No known CA issued its certificate.
    UnknownIssuer,
    /// Its certificate has expired, or is not valid yet.
    Expired,
    /// Its certificate has no permitted name.
    Name,
    /// Its certificate is invalid for another reason.
    Certificate,
    /// The peer refuses our certificate, or the handshake.
    RefusedByPeer,
    /// It took too long.
    Timeout,
    /// The peer closed the connection, as a port scan does.
    Closed,
    /// Anything else that is not TLS.
    Invalid,
}

impl Outcome {
    const ALL: [Self; 13] = [
        Self::Ok,
        Self::Plaintext,
        Self::Incompatible,
        Self::Alpn,
        Self::NoCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::Name,
        Self::Certificate,
        Self::RefusedByPeer,
        Self::Timeout,
        Self::Closed,
        Self::Invalid,
    ];

    /// The outcome of a handshake that failed, and whether the peer began with letters.
    pub(super) fn of(error: &io::Error, began_with_letters: bool) -> Self {
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) if began_with_letters => {
                Self::Plaintext
            }
            Some(Error::PeerIncompatible(_)) => Self::Incompatible,
            Some(Error::NoApplicationProtocol) => Self::Alpn,
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidCertificate(error)) => Self::of_certificate(error),
            // callers.rs refuses a chain.
            Some(Error::General(_)) => Self::Certificate,
            Some(Error::AlertReceived(_)) => Self::RefusedByPeer,
            Some(_) => Self::Invalid,
            None if error.kind() == io::ErrorKind::Other => Self::Invalid,
            None => Self::Closed,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        use CertificateError::{
            ApplicationVerificationFailure, Expired, ExpiredContext, NotValidYet, NotValidYetContext,
            UnknownIssuer,
        };
        match error {
            ApplicationVerificationFailure => Self::Name,
            UnknownIssuer => Self::UnknownIssuer,
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => Self::Expired,
            _ => Self::Certificate,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Plaintext => "plaintext",
            Self::Incompatible => "incompatible",
            Self::Alpn => "alpn",
            Self::NoCertificate => "no_certificate",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::Name => "name",
            Self::Certificate => "certificate",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Invalid => "invalid",
        }
    }

    /// What is wrong and what to do, where that is known.
    fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::Plaintext => "a client speaks plaintext to the TLS port; let it use TLS",
            Self::Incompatible => {
                "a client offers no TLS that is served here; it needs 1.2 or 1.3, with ECDHE"
            }
            Self::Alpn => {
                "a client does not offer HTTP/2; give the Service's port \"appProtocol: grpc\", or a name that begins with grpc"
            }
            Self::NoCertificate => {
                "a client presents no certificate; give it one that a CA in --tls-client-ca has issued"
            }
            Self::UnknownIssuer => {
                "no CA in --tls-client-ca has issued a client's certificate; add its CA, or give it another certificate"
            }
            Self::Expired => "a client's certificate is not valid now; renew it, or set the clocks",
            Self::Certificate => {
                "a client's certificate is not accepted; give it one for client authentication, with a short chain"
            }
            Self::RefusedByPeer => {
                "a client refuses our certificate; let it trust the CA of --tls-cert, and get a certificate with the name or SPIFFE id that the client expects"
            }
            // callers.rs logs the names.
            Self::Name => return None,
            Self::Ok | Self::Timeout | Self::Closed | Self::Invalid => return None,
        })
    }
}

/// Counters of handshakes, and the peers that were logged for each outcome.
#[derive(Debug)]
pub(super) struct Outcomes {
    counters: Family<{ Outcome::ALL.len() }>,
    told: [Once; Outcome::ALL.len()],
}

impl Default for Outcomes {
    fn default() -> Self {
        let counters = Family::new(
            "mygrpcadapter_tls_handshakes_total",
            "TLS handshakes by outcome.",
            "outcome",
            Outcome::ALL.map(Outcome::label),
        );
        Self { counters, told: Default::default() }
    }
}

impl Outcomes {
    /// Counts a handshake.
    pub(super) fn count(&self, outcome: Outcome) {
        self.counters.at(outcome as usize).add(1);
    }

    /// Counts a handshake that failed. Logs it as a warning once per outcome and peer,
    /// if there is something to do about it.
    pub(super) fn failed(&self, peer: IpAddr, outcome: Outcome, error: &io::Error) {
        self.count(outcome);
        let is_due = |_: &&str| self.told[outcome as usize].is_due(peer.to_string().as_bytes());
        match outcome.advice().filter(is_due) {
            Some(advice) => log::warn!("{advice} peer={peer} error={error}"),
            None => {
                log::debug!("a TLS handshake failed peer={peer} outcome={} error={error}", outcome.label())
            }
        }
    }

    pub(super) fn export(&self, page: &mut Page) {
        self.counters.export(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_in_the_order_of_their_counters() {
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at);
        }
    }
}
