//! Splits a request's body into messages, within limits on size and time.
//!
//! gRPC prefixes a message with five bytes: a flag and a length. tonic would collect a
//! message in a buffer that grows by doubling. Here the buffer has the message's
//! length, or there is no copy if the message came in one frame.

mod streamed;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::sync::watch;
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::budget::{Budget, FRAME, MAX_MESSAGE, Permit, Stream, Terms};
use super::connection::Connection;
use super::gzip;
use crate::memory;
use crate::message::Patience;

/// The flag and the length.
const HEAD: usize = 5;
/// Time limit for a message to arrive, without its wait for room.
const ARRIVAL: Duration = Duration::from_secs(30);
/// Before a message of this size is assembled, freed memory is returned to the system.
const LARGE: usize = 96 * 1024;
/// Size limit of a compressed message: there is room for it and its unpacked form.
const MAX_PACKED: usize = 1024 * 1024;
/// Limit on the bytes of a DATA frame besides its data: its head and its padding.
const FRAMING: usize = 9 + 256;

/// A message with its permit.
pub type Message = crate::message::Message<Permit>;

/// The only message of a call, whole or in parts.
#[derive(Debug)]
pub enum Arrival {
    /// Complete: it fits in one frame.
    Whole(Message),
    /// Larger than a frame, not read yet.
    Part(Part),
}

/// A larger message, read piece by piece.
#[derive(Debug)]
pub struct Part {
    length: usize,
    left: usize,
    patience: Patience,
    permit: Permit,
}

impl Part {
    /// Reserves room for its `kept` bytes so far, of at most `most`; may wait.
    pub async fn keep(&mut self, kept: usize, most: usize) -> Result<(), Status> {
        self.permit.keep(kept, self.length.min(most), &mut self.patience).await
    }
}

/// The messages of one call.
#[derive(Debug)]
pub struct Messages<B> {
    body: B,
    budget: Arc<Budget>,
    connection: Arc<Connection>,
    patience: Patience,
    /// Whether its messages may be compressed with gzip.
    may_be_packed: bool,
    pub(super) terms: Terms,
    /// The size of the call's headers, until they are counted.
    pub(super) headers: usize,
    /// Received bytes of the next message.
    start: Bytes,
    /// Set only while a message is incomplete.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// The messages of `body`, none read yet.
    pub fn new(body: B, budget: Arc<Budget>, connection: Arc<Connection>, patience: Patience) -> Self {
        let (start, may_be_packed, alarm, headers) = Default::default();
        let terms = Terms { reserve: false, refusal: Code::ResourceExhausted };
        Self { body, budget, connection, patience, may_be_packed, terms, headers, start, alarm }
    }

    /// Admits the call as a long-lived stream.
    pub fn open(&self) -> Result<Stream, Status> {
        self.budget.open()
    }

