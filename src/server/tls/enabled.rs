//! A build with TLS: TLS 1.2 and 1.3 by rustls, without renegotiation and early data.
//!
//! The event loop computes one step of one handshake per turn, so that a flood of
//! handshakes delays other calls by one signature, or those of one chain.

mod callers;
mod certificates;
mod outcome;
mod stream;
mod turns;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use self::callers::Callers;
use self::certificates::Certificates;
use self::outcome::{Outcome, Outcomes};
pub use self::stream::Stream;
use self::stream::{MAX_BARREN, Metered};
use self::turns::Turns;
use super::flags::Flags;
use crate::metrics::{Export, Page};
use crate::reload::{Reload, Reloaded};

/// Size limit of a file of certificates: room for the CAs of a system.
const MAX_FILE: u64 = 1024 * 1024;
/// Limit on encrypted bytes that wait for a peer that does not read.
const SEND_BUFFER: usize = 16 * 1024;
/// How long a refused peer may take to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Checked settings.
#[derive(Debug)]
pub struct Settings {
    paths: Vec<PathBuf>,
    callers: Callers,
}

impl Settings {
    /// The settings, if any flag is given.
    pub fn check(flags: &Flags) -> Result<Option<Self>, String> {
        if flags.given().is_none() {
            return Ok(None);
        }
        let Flags { cert: Some(cert), key: Some(key), client_ca, client_names } = flags else {
            return Err("TLS needs both --tls-cert and --tls-key".into());
        };
        if client_ca.is_none() && !client_names.is_empty() {
            return Err("--tls-client-name needs --tls-client-ca, the CA of those certificates".into());
        }
        let paths = [cert, key].into_iter().chain(client_ca).cloned().collect();
        Ok(Some(Self { paths, callers: Callers::new(client_names)? }))
    }
}

/// TLS for the connections of a server. Clones share it.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificates: Reloaded<Certificates>,
    outcomes: Outcomes,
    turns: Turns,
}

impl Tls {
    /// Reads the certificates. An error gives the reason and nothing of the key.
    pub fn open(settings: Settings) -> Result<Self, String> {
        let Settings { paths, callers } = settings;
        let parse = move |files: &[Vec<u8>]| Certificates::parse(files, &callers);
        let certificates = Reloaded::read("certificates", paths, MAX_FILE, parse)
            .map_err(|error| format!("cannot read the certificates: {error}"))?;
        log::info!("serving TLS {}", certificates.current());
        Ok(Self(Arc::new(Inner { certificates, outcomes: Outcomes::default(), turns: Turns::default() })))
    }

    /// The files of certificates.
    pub fn files(&self) -> Box<dyn Reload> {
        Box::new(self.0.certificates.clone())
    }

    async fn handshake(&self, stream: TcpStream, peer: IpAddr, deadline: Instant) -> Option<Stream> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.certificates.current().server));
        let accept = acceptor.accept_with(Metered::new(stream), |session| {
            session.set_buffer_limit(Some(SEND_BUFFER));
        });
        let handshake = timeout_at(deadline, self.0.turns.pace(accept.into_fallible())).await;
        let outcomes = &self.0.outcomes;
        match handshake {
            Ok(Ok(stream)) => {
                outcomes.count(Outcome::Ok);
                return Some(Stream::Tls(Box::new(stream)));
            }
            Ok(Err((error, stream))) => {
                let outcome = Outcome::of(&error, stream.begins_with_letters());
                outcomes.failed(peer, outcome, &error);
                let _ = timeout(LAST_WORDS, say_last_words(stream)).await;
            }
            Err(error) => outcomes.failed(peer, Outcome::Timeout, &error.into()),
        }
        None
    }
}

impl Export for Tls {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        self.0.outcomes.export(page);
        self.0.certificates.current().export(page);
        None
    }
}

/// The encrypted stream, or the stream as it is without TLS. `None`, counted and
/// logged, if there is no handshake by the deadline.
pub async fn secure(tls: Option<Tls>, stream: TcpStream, peer: IpAddr, deadline: Instant) -> Option<Stream> {
    match tls {
        Some(tls) => tls.handshake(stream, peer, deadline).await,
        None => Some(Stream::Plain(stream)),
    }
}

/// Ends a refused connection so that the peer gets the alert: to close with unread
/// bytes would reset the connection, and discard it.
async fn say_last_words(stream: Metered) -> std::io::Result<()> {
    let mut stream = stream.into_inner();
    stream.shutdown().await?;
    let (mut block, mut left) = ([0; 1024], MAX_BARREN);
    loop {
        match stream.read(&mut block).await? {
            0 => return Ok(()),
            read if read > left => return Ok(()),
            read => left -= read,
        }
    }
}
