//! Answers checks, and does nothing else: no counting, no records.

use std::sync::Arc;

use bytes::Bytes;
use records::protobuf::wire::Malformed;

use super::answer::Answers;
use super::question::Question;
use super::settings::{OnError, Settings};
use crate::policy::{Policy, Verdict};

/// Answers checks.
#[derive(Debug)]
pub struct ExtAuthz {
    settings: Settings,
    answers: Answers,
    policy: Arc<Policy>,
}

/// One check that was answered.
#[derive(Debug)]
pub struct Checked<'a> {
    /// What was asked, borrowed from the message.
    pub question: Question<'a>,
    /// What it was judged to be.
    pub verdict: Verdict,
    /// The CheckResponse, ready to be sent.
    pub answer: Bytes,
}

impl ExtAuthz {
    /// Answers by `policy`, in the way of `settings`.
    pub fn new(settings: Settings, policy: Arc<Policy>) -> Self {
        Self { answers: Answers::new(&settings), settings, policy }
    }

    /// Answers one CheckRequest. Allocates nothing, whatever its size. An error
    /// is a message that is none: see [`ExtAuthz::failed`].
    pub fn check<'a>(&self, message: &'a [u8]) -> Result<Checked<'a>, Malformed> {
        let question = Question::read(message, &self.settings.auth_headers)?;
        let verdict = self.policy.judge(question.token, question.principal(), std::iter::empty());
        Ok(Checked { question, verdict, answer: self.answers.of(verdict) })
    }

    /// What is sent where there is no verdict, because of overload, a message
    /// that can't be read, or a deadline: a CheckResponse that denies, or
    /// nothing where the call is to end with UNAVAILABLE.
    pub fn failed(&self) -> Option<Bytes> {
        match self.settings.on_error {
            OnError::Deny => Some(self.answers.failed()),
            OnError::Unavailable => None,
        }
    }
}
