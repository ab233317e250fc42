//! Authorization: compares a request's token with the configured keys, and its peer's
//! identity with the configured principals.
//!
//! Takes plain bytes and returns a [`Verdict`]. Extracting the token and encoding the
//! answer are up to the front ends.

pub mod name;
pub mod rules;

use std::sync::Arc;

use subtle::{Choice, ConstantTimeEq};

pub use self::rules::{RuleFile, Rules};
use crate::once::Once;

/// The token of a request.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Token<'a> {
    /// None.
    #[default]
    Absent,
    /// One token. An empty one counts as absent.
    Given(&'a [u8]),
    /// Several. None is compared: a request has one attempt.
    Repeated,
    /// The protocol carries no token: a TCP connection.
    Unsupported,
}

/// Never shows the token.
impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("Absent"),
            Self::Given(token) => write!(f, "Given({} bytes)", token.len()),
            Self::Repeated => f.write_str("Repeated"),
            Self::Unsupported => f.write_str("Unsupported"),
        }
    }
}

/// The outcome of a check, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed: the token matches a key.
    Key,
    /// Allowed: a rule names the peer's principal.
    Principal,
    /// Denied: there is no token.
    NoToken,
    /// Denied: the token matches no key.
    WrongToken,
    /// Denied: there are several tokens.
    RepeatedToken,
    /// Denied: the protocol carries no token, and no rule names the peer's principal.
    NoRule,
    /// Denied: neither keys nor principals are configured.
    NoKeys,
}

impl Verdict {
    /// All verdicts, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Key,
        Self::Principal,
        Self::NoToken,
        Self::WrongToken,
        Self::RepeatedToken,
        Self::NoRule,
        Self::NoKeys,
    ];

    /// The outcome to count in metrics.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Key | Self::Principal => Outcome::Allow,
            Self::NoKeys => Outcome::NoKeys,
            _ => Outcome::Deny,
        }
    }

    /// The reason shown in records and access logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Principal => "principal",
            Self::NoToken => "no_token",
            Self::WrongToken => "wrong_token",
            Self::RepeatedToken => "repeated_token",
            Self::NoRule => "no_rule",
            Self::NoKeys => "no_keys",
        }
    }
}

/// The outcome counted in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
    /// Denied, as every request is: nothing is configured.
    NoKeys,
}

impl Outcome {
    /// All outcomes, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::NoKeys];

    /// The label in metrics and records.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::NoKeys => "deny_no_keys",
        }
    }
}

/// The rules that apply to every request: those of `--auth-keys-file`, if any.
#[derive(Debug, Default)]
pub struct Policy {
    file: Option<RuleFile>,
    warned: Once,
}

impl Policy {
    /// Rules from a file, or none.
    pub fn new(file: Option<RuleFile>) -> Self {
        Self { file, warned: Once::default() }
    }

    /// The current rules of the file, if there is one.
    pub fn rules(&self) -> Option<Arc<Rules>> {
        self.file.as_ref().map(RuleFile::current)
    }

    /// Judges a request by the current rules and by `keys`, which belong to the
    /// request. `principal` is the peer's authenticated identity, if any. Warns
    /// once in a while if nothing is configured.
    pub fn judge<'a>(
        &self,
        token: Token,
        principal: Option<&[u8]>,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Verdict {
        let verdict = match &self.file {
            Some(file) => judge(token, principal, &file.current(), keys),
            None => judge(token, principal, &Rules::default(), keys),
        };
        if verdict == Verdict::NoKeys && self.warned.is_due(b"") {
            log::warn!(
                "authorization has no key to compare with and denies everything; set auth_key in the handler's params, or --auth-keys-file"
            );
        }
        verdict
    }
}

