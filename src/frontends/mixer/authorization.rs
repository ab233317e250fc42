//! `authorization`: checks a token from the subject's properties, answers, and
//! optionally writes an audit record.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use records::protobuf::walk;

use super::super::counters::Counters;
use super::super::verdicts::Asker;
use super::config::{self, Config};
use super::report::render_one;
use super::templates::{AUTHORIZATION, SUBJECT_PROPERTIES, VERDICT};
use crate::journal::Journal;
use crate::pb::google::protobuf::{Any as Detail, Duration};
use crate::pb::google::rpc::Status;
use crate::pb::istio::mixer::adapter::model::v1beta1::CheckResult;
use crate::pb::istio::policy::v1beta1::DirectHttpResponse;
use crate::pb::mygrpcadapter::config::v1::{Denied, Params};
use crate::policy::{Outcome, Policy, Token, Verdict};
use crate::record::{Record, Value};
use crate::refusal::{Reason, Refusal};

const PERMISSION_DENIED: i32 = 7;
const UNAUTHORIZED: u32 = 401;
const DIRECT_RESPONSE: &str = "type.googleapis.com/istio.policy.v1beta1.DirectHttpResponse";
/// The property that the book's adapter reads.
const PROPERTY: &str = "custom_token_header";

/// How long and how often an allow may be reused. Mixer takes an allow with neither for
/// a missing answer, and caches it for a minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    valid: Duration,
    uses: i32,
}

impl Default for Terms {
    fn default() -> Self {
        Self { valid: Duration { seconds: 5, nanos: 0 }, uses: 10_000 }
    }
}

impl Terms {
    fn of(params: &Params) -> Self {
        let default = Self::default();
        let valid = params.valid_duration.unwrap_or(default.valid);
        // Never 0: with a duration of 0, one use has expired on arrival, so that every
        // request is checked.
        let uses = if params.valid_use_count == 0 { default.uses } else { params.valid_use_count };
        Self { valid, uses }
    }
}

/// The authorization service.
#[derive(Debug)]
pub struct Authorizer {
    /// Rules for all handlers, in addition to their own keys.
    pub policy: Arc<Policy>,
    /// For audit records; `None` without a volume.
    pub journal: Option<Arc<Journal>>,
    /// Its counters.
    pub counters: Arc<Counters>,
}

impl Authorizer {
    /// Judges one request. Writes an audit record to the handler's file, if it has one;
    /// a failed write does not change the verdict.
    pub fn authorize(&self, message: &[u8]) -> Result<Bytes, Refusal> {
        // The parts of the instance, usually one.
        let mut parts = Vec::new();
        let any = config::in_request(message, |part| parts.push(part))?;
        let config = config::read(any)?;
        let instance = parts.concat();
        let mut record = Record::default();
        walk::instance(&mut record, &AUTHORIZATION, &instance)?;
        let property = match &config {
            Config::Own(params) if !params.auth_property.is_empty() => &*params.auth_property,
            _ => PROPERTY,
        };
        let token = match check(&config) {
            Ok(()) => record.lookup(SUBJECT_PROPERTIES, property.as_bytes()),
            // The params are not what their author meant: deny.
            Err(refusal) => {
                self.counters.refused(Asker::Mixer.label(), None, &refusal);
                Value::Absent
            }
        };
        let verdict = self.judge(token, &config);
        self.counters.judged(Asker::Mixer, verdict);
        if let Config::Own(params) = &config {
            record.hide(SUBJECT_PROPERTIES, property.as_bytes());
            record.values[VERDICT] = Value::String(verdict.outcome().label().as_bytes());
            self.audit(params, &config, &record);
        }
        Ok(match (verdict.outcome(), &config) {
            (Outcome::Allow, Config::Own(params)) => allow(&Terms::of(params)),
            (Outcome::Allow, Config::Foreign(_)) => allow(&Terms::default()),
            (_, Config::Own(params)) => deny(params.denied.as_ref()),
            (_, Config::Foreign(_)) => deny(None),
        })
    }

    /// Mixer does not authenticate peers, so there is no principal.
    fn judge(&self, value: Value, config: &Config) -> Verdict {
        let token = token(value);
        match config {
            Config::Foreign(key) => self.policy.judge(token, None, std::iter::once(*key)),
            Config::Own(params) => {
                let keys = params.auth_keys.iter().chain([&params.auth_key]).map(String::as_bytes);
                self.policy.judge(token, None, keys)
            }
        }
    }

