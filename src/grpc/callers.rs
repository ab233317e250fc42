//! The tokens that callers must send as `authorization: Bearer TOKEN`.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use http::{HeaderMap, HeaderValue, header};

use crate::once::Once;
use crate::policy::{RuleFile, Rules, Token, Verdict, judge};
use crate::refusal::{Reason, Refusal};
use crate::reload::Reload;

const SCHEME: &[u8] = b"bearer ";

/// Permits callers by their token.
#[derive(Debug)]
pub struct Callers {
    tokens: RuleFile,
    /// Peers that were logged.
    told: Once,
}

impl Callers {
    /// Reads the tokens, one per line. An error gives the reason and no token.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { tokens: RuleFile::tokens(path)?, told: Once::default() })
    }

    /// The file of tokens.
    pub fn files(&self) -> Box<dyn Reload> {
        Box::new(self.tokens.clone())
    }

    /// Refuses a caller without a valid token. Logs it once per peer.
    pub(super) fn admit(&self, headers: &HeaderMap, peer: IpAddr) -> Result<(), Refusal> {
        let text = match verdict(headers, &self.tokens.current()) {
            Verdict::Key => return Ok(()),
            Verdict::NoToken => "send a token as `authorization: Bearer TOKEN`",
            Verdict::RepeatedToken => "send one authorization header",
            _ => "the token is not valid here",
        };
        if self.told.is_due(peer.to_string().as_bytes()) {
            log::warn!(
                "a caller without a valid token is refused; give it one of --caller-tokens-file peer={peer} \
                 reason=\"{text}\""
            );
        }
        Err(Refusal::new(Reason::Unauthenticated, text))
    }
}

fn verdict(headers: &HeaderMap, tokens: &Rules) -> Verdict {
    judge(token(headers), None, tokens, std::iter::empty())
}

fn token(headers: &HeaderMap) -> Token<'_> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    match (given.next(), given.next()) {
        (None, _) => Token::Absent,
        (Some(value), None) => match value.split_at_checked(SCHEME.len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) => Token::Given(token.trim_ascii()),
            _ => Token::Absent,
        },
        _ => Token::Repeated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_needs_one_bearer_token_of_the_file() {
        let tokens = Rules::parse(b"one\ntwo\n").unwrap();
        for (values, expected) in [
            (&["Bearer one"][..], Verdict::Key),
            (&["bearer  two "], Verdict::Key),
            (&["Bearer one", "Bearer one"], Verdict::RepeatedToken),
            (&["Bearer three"], Verdict::WrongToken),
            (&["Bearer"], Verdict::NoToken),
            (&["Bearer "], Verdict::NoToken),
            (&["Basic one"], Verdict::NoToken),
            (&["one"], Verdict::NoToken),
            (&[""], Verdict::NoToken),
            (&[], Verdict::NoToken),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("authorization", HeaderValue::from_static(value));
            }
            assert_eq!(verdict(&headers, &tokens), expected, "{values:?}");
            assert_ne!(verdict(&headers, &Rules::default()), Verdict::Key);
        }
    }
}