/// Judges a request by `rules` and `keys`. Compares the token with every key, each in
/// time that depends only on their lengths. An empty key matches nothing.
pub fn judge<'a>(
    token: Token,
    principal: Option<&[u8]>,
    rules: &Rules,
    keys: impl Iterator<Item = &'a [u8]>,
) -> Verdict {
    let given = if let Token::Given(token) = token { token } else { &[] };
    let (mut configured, mut matches) = (rules.has_principals(), Choice::from(0));
    let mut compare = |key: &[u8]| {
        if !key.is_empty() {
            configured = true;
            matches |= key.ct_eq(given);
        }
    };
    rules.keys().for_each(&mut compare);
    keys.for_each(compare);
    if matches.into() {
        return Verdict::Key;
    }
    if principal.is_some_and(|principal| rules.allow(principal)) {
        return Verdict::Principal;
    }
    match token {
        _ if !configured => Verdict::NoKeys,
        Token::Absent | Token::Given([]) => Verdict::NoToken,
        Token::Given(_) => Verdict::WrongToken,
        Token::Repeated => Verdict::RepeatedToken,
        Token::Unsupported => Verdict::NoRule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEP: &[u8] = b"spiffe://cluster.local/ns/default/sa/sleep";

    #[test]
    fn a_token_is_allowed_if_it_is_a_key() {
        let both = [&b"abc"[..], b"def"];
        for (token, keys, verdict) in [
            (Token::Given(b"abc"), &both[..], Verdict::Key),
            (Token::Given(b"def"), &both, Verdict::Key),
            (Token::Given(b"ABC"), &both, Verdict::WrongToken),
            (Token::Given(b"ab"), &both, Verdict::WrongToken),
            (Token::Given(b"abcd"), &both, Verdict::WrongToken),
            (Token::Given(b"abc,def"), &both, Verdict::WrongToken),
            (Token::Given(b""), &both, Verdict::NoToken),
            (Token::Absent, &both, Verdict::NoToken),
            (Token::Repeated, &both, Verdict::RepeatedToken),
            (Token::Unsupported, &both, Verdict::NoRule),
            (Token::Given(b""), &[b""], Verdict::NoKeys),
            (Token::Absent, &[b""], Verdict::NoKeys),
            (Token::Unsupported, &[b""], Verdict::NoKeys),
            (Token::Given(b"abc"), &[], Verdict::NoKeys),
            (Token::Given(b"abc"), &[b"", b"abc"], Verdict::Key),
        ] {
            let keys = keys.iter().copied();
            assert_eq!(judge(token, None, &Rules::default(), keys.clone()), verdict, "{token:?}");
            // A principal without a rule changes nothing.
            assert_eq!(judge(token, Some(SLEEP), &Rules::default(), keys), verdict, "{token:?}");
        }
    }

    #[test]
    fn a_principal_is_allowed_by_a_rule_whatever_the_token() {
        let rules = Rules::parse(
            b"abc\nprincipal spiffe://cluster.local/ns/default/sa/sleep\nprincipal spiffe://cluster.local/ns/ops/*",
        )
        .unwrap();
        for token in [Token::Absent, Token::Given(b"wrong"), Token::Repeated, Token::Unsupported] {
            for (principal, allowed) in [
                (SLEEP, true),
                (b"spiffe://cluster.local/ns/default/sa/slee", false),
                (b"spiffe://cluster.local/ns/default/sa/sleep2", false),
                (b"SPIFFE://cluster.local/ns/default/sa/sleep", false),
                (b"spiffe://cluster.local/ns/ops/", true),
                (b"spiffe://cluster.local/ns/ops/sa/x", true),
                (b"spiffe://cluster.local/ns/ops", false),
                (b"spiffe://cluster.local/ns/ops/*", true),
                (b"spiffe://other/ns/ops/sa/x", false),
                (b"", false),
                (b"*", false),
                (b"abc", false),
            ] {
                let verdict = judge(token, Some(principal), &rules, std::iter::empty());
                assert_eq!(verdict == Verdict::Principal, allowed, "{token:?} {}", principal.escape_ascii());
                assert_eq!(verdict.outcome() == Outcome::Allow, allowed);
            }
            let unauthenticated = judge(token, None, &rules, std::iter::empty());
            assert_eq!(unauthenticated.outcome(), Outcome::Deny);
        }
        assert_eq!(judge(Token::Given(b"abc"), Some(SLEEP), &rules, std::iter::empty()), Verdict::Key);
        // A rule is not a key.
        for text in [SLEEP, b"principal spiffe://cluster.local/ns/default/sa/sleep"] {
            let verdict = judge(Token::Given(text), None, &rules, std::iter::empty());
            assert_eq!(verdict, Verdict::WrongToken);
        }
    }

    #[test]
    fn the_order_of_verdicts_and_outcomes_is_that_of_their_lists() {
        for (at, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, at);
        }
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, at);
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", Token::Given(b"s3cr3t")), "Given(6 bytes)");
    }
}