    fn audit(&self, params: &Params, config: &Config, record: &Record) {
        if params.file_path.is_empty() {
            return;
        }
        let errors = &self.counters.audit_errors;
        let is_taken = self.journal.as_ref().is_some_and(|journal| {
            let to = journal.destination(params.file_path.as_bytes(), config.format());
            to.is_ok_and(|to| {
                journal.append_unacknowledged(&to, Arc::clone(errors), |out| {
                    render_one(&AUTHORIZATION, config.file_path(), to.format(), record, out)
                })
            })
        });
        if !is_taken {
            self.counters.lost_audit(Asker::Mixer);
        }
    }
}

/// The token in a property; only strings count.
pub fn token(value: Value) -> Token {
    match value {
        Value::String(text) => Token::Given(text),
        _ => Token::Absent,
    }
}

/// Checks the params of an authorization handler.
pub(super) fn check(config: &Config) -> Result<(), Refusal> {
    match config {
        Config::Own(params) => params.denied.as_ref().map_or(Ok(()), |denied| denial_code(denied).map(drop)),
        Config::Foreign(_) => Ok(()),
    }
}

/// The HTTP status of a denial. It must be an error, or a client would take the denial
/// for an answer.
fn denial_code(denied: &Denied) -> Result<u32, Refusal> {
    match denied.code {
        0 => Ok(UNAUTHORIZED),
        400..=599 => Ok(denied.code),
        code => {
            let text = format!("denied.code: {code} is not an HTTP error; use 400 to 599");
            Err(Refusal::new(Reason::Config, text))
        }
    }
}

/// An OK that may be reused within `terms`.
pub(super) fn allow(terms: &Terms) -> Bytes {
    let result = CheckResult {
        status: Some(Status::default()),
        valid_duration: Some(terms.valid),
        valid_use_count: terms.uses,
    };
    result.encode_to_vec().into()
}

/// A denial that is never reused, with the handler's response to the caller, if any.
fn deny(denied: Option<&Denied>) -> Bytes {
    let status = Status {
        code: PERMISSION_DENIED,
        message: String::from("Unauthorized..."),
        details: denied.map(direct_response).into_iter().collect(),
    };
    let result =
        CheckResult { status: Some(status), valid_duration: Some(Duration::default()), valid_use_count: 0 };
    result.encode_to_vec().into()
}

fn direct_response(denied: &Denied) -> Detail {
    let code = denial_code(denied).unwrap_or(UNAUTHORIZED);
    let challenge = (!denied.www_authenticate.is_empty())
        .then(|| (String::from("WWW-Authenticate"), denied.www_authenticate.clone()));
    let response = DirectHttpResponse {
        code: i32::try_from(code).unwrap_or_default(),
        body: denied.body.clone(),
        headers: challenge.into_iter().collect(),
    };
    Detail { type_url: DIRECT_RESPONSE.into(), value: response.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_string_is_a_token() {
        for (value, expected) in [
            (Value::String(b"abc"), Token::Given(b"abc")),
            (Value::String(b""), Token::Given(b"")),
            (Value::Absent, Token::Absent),
            (Value::Int(1), Token::Absent),
            (Value::Uri(b"abc"), Token::Absent),
            (Value::Dns(b"abc"), Token::Absent),
        ] {
            assert_eq!(token(value), expected, "{value:?}");
        }
    }

    #[test]
    fn an_allow_is_never_one_that_mixer_would_take_for_none() {
        let seconds = |seconds| Some(Duration { seconds, nanos: 0 });
        for (valid_duration, valid_use_count, expected) in [
            (None, 0, (5, 10_000)),
            (seconds(60), 0, (60, 10_000)),
            (None, 7, (5, 7)),
            (seconds(0), 0, (0, 10_000)),
            (seconds(9), -1, (9, -1)),
        ] {
            let terms = Terms::of(&Params { valid_duration, valid_use_count, ..Params::default() });
            assert_eq!((terms.valid.seconds, terms.uses), expected);
        }
    }

    #[test]
    fn a_denial_carries_the_response_the_handler_asks_for() {
        let denied = Denied { code: 0, body: "go away".into(), www_authenticate: "Bearer".into() };
        let result = CheckResult::decode(deny(Some(&denied))).unwrap();
        let status = result.status.unwrap();
        assert_eq!((status.code, &*status.message, result.valid_use_count), (7, "Unauthorized...", 0));
        let response = DirectHttpResponse::decode(&*status.details[0].value).unwrap();
        assert_eq!((response.code, &*response.body), (401, "go away"));
        assert_eq!(response.headers["WWW-Authenticate"], "Bearer");
        let plain = CheckResult::decode(deny(None)).unwrap();
        assert!(plain.status.unwrap().details.is_empty());
    }
}
