//! Answers checks, without counting or recording them.

use std::sync::Arc;

use bytes::Bytes;
use records::protobuf::wire::Malformed;

use super::answer::Answers;
use super::question::Question;
use super::settings::{OnError, Settings};
use crate::policy::{Policy, Verdict};

/// Judges and answers checks.
#[derive(Debug)]
pub struct ExtAuthz {
    settings: Settings,
    answers: Answers,
    policy: Arc<Policy>,
}

/// The result of one check.
#[derive(Debug)]
pub struct Checked<'a> {
    /// The parsed request, borrowed from the message.
    pub question: Question<'a>,
    /// The verdict.
    pub verdict: Verdict,
    /// The encoded CheckResponse.
    pub answer: Bytes,
}

impl ExtAuthz {
    /// Judges by `policy`, answers by `settings`.
    pub fn new(settings: Settings, policy: Arc<Policy>) -> Self {
        Self { answers: Answers::new(&settings), settings, policy }
    }

    /// Answers one CheckRequest, without an allocation. An error is an invalid message:
    /// see [`ExtAuthz::failed`].
    pub fn check<'a>(&self, message: &'a [u8]) -> Result<Checked<'a>, Malformed> {
        let question = Question::read(message, &self.settings.auth_headers)?;
        let verdict = self.policy.judge(question.token, question.principal(), std::iter::empty());
        Ok(Checked { question, verdict, answer: self.answers.of(verdict) })
    }

    /// The answer without a verdict, after overload, an invalid message, or a deadline:
    /// a denying CheckResponse, or `None` to end the call with UNAVAILABLE.
    pub fn failed(&self) -> Option<Bytes> {
        match self.settings.on_error {
            OnError::Deny => Some(self.answers.failed()),
            OnError::Unavailable => None,
        }
    }
}