    /// Signals the shutdown of the connection.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.connection.closing()
    }

    /// Accepts messages compressed with gzip.
    pub fn unpack(&mut self) {
        self.may_be_packed = true;
    }

    /// The only message of a unary call, of at most `most` bytes.
    pub async fn only(&mut self, most: usize) -> Result<Message, Status> {
        let (permit, head) = self.first(most).await?;
        let message = self.message(permit, most, head).await?;
        self.end().await?;
        Ok(message)
    }

    /// The only message of a unary call, of at most `most` bytes; a message larger than
    /// a frame must be read with [`Messages::piece`].
    pub async fn arrival(&mut self, most: usize) -> Result<Arrival, Status> {
        let (permit, head) = self.first(most).await?;
        let (length, _) = head;
        if length <= FRAME {
            let message = self.message(permit, most, head).await?;
            self.end().await?;
            return Ok(Arrival::Whole(message));
        }
        Ok(Arrival::Part(Part { length, left: length, patience: self.patience, permit }))
    }

    /// The next piece of a message, as received; `None` at its end.
    pub async fn piece(&mut self, part: &mut Part) -> Result<Option<Bytes>, Status> {
        if part.left == 0 {
            self.alarm = None;
            // The permit counted only the kept bytes, but all of them used memory.
            self.budget.passed(part.length);
            return self.end().await.map(|()| None);
        }
        self.more().await?;
        let piece = self.start.split_to(self.start.len().min(part.left));
        part.left -= piece.len();
        Ok(Some(piece))
    }

    /// A permit for a call, the length of its only message, and whether that is
    /// compressed.
    async fn first(&mut self, most: usize) -> Result<(Permit, (usize, bool)), Status> {
        // Before any bytes arrive: a call without a body counts, too.
        let permit = self.budget.admit(&self.connection, self.terms)?;
        if self.start.is_empty() && !self.begins().await? {
            return Err(Status::internal("a request without a message"));
        }
        Ok((permit, self.head(most).await?))
    }

    /// The length of the next message, some of whose bytes may have arrived, and
    /// whether it is compressed.
    async fn head(&mut self, most: usize) -> Result<(usize, bool), Status> {
        // A peer with a small window may send single bytes.
        while self.start.len() < HEAD {
            match self.data().await? {
                Some(data) => self.push(data),
                None => return Err(Status::internal("the request ends inside the head of a message")),
            }
        }
        length(&self.start.split_to(HEAD), most, self.may_be_packed)
    }

    /// Receives a message of this length, which may be compressed.
    async fn message(
        &mut self,
        mut permit: Permit,
        most: usize,
        head: (usize, bool),
    ) -> Result<Message, Status> {
        let (length, is_packed) = head;
        if length > self.start.len() {
            // Copied, so that waiting does not pin the shared read buffer.
            self.start = Bytes::copy_from_slice(&self.start);
        }
        let mut patience = self.patience;
        let room = if is_packed && length > FRAME { MAX_MESSAGE } else { length };
        permit.reserve(room, &mut patience).await?;
        let mut bytes = self.body(length).await?;
        if is_packed {
            bytes = Box::pin(unpacked(&bytes, most, &mut permit, &mut patience)).await?;
        }
        permit.hold(self.connection.hold(length));
        Ok(Message { bytes, patience, held: permit })
    }

    /// Receives the bytes of a message that has room, within the time limit.
    async fn body(&mut self, length: usize) -> Result<Bytes, Status> {
        self.alarm = None;
        let bytes = self.bytes(length).await?;
        self.alarm = None;
        Ok(bytes)
    }

    /// Receives the rest of a message.
    async fn bytes(&mut self, length: usize) -> Result<Bytes, Status> {
        if self.start.len() >= length {
            return Ok(self.start.split_to(length));
        }
        if length >= LARGE {
            memory::give_back();
        }
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(&std::mem::take(&mut self.start));
        while message.len() < length {
            let mut data = self.data().await?.ok_or_else(cut_short)?;
            let part = data.split_to(data.len().min(length - message.len()));
            message.extend_from_slice(&part);
            self.start = data;
        }
        Ok(message.into())
    }

    /// Waits for bytes of an incomplete message, unless some have arrived.
    async fn more(&mut self) -> Result<(), Status> {
        if self.start.is_empty() {
            self.start = self.data().await?.ok_or_else(cut_short)?;
        }
        Ok(())
    }

    /// Waits for the first bytes; `false` at the end of the body.
    async fn begins(&mut self) -> Result<bool, Status> {
        while self.start.is_empty() {
            match self.data().await? {
                Some(data) => self.push(data),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Expects the end of the body.
    async fn end(&mut self) -> Result<(), Status> {
        while self.start.is_empty() && !self.body.is_end_stream() {
            match self.data().await? {
                Some(data) => self.start = data,
                None => break,
            }
        }
        if !self.start.is_empty() {
            return Err(Status::internal("a request with more than one message"));
        }
        self.count_headers();
        Ok(())
    }

    /// Counts data as useful, and as many bytes again for their frame, at most: frames
    /// of almost nothing are a flood.
    fn count_data(&self, bytes: usize) {
        self.connection.useful(bytes + bytes.min(FRAMING));
    }

    /// Counts the headers of a call with a message as useful once its body ends. A call
    /// that is reset, for whatever reason, has no end: many of them are a flood.
    fn count_headers(&mut self) {
        if self.body.is_end_stream() {
            self.connection.useful(std::mem::take(&mut self.headers));
        }
    }

    fn push(&mut self, data: Bytes) {
        let start = std::mem::take(&mut self.start);
        self.start = if start.is_empty() { data } else { [start, data].concat().into() };
    }

    /// The next chunk of the body, within the time limit.
    async fn data(&mut self) -> Result<Option<Bytes>, Status> {
        let frame = poll_fn(|context| {
            if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
                return Poll::Ready(Ok(frame));
            }
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(ARRIVAL)));
            alarm.as_mut().poll(context).map(Err)
        });
        match frame.await {
            Ok(Some(Ok(frame))) => {
                let data = frame.into_data().ok();
                self.count_data(data.as_ref().map_or(0, Bytes::len));
                Ok(data)
            }
            Ok(Some(Err(error))) => Err(failed(error)),
            Ok(None) => Ok(None),
            Err(()) => Err(Status::deadline_exceeded("the request took too long to arrive")),
        }
    }

    /// Reads and discards the rest of an answered call. HTTP/2 treats data for a
    /// forgotten call as an error.
    pub fn discard(mut self) {
        if self.body.is_end_stream() {
            return;
        }
        (self.start, self.alarm) = (Bytes::new(), None);
        tokio::spawn(async move {
            let mut dropped = 0;
            while let Ok(Some(data)) = self.data().await {
                dropped += data.len();
                if dropped > HEAD + MAX_MESSAGE {
                    break;
                }
            }
            if dropped > 0 {
                self.count_headers();
            }
            self.budget.passed(dropped);
        });
    }
}

