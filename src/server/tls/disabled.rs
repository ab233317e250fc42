//! A build without TLS: every connection is plaintext.

use std::net::IpAddr;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::flags::Flags;
use crate::metrics::{Export, Page};
use crate::reload::Reload;

/// A connection's bytes.
pub type Stream = TcpStream;

/// Settings that no flags of this build lead to.
#[derive(Clone, Debug)]
pub enum Settings {}

impl Settings {
    /// An error if any flag is given.
    pub fn check(flags: &Flags) -> Result<Option<Self>, String> {
        match flags.given() {
            Some(flag) => Err(format!("{flag}: this build has no TLS; use the image whose tag ends in -tls")),
            None => Ok(None),
        }
    }
}

/// TLS, which this build has not.
#[derive(Clone, Debug)]
pub enum Tls {}

impl Tls {
    /// Never called.
    pub fn open(settings: Settings) -> Result<Self, String> {
        match settings {}
    }

    /// Never called.
    pub fn files(&self) -> Box<dyn Reload> {
        match *self {}
    }
}

impl Export for Tls {
    fn export(&self, _: &mut Page, _: usize) -> Option<usize> {
        match *self {}
    }
}

/// The stream as it is.
pub async fn secure(_: Option<Tls>, stream: TcpStream, _: IpAddr, _: Instant) -> Option<Stream> {
    Some(stream)
}
