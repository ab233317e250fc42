//! The bytes of a connection, encrypted or not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Limit on received bytes that carry no data: more than any handshake takes.
pub(super) const MAX_BARREN: usize = 128 * 1024;
/// Received bytes that one byte of data excuses: the smallest frame takes three.
const PER_BYTE: usize = 16;

/// The length of the shortest method: GET, PUT, and PRI of HTTP/2.
const LETTERS: usize = 3;

/// A connection's bytes.
#[derive(Debug)]
pub enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<Metered>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, out),
            Self::Tls(stream) => {
                let before = out.filled().len();
                let outcome = Pin::new(&mut **stream).poll_read(context, out);
                stream.get_mut().0.carried(out.filled().len() - before);
                outcome
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// The socket beneath TLS. Reading fails after too many bytes that carry no data, such
/// as empty records.
#[derive(Debug)]
pub struct Metered {
    stream: TcpStream,
    barren: usize,
    /// Whether the first bytes are letters, once there are any.
    letters: Option<bool>,
}

impl Metered {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, barren: 0, letters: None }
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    /// Whether the peer began as HTTP without TLS does, with the letters of a method.
    pub(super) fn begins_with_letters(&self) -> bool {
        self.letters == Some(true)
    }

    /// Counts data that was decrypted.
    fn carried(&mut self, bytes: usize) {
        self.barren = self.barren.saturating_sub(bytes.saturating_mul(PER_BYTE));
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, out);
        let read = &out.filled()[before..];
        if self.letters.is_none() && !read.is_empty() {
            self.letters = Some(read.iter().take(LETTERS).all(u8::is_ascii_uppercase));
        }
        self.barren += read.len();
        if self.barren > MAX_BARREN {
            return Poll::Ready(Err(io::Error::other("a flood of TLS records without data")));
        }
        outcome
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Reads this many bytes, of which `share` in a thousand are data.
    async fn read(total: usize, share: usize) -> io::Result<()> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let mut peer = TcpStream::connect(listener.local_addr()?).await?;
        let mut stream = Metered::new(listener.accept().await?.0);
        for _ in 0..total / 1000 {
            peer.write_all(&[0; 1000]).await?;
            stream.read_exact(&mut [0; 1000]).await?;
            stream.carried(share);
        }
        Ok(())
    }

    #[tokio::test]
    async fn bytes_without_data_are_limited() {
        assert!(read(MAX_BARREN, 0).await.is_ok());
        assert!(read(MAX_BARREN + 1000, 0).await.is_err());
        // The smallest frames, each in a record: 13 of 42 bytes.
        assert!(read(100 * MAX_BARREN, 300).await.is_ok());
        assert!(read(100 * MAX_BARREN, 10).await.is_err());
    }
}
