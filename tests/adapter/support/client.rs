//! A gRPC client on h2, for the tests and for the stand-in for Mixer.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs};

/// Time limit for an answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// One connection.
#[derive(Clone, Debug)]
pub struct Client {
    requests: SendRequest<Bytes>,
}

/// The reply of a unary call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// `grpc-status`.
    pub status: u32,
    /// `grpc-message`, decoded.
    pub message: String,
    /// The reply's message; empty if there was none.
    pub body: Bytes,
}

/// A call whose headers are sent.
#[derive(Debug)]
pub struct Call {
    response: ResponseFuture,
    body: SendStream<Bytes>,
}

/// What is sent by a call.
#[derive(Debug)]
pub struct Body(SendStream<Bytes>);

impl Body {
    /// Sends a part of the body, as [`Call::send`] does.
    pub fn send(&mut self, part: Bytes, last: bool) -> io::Result<()> {
        self.0.send_data(part, last).map_err(io::Error::other)
    }
}

/// An answer whose headers have arrived.
#[derive(Debug)]
pub struct Answer {
    /// Set for a trailers-only answer.
    ended: Option<HeaderMap>,
    body: RecvStream,
    buffer: BytesMut,
    messages: VecDeque<Bytes>,
}

impl Client {
    /// Connects with prior knowledge of HTTP/2, as Mixer does.
    pub async fn connect(address: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream).await
    }

    /// A connection over a stream that is open already.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> io::Result<Self> {
        // Replies are DATA frames of five bytes; by default h2 treats 130 buffered
        // ones as an attack.
        let handshake = h2::client::Builder::new().data_frame_budget(usize::MAX).handshake(stream);
        let (requests, connection) = handshake.await.map_err(io::Error::other)?;
        // Ends when the last clone of `requests` and the last call are dropped.
        tokio::spawn(connection);
        Ok(Self { requests })
    }

    /// Calls a method and waits for the complete answer.
    pub async fn unary(&self, path: &str, message: &[u8]) -> io::Result<Reply> {
        self.framed(path, framed(message)).await
    }

    /// Calls a method with additional headers.
    pub async fn unary_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        message: &[u8],
    ) -> io::Result<Reply> {
        let mut call = self.open_with(path, headers).await?;
        call.send(framed(message), true)?;
        call.reply().await
    }

    /// Calls a method with a body that is framed already, validly or not.
    pub async fn framed(&self, path: &str, body: Bytes) -> io::Result<Reply> {
        let mut call = self.open(path).await?;
        call.send(body, true)?;
        call.reply().await
    }

    /// Starts a call: sends its headers.
    pub async fn open(&self, path: &str) -> io::Result<Call> {
        self.open_with(path, &[]).await
    }

    /// Starts a call with additional headers.
    pub async fn open_with(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Call> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://adapter{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).map_err(io::Error::other)?;
        let ready = within(self.requests.clone().ready()).await?;
        let (response, body) = { ready }.send_request(request, false).map_err(io::Error::other)?;
        Ok(Call { response, body })
    }
}

impl Call {
    /// Sends a part of the body; it is buffered while the peer's window is too small.
    pub fn send(&mut self, part: Bytes, last: bool) -> io::Result<()> {
        self.body.send_data(part, last).map_err(io::Error::other)
    }

    /// Its two halves: what is sent, and the answer's headers.
    pub fn split(self) -> (Body, ResponseFuture) {
        (Body(self.body), self.response)
    }

    /// Cancels the call.
    pub fn cancel(mut self) {
        self.body.send_reset(h2::Reason::CANCEL);
    }

    /// Waits for the headers of the answer.
    pub async fn answer(self) -> io::Result<Answer> {
        let (head, body) = within(self.response).await?.into_parts();
        let ended = head.headers.contains_key("grpc-status").then_some(head.headers);
        Ok(Answer { ended, body, buffer: BytesMut::new(), messages: VecDeque::new() })
    }

    /// Waits for the complete unary answer.
    pub async fn reply(self) -> io::Result<Reply> {
        let mut answer = self.answer().await?;
        let body = answer.message().await?.unwrap_or_default();
        let (status, message) = answer.end().await?;
        Ok(Reply { status, message, body })
    }
}

impl Answer {
    /// A header of a trailers-only answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.ended.as_ref()?.get(name)?.to_str().ok()
    }

    /// The next message, or `None` after the last.
    pub async fn message(&mut self) -> io::Result<Option<Bytes>> {
        while self.messages.is_empty() {
            let Some(data) = within(async { self.body.data().await.transpose() }).await? else {
                return Ok(None);
            };
            self.body.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
            self.buffer.extend_from_slice(&data);
            while let Some(message) = unframed(&mut self.buffer) {
                self.messages.push_back(message);
            }
        }
        Ok(self.messages.pop_front())
    }

    /// The status of the call; skips messages not yet read.
    pub async fn end(mut self) -> io::Result<(u32, String)> {
        while self.message().await?.is_some() {}
        let trailers = match self.ended {
            Some(headers) => headers,
            None => within(self.body.trailers()).await?.unwrap_or_default(),
        };
        let text = |name| trailers.get(name).map(|value| value.as_bytes()).unwrap_or_default();
        let status = std::str::from_utf8(text("grpc-status")).ok().and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("the answer has no grpc-status"))?;
        Ok((status, percent_decoded(text("grpc-message"))))
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, h2::Error>>) -> io::Result<T> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(outcome) => outcome.map_err(io::Error::other),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}

/// A message with gRPC's five-byte prefix.
pub fn framed(message: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(5 + message.len());
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    body.freeze()
}

/// Removes one message from the front, if it is complete.
fn unframed(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(*buffer.get(1..5)?.first_chunk()?) as usize;
    if buffer.len() < 5 + length {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(length).freeze())
}

fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) if *first == b'%' => {
                bytes.push(code);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