fn cut_short() -> Status {
    Status::internal("the request ends inside a message")
}

/// The length in a message's prefix, and whether the message is compressed.
fn length(head: &[u8], most: usize, may_be_packed: bool) -> Result<(usize, bool), Status> {
    let [flag, a, b, c, d] = *head else { return Err(Status::internal("half a head")) };
    let is_packed = flag == 1 && may_be_packed;
    if flag != 0 && !is_packed {
        return Err(Status::internal("a message is marked as compressed, and may not be"));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let most = if is_packed { most.min(MAX_PACKED) } else { most };
    if length > most { Err(too_large(length, most)) } else { Ok((length, is_packed)) }
}

/// Unpacks a compressed message, if there is room.
async fn unpacked(
    packed: &[u8],
    most: usize,
    permit: &mut Permit,
    patience: &mut Patience,
) -> Result<Bytes, Status> {
    let damaged = || Status::internal("a message is marked as gzip, and is not, or is damaged");
    let length = gzip::length(packed).ok_or_else(damaged)?;
    if length > most {
        return Err(too_large(length, most));
    }
    permit.unpack(length, patience).await?;
    if length >= LARGE {
        memory::give_back();
    }
    gzip::unpack(packed, length).map(Bytes::from).ok_or_else(damaged)
}

fn too_large(length: usize, most: usize) -> Status {
    let text = format!("a message of {length} bytes; at most {most} are taken, send less at once");
    Status::resource_exhausted(text)
}

/// A body ends early if the caller cancels or the connection ends.
fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Status {
    Status::cancelled(error.into().to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Context;

    use http_body::Frame;

    use super::*;

    /// What follows the received parts of a body.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Rest {
        End,
        Silence,
        /// A reset, with an error or, for h2's NO_ERROR, without.
        Reset(Option<&'static str>),
    }

    /// A body received so far.
    struct Came(VecDeque<Bytes>, Rest);

    impl Body for Came {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            if let Some(data) = self.0.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            match self.1 {
                Rest::End => Poll::Ready(None),
                Rest::Silence => Poll::Pending,
                Rest::Reset(error) => Poll::Ready(error.map(Err)),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.1 == Rest::End && self.0.is_empty()
        }
    }

    fn messages(parts: &[&'static [u8]], rest: Rest) -> (Messages<Came>, Arc<Connection>) {
        let body = Came(parts.iter().map(|part| Bytes::from_static(part)).collect(), rest);
        let (budget, connection) = (Arc::new(Budget::new(Duration::ZERO, 1)), Arc::default());
        let patience = Patience::new(Duration::ZERO, None);
        (Messages::new(body, budget, Arc::clone(&connection), patience), connection)
    }

    async fn all(mut messages: Messages<Came>, connection: &Connection) -> Vec<Vec<u8>> {
        let (mut closing, mut all) = (connection.closing(), Vec::new());
        while let Some(message) = messages.next(100, &mut closing).await.unwrap() {
            all.push(message.bytes.to_vec());
        }
        all
    }

    #[tokio::test]
    async fn a_stream_is_the_messages_in_it_however_they_are_cut() {
        let whole: &[u8] = b"\0\0\0\0\x01a\0\0\0\0\0\0\0\0\0\x03bcd";
        let expected = [b"a".to_vec(), b"".to_vec(), b"bcd".to_vec()];
        for cut in 0..whole.len() {
            let (messages, connection) = messages(&[&whole[..cut], &whole[cut..]], Rest::End);
            assert_eq!(all(messages, &connection).await, expected, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn many_messages_of_a_stream_in_one_frame_are_copied_once() {
        let frame: Bytes = b"\0\0\0\0\x01a".repeat(1000).into();
        let (mut messages, connection) = messages(&[], Rest::End);
        // Its buffer is that of the connection.
        messages.body.0 = [frame.clone()].into();
        let (mut closing, mut next) = (connection.closing(), None);
        while let Some(message) = messages.next(100, &mut closing).await.unwrap() {
            let at = message.bytes.as_ptr();
            assert!(next.is_none_or(|next| next == at) && !frame.as_ptr_range().contains(&at));
            next = Some(at.wrapping_add(HEAD + 1));
        }
        assert!(next.is_some());
    }

    #[tokio::test]
    async fn a_stream_without_an_end_has_no_timer_and_ends_with_its_connection() {
        let (mut messages, connection) = messages(&[b"\0\0\0\0\x01a"], Rest::Silence);
        let mut closing = connection.closing();
        let first = messages.next(100, &mut closing).await.unwrap().unwrap();
        assert_eq!(&*first.bytes, b"a");
        drop(first);
        assert!(messages.alarm.is_none() && connection.is_idle());
        connection.close();
        assert!(messages.next(100, &mut closing).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn headers_are_useful_once_if_their_call_has_a_message_and_ends() {
        const EMPTY: &[&[u8]] = &[&[0; 5]];
        for (parts, rest, expected) in [
            (EMPTY, Rest::End, 0),
            (&[], Rest::End, 100),
            (EMPTY, Rest::Reset(Some("CANCEL")), 100),
            (EMPTY, Rest::Reset(None), 100),
        ] {
            for is_read in [false, true] {
                let (mut messages, connection) = messages(parts, rest);
                messages.headers = 100;
                // The frame's head is as long as its data.
                let size = if parts.is_empty() { 0 } else { 10 };
                connection.received(100 + size + 1000);
                if is_read {
                    let _ = messages.only(100).await;
                }
                messages.discard();
                tokio::task::yield_now().await;
                assert_eq!(connection.useless(), 1000 + expected, "{parts:?} {rest:?} {is_read}");
            }
        }
    }

    #[tokio::test]
    async fn messages_of_a_stream_are_useful_by_their_size() {
        let (mut messages, connection) = messages(&[&[0; 500]], Rest::End);
        connection.received(10_000);
        let mut closing = connection.closing();
        while messages.next(100, &mut closing).await.unwrap().is_some() {}
        assert_eq!(connection.useless(), 10_000 - 500 - FRAMING);
    }

    #[tokio::test]
    async fn a_message_in_a_stream_is_bounded() {
        let (mut messages, connection) = messages(&[b"\0\0\0\0\x65"], Rest::End);
        let refusal = messages.next(100, &mut connection.closing()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
    }

    /// A call with one message of `length` bytes, in pieces of `step` bytes.
    fn framed(length: usize, step: usize) -> Vec<Bytes> {
        let mut body = vec![0];
        body.extend_from_slice(&(length as u32).to_be_bytes());
        body.extend((0..length).map(|at| at as u8));
        body.chunks(step).map(Bytes::copy_from_slice).collect()
    }

    /// The content received from these parts.
    async fn shown(parts: Vec<Bytes>) -> Result<Vec<u8>, Status> {
        let (mut messages, _connection) = messages(&[], Rest::End);
        messages.body.0 = parts.into();
        let mut part = match messages.arrival(MAX_MESSAGE).await? {
            Arrival::Whole(message) => return Ok(message.bytes.into()),
            Arrival::Part(part) => part,
        };
        let mut all = Vec::new();
        while let Some(piece) = messages.piece(&mut part).await? {
            all.extend_from_slice(&piece);
            part.keep(0, MAX_MESSAGE).await?;
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_message_is_shown_whole_however_it_comes() {
        for length in [0, 1, FRAME, FRAME + 1, 100_000] {
            let expected: Vec<u8> = (0..length).map(|at| at as u8).collect();
            for step in [1, 4, 5, 6, 1_000, FRAME, 200_000] {
                let seen = shown(framed(length, step)).await.unwrap();
                assert!(seen == expected, "{length} bytes by {step}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_one_message_is_an_error_behind_its_pieces() {
        for length in [10, FRAME + 1, 100_000] {
            let whole = framed(length, 1_000);
            assert!(shown(whole[..whole.len() - 1].to_vec()).await.is_err());
            assert!(shown([whole, vec![Bytes::from_static(b"x")]].concat()).await.is_err());
        }
        assert!(shown(framed(MAX_MESSAGE + 1, 1 << 20)).await.is_err());
    }

    #[tokio::test]
    async fn a_unary_call_is_one_message() {
        for (parts, expected) in [
            (&[&b"\0\0\0\0\x01a"[..]][..], true),
            (&[b"\0\0", b"\0\0\x01", b"a", b""], true),
            (&[], false),
            (&[b"\0\0\0"], false),
            (&[b"\0\0\0\0\x02a"], false),
            (&[b"\0\0\0\0\x01ab"], false),
            (&[b"\x01\0\0\0\x01a"], false),
        ] {
            let (mut messages, _connection) = messages(parts, Rest::End);
            assert_eq!(messages.only(100).await.is_ok(), expected, "{parts:?}");
        }
    }
}
