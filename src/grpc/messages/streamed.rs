//! The messages of a client stream. They wait for room as long as their connection
//! lasts.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use http_body::Body;
use tokio::sync::watch;
use tonic::Status;

use super::{LARGE, Message, Messages, cut_short, failed};
use crate::frontends::envoy::access_log::{IDENTIFIED, without_extensions};
use crate::grpc::budget::{FRAME, Permit};
use crate::memory;

/// Kept bytes of a streamed message beyond which it needs room.
const FEW: usize = 4 * 1024;

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// The next message of a client stream, of at most `most` bytes; `None` at its end,
    /// or between messages once `closing` is set.
    ///
    /// Before a message starts, the stream has no timer and no permit. Then it waits
    /// for room as long as its connection lasts. It does not count towards the
    /// connection's back-pressure: other calls on the connection continue.
    pub async fn next(
        &mut self,
        most: usize,
        closing: &mut watch::Receiver<bool>,
    ) -> Result<Option<Message>, Status> {
        while self.start.is_empty() {
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context));
            let frame = tokio::select! {
                biased;
                frame = frame => frame,
                Ok(_) = closing.wait_for(|closing| *closing) => None,
            };
            let Some(frame) = frame else { return Ok(None) };
            match frame.map_err(failed)?.into_data() {
                Ok(data) => {
                    self.count_data(data.len());
                    self.push(data);
                }
                Err(_) => return Ok(None),
            }
        }
        let (length, _) = self.head(most).await?;
        let (bytes, permit) = if length > FRAME && self.is_identified().await? {
            // Boxed: it comes once in a stream.
            Box::pin(self.identified(length)).await?
        } else {
            let permit = self.room(length).await?;
            (self.body(length).await?, permit)
        };
        Ok(Some(Message { bytes, patience: self.patience, held: permit }))
    }

    /// Whether the next message, which is not empty, begins with an identifier.
    async fn is_identified(&mut self) -> Result<bool, Status> {
        self.more().await?;
        Ok(self.start.first() == Some(&IDENTIFIED))
    }

    /// Waits for room for a message of a stream.
    async fn room(&mut self, length: usize) -> Result<Permit, Status> {
        self.alarm = None;
        // It may be kept for long: a copy does not pin the shared read buffer. One copy
        // serves all messages of a frame.
        if !self.start.is_unique() {
            self.start = Bytes::copy_from_slice(&self.start);
        }
        tokio::select! {
            biased;
            permit = self.budget.next(length, &self.connection) => permit,
            () = self.connection.gone() => Err(Status::cancelled("the connection is gone")),
        }
    }

    /// Receives a message that begins with an identifier. Nearly all of that is dropped
    /// as it arrives, so it waits for room only if there is more to be kept.
    async fn identified(&mut self, length: usize) -> Result<(Bytes, Permit), Status> {
        let (mut kept, mut left, mut permit) = (without_extensions(), length, None);
        loop {
            if permit.is_none() && (left == 0 || kept.kept() >= FEW) {
                permit = Some(self.room(kept.kept() + left).await?);
                if left >= LARGE {
                    memory::give_back();
                }
                kept.reserve(left);
            }
            if left == 0
                && let Some(permit) = permit
            {
                self.alarm = None;
                return Ok((kept.into_kept().into(), permit));
            }
            self.more().await?;
            let piece = self.start.split_to(self.start.len().min(left).min(FEW));
            left -= piece.len();
            kept.push(&piece).map_err(|_| cut_short())?;
        }
    }
}
